"""Which models wait in the host's memory: bounds by bytes, and by the order of use."""

from __future__ import annotations

from pipeline.models.host_cache import HostCache, free_host_bytes


class Model:
    """Something of a size, which remembers what was done to it."""

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.done: list[str] = []

    def host_bytes(self) -> int | None:
        return self.size

    def move_to_host(self) -> None:
        self.done.append("aside")

    def unload(self) -> None:
        self.done.append("unloaded")


def test_the_least_recently_used_go_first() -> None:
    cache, models = HostCache(), {name: Model(40) for name in "abcd"}
    for name in "ab":
        cache.keep(name, models[name], 100)
    assert cache.take("a") is models["a"]
    assert cache.take("a") is None, "handed out"
    cache.keep("a", models["a"], 100)  # used since b was

    cache.keep("c", models["c"], 100)

    assert cache.keys == ("a", "c")
    assert models["b"].done == ["aside", "unloaded"]
    cache.keep("d", Model(100), 100)
    assert cache.keys == ("d",)
    assert models["a"].done[-1] == models["c"].done[-1] == "unloaded"


def test_what_cannot_wait_or_does_not_fit_is_unloaded() -> None:
    cache, kept = HostCache(), Model(50)
    cache.keep("kept", kept, 100)
    for model, limit in ((Model(None), 100), (Model(101), 100), (Model(1), 0), (Model(0), 0)):
        cache.keep("x", model, limit)
        assert model.done == ["unloaded"]
    assert cache.keys == ("kept",), "nothing had to make room"
    cache.clear()
    assert kept.done == ["aside", "unloaded"]


def test_without_a_limit_half_of_what_is_free() -> None:
    free = free_host_bytes()
    assert free > 0
    cache, small, large = HostCache(), Model(free // 8), Model(free * 2)
    cache.keep("small", small, None)
    cache.keep("large", large, None)
    assert cache.keys == ("small",)
    assert large.done == ["unloaded"]
