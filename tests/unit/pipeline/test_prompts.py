"""Prompt files: formats, layers, sweeps, seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.prompts import FIELD_RULES, Submission, parse, parse_bytes
from pipeline.prompts.fields import PARSERS
from pipeline.prompts.parse import parse_fields
from pipeline.seeds import derive_seed
from pipeline.settings import Settings
from pipeline.spec import JobSpec

ROOT = Path(__file__).parents[3]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return Settings()


def read(text: str, name: str, settings: Settings, **overrides: object) -> Submission:
    return parse_bytes(text.encode(), name, overrides=overrides, settings=settings)


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "yaml"])
def test_the_examples_are_good_and_every_spec_would_pass_full_validation(settings: Settings, suffix: str) -> None:
    submission = parse(ROOT / "examples" / f"prompts.{suffix}", overrides={}, settings=settings)

    assert len(submission.jobs) >= 3
    for job in submission.jobs:
        assert JobSpec.model_validate(job.spec.model_dump()) == job.spec
        assert JobSpec.model_validate_json(job.spec.model_dump_json()) == job.spec


def test_fields_without_a_file_are_a_line_s(settings: Settings) -> None:
    fields = {"prompt": "a fox", "seconds": "0.625", "num_inference_steps": 2, "seed": 3}
    spec = parse_fields([fields], "request", settings=settings).jobs[0].spec

    assert spec == read(json.dumps(fields | {"seconds": 0.625}), "p.jsonl", settings).jobs[0].spec


def test_fields_without_a_file_read_only_the_files_that_came_with_them(settings: Settings, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    fields = {"prompt": "a fox", "preset": "wan2.1-i2v-14b-480p", "image": "upload:0"}
    given = {"upload:0": tmp_path / "a.png"}

    assert parse_fields([fields], "request", settings=settings, files=given).jobs[0].spec.image is not None
    for path in ("a.png", str(tmp_path / "a.png"), "./a.png", "file:///etc/passwd", "upload:1"):
        with pytest.raises(InputError) as refused:
            parse_fields([fields | {"image": path}], "request", settings=settings, files=given)
        (problem,) = refused.value.problems
        assert (problem.field, problem.file, problem.line) == ("image", None, None)
        assert path in problem.message


def test_equal_content_in_four_formats_makes_equal_specs(settings: Settings) -> None:
    fields = {"prompt": "a fox", "seed": 3, "width": 96, "guidance_scale": 2.5, "labels": {"a": "b"}, "gpu": ["h200"]}
    texts = {
        "a.txt": "a fox --seed 3 --width=96 --guidance-scale 2.5 --labels a=b --gpu h200",
        "a.jsonl": json.dumps(fields),
        "a.csv": "prompt,seed,width,guidance_scale,labels,gpu\na fox,3,96,2.5,a=b,h200\n",
        "a.yaml": "prompts: [" + json.dumps(fields) + "]",
    }
    specs = [read(text, name, settings).jobs[0].spec for name, text in texts.items()]

    assert all(spec == specs[0] for spec in specs)
    assert (specs[0].seed, specs[0].width, specs[0].gpu) == (3, 96, ("h200",))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_bom_comments_and_blank_lines(settings: Settings, end: str) -> None:
    text = "\ufeff" + end.join(["# note", "", "a fox 🦊", "  ", "ثعلب في الثلج", "\\# not a comment"])
    jobs = read(text, "p.TXT", settings).jobs

    assert [(job.line, job.spec.prompt) for job in jobs] == [
        (3, "a fox 🦊"),
        (5, "ثعلب في الثلج"),
        (6, "# not a comment"),
    ]


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ("a fox -- slowly -- walks", "a fox -- slowly -- walks"),
        ("well--known fox - 3 --5", "well--known fox - 3 --5"),
        ("a \\--flag is shown", "a --flag is shown"),
        ("size: 3 | seed=4", "size: 3 | seed=4"),
    ],
)
def test_ordinary_prompts_are_not_taken_for_options(settings: Settings, line: str, prompt: str) -> None:
    assert read(line, "p.txt", settings).jobs[0].spec.prompt == prompt


def test_line_beats_command_line_beats_file_beats_preset(settings: Settings) -> None:
    text = "#: width = 64\n#: height = 64\n#: fps = 10\nfox --width 96\n"
    spec = read(text, "p.txt", settings, width="128", height=96, seed=None).jobs[0].spec

    assert (spec.width, spec.height, spec.fps, spec.num_inference_steps) == (96, 96, 10.0, 4)


def test_a_stronger_length_replaces_the_weaker_one_and_labels_are_joined(settings: Settings) -> None:
    defaults = '{"defaults": {"num_frames": 9, "labels": {"a": "1", "b": "1"}}}'
    text = defaults + '\n{"prompt": "x", "seconds": 2, "labels": {"b": 2}}'
    spec = read(text, "p.jsonl", settings).jobs[0].spec

    assert spec.num_frames == 17
    assert spec.labels == {"a": "1", "b": "2"}


def test_seconds_and_an_equal_frame_count_agree(settings: Settings) -> None:
    assert read("x --seconds 2 --num_frames 17", "p.txt", settings).jobs[0].spec.num_frames == 17


def test_seed_lists_and_ranges(settings: Settings) -> None:
    jobs = read("x --seeds 1,2,5-7\ny --seeds 9223372036854775807", "p.txt", settings).jobs
    assert [(job.line, job.variant, job.spec.seed) for job in jobs] == [
        (1, 0, 1),
        (1, 1, 2),
        (1, 2, 5),
        (1, 3, 6),
        (1, 4, 7),
        (2, 0, 2**63 - 1),
    ]


def test_seeds_not_given_are_derived_and_stay(settings: Settings) -> None:
    one, two = (read("fox\nfox", "p.txt", settings) for _ in range(2))

    assert one.fingerprint == two.fingerprint
    assert [job.spec.seed for job in one.jobs] == [derive_seed("fox", 0, occurrence) for occurrence in (0, 1)]
    assert one.jobs[0].spec.seed != one.jobs[1].spec.seed


def test_the_fingerprint_follows_content_and_settings_not_the_name(settings: Settings) -> None:
    base = read("fox", "p.txt", settings).fingerprint
    assert read("fox", "q.txt", settings).fingerprint == base
    assert read("fox # bar", "p.txt", settings).fingerprint != base
    assert read("fox", "p.txt", settings, fps=9).fingerprint != base
    assert read("fox --seed 1", "p.txt", settings).fingerprint != base


def test_a_product_sweep_with_seeds_and_ids(settings: Settings) -> None:
    line = {"prompt": "x", "seeds": [1, 2], "custom_id": "c", "sweep": {"width": [64, 96], "fps": [8, 9]}}
    jobs = read(json.dumps(line), "p.jsonl", settings).jobs

    assert [(j.variant, j.spec.width, j.spec.fps, j.spec.seed, j.spec.custom_id) for j in jobs[:4]] == [
        (0, 64, 8.0, 1, "c.0"),
        (1, 64, 8.0, 2, "c.1"),
        (2, 64, 9.0, 1, "c.2"),
        (3, 64, 9.0, 2, "c.3"),
    ]
    assert len(jobs) == 8


def test_a_zip_sweep_of_the_file_yields_to_what_a_line_says(settings: Settings) -> None:
    sweep = {"mode": "zip", "size": ["64x64", "96x96"], "fps": [8, 9]}
    lines = [{"defaults": {"sweep": sweep}}, {"prompt": "x"}, {"prompt": "y", "width": 32, "height": 32}]
    jobs = read("\n".join(map(json.dumps, lines)), "p.jsonl", settings).jobs

    assert [(j.spec.prompt, j.spec.width, j.spec.fps) for j in jobs] == [
        ("x", 64, 8.0),
        ("x", 96, 9.0),
        ("y", 32, 8.0),
        ("y", 32, 9.0),
    ]


def test_prompts_can_be_swept(settings: Settings) -> None:
    jobs = read('{"sweep": {"prompt": ["a", "b"], "seed": [1, 2]}}', "p.jsonl", settings).jobs
    assert [(j.spec.prompt, j.spec.seed) for j in jobs] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_a_csv_cell_may_span_lines_and_an_empty_one_is_not_given(settings: Settings) -> None:
    jobs = read('prompt,seed\n"two\nlines",\n"q ""x""",4\n', "p.csv", settings).jobs
    assert [(j.line, j.spec.prompt) for j in jobs] == [(2, "two\nlines"), (4, 'q "x"')]
    assert jobs[1].spec.seed == 4


