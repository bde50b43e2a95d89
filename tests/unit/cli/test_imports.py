"""Sidecars and continuation states that anybody may have written: the rules of a prompt file's line hold for them."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from cli.jobs import imports
from db.clips import batches
from pipeline.errors import InputError, VgenError
from pipeline.inputs.collector import StoredInput
from pipeline.presets import get_preset
from pipeline.prompts.fields import PARSERS
from pipeline.settings import Settings
from pipeline.spec import BatchOptions, JobSpec
from pipeline.stages.state_file import read_state
from pipeline.storage.inputs import put_input
from pipeline.wiring import make_storage
from service.exit_codes import ExitCode, of_error
from service.extension import next_spec
from tests.loras import write_lora
from tests.unit.cli.conftest import Home, Vgen

CORPUS = Path(__file__).parents[2] / "data" / "imported"
SIDECARS = sorted(CORPUS.glob("*.json"))
STATE = CORPUS / "plain.vgen-state"
Json = dict[str, Any]


def _sidecar(**request: object) -> Json:
    content: Json = json.loads((CORPUS / "plain.sidecar.json").read_text("utf-8"))
    content["request"] |= request
    if request.keys() & {"prompt", "segment_prompts", "segments", "auto_extend"}:
        del content["prompt_used"]  # which would be pinned
    return content


def _written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def _state(path: Path, change: Callable[[Json], None] = lambda head: None, frames: Any = None) -> Path:
    with safe_open(STATE, framework="np") as file:
        head, array = json.loads(file.metadata()["vgen"]), file.get_tensor("frames")
    change(head)
    save_file({"frames": array if frames is None else frames}, path, {"vgen": json.dumps(head)})
    return path


@pytest.mark.parametrize("file", SIDECARS, ids=lambda file: file.name)
def test_a_sidecar_of_ours_becomes_the_same_job_again(
    home: Home, vgen: Vgen, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_ENHANCE_PROVIDERS", "own=http://127.0.0.1:9/v1")  # where nobody enhances it is refused
    batch = vgen("rerun", file, "--json").json["batch"]

    spec = vgen("show", f"{batch['id']}-000000", "--json").json["spec"]
    content = json.loads(file.read_text("utf-8"))
    segments = content.get("segments") or []
    pinned = {"enhance": False, "auto_extend": False} if len(segments) == content["request"]["segments"] else {}
    if segments and pinned:
        prompts = [one["prompt_used"] for one in segments]
        pinned |= {"prompt": prompts[0], "segment_prompts": prompts}
    expected = content["request"] | pinned
    del spec["random_weights"], expected["random_weights"]  # show says what is true of the preset today
    assert spec == expected


REFUSED_REQUESTS: list[tuple[Json, str]] = [
    ({"num_frames": 10**30}, "request.num_frames: 1000000000000000000000000000000 is not a whole number"),
    ({"num_frames": 6}, "request.num_frames: 6 cannot be made by preset 'tiny-wan'"),
    ({"num_frames": 5.5}, "request.num_frames"),
    ({"width": 33}, "request.width: 33 cannot be made"),
    ({"gpu": ["../../x y"]}, "request.gpu: '../../x y' is not a valid GPU type"),
    ({"gpu": "H200"}, "request.gpu: 'H200' is not a valid GPU type"),
    ({"seed": -1}, "request.seed: -1"),
    ({"fps": "fast"}, "request.fps: 'fast'"),
    ({"num_inference_steps": 1001}, "request.num_inference_steps: 1001"),
    ({"guidance_scale": 1e300}, "request.guidance_scale"),
    ({"guidance_scale": None}, "request.guidance_scale: is missing"),
    ({"prompt": ""}, "request.prompt: is empty"),
    ({"prompt": "a\0b"}, "request.prompt: holds a NUL"),
    ({"prompt": "x" * 50_001}, "request.prompt: has 50001 characters"),
    ({"negative_prompt": 7}, "request.negative_prompt: 7 is not text"),
    ({"preset": "nonesuch"}, "request.preset: 'nonesuch' is unknown"),
    ({"labels": {str(n): "" for n in range(33)}}, "request.labels: has 33 labels"),
    ({"custom_id": "a\nb"}, "request.custom_id"),
    ({"acceleration": {"warp": 9}}, "request.acceleration: unknown option 'warp'"),
    ({"acceleration": {"layerwise_casting": "nonesuch"}}, "request.acceleration"),
    ({"segments": 300}, "request.segments: 300"),
    ({"segments": 0}, "request.segments: 0"),
    ({"segment_prompts": ["gore everywhere"]}, "request.segment_prompts: begins with 'gore everywhere'"),
    ({"segment_prompts": ["a red fox", "b"], "segments": 3}, "request.segment_prompts: 2 prompts are given for 3"),
    ({"segment_prompts": ["a red fox", "b"], "segments": 2, "auto_extend": True}, "request.auto_extend"),
    ({"auto_extend": True}, "request.auto_extend: is given, but the clip has one segment"),
    ({"image": {"sha256": "0" * 64, "media_type": "image/png", "name": "a.png"}}, "request.image: 'a.png' (inputs/"),
    ({"image": "/etc/passwd"}, "request.image: '/etc/passwd' is not a mapping"),
    ({"image": {"sha256": "../x", "media_type": "image/png", "name": "a"}}, "request.image: sha256"),
    ({"loras": [{"file": {"sha256": "0" * 64, "media_type": "x", "name": "l"}}]}, "request.loras: 'l' (inputs/"),
    ({"loras": [{"path": "style.safetensors"}]}, "request.loras.0"),
    ({"extends": "a job", "image": None, "segments": 1, "begins_with": 3}, "request.begins_with: 3 is not a mapping"),
    ({"begins_with": {"video": {}, "frames_sha256": []}}, "request.begins_with: is given without extends"),
    ({"extends": "a\x1b[0m"}, "request.extends"),
    ({"nonesuch": 1}, "request.nonesuch: unknown field"),
]


@pytest.mark.parametrize(("request_", "message"), REFUSED_REQUESTS, ids=lambda value: str(value)[:40])
def test_a_sidecar_that_breaks_a_rule_of_lines_is_refused(
    home: Home, vgen: Vgen, tmp_path: Path, request_: Json, message: str
) -> None:
    file = _written(tmp_path / "clip.json", _sidecar(**request_))

    outcome = vgen("rerun", file)

    assert outcome.code == 2, outcome.err
    assert f"{file}: {message}" in outcome.err
    assert len(vgen("list", "--json").json["batches"]) == 1, "nothing is stored"


MALFORMED: list[tuple[str, str]] = [
    ("[" * 100_000, "is not JSON"),
    ('{"schema": "vgen.sidecar/1", "request": {"seed": 1e999}}', "the number 1e999 is not allowed"),
    ('{"schema": "vgen.sidecar/1", "request": {"seed": Infinity}}', "Infinity is not allowed"),
    ('{"schema": "vgen.sidecar/1", "request": {"seed": NaN}}', "NaN is not allowed"),
    ('{"schema": "vgen.sidecar/1", "request": {"seed": ' + "9" * 5000 + "}}", "is not JSON"),
    ('{"schema": "vgen.sidecar/1", "schema": "x"}', "'schema' is given twice"),
    ('{"schema": "vgen.sidecar/1", "request": []}', "request: [] is not a mapping"),
    ('{"schema": "vgen.sidecar/1"}', "request: is missing"),
    ('{"schema": "vgen.sidecar/1", "request": {}, "preset": 3}', "preset: 3 is not a mapping"),
    ('{"schema": "vgen.sidecar/1", "request": {}, "preset": {"version": "1"}}', "preset.version: '1'"),
    ('{"schema": "vgen.sidecar/1", "request": {}, "encode": "x"}', "encode: 'x' is not a mapping"),
    ('{"schema": "vgen.sidecar/1", "request": {}, "segments": [1]}', "segments.0.prompt_used: 1 is not a mapping"),
    ('{"schema": "vgen.sidecar/1", "request": {}, "prompt_used": 5}', "prompt_used: 5 is not text"),
]


@pytest.mark.parametrize(("text", "message"), MALFORMED, ids=lambda value: str(value)[:40])
def test_a_malformed_sidecar_is_refused_with_its_name(
    home: Home, vgen: Vgen, tmp_path: Path, text: str, message: str
) -> None:
    file = _written(tmp_path / "clip.json", text)

    outcome = vgen("rerun", file)

    assert outcome.code == 2
    assert str(file) in outcome.err
    assert message in outcome.err


def test_what_is_no_file_is_not_read(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", "/dev/zero", tmp_path, tmp_path / "none.json"):
        outcome = vgen("rerun", path)
        assert outcome.code == 2
        assert str(path) in outcome.err
    os.mkfifo(tmp_path / "pipe.vgen-state")
    for path in (tmp_path / "pipe.vgen-state", "/dev/zero", tmp_path):
        outcome = vgen("state", "import", path, "rain")
        assert outcome.code == 2
        assert str(path) in outcome.err


def test_the_sites_settings_win_over_a_sidecars_and_that_is_said(
    home: Home, vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_ENCODE_QUALITY", "23")
    file = _written(tmp_path / "clip.json", _sidecar(priority=100))

    outcome = vgen("rerun", file, "--json")

    batch = outcome.json["batch"]["id"]
    assert vgen("show", f"{batch}-000000", "--json").json["job"]["priority"] == 0
    assert "its priority 100 is left out" in outcome.err
    assert "its encoder {'codec': 'libx264'" in outcome.err
    assert _options(home, batch).encode.quality == 23


def _options(home: Home, batch_id: str) -> BatchOptions:
    database = home.database()
    with database.reading() as session:
        options = BatchOptions.model_validate(batches.get(session, batch_id).options)
    database.close()
    return options


def _set(*keys: str, value: object) -> Callable[[Json], None]:
    def change(head: Json) -> None:
        for key in keys[:-1]:
            head = head[key]
        head[keys[-1]] = value

    return change


def test_the_sites_settings_win_over_a_states_and_that_is_said(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    def change(head: Json) -> None:
        head["options"] |= {
            "safety_policy": "open",
            "encode": {"codec": "-x", "quality": -1, "preset": "a b", "threads": 0},
        }
        head["request"]["priority"] = 99

    outcome = vgen("state", "import", _state(tmp_path / "a.vgen-state", change), "rain", "--json")

    assert outcome.code == 0
    options = _options(home, outcome.json["batch"]["id"])
    assert options.safety_policy == "closed"
    assert options.encode == _options(home, home.batch_id).encode
    for said in ("its safety policy 'open' is replaced", "its encoder {'codec': '-x'", "its priority 99 is left out"):
        assert said in outcome.err


def test_a_states_scores_are_those_a_prompt_file_may_ask_for(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    score = {"metrics": ["checks"], "gate": ["checks"], "reroll": 2}
    good = _state(tmp_path / "a.vgen-state", _set("options", "score", value=score))
    batch = vgen("state", "import", good, "rain", "--json").json["batch"]["id"]
    scored = _options(home, batch).score
    assert scored is not None
    assert (scored.metrics, scored.gate, scored.reroll) == (("checks",), ("checks",), 2)

    for wrong in ({"metrics": ["nonesuch"]}, {"metrics": 3}, {**score, "reroll": 10**9}, {**score, "gate": ["x y"]}, 7):
        bad = _state(tmp_path / "b.vgen-state", _set("options", "score", value=wrong))
        outcome = vgen("state", "import", bad, "rain")
        assert outcome.code == 2, wrong
        assert f"{bad}: options.score" in outcome.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("version", value=1.5), "version: 1.5 is not a whole number"),
        (_set("version", value=True), "version: True is not a whole number"),
        (_set("version", value=2), "'last_frames' version 2"),
        (_set("payload", value=[]), "payload: [] is not a mapping"),
        (_set("payload", "height", value=64), "height 64 in place of 32"),
        (_set("request", "height", value=64), "its frames are 32x32, the clip was 32x64"),
        (_set("request", "preset", value="nonesuch"), "request.preset: 'nonesuch' is unknown"),
        (_set("request", "gpu", value=["x y"]), "request.gpu: 'x y'"),
        (_set("request", "extends", value="x" * 200), "request.extends: has 200 characters"),
        (_set("request", value=None), "request: is missing"),
        (_set("options", "nonesuch", value=1), "options.nonesuch: unknown field"),
        (_set("sha256", value=5), "sha256: 5 is not text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_state_that_breaks_a_rule_is_refused(
    home: Home, vgen: Vgen, tmp_path: Path, change: Callable[[Json], None], message: str
) -> None:
    file = _state(tmp_path / "a.vgen-state", change)

    outcome = vgen("state", "import", file, "rain")

    assert outcome.code == 2, outcome.err
    assert str(file) in outcome.err
    assert message in outcome.err
    assert len(vgen("list", "--json").json["batches"]) == 1, "nothing is stored"


@pytest.mark.parametrize(
    "frames",
    [np.zeros((1, 32, 32), np.uint8), np.zeros((1, 32, 32, 4), np.uint8), np.zeros((1, 32, 32, 3), np.float32)],
)
def test_frames_of_another_form_are_refused(home: Home, vgen: Vgen, tmp_path: Path, frames: Any) -> None:
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    file = _state(tmp_path / "a.vgen-state", _set("sha256", value=digest), frames)

    assert "its frames have shape" in vgen("state", "import", file, "rain").err


def test_inputs_and_loras_of_the_store_are_checked_as_a_lines(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    """What a digest names is looked into: it must be there, whole, and what the field takes."""
    path = write_lora(tmp_path / "style.safetensors")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    storage = make_storage(home.settings)
    ref = {"sha256": digest, "media_type": "application/vnd.safetensors", "name": "style", "num_frames": None}
    lora = {"file": ref, "scale": 0.5, "repo": "org/name", "revision": "main", "load_into_transformer_2": False}
    file = _written(tmp_path / "clip.json", _sidecar(loras=[lora]))
    assert "is not in this site's store" in vgen("rerun", file).err

    put_input(storage, StoredInput(digest, "application/vnd.safetensors", "style", len(data), data=data))
    batch = vgen("rerun", file, "--json").json["batch"]["id"]
    assert vgen("show", f"{batch}-000000", "--json").json["spec"]["loras"] == [lora]

    as_picture = _written(tmp_path / "picture.json", _sidecar(image=ref))
    assert "is not a PNG, JPEG or WebP image" in vgen("rerun", as_picture).err
    for wrong in ({**lora, "scale": "much"}, {**lora, "repo": "x\x1b"}, {**lora, "more": 1}):
        assert vgen("rerun", _written(tmp_path / "wrong.json", _sidecar(loras=[wrong]))).code == 2
    storage.put_bytes(f"inputs/{digest}", data[:-1], content_type="x")
    assert vgen("rerun", file).code == 2


_ODD = st.sampled_from(
    [
        *(None, True, 0, -1, 1, 2**63, 10**30, 1e30, 1e-300, 0.5, "", " ", "x", "gore everywhere", "../../x y"),
        *("\x00", "\x1b[2J", "\u202e", "x" * 300, [], {}, [[]], [None], {"a": 1}, ["a", "b"], [{}]),
        *("tiny-wan", "wan2.1-t2v-1.3b", "idle", "open", "libx265"),
    ]
).map(copy.deepcopy)  # what is drawn may be changed by the next mutation


def _paths(value: object, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, one in items for path in ((*before, key), *_paths(one, (*before, key)))]


def _mutated(draw: st.DrawFn, content: Any) -> Any:
    """One to three of its values replaced, removed or added to."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        *keys, last = draw(st.sampled_from(_paths(content)))
        holder = content
        for key in keys:
            holder = holder[key]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "remove":
            del holder[last]
        elif kind == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["nonesuch", "priority", "extends", "video"]))] = draw(_ODD)
        else:
            holder[last] = draw(_ODD)
    return content


