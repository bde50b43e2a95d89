"""The readers of JSON, TOML and YAML, and of what is no file at all: limits, places and encodings."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipeline.errors import MAX_PROBLEMS_SHOWN, InputError, Problem
from pipeline.files import regular
from pipeline.files.json_reader import MAX_DEPTH, JsonError, parse_json, read_json
from pipeline.files.pipes import read_file_or_pipe
from pipeline.files.toml_reader import read_toml
from pipeline.files.yaml_reader import YamlError, parse_yaml
from pipeline.presets.user_file import read_user_preset
from pipeline.prompts import parse
from pipeline.scoring.exchange import read_manifest, read_results
from pipeline.scoring.score_file import read_scores
from pipeline.scoring.suite import Suite, read_suite
from pipeline.settings import Settings
from vgen import read_config


def json_mistake(data: str | bytes, path: Path) -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError) as caught:
        read_json(path, what="the suite", limit_bytes=100_000)
    (problem,) = caught.value.problems
    assert problem.file == str(path)
    return str(problem).removeprefix(str(path))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", ":1: the suite is not JSON: Expecting value; it ends too early (at column 1)"),
        ('{"a": 1,\n "b": }', ":2: the suite is not JSON: Expecting value (at column 7)"),
        ('{"a": [1, 2,]}', "remove the comma before the bracket"),
        ('{"a": 1, "a": 2}', ": the suite is not JSON: 'a' is given twice"),
        ('{"a": NaN}', ": a: the suite is not JSON: NaN is not allowed"),
        ('{"a": [-Infinity]}', ": the suite is not JSON: -Infinity is not allowed"),
        ('{"a": 1e999}', ": a: the suite is not JSON: the number 1e999 is not allowed"),
        ('{"a": ' + "9" * 41 + "}", ": a: the suite is not JSON: a whole number of 41 digits is not allowed"),
        ("9" * 5000, "a whole number of 5000 digits is not allowed"),
        ("[" * 65 + "]" * 65, ":1: the suite is not JSON: it is nested more than 64 deep (at column 65)"),
        ("[\n" * 100_000, "the suite is larger than 100000 bytes"),
        (b'{"a": "\xff"}', ":1: the suite is not UTF-8 text"),
        ('{"a": "\\ud800"}', "it holds a lone surrogate (U+D800), which is not a character"),
        ('{"a": "\x00"}', "Invalid control character at"),
        ("b'x'", "Expecting value"),
    ],
)
def test_a_mistake_in_json_is_named_with_its_place(data: str | bytes, said: str, tmp_path: Path) -> None:
    assert said in json_mistake(data, tmp_path / "a.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_is_read_in_the_encodings_that_programs_write(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"a": "é 🦊"}'.encode(encoding))
    assert read_json(tmp_path / "a.json", what="it", limit_bytes=1000) == {"a": "é 🦊"}


def test_json_within_its_limits_is_read() -> None:
    assert parse_json('{"a": {"a": ' + "9" * 40 + "}}") == {"a": {"a": int("9" * 40)}}
    deep = parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        (deep,) = deep
    assert deep == []
    # Brackets in text are no depth, whatever is quoted beside them.
    assert parse_json('["\\"' + "[" * 1000 + '", "{\\\\"]')[1] == "{\\"
    assert str(parse_json('{"a": NaN}', allow_nan=True)["a"]) == "nan"
    with pytest.raises(JsonError, match="'k1' is given twice"):
        parse_json('{"k1": 1, "k2": 1, "k1": 1}')


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a = ", "the file is not TOML: Invalid value"),
        (b"a = 9223372036854775808", "'a' is a whole number of more than 64 bits"),
        (b"a = 0x" + b"f" * 5000, "'a' is a whole number of more than 64 bits"),
        (b"a = " + b"9" * 5000, "it holds a number out of range"),
        (b"a = 2001-02-03", "'a' is a date or a time"),
        (b"a = [1, [10:00:00]]", "'a' is a date or a time"),
        (b"a = " + b"[" * 17 + b"]" * 17, "it is nested more than 16 deep"),
        (b"a = " + b"[" * 5000, "nested more than 16 deep"),
        (b".".join([b"a"] * 5000) + b" = 1", "it is nested more than 16 deep"),
        (b'a = 1\nb = "\xff"', ":2: the file is not UTF-8"),
    ],
)
def test_a_mistake_in_toml_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_toml(tmp_path / "a.toml", what="the file", limit_bytes=100_000)
    assert str(caught.value).startswith(f"{tmp_path}/a.toml:")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("a: &x 1", "anchors and aliases are not allowed", 1),
        ("a: 1\nb: *x", "anchors and aliases are not allowed", 2),
        ("a: !!python/name:os.system x", "tag 'tag:yaml.org,2002:python/name:os.system' is not allowed", 1),
        ("%TAG ! tag:x,1:\n--- a", "%TAG directives are not allowed", None),
        ("a: 1\na: 2", "'a' is given twice", 2),
        ("--- a\n--- b", "a second document begins", 2),
        ("[" * 5000, "nested more than 16 deep", 1),
        ("a: !!int x", "'x' is not a value of the tag tag:yaml.org,2002:int", 1),
        ("? [a]\n: 1", "a key is not plain text", 1),
        ("a: \0", "not YAML", None),
        ("a: \ud800", "a lone surrogate", None),
    ],
)
def test_a_mistake_in_yaml_is_named_with_its_line(text: str, said: str, line: int | None) -> None:
    with pytest.raises(YamlError, match=r".") as caught:
        parse_yaml(text)
    assert said in str(caught.value)
    assert caught.value.line == line


def test_yaml_is_plain_data() -> None:
    text = "a: [1, 1.5, true, null, x, 2001-13-45, 0x1f, 1:30, '1']\nb: {c: |\n  d\n}\n1: 2"
    assert parse_yaml("a: [1, 1.5, true, null, x, 2001-13-45, 0x1f, 1:30, '1']\n1: 2") == {
        "a": [1, 1.5, True, None, "x", "2001-13-45", 31, "1:30", "1"],
        "1": 2,
    }
    assert parse_yaml("") is parse_yaml("# nothing\n") is None
    assert parse_yaml("1" + ":1" * 100) == "1" + ":1" * 100, text


READ: dict[str, Callable[[Path], object]] = {
    "p.txt": partial(parse, overrides={}, settings=Settings()),
    "p.jsonl": partial(parse, overrides={}, settings=Settings()),
    "p.csv": partial(parse, overrides={}, settings=Settings()),
    "p.yaml": partial(parse, overrides={}, settings=Settings()),
    "run.yaml": read_config,
    "suite.json": read_suite,
    "manifest.json": partial(read_manifest, suite=Suite((), "")),
    "scores.json": read_scores,
    "results.json": partial(read_results, exported={}),
    "mine.toml": read_user_preset,
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "loop", "nothing"])
def test_what_is_no_file_is_refused_at_once(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    match kind:
        case "device":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
    told = ""
    try:
        problems = READ[name](path)
        told = str(problems[0]) if isinstance(problems, tuple) else ""
    except InputError as error:
        told = str(error)
    rule = {"device": "this is a device", "pipe": "this is a pipe", "folder": "this is a folder"}.get(kind, "be read")
    assert rule in told
    assert str(path) in told


def test_a_file_that_has_nothing_for_now_is_not_waited_for() -> None:
    """Some of /proc are regular files and wait for the kernel; a pipe that nobody writes into stands for them."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    with io.BufferedReader(regular._Ready(read, "rb")) as file, pytest.raises(BlockingIOError, match="nothing for now"):
        file.read(9)
    os.close(write)


