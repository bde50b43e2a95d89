"""Presets of a user's own: files that are one, files that are not, and what a job is pinned to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.errors import InputError, NotFoundError, RefusedError
from pipeline.presets import Library, Preset, get_preset, load_library
from pipeline.prompts import parse
from pipeline.settings import load_settings

FULL = """
model = "some/model"
workload = "t2v"
pipeline_class = "WanPipeline"
dtype = "bfloat16"
frames = { multiple = 4, offset = 1, minimum = 5, maximum = 81 }
size = { multiple = 16, minimum = 128, maximum = 1280 }
[defaults]
width = 832
height = 480
num_frames = 81
fps = 16
num_inference_steps = 50
guidance_scale = 5
"""


def library(folder: Path, **files: str) -> Library:
    for name, text in files.items():
        (folder / f"{name.replace('_', '-')}.toml").write_text(text, "utf-8")
    return load_library(folder)


def problem(folder: Path, text: str) -> str:
    """What is said of one wrong file."""
    found = library(folder, mine=text)
    assert "mine" not in found.presets
    return "\n".join(str(item) for item in found.problems["mine"])


def test_a_folder_that_is_not_there_gives_the_catalogue(tmp_path: Path) -> None:
    found = load_library(tmp_path / "none")
    assert found.source("tiny-wan") == "catalogue"
    assert (dict(found.files), dict(found.problems)) == ({}, {})
    with pytest.raises(NotFoundError, match=r"'wan-9' is unknown; known: .*looked in .*none, which is not there"):
        found.get("wan-9")


def test_an_extending_preset_overrides_what_it_says_and_keeps_the_rest(tmp_path: Path) -> None:
    text = 'extends = "wan2.1-t2v-1.3b"\nmodel = "/data/step-1000"\n[defaults]\nnum_inference_steps = 20\n'
    found = library(tmp_path, nightly=text)
    base, mine = get_preset("wan2.1-t2v-1.3b"), found.get("nightly")
    assert (mine.name, mine.repo, mine.defaults.num_inference_steps) == ("nightly", "/data/step-1000", 20)
    assert (mine.pipeline_class, mine.dtype, mine.frames, mine.size) == (
        *(base.pipeline_class, base.dtype, base.frames, base.size),
    )
    assert mine.defaults.num_frames == base.defaults.num_frames
    assert (mine.licence, base.licence) == (None, "Apache-2.0")  # another model's
    assert found.source("nightly") == str(tmp_path / "nightly.toml")
    assert not found.problems


def test_a_full_preset_needs_no_other(tmp_path: Path) -> None:
    mine = library(tmp_path, mine=FULL).get("mine")
    assert (mine.repo, mine.version, mine.random_weights) == ("some/model", 1, False)


@pytest.mark.parametrize("model", ["./ckpt", "../presets/ckpt"])
def test_a_relative_model_starts_at_the_file_and_its_index_names_the_class(tmp_path: Path, model: str) -> None:
    folder = tmp_path / "presets"
    (folder / "ckpt").mkdir(parents=True)
    (folder / "ckpt/model_index.json").write_text(json.dumps({"_class_name": "MochiPipeline"}), "utf-8")
    text = FULL.replace("some/model", model).replace('pipeline_class = "WanPipeline"', "")
    mine = library(folder, mine=text).get("mine")
    assert (mine.repo, mine.pipeline_class) == (str(folder / "ckpt"), "MochiPipeline")


def test_the_hub_cache_names_the_class_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "models--some--model"
    (repo / "snapshots/abc").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("abc", "utf-8")
    (repo / "snapshots/abc/model_index.json").write_text(json.dumps({"_class_name": "LTXPipeline"}), "utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "presets").mkdir()
    mine = library(tmp_path / "presets", mine=FULL.replace('pipeline_class = "WanPipeline"', "")).get("mine")
    assert mine.pipeline_class == "LTXPipeline"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not toml", "mine.toml: the preset is not TOML: "),
        ("", "mine.toml:.*frames: is required .or `extends`"),
        ('extends = "wan-9"', r"extends: 'wan-9' is not a preset of the catalogue; use one of: .*tiny-wan"),
        ("extends = 3", "extends: 3 is not a preset"),
        ('extends = "idle"\ncolour = "red"', "colour: is not a field of a preset; use one of: extends, model, name, "),
        ('extends = "idle"\n[frames]\nmaximum = "many"', "frames.maximum: 'many' is not possible: .*integer"),
        ('extends = "idle"\n[frames]\nmultiple = 0', "frames.multiple: 0 is not possible: .*greater than or equal"),
        ('extends = "idle"\n[frames]\nminimum = 2000', "frames.minimum: 2000 is more than the maximum, 1000"),
        ('extends = "idle"\n[defaults]\nwidth = 33', r"defaults.width: 33 breaks the size rule .multiples of 2, 2 to"),
        ('extends = "wan2.1-t2v-14b"\n[defaults]\nnum_frames = 80', r"defaults.num_frames: 80 breaks .*4k \+ 1"),
        ('extends = "idle"\n[defaults]\nguidance_scale = nan', "defaults.guidance_scale: nan is not possible"),
        ('extends = "idle"\nframes = 3', "frames: 3 is not possible"),
        ('extends = "idle"\nname = "yours"', "name: 'yours' is not the file's name, 'mine'"),
        ('extends = "idle"\nmodel = "a/b"\nrepo = "c/d"', "model: is another name of repo; give one of them"),
        ('extends = "tiny-wan"\nrandom_weights = false', "random_weights: must be true: the weights of 'tiny-wan' are"),
        (FULL.replace("some/model", "/no/such").replace("pipeline_class", "#"), "class: is not given, and /no/such/mo"),
        (FULL.replace("pipeline_class", "#"), "pipeline_class: is not given, and some/model/model_index.json is not"),
        (FULL.replace("some/model", "a b//c").replace("pipeline_class", "#"), "pipeline_class: is not given"),
    ],
)
def test_a_wrong_file_is_told_with_file_field_and_rule(tmp_path: Path, text: str, said: str) -> None:
    found = problem(tmp_path, text)
    assert re.search(said, found), found
    assert all(line.startswith(f"{tmp_path}/mine.toml: ") for line in found.splitlines())


def test_a_file_that_is_no_text_or_too_large_or_unreadable(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'description = "\xff"')
    (tmp_path / "large.toml").write_text("#" * 1024 * 1024 + "\n", "utf-8")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / ".draft.toml").write_text("half a fi", "utf-8")
    said = {name: str(found[0]) for name, found in load_library(tmp_path).problems.items()}
    assert set(said) == {"latin", "large", "folder"}
    assert "not UTF-8" in said["latin"]
    assert "larger than 1 MB" in said["large"]
    assert "this is a folder" in said["folder"]


def test_a_name_of_the_catalogue_stays_the_catalogues(tmp_path: Path) -> None:
    found = library(tmp_path, tiny_wan='extends = "idle"', Big='extends = "idle"')
    assert found.get("tiny-wan") == get_preset("tiny-wan")
    assert "is a preset of the catalogue; give the file another name" in str(found.problems["tiny-wan.toml"][0])
    assert "lower-case letters" in str(found.problems["Big"][0])


def test_one_wrong_file_takes_nothing_from_the_others(tmp_path: Path) -> None:
    found = library(tmp_path, good='extends = "idle"', bad="x = ")
    assert found.get("good").generator == "idle"
    with pytest.raises(InputError, match=r"bad\.toml"):
        found.get("bad")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    before = library(tmp_path, mine='extends = "idle"\nversion = 1').get("mine")
    after = library(tmp_path, mine='extends = "idle"\nversion = 2').get("mine")
    assert (before.version, after.version) == (1, 2)


def test_the_digest_follows_what_decides_frames_only(tmp_path: Path) -> None:
    def digest(text: str) -> str | None:
        return library(tmp_path, mine=text).digest("mine")

    plain = digest('extends = "tiny-wan"')
    assert digest('extends = "tiny-wan"\ndescription = "x"\nmemory_gib = 3\n[defaults]\nfps = 9') == plain
    assert digest('extends = "tiny-wan"\ndtype = "bfloat16"') != plain
    assert digest('extends = "tiny-wan"\nmodel = "/elsewhere"') != plain
    assert digest('extends = "tiny-wan"\nrevision = "main"') == plain  # said, but what it is anyway
    assert load_library(tmp_path).digest("tiny-wan") is None


def test_the_page_names_every_field_of_a_preset() -> None:
    page = (Path(__file__).parents[3] / "docs/models.md").read_text("utf-8").split("## Your own presets")[1]
    fields = {
        name: f"[{name}]" if name in ("frames", "size", "defaults", "continuation") else name
        for name in Preset.model_fields
    }
    assert [name for name, shown in fields.items() if f"`{shown}`" not in page and name != "name"] == []


def test_a_job_is_refused_where_its_preset_is_missing_wrong_or_another(tmp_path: Path) -> None:
    found = library(tmp_path, mine='extends = "idle"', bad="x = ")
    digest = found.digest("mine")
    assert found.pinned("mine", digest) == found.get("mine")
    assert found.pinned("tiny-wan", None) == get_preset("tiny-wan")
    for name, pinned, code, said in (
        ("gone", "0" * 64, "preset_missing", rf"'gone' is not on this machine .looked in {tmp_path}"),
        ("bad", "0" * 64, "preset_missing", r"bad\.toml: the preset is not TOML"),
        ("mine", "0" * 64, "preset_differs", rf"mine\.toml.* its digest is {str(digest)[:12]}, the job's 000000000000"),
    ):
        with pytest.raises(RefusedError, match=said) as caught:
            found.pinned(name, pinned)
        assert caught.value.code == code


def test_a_prompt_file_is_checked_by_the_own_preset_and_its_jobs_are_pinned(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    assert settings.effective_presets_dir == tmp_path / "presets"
    (tmp_path / "presets").mkdir()
    text = 'extends = "tiny-wan"\n[frames]\nmaximum = 9\n[defaults]\nnum_frames = 9\n'
    digest = library(tmp_path / "presets", mine=text).digest("mine")
    file = tmp_path / "prompts.jsonl"

    file.write_text('{"prompt": "a", "preset": "mine"}\n{"prompt": "a"}\n', "utf-8")
    parsed = parse(file, overrides={}, settings=settings)
    mine, plain = [job.spec for job in parsed.jobs]
    assert (mine.num_frames, mine.preset_digest, mine.random_weights) == (9, digest, True)
    assert (plain.preset_digest, plain.random_weights) == (None, False)

    library(tmp_path / "presets", mine=text + "fps = 4")
    assert parse(file, overrides={}, settings=settings).fingerprint != parsed.fingerprint  # a default, and so the job
    library(tmp_path / "presets", mine='dtype = "bfloat16"\n' + text)
    other = parse(file, overrides={}, settings=settings)
    assert other.fingerprint != parsed.fingerprint
    assert other.jobs[0].spec.preset_digest != digest

    file.write_text('{"prompt": "a", "preset": "mine", "num_frames": 8}\n{"prompt": "a", "preset": "mime"}\n', "utf-8")
    with pytest.raises(InputError) as caught:
        parse(file, overrides={}, settings=settings)
    first, second = [str(item) for item in caught.value.problems]
    assert "preset 'mine' (4k + 1, 5 to 9); nearest: 5 or 9" in first
    assert "did you mean 'mine'?" in second


def test_a_catalogue_jobs_fingerprint_is_what_it_was_without_own_presets(tmp_path: Path) -> None:
    """Seeds come from fingerprints: files submitted before must keep theirs."""
    file = tmp_path / "prompts.txt"
    file.write_text("a lighthouse\n", "utf-8")
    parsed = parse(file, overrides={"preset": "idle"}, settings=load_settings(home=tmp_path))
    assert parsed.fingerprint == "57585f134140cc524a57e1dfefa936df5dc77ab18d0afb4e79135555481e6af7"