def _bytes_mutated(draw: st.DrawFn, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data) - 1))
    return draw(
        st.sampled_from(
            [data[:at], data[:at] + data[at + 1 :], data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :], data + data]
        )
    )


@st.composite
def _sidecars(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(SIDECARS)).read_bytes()
    if draw(st.booleans()):
        return _bytes_mutated(draw, data)
    return json.dumps(_mutated(draw, json.loads(data))).encode()


@st.composite
def _states(draw: st.DrawFn) -> tuple[bytes | None, Json]:
    """The file's bytes, or what its head is to be."""
    if draw(st.booleans()):
        return _bytes_mutated(draw, STATE.read_bytes()), {}
    with safe_open(STATE, framework="np") as file:
        return None, _mutated(draw, json.loads(file.metadata()["vgen"]))


def _assert_rules_hold(spec: JobSpec, options: BatchOptions, site: Settings) -> None:
    """What was accepted keeps the rules of a line, and the site's settings."""
    preset = get_preset(spec.preset)
    JobSpec.model_validate(spec.model_dump())
    assert preset.frames.allows(spec.num_frames)
    assert preset.size.allows(spec.width)
    assert preset.size.allows(spec.height)
    assert not spec.gpu or PARSERS["gpu"](list(spec.gpu), False) == spec.gpu
    assert PARSERS["prompt"](spec.prompt, False)
    assert not spec.segment_prompts or spec.segment_prompts[0] == spec.prompt
    assert (spec.priority, spec.preset_digest) == (0, None)
    assert options.safety_policy == site.safety.policy
    assert options.encode.codec == site.encode.codec


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("site"))


