"""A cache of prompt embeddings, kept while the model is loaded: the same prompt is encoded once.

A batch often has one prompt many times (seeds, sweeps), and the negative prompt in every job. Encoding draws no random
numbers and depends on its arguments only, so what is kept is what would be made again.
"""

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

MAX_BYTES = 256 * 1024 * 1024
"""The limit in the host's memory: 512 tokens of 4096 half-precision values are 4 MB."""
_PLAIN = (str, int, float, bool, type(None), torch.device, torch.dtype)


class EmbeddingCache:
    """The embeddings of one loaded model: a new load makes a new cache. Least recently used entries go first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self.hits = 0
        self.variant = ""
        """What changes the text encoders for now, such as LoRAs."""
        self._last: dict[int, tuple[Callable[..., Any], inspect.BoundArguments]] = {}
        """By the pipeline's id: its last call that can be kept."""

    def attach(self, pipe: Any) -> None:
        """Have the pipeline's own ``encode_prompt`` looked up here first; nothing to do where it has none."""
        original = getattr(pipe, "encode_prompt", None)
        if original is None:
            return
        signature, owner = inspect.signature(original), type(pipe).__name__

        @functools.wraps(original)
        def encode(*args: Any, **kwargs: Any) -> Any:
            key = _key(owner + self.variant, signature, args, kwargs)
            if key is not None:
                self._last[id(pipe)] = encode, signature.bind(*args, **kwargs)
            return original(*args, **kwargs) if key is None else self._get(key, lambda: original(*args, **kwargs))

        pipe.__dict__["encode_prompt"] = encode

    def prepare(self, pipe: Any, prompt: str, negative_prompt: str | None) -> None:
        """Encode this prompt as this pipeline's last was: with its guidance and limits, since most clips have those."""
        if id(pipe) not in self._last or self.variant:
            return
        encode, bound = self._last[id(pipe)]
        for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if name in bound.arguments:
                bound.arguments[name] = [text] if isinstance(bound.arguments[name], list) else text
        encode(*bound.args, **bound.kwargs)

    def _get(self, key: str, make: Callable[[], Any]) -> Any:
        if key in self._kept:
            self._kept.move_to_end(key)
            self.hits += 1
            return _restored(self._kept[key][0])
        embeddings = make()
        entry = _kept(embeddings)
        if entry is not None and (size := _bytes(entry)) <= self._max_bytes:
            self._kept[key] = (entry, size)
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1][1]
        return embeddings


def _key(owner: str, signature: inspect.Signature, args: Any, kwargs: Any) -> str | None:
    """The call as text; None when something other than plain values is in it, such as tensors."""
    arguments = signature.bind(*args, **kwargs).arguments
    values = [(name, _flat(value)) for name, value in sorted(arguments.items())]
    return None if any(flat is None for _, flat in values) else repr((owner, values))


def _flat(value: Any) -> str | None:
    if isinstance(value, (list, tuple)):
        parts = [_flat(item) for item in value]
        return None if None in parts else repr(parts)
    return repr(value) if isinstance(value, _PLAIN) else None


def _kept(value: Any) -> Any:
    """A copy in the host's memory with the devices that its tensors were on; None when it is of another kind."""
    if isinstance(value, torch.Tensor):
        return ("tensor", value.detach().to("cpu", copy=True), value.device)
    if value is None:
        return ("none",)
    if isinstance(value, (list, tuple)):
        parts = [_kept(item) for item in value]
        return None if None in parts else ("list" if isinstance(value, list) else "tuple", parts)
    return None


def _restored(entry: Any) -> Any:
    """A copy of its own for each caller: pipelines may write into what they are given."""
    if entry[0] == "tensor":
        return entry[1].to(entry[2], copy=True)
    if entry[0] == "none":
        return None
    parts = [_restored(part) for part in entry[1]]
    return parts if entry[0] == "list" else tuple(parts)


def _bytes(entry: Any) -> int:
    if entry[0] == "tensor":
        return int(entry[1].nbytes)
    return 0 if entry[0] == "none" else sum(_bytes(part) for part in entry[1])
