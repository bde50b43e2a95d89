"""Prompt files that are wrong: each mistake has its line, its field and the rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.prompts import parse, parse_bytes
from pipeline.prompts.problems import MAX_SHOWN
from pipeline.settings import Settings

SETTINGS = Settings()


def mistakes(data: str | bytes, name: str, **overrides: object) -> list[str]:
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    with pytest.raises(InputError) as caught:
        parse_bytes(raw, name, overrides=overrides, settings=SETTINGS)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("p.txt", "", "p.txt: holds no prompt"),
        ("p.txt", "# only\n\n# comments", "p.txt: holds no prompt"),
        ("p.jsonl", "\n", "holds no prompt"),
        ("p.csv", "prompt\n", "holds no prompt"),
        ("p.yaml", "# nothing\n", "holds no prompt"),
        ("p.doc", "x", "does not end in one of .txt, .jsonl, .csv, .yaml"),
        ("p.txt", b"fine\nbad \xff\n", "p.txt:2: byte 5 of the line is 0xff, which is not UTF-8"),
        ("p.txt", "x".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("p.txt", "a" * 10_000_000, "p.txt:1: line has 10000000 bytes; at most 1000000"),
        ("p.txt", "a" * 50_001, "prompt: has 50001 characters; at most 50000"),
        ("p.txt", "a\0b", "p.txt:1: prompt: holds a NUL (U+0000) at character 2"),
        ("p.jsonl", r'{"prompt": "a\ud800"}', "prompt: holds a lone surrogate (U+D800) at character 2"),
        ("p.jsonl", '{"prompt": "x", "widht": 3}', "widht: unknown field; did you mean 'width'? known: prompt,"),
        ("p.txt", "x --widht 3", "p.txt:1: widht: unknown field; did you mean 'width'?"),
        ("p.txt", "x --seed", "'--seed' needs a value"),
        ("p.txt", "x --seed 1 --seed 2", "seed: is given twice"),
        ("p.txt", "x\n#: fps = 3", "p.txt:2: defaults ('#: name = value') must come before the first prompt"),
        ("p.txt", "--seed 3", "prompt: is missing"),
        ("p.jsonl", '{"prompt": 3}', "prompt: 3 is not text"),
        ("p.jsonl", '{"prompt": " "}', "prompt: is empty"),
        ("p.jsonl", '{"prompt": "x", "width": "64"}', "width: '64' is not a whole number"),
        ("p.jsonl", '{"prompt": "x", "num_inference_steps": true}', "True is not a whole number from 1 to 1000"),
        ("p.jsonl", '{"prompt": "x", "guidance_scale": NaN}', "guidance_scale: nan is not a number from 0"),
        ("p.jsonl", '{"prompt": "x", "fps": Infinity}', "fps: inf is not a number over 0"),
        ("p.jsonl", '{"prompt": "x", "fps": 0}', "fps: 0 is not a number over 0"),
        ("p.jsonl", '{"prompt": "x", "seed": 1, "seed": 2}', "'seed' is given twice"),
        ("p.jsonl", '{"prompt": "x"', "p.jsonl:1: not a JSON object at column"),
        ("p.jsonl", "[1]", "'[1]' is JSON but not an object"),
        ("p.jsonl", "[" * 100_000, "not a JSON object"),
        ("p.jsonl", '{"prompt": "x", "seed": ' + "9" * 5000 + "}", "seed: a whole number of 5000 digits is not"),
        ("p.txt", "x --seeds 5-2", "seeds: range '5-2' runs backwards; write '2-5'"),
        ("p.txt", "x --seeds 1,2,1", "seed 1 is listed twice"),
        ("p.txt", f"x --seeds 0-{2**63 - 1}", "at most 1000000 are allowed"),
        ("p.txt", f"x --seed {2**64}", "seed: 18446744073709551616 is not a whole number from 0 to 92233720"),
        ("p.txt", "x --seed 1-4", "'seeds' takes lists and ranges"),
        ("p.txt", "x --seed 1 --seeds 2", "both 'seed' and 'seeds' are given"),
        ("p.txt", "x --preset tiny-van", "'tiny-van' is unknown; did you mean 'tiny-wan'? known: "),
        ("p.txt", "x --num_frames 16", "16 cannot be made by preset 'tiny-wan' (4k + 1, 5 to 81); nearest: 13 or 17"),
        ("p.txt", "x --seconds 2.25", "18 frames, cannot be made by preset 'tiny-wan' (4k + 1, 5 to 81); nearest: 17"),
        ("p.txt", "x --seconds 2 --num_frames 13", "2 s at 8 fps are 17 frames, but num_frames is 13; give one"),
        ("p.txt", "x --width 100", "'tiny-wan' (multiples of 16, 32 to 512); nearest: 96 or 112"),
        ("p.txt", "x --size 64", "size: '64' is not of the form"),
        ("p.txt", "x --size 64x64 --width 96", "64x64 contradicts width or height"),
        ("p.txt", "x --custom_id a\ny --custom_id a", "p.txt:2: custom_id: 'a' is already used on line 1"),
        ("p.txt", "#: custom_id = a\nx", "cannot be the same for every line"),
        ("p.txt", "x --labels a", "labels: 'a' is not of the form 'name=value,name=value'"),
        ("p.txt", "x --gpu H200", "gpu: 'H200' is not a valid GPU type: use 'h200'"),
        ("p.txt", "x --preset svd-xt", "image: is required by preset 'svd-xt'"),
        ("p.txt", "x --image http://127.0.0.1/a.png?k=v", "image: 'http://127.0.0.1/a.png' leads to 127.0.0.1"),
        ("p.csv", "prompt,seed\nx\n", "p.csv:2: row has 1 cells; the header has 2"),
        ("p.csv", "prompt,prompt\nx,y\n", "column 'prompt' is given twice in the header"),
        ("p.csv", 'prompt\n"open\n', "p.csv:2: not CSV: unexpected end of data"),
        ("p.yaml", "prompts:\n - !!python/object/apply:os.system [ls]", "p.yaml:2: tag 'tag:yaml.org,2002:python/"),
        ("p.yaml", "prompts:\n - &a x\n - *a", "p.yaml:2: anchors and aliases are not allowed"),
        ("p.yaml", "prompts: x", "'prompts' is not a list"),
        ("p.yaml", "- x", "the file is not a mapping with 'defaults:' and 'prompts:'"),
        ("p.yaml", "prompts:\n - yes", "p.yaml:2: prompt: True is not text"),
        ("p.yaml", "prompts:\n - {prompt: x, fps: 1, fps: 2}", "'fps' is given twice"),
        ("p.yaml", "prompts: [x\n", "not YAML"),
        ("p.yaml", "a: 1", "'a' is unknown; the file's keys are 'defaults' and 'prompts'"),
        ("p.jsonl", '{"prompt": "x", "sweep": {"fps": []}}', "sweep.fps: [] is not a list of one or more values"),
        ("p.jsonl", '{"prompt": "x", "sweep": {"mode": "zip", "fps": [1], "width": [64, 96]}}', "equally long"),
        ("p.jsonl", '{"prompt": "x", "fps": 2, "sweep": {"fps": [1]}}', "'fps' is swept here and also given"),
        ("p.jsonl", '{"prompt": "x", "sweep": {"mode": "all", "fps": [1]}}', "mode 'all' is not 'product' or 'zip'"),
        ("p.txt", "x --seeds 0-599999\ny --seeds 0-599999", "p.txt:2: the file makes more than 1000000 jobs"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_and_rule(name: str, data: str | bytes, expected: str) -> None:
    found = mistakes(data, name)
    assert any(expected in line for line in found), found


def test_all_mistakes_are_shown_not_the_first() -> None:
    found = mistakes("x --width 100 --height 70\ny --nope 3\nfine\nz --seed -1", "p.txt")
    assert [line.split(" ")[0] + line.split(" ")[1] for line in found] == [
        "p.txt:1:width:",
        "p.txt:1:height:",
        "p.txt:2:nope:",
        "p.txt:4:seed:",
    ]


def test_a_long_list_of_mistakes_is_cut_and_counted() -> None:
    found = mistakes("".join(f"x --seed y{number}\n" for number in range(3000)), "p.txt")
    assert len(found) == MAX_SHOWN + 1
    assert found[-1] == f"p.txt: {3000 - MAX_SHOWN} more problems; the first {MAX_SHOWN} are listed"


def test_the_same_mistake_on_many_lines_is_told_once() -> None:
    (told,) = mistakes("x --seed y\n" * 3000, "p.txt")
    assert told.startswith("p.txt:1: seed: 'y' is not a whole number from 0")
    assert told.endswith("; the same on lines 2, 3, 4 and 2996 more")


def test_a_wrong_option_says_that_it_came_from_the_command_line() -> None:
    assert mistakes("x", "p.txt", fps="fast") == [
        "p.txt: fps: 'fast' is not a number over 0 and at most 240 (from the command line)"
    ]


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.txt", "cannot be read: No such file"), (tmp_path, "this is a folder")):
        with pytest.raises(InputError, match=reason):
            parse(path, overrides={}, settings=SETTINGS)


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "yaml"])
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(
            st.sampled_from(
                ["prompt", "seed", "sweep", "defaults", "prompts", ":", ",", "\n", "- ", "{", "}", "[", "]", '"', "--",
                 " ", "=", "#:", "1-3", "NaN", "null", "x", "&a ", "*a", "!!int ", "? ", "|", "  ", "labels", "image"]
            ),
            max_size=40,
        ).map(lambda parts: "".join(parts).encode()),
    )
)  # fmt: skip
@example(data=b"prompts: [!!int x]")
@example(data=b"prompts: [!!float '']")
@example(data=b'{"prompt": "x", "sweep": {"fps": {"a": 1}}}')
def test_any_bytes_are_jobs_or_an_input_error(suffix: str, data: bytes) -> None:
    try:
        submission = parse_bytes(data, f"p.{suffix}", overrides={}, settings=SETTINGS)
    except InputError as error:
        found = error.problems
        assert found
    else:
        assert sum(1 for _ in submission.jobs) == len(submission.jobs) >= 1