def _tried(call: Callable[[], tuple[JobSpec, BatchOptions]]) -> tuple[JobSpec, BatchOptions] | VgenError:
    try:
        return call()
    except VgenError as error:
        return error


@settings(max_examples=150, deadline=None)
@given(data=_sidecars())
def test_no_sidecar_ends_in_anything_but_a_checked_job_or_a_message(site: Settings, data: bytes) -> None:
    path = site.home / "clip.json"
    path.write_bytes(data)

    def read() -> tuple[JobSpec, BatchOptions]:
        imported, options = imports.of_sidecar(path, site, imports.stored_inputs(site))
        return imported.spec, options

    outcome = _tried(read)

    if isinstance(outcome, VgenError):
        assert isinstance(outcome, InputError)
        assert str(path) in str(outcome)
    else:
        _assert_rules_hold(*outcome, site)


@settings(max_examples=150, deadline=None)
@given(content=_states())
def test_no_state_ends_in_anything_but_a_checked_job_or_a_message(
    site: Settings, content: tuple[bytes | None, Json]
) -> None:
    path = site.home / "clip.vgen-state"
    data, head = content
    if data is None:
        _state(path, lambda own: (own.clear(), own.update(head))[0])
    else:
        path.write_bytes(data)

    def read() -> tuple[JobSpec, BatchOptions]:
        state = read_state(path)
        imported, options = imports.of_state(path, state, site, imports.stored_inputs(site))
        assert state.of(imported.spec, path).payload["prompt"] == imported.spec.prompt
        asked = {"segments": None, "num_frames": None, "seed": None, "enhance": None}
        return next_spec(imported.spec, "other", "rain", asked, site), options

    outcome = _tried(read)

    if isinstance(outcome, VgenError):
        assert of_error(outcome) is ExitCode.USAGE
        assert str(path) in str(outcome) or "preset" in str(outcome)
    else:
        _assert_rules_hold(*outcome, site)
