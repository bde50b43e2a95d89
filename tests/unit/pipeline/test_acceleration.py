"""What people write for an acceleration, and what becomes of it at submit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.acceleration import PLAIN, Acceleration, FirstBlock
from pipeline.errors import InputError
from pipeline.presets import calibration, get_preset, load_library
from pipeline.prompts import Submission, parse_bytes
from pipeline.settings import Settings
from pipeline.spec import JobSpec

FASTER = Acceleration(vae_tiling=True, step_cache=FirstBlock(kind="first_block", threshold=0.1))
AS_TEXT = "vae_tiling,step_cache=first_block:threshold=0.1"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return Settings()


def read(text: str, name: str, settings: Settings, **overrides: object) -> Submission:
    return parse_bytes(text.encode(), name, overrides=overrides, settings=settings)


def one(text: str, settings: Settings, **overrides: object) -> Acceleration:
    return read(text, "p.txt", settings, **overrides).jobs[0].spec.acceleration


def mistakes(text: str, settings: Settings, name: str = "p.txt") -> str:
    with pytest.raises(InputError) as caught:
        read(text, name, settings)
    return str(caught.value)


def test_text_and_mapping_say_the_same_in_every_format(settings: Settings) -> None:
    mapping = {"vae_tiling": True, "step_cache": {"kind": "first_block", "threshold": 0.1}}
    texts = {
        "a.txt": f"a fox --acceleration {AS_TEXT}",
        "a.csv": f'prompt,acceleration\na fox,"{AS_TEXT}"\n',
        "a.jsonl": json.dumps({"prompt": "a fox", "acceleration": mapping}),
        "b.jsonl": json.dumps({"prompt": "a fox", "acceleration": AS_TEXT}),
        "a.yaml": "prompts: [" + json.dumps({"prompt": "a fox", "acceleration": mapping}) + "]",
    }
    assert [read(text, name, settings).jobs[0].spec.acceleration for name, text in texts.items()] == [FASTER] * 5


def test_layers_are_joined_option_by_option_and_none_says_all(settings: Settings) -> None:
    text = "#: acceleration = vae_tiling,compile\na fox --acceleration compile=off\n"
    assert one(text, settings) == Acceleration(vae_tiling=True)
    assert one(text, settings, acceleration="attention=flash") == Acceleration(vae_tiling=True, attention="flash")
    assert one("a fox --acceleration none", settings, acceleration=AS_TEXT) == PLAIN
    assert one("a fox --acceleration step_cache=none", settings, acceleration=AS_TEXT) == Acceleration(vae_tiling=True)


def test_a_presets_own_options_hold_unless_the_job_says_otherwise(settings: Settings) -> None:
    settings.effective_presets_dir.mkdir(parents=True)
    own = 'extends = "tiny-wan"\n[acceleration]\nvae_tiling = true\ncompile = true\n'
    (settings.effective_presets_dir / "own.toml").write_text(own)
    assert one("a fox --preset own", settings) == Acceleration(vae_tiling=True, compile=True)
    assert one("a fox --preset own --acceleration compile=off", settings) == Acceleration(vae_tiling=True)
    assert one("a fox --preset own --acceleration none", settings) == PLAIN


def test_the_job_row_gives_it_back(settings: Settings) -> None:
    spec = read(f"a fox --acceleration {AS_TEXT}", "p.txt", settings).jobs[0].spec
    stored = json.loads(json.dumps(spec.model_dump(mode="json", exclude_defaults=True)))
    assert JobSpec.model_validate(stored).acceleration == FASTER


def test_a_file_without_any_has_the_fingerprint_that_it_had_and_one_with_another(settings: Settings) -> None:
    plain = read("a fox", "p.txt", settings).fingerprint
    assert plain == read("a fox --acceleration none", "p.txt", settings).fingerprint
    assert plain != read("a fox --acceleration vae_tiling", "p.txt", settings).fingerprint


def test_a_sweep_compares_them(settings: Settings) -> None:
    text = json.dumps({"prompt": "a fox", "sweep": {"acceleration": ["none", AS_TEXT, {"compile": True}]}})
    jobs = read(text, "p.jsonl", settings).jobs
    assert [job.spec.acceleration for job in jobs] == [PLAIN, FASTER, Acceleration(compile=True)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("vae_tilling", "unknown option 'vae_tilling'; did you mean 'vae_tiling'?"),
        ("attention", "attention needs a value"),
        ("compile,compile", "option 'compile' is given twice"),
        ("compile=", "'compile=' is not of the form"),
        ("compile=maybe", "compile: 'maybe' is not possible"),
        ("attention=fast", "attention: 'fast' is not an attention backend; use one of: native"),
        ("step_cache=second_block", "step_cache: 'second_block' is not a step cache; use one of: first_block"),
        ("step_cache=first_block:threshold=2", "step_cache.threshold: '2' is not possible"),
        ("step_cache=first_block:interval=2", "step_cache.interval: is not an option of this acceleration"),
        ("step_cache=taylorseer:interval", "'interval' is not of the form 'option=value'"),
        ("step_cache=pyramid_attention:spatial=none", "give spatial, temporal or cross"),
        ("quantisation=int3", "quantisation: 'int3' is not possible; use one of: torchao-int8"),
        ("quantisation=gguf:model.gguf", "gguf:/path/to/file"),
        ("quantisation=torchao-int8,layerwise_casting=float8_e5m2", "both set how weights are stored"),
        ("context_parallel=4", "context_parallel: 4 needs `gpu` types of 4 devices, such as h200x4; given: none"),
        ("step_cache=mag_cache", "run `vgen models calibrate tiny-wan`"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(given: str, said: str, settings: Settings) -> None:
    text = mistakes(f"a good one\na fox --acceleration {given}", settings)
    assert text.startswith("p.txt:2: acceleration: ")
    assert said in text


def test_what_the_preset_can_never_do_is_told_at_submit(settings: Settings, tmp_path: Path) -> None:
    text = mistakes("a fox --preset idle --acceleration compile", settings)
    assert "preset 'idle' makes no picture and takes none" in text
    text = mistakes("a fox --preset wan2.2-t2v-a14b --acceleration step_cache=mag_cache", settings)
    assert "this model has two; use first_block" in text
    line = {"prompt": "a fox", "preset": "svd-xt", "acceleration": "step_cache=taylorseer,vae_tiling"}
    text = mistakes(json.dumps(line), settings, "p.jsonl")
    assert "StableVideoDiffusionPipeline has none; attention" in text
    assert "vae_tiling: the VAE of StableVideoDiffusionPipeline has none" in text


def test_options_of_a_preset_and_a_job_that_exclude_each_other(settings: Settings) -> None:
    settings.effective_presets_dir.mkdir(parents=True)
    own = 'extends = "tiny-wan"\nacceleration = { quantisation = "torchao-int8" }\n'
    (settings.effective_presets_dir / "own.toml").write_text(own)
    text = mistakes("a fox --preset own --acceleration layerwise_casting=float8_e5m2", settings)
    assert "p.txt:1: acceleration: quantisation and layerwise_casting both" in text


def test_measured_ratios_are_pinned_at_submit(settings: Settings) -> None:
    folder, preset = settings.effective_presets_dir, get_preset("tiny-wan")
    calibration.write(folder, preset, [1.0, 0.9, 1.1], prompt="a fox", seed=1)
    found = one("a fox --acceleration step_cache=mag_cache", settings)
    assert found.step_cache is not None
    assert found.step_cache.model_dump()["ratios"] == (1.0, 0.9, 1.1)
    assert load_library(folder).problems == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "the file of ratios is not JSON"),
        ("[" * 9999, "nested more than 64 deep"),
        ('{"schema": "x", "digest": "d", "ratios": [1]}', "is not a file of ratios"),
    ],
)
def test_a_damaged_file_of_ratios_is_named(content: str, said: str, settings: Settings) -> None:
    path = calibration.path_of(settings.effective_presets_dir, get_preset("tiny-wan"))
    path.parent.mkdir(parents=True)
    path.write_text(content)
    text = mistakes("a fox --acceleration step_cache=mag_cache", settings)
    assert str(path) in text
    assert said in text


def test_ratios_of_another_model_are_not_used(settings: Settings) -> None:
    other = get_preset("tiny-wan").model_copy(update={"repo": "another"})
    calibration.write(settings.effective_presets_dir, other, [1.0], prompt="a fox", seed=1)
    assert "measured for another preset" in mistakes("a fox --acceleration step_cache=mag_cache", settings)