def test_what_the_shell_hands_over_is_read_and_ends_at_the_limit(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b'[{"video": "a.mp4", "scores": {}}]')
    os.close(write)
    assert [record["video"] for record in read_scores(Path(f"/dev/fd/{read}"))] == ["a.mp4"]
    os.close(read)
    endless = subprocess.Popen([sys.executable, "-c", "while True: print('y' * 4096)"], stdout=subprocess.PIPE)
    assert endless.stdout is not None
    try:
        with pytest.raises(InputError, match="the file has more than 100000 bytes"):
            read_file_or_pipe(f"/proc/self/fd/{endless.stdout.fileno()}", what="the file", limit_bytes=100_000)
    finally:
        endless.kill()
        endless.communicate()


def test_a_great_many_mistakes_are_counted_and_names_cannot_act_on_a_terminal() -> None:
    error = InputError([Problem("is wrong", "a.json", field=f"\x1b[31mrecord {number}") for number in range(5000)])
    lines = str(error).splitlines()
    assert len(lines) == MAX_PROBLEMS_SHOWN + 1
    assert lines[0] == "a.json: \\x1b[31mrecord 0: is wrong"
    assert lines[-1] == f"and {5000 - MAX_PROBLEMS_SHOWN} more problems"
    assert str(InputError([Problem("x", field="--a"), Problem("y")]).in_file("f")) == "--a: x\nf: y"


@pytest.mark.parametrize("text", ["1:30", "1:30:00", "-1:30", "1:30.5", "010", "-07", "00", "0_7"])
def test_numbers_to_another_base_stay_text_in_yaml(text: str) -> None:
    """YAML 1.1 reads ``fps: 1:30`` as 90 and ``seed: 010`` as 8."""
    assert parse_yaml(f"value: {text}\n") == {"value": text}


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("10", 10), ("0.5", 0.5), ("-3", -3), ("1e-3", "1e-3")])
def test_plain_numbers_are_numbers_in_yaml(text: str, value: object) -> None:
    assert parse_yaml(f"value: {text}\n") == {"value": value}
