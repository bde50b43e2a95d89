"""The parameters that a server's model takes, learnt from what it refuses: no server lists them beforehand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.enhancers.base import LLMRequest

SMALL_LIMIT = 256
"""Asked for where a model's whole context has no room for more."""

_NOT_TAKEN = re.compile(
    r"unsupported|not supported|n[o']t support|unrecognized|unknown|unexpected|extra.?(inputs?|fields?|forbidden)|"
    r"not (permitted|allowed|accepted)|only the default|must be 1\b",
    re.IGNORECASE,
)
_NAMED = re.compile(r"unsupported.?parameter|unknown.?parameter|max_completion_tokens' instead", re.IGNORECASE)
"""The parameter itself is refused, and not its value."""
_NO_ROOM = re.compile(
    r"context.?(length|window|size)|too (large|high|big|many)|less than or equal|at most|exceeds?|maximum",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters beside model and messages. ``limit_name`` is None where the model takes no limit of tokens."""

    limit_name: str | None = "max_tokens"
    temperature: bool = True
    reasoning_effort: str | None = None
    most_tokens: int | None = None

    def body(self, request: LLMRequest) -> dict[str, Any]:
        """The fields of the request's JSON."""
        limit = min(request.max_tokens, self.most_tokens or request.max_tokens)
        fields: dict[str, Any] = {self.limit_name: limit} if self.limit_name else {}
        if self.temperature:
            fields["temperature"] = request.temperature
        if self.reasoning_effort:
            fields["reasoning_effort"] = self.reasoning_effort
        return fields

    def without_refused(self, request: LLMRequest, error: Any) -> Parameters | None:
        """Return what to send after status 400 or 422 with body ``error``; None if parameters are not the reason."""
        text = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False, default=str)
        sent = self.body(request)
        name = _refused_parameter(sent, error, text) if _NOT_TAKEN.search(text) else None
        if name is None or (name == self.limit_name and _NO_ROOM.search(text) and not _NAMED.search(text)):
            limit = sent.get(self.limit_name or "", 0)
            no_room = limit > SMALL_LIMIT and _NO_ROOM.search(text)
            return replace(self, most_tokens=max(SMALL_LIMIT, limit // 4)) if no_room else None
        if name == "temperature":
            return replace(self, temperature=False)
        if name == "reasoning_effort":
            return replace(self, reasoning_effort=None)
        return replace(self, limit_name="max_completion_tokens" if name == "max_tokens" else None)


def _refused_parameter(sent: Mapping[str, object], error: Any, text: str) -> str | None:
    """The parameter that the error names; of several the first, since the others are advice."""
    param = error.get("param") if isinstance(error, dict) else None
    if isinstance(param, str) and param in sent:
        return param
    matches = {name: re.search(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])", text) for name in sent}
    starts = {name: match.start() for name, match in matches.items() if match}
    return min(starts, key=starts.__getitem__, default=None)
