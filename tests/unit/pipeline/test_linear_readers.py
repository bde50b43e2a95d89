"""Readers take time by a file's length: four times the file takes some four times as long, never sixteen times.

Each row is a shape that once took time by the square of its length, or that another reader of its kind takes so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.nearest import MAX_CHARS, nearest
from pipeline.presets.user_file import read_user_preset
from pipeline.prompts import parse_bytes
from pipeline.scoring.score_file import read_scores
from pipeline.settings import Settings
from vgen import read_config

SETTINGS = Settings()
LIMIT = 9.0
"""Of the ratio of CPU times for sizes n and 4n: 4 is linear, 16 is quadratic."""
LEAST_S = 0.02
"""A time below is lost in noise, and is taken as this."""


def seeds_twice(n: int) -> str:
    return f"a fox --seeds {','.join(map(str, range(n)))},{n - 1}"


def ranges_twice(n: int) -> str:
    return f"a fox --seeds {','.join(f'{2 * i}-{2 * i}' for i in range(n))},0-1"


def swept_ids(n: int) -> str:
    return json.dumps({"prompt": "a", "custom_id": "x", "sweep": {"seed": list(range(n))}})


def swept_own_ids(n: int) -> str:
    return json.dumps({"prompt": "a", "sweep": {"custom_id": [f"i{i}" for i in range(n)]}})


def settled_sweep(n: int) -> str:
    """A sweep of the defaults that every line settles."""
    defaults = json.dumps({"defaults": {"sweep": {"seed": list(range(n))}}})
    return "\n".join([defaults, *(json.dumps({"prompt": "a", "seed": i}) for i in range(n))])


def unknown_presets(n: int) -> str:
    return "\n".join(json.dumps({"prompt": "a", "preset": f"tiny-{i}"}) for i in range(n))


def key_twice(n: int) -> str:
    return "{" + ",".join(f'"k{i}":1' for i in range(n)) + ',"k0":1}'


def blocks(n: int) -> str:
    return "prompts:\n" + "".join(f"- {{prompt: p{i}, fps: {i % 9 + 1}}}\n" for i in range(n))


SHAPES: dict[str, tuple[str, Callable[[int], str], int]] = {
    "seeds twice": ("txt", seeds_twice, 8_000),
    "ranges twice": ("txt", ranges_twice, 8_000),
    "many long ranges": ("txt", lambda n: "a --seeds 0-499998,499999-999998\n" * n, 1_000),
    "ids of a sweep": ("jsonl", swept_ids, 4_000),
    "own ids of a sweep": ("jsonl", swept_own_ids, 2_000),
    "a sweep that lines settle": ("jsonl", settled_sweep, 1_000),
    "unknown fields": ("jsonl", lambda n: json.dumps({"prompt": "a", **{f"f{i}": 1 for i in range(n)}}), 10_000),
    "a long unknown field": ("jsonl", lambda n: json.dumps({"prompt": "a", "x" * n: 1}), 100_000),
    "unknown presets": ("jsonl", unknown_presets, 3_000),
    "a key twice": ("jsonl", key_twice, 20_000),
    "brackets": ("jsonl", lambda n: "[" * n, 100_000),
    "digits": ("jsonl", lambda n: '{"prompt": "a", "fps": ' + "9" * n + "}", 100_000),
    "columns": ("csv", lambda n: ",".join(f"c{i}" for i in range(n)) + "\n" + ",".join("x" * n) + "\n", 20_000),
    "equal columns": ("csv", lambda n: ",".join("x" * n) + "\n", 20_000),
    "quotes": ("csv", lambda n: "prompt\n" + '"a ""b"""\n' * n, 4_000),
    "wrong rows": ("csv", lambda n: "prompt,seed\n" + "a,b\n" * n, 4_000),
    "dashes": ("txt", lambda n: "é " + "—\u200b" * n + "seed", 40_000),
    "escapes": ("txt", lambda n: "a " + "\\--" * n, 40_000),
    "base 60": ("yaml", lambda n: "prompts:\n- {prompt: a, seed: 1" + ":1" * n + "}\n", 20_000),
    "flow in flow": ("yaml", lambda n: "prompts: " + "[" * n, 20_000),
    "blocks in blocks": ("yaml", lambda n: "- " * n, 20_000),
    "tag directives": ("yaml", lambda n: "".join(f"%TAG !a{i}! tag:x,{i}:\n" for i in range(n)) + "--- a\n", 10_000),
    "prompts": ("yaml", blocks, 1_500),
}


def read_prompts(suffix: str, text: str) -> None:
    data = text.encode()
    try:
        parse_bytes(data, f"p.{suffix}", overrides={}, settings=SETTINGS)
    except InputError as error:
        assert len(str(error)) < 60_000  # noqa: PT017 - a file may be right or wrong, and is not told at length


def seconds(read: Callable[[], object]) -> float:
    begun = time.process_time()
    read()
    return max(time.process_time() - begun, LEAST_S)


def assert_linear(read: Callable[[int], object], size: int) -> None:
    ratios = []
    for _ in range(3):  # the machine may be busy with something else once
        ratios.append(seconds(lambda: read(4 * size)) / seconds(lambda: read(size)))
        if ratios[-1] < LIMIT:
            return
    raise AssertionError(f"four times the size took {ratios} times as long")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_file_takes_time_by_its_length(shape: str) -> None:
    suffix, text_of, size = SHAPES[shape]
    assert_linear(lambda n: read_prompts(suffix, text_of(n)), size)


LAUGHS = "preset: [&a0 [x,x,x,x,x,x,x,x,x], " + ", ".join(
    f"&a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)
)
OTHER: dict[str, tuple[str, Callable[[int], str], int]] = {
    "laughs": ("run.yaml", lambda n: LAUGHS + "]\n" + "#\n" * n, 10_000),
    "base 60": ("run.yaml", lambda n: "request: {prompt: a, seed: 1" + ":1" * n + "}\n", 20_000),
    "keys": ("run.yaml", lambda n: "".join(f"k{i}: 1\n" for i in range(n)), 3_000),
    "dots": ("mine.toml", lambda n: ".".join("a" * n) + " = 1\n", 300),
    "digits": ("mine.toml", lambda n: "version = " + "9" * n, 40_000),
    "scores": ("scores.json", lambda n: json.dumps([{"video": str(i), "scores": {}} for i in range(n)]), 5_000),
    "a wrong record": ("scores.json", lambda n: json.dumps([{"video": "x" * n, "scores": {"x": 1}}]), 100_000),
}


@pytest.mark.parametrize("shape", OTHER)
def test_other_files_take_time_by_their_length(shape: str, tmp_path: Path) -> None:
    name, text_of, size = OTHER[shape]
    readers: dict[str, Callable[[Path], object]] = {
        "run.yaml": read_config, "mine.toml": read_user_preset, "scores.json": read_scores
    }  # fmt: skip

    def read(n: int) -> None:
        path = tmp_path / name
        path.write_text(text_of(n), "utf-8")
        try:
            readers[name](path)
        except InputError as error:
            assert len(str(error)) < 60_000  # noqa: PT017 - as above

    assert_linear(read, size)


def test_the_nearest_name_is_looked_for_among_short_names_only() -> None:
    assert nearest("Promt", ["prompt", "fps"]) == ["prompt"]
    assert nearest("NEGATIVE PROMPT", ["prompt", "negative_prompt"])[0] == "negative_prompt"
    assert nearest("p" * MAX_CHARS + "rompt", ["prompt"]) == []
    assert nearest(None, ["none"]) == nearest(["prompt"], ["prompt"]) == []
