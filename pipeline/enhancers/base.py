"""The protocol of a language model's provider, with its requests and responses."""

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class LLMMessage:
    """One message of a conversation."""

    role: Literal["system", "user"]
    content: str


@dataclass(frozen=True, slots=True)
class LLMRequest:
    """A request. ``timeout_s`` bounds each HTTP request, in seconds; ``max_tokens`` the answer and its thinking."""

    messages: tuple[LLMMessage, ...]
    model: str
    max_tokens: int
    temperature: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class LLMResponse:
    """An answer. ``fallback_used`` is true when another provider had been asked before this one."""

    content: str
    provider: str
    model: str
    latency_ms: int
    fallback_used: bool = False


class LLMProvider(Protocol):
    """A server that completes chats."""

    @property
    def name(self) -> str:
        """Return what results and messages call it."""

    def complete(self, request: LLMRequest) -> LLMResponse:
        """Ask once. Asked again at once is only where the model takes other parameters, or its answer was cut.

        Raises:
            RetryableError: code ``enhance_unavailable``; timeout, no connection, 408, 429, 5xx, or an answer that is
                not JSON, empty, cut, refused by the model, or too long. The next provider may be asked.
            RefusedError: code ``enhance_key_missing``, ``enhance_key_invalid``, or
                ``enhance_refused`` for any other status.
        """

    def close(self) -> None:
        """Close its connections."""