def test_five_thousand_words_are_allowed(settings: Settings) -> None:
    prompt = " ".join(["snowfall"] * 5000)
    assert read(prompt, "p.txt", settings).jobs[0].spec.prompt == prompt


def test_jobs_are_a_sequence(settings: Settings) -> None:
    jobs = read("x --seeds 1-3\ny\nz --seeds 1-2", "p.txt", settings).jobs

    assert [jobs[i] for i in range(len(jobs))] == list(jobs)
    assert jobs[-1] == list(jobs)[-1]
    assert jobs[2:4] == list(jobs)[2:4]
    with pytest.raises(IndexError):
        jobs[6]


def test_an_image_becomes_an_input(settings: Settings, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "p.txt").write_text("x --image a.png --preset svd-xt\n", "utf-8")

    submission = parse(tmp_path / "p.txt", overrides={}, settings=settings)

    ref = submission.jobs[0].spec.image
    assert ref is not None
    assert submission.inputs[ref.sha256].path == tmp_path / "a.png"


def test_every_field_has_a_rule_and_is_in_the_manual() -> None:
    manual = (ROOT / "docs" / "prompt-files.md").read_text("utf-8")
    assert set(FIELD_RULES) == {*PARSERS, "sweep"}
    for name, rule in FIELD_RULES.items():
        assert f"| `{name}` | {rule} |" in manual


def test_a_hundred_thousand_lines_share_what_is_equal(settings: Settings) -> None:
    submission = read("\n".join(f"fox {i}" for i in range(100_000)), "p.txt", settings)
    assert len(submission.jobs) == 100_000
    assert submission.jobs[99_999].spec.prompt == "fox 99999"
