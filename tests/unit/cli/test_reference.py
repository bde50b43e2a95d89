"""The references in docs/ are what the commands say and print."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cli.main import run
from cli.reference import JSON_OUTPUT
from db.clips import continuations, jobs
from db.evals import runs
from pipeline.files.object_names import state_key
from pipeline.scoring import exchange
from pipeline.scoring.suite import read_suite
from pipeline.spec import JobSpec
from pipeline.wiring import make_storage
from pipeline.work import ContinuationRef
from service import keys
from service.exit_codes import MEANING, ExitCode
from tests.conftest import REPOSITORY
from tests.data.vbench_oracle import tiny_weights
from tests.unit.cli.conftest import Home, Vgen
from tests.unit.db.session_line import SessionLine


def _document(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text("utf-8")


@pytest.mark.parametrize(("name", "flags"), [("cli.md", []), ("json-output.md", ["--json-output"])])
def test_a_generated_reference_is_not_stale(name: str, flags: list[str]) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "cli.reference", *flags], capture_output=True, text=True, check=True
    ).stdout

    assert printed == _document(name), f"run `python -m cli.reference {' '.join(flags)} > docs/{name}`"


def test_every_exit_code_has_a_meaning() -> None:
    assert set(MEANING) == set(ExitCode)


def _schemas() -> dict[str, Any]:
    """The schemas as the document has them, by command."""
    text = _document("json-output.md")
    sections = dict(re.findall(r"^## (\w+)\n.*?```json\n(.*?)\n```", text, re.MULTILINE | re.DOTALL))
    commands = re.findall(r"^\| `vgen (.*?) --json` \| \[(\w+)\]", text, re.MULTILINE)
    return {command: json.loads(sections[name]) for command, name in commands}


@pytest.fixture
def finished(home: Home, tmp_path: Path) -> Home:
    home.succeed(home.job_ids[0])
    return home


CLIP = Path(tiny_weights.__file__).parent / "clips/static.mp4"


def _another_clip(home: Home) -> str:
    home.succeed(home.job_ids[1])
    return home.job_ids[1]


def _with_state(home: Home) -> str:
    """The finished job, with the last frames of its clip."""
    sizes = _spec(home)
    data = bytes(sizes.width * sizes.height * 3)
    sha256 = hashlib.sha256(data).hexdigest()
    make_storage(home.settings).put_bytes(state_key(sha256), data, content_type="application/octet-stream")
    payload = {"frames": 1, "height": sizes.height, "width": sizes.width}
    blob = {"key": state_key(sha256), "sha256": sha256, "size": len(data)}
    database = home.database()
    with database.transaction() as session:
        continuations.put(session, home.job_ids[0], 1, 0, ContinuationRef("last_frames", 1, payload, {"frames": blob}))
    database.close()
    return home.job_ids[0]


def _spec(home: Home) -> JobSpec:
    database = home.database()
    with database.reading() as session:
        spec = JobSpec.model_validate(jobs.get(session, home.job_ids[0]).spec)
    database.close()
    return spec


def _state_file(home: Home) -> Path:
    path = home.folder / "clip.vgen-state"
    assert run(["state", "export", _with_state(home), "-o", str(path)]) == 0
    return path


def _scored(home: Home) -> list[object]:
    """A score file."""
    path = home.folder / "scores.json"
    scores = {"vbench.scene": {"name": "vbench.scene", "score": 0.5, "details": {"weight": 16}}}
    path.write_text(json.dumps([{"video": str(CLIP), "entry": 0, "seed": 1, "scores": scores}]), "utf-8")
    return [path]


def _manifest(home: Home) -> list[object]:
    """A suite of one entry, and its clip."""
    suite, manifest = home.folder / "suite.json", home.folder / "clips.json"
    suite.write_text(json.dumps([{"prompt_en": "alley", "dimension": ["scene"]}]), "utf-8")
    manifest.write_text(json.dumps([{"video": str(CLIP), "entry": 0, "seed": 1}]), "utf-8")
    return ["--suite", suite, "--manifest", manifest]


def _run_of(home: Home) -> str:
    """An evaluation run over the home's batch."""
    database = home.database()
    with database.transaction() as session:
        run_id = runs.open_run(session, home.batch_id, kind="batch", metrics=["checks"])
    database.close()
    return run_id


def _results(home: Home) -> list[object]:
    """What the official code says of an export."""
    suite = read_suite(Path(str(_manifest(home)[1])))
    clips = exchange.read_manifest(home.folder / "clips.json", suite)
    exchange.export(clips, suite, ["scene"], home.folder / "out")
    results = home.folder / "results.json"
    results.write_text(json.dumps({"scene": [1, [{"video_path": "alley-0.mp4", "video_results": 1}]]}), "utf-8")
    return [results, "--export", home.folder / "out", "--scores", *_scored(home)]


def _run_config(home: Home) -> list[object]:
    path = home.folder / "run.yaml"
    path.write_text(
        f"preset: idle\nrequest: {{prompt: a, num_frames: 5}}\noutput: {{path: {home.folder}/a.mp4}}\n", "utf-8"
    )
    return ["--config", path]


def _key_of(home: Home) -> str:
    database = home.database()
    view = keys.create(database, name="ci", owner="ada", scopes=["stream"], expires=None, by="ada")
    database.close()
    return view.key.id


def _session(home: Home) -> list[str]:
    """The id of an open session with a segment."""
    database = home.database()
    line = SessionLine(database)
    line.worker()
    opened = line.open()
    line.ask(opened.id, 0)
    database.close()
    return [opened.id]


def _model_folder(home: Home) -> Path:
    """The configuration of a model whose weights are not there."""
    folder = home.folder / "own-model"
    for part, content in (("vae", {"temperal_downsample": [True, True]}), ("transformer", {"patch_size": 2})):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(content), "utf-8")
    (folder / "model_index.json").write_text('{"_class_name": "WanPipeline"}', "utf-8")
    return folder


COMMANDS: dict[str, Callable[[Home], list[object]]] = {
    "generate": lambda home: ["generate", *_run_config(home)],
    "submit": lambda home: ["submit", home.file],
    "plan": lambda home: ["plan", home.file],
    "submit --dry-run": lambda home: ["submit", home.file, "--dry-run"],
    "status": lambda home: ["status"],
    "watch": lambda home: ["watch"],
    "list": lambda home: ["list"],
    "list BATCH": lambda home: ["list", "latest"],
    "show JOB": lambda home: ["show", home.job_ids[0]],
    "show BATCH": lambda home: ["show", home.batch_id],
    "events": lambda home: ["events", home.job_ids[0]],
    "report": lambda home: ["report", "latest"],
    "results": lambda home: ["results", "--urls"],
    "votes rate": lambda home: ["votes", "rate", home.job_ids[0], "--stars", "4"],
    "votes cast": lambda home: ["votes", "cast", home.job_ids[0], _another_clip(home), "--preferred", "neither"],
    "votes export": lambda home: ["votes", "export"],
    "pause": lambda home: ["pause", "latest", "--queue", "h200"],
    "resume": lambda home: ["resume", "latest"],
    "budget": lambda home: ["budget", "latest", "--max-gpu-hours", "2", "--by", "+1h"],
    "cancel": lambda home: ["cancel", home.job_ids[1]],
    "retry": lambda home: ["retry", home.job_ids[1]],
    "approve": lambda home: ["approve", home.job_ids[2]],
    "reject": lambda home: ["reject", home.job_ids[2]],
    "rerun": lambda home: ["rerun", home.job_ids[0]],
    "extend": lambda home: ["extend", _with_state(home), "and then"],
    "state export": lambda home: ["state", "export", _with_state(home), "-o", home.folder / "state"],
    "state import": lambda home: ["state", "import", _state_file(home), "and then"],
    "eval list": lambda home: ["eval", "list"],
    "eval run": lambda home: ["eval", "run", CLIP, "--metrics", "checks,vbench"],
    "eval suite": lambda home: ["eval", "suite", *_manifest(home)[1:2], "--preset", "idle", "--metrics", "checks"],
    "eval runs": lambda home: ["eval", "runs"],
    "eval scores": lambda home: ["eval", "scores", _run_of(home)],
    "eval aggregate": lambda home: ["eval", "aggregate", *_scored(home)],
    "eval calibrate": lambda home: ["eval", "calibrate", *_scored(home), *_scored(home)],
    "eval compare": lambda home: ["eval", "compare", *_scored(home), *_scored(home), "--margin", "vbench.scene=0.1"],
    "eval export": lambda home: ["eval", "export", *_manifest(home), "--to", home.folder / "out"],
    "eval import": lambda home: ["eval", "import", *_results(home)],
    "eval weights list": lambda home: ["eval", "weights", "list"],
    "eval weights check": lambda home: ["eval", "weights", "check"],
    "models list": lambda home: ["models", "list"],
    "models show": lambda home: ["models", "show", "tiny-wan"],
    "models check": lambda home: ["models", "check", "wan2.1-t2v-1.3b"],
    "models calibrate": lambda home: ["models", "calibrate", "tiny-wan", "--steps", "2"],
    "bench preset": lambda home: [
        *("bench", "preset", "shapes-wan", "--prompts", "2", "--only", "first_block-0.1,attention-flash"),
        *("--steps", "2"),
    ],
    "delete": lambda home: ["delete", home.batch_id, "--yes"],
    "models add": lambda home: ["models", "add", _model_folder(home), "--no-clip"],
    "sweep": lambda home: ["sweep"],
    "workers": lambda home: ["workers"],
    "keys create": lambda home: ["keys", "create", "ci"],
    "keys limit": lambda home: ["keys", "limit", _key_of(home), "--max-active-jobs", "3"],
    "keys list": lambda home: ["keys", "list"],
    "keys revoke": lambda home: ["keys", "revoke", _key_of(home)],
    "sessions list": lambda home: ["sessions", "list", *_session(home)[:0]],
    "sessions show": lambda home: ["sessions", "show", *_session(home)],
    "sessions close": lambda home: ["sessions", "close", *_session(home)],
    "db check": lambda home: ["db", "check"],
    "doctor": lambda home: ["doctor"],
    "config": lambda home: ["config"],
}


def test_every_documented_output_is_checked() -> None:
    # `eval nightly` and `eval accept` print what `eval scores` does (tests/integration/test_nightly.py checks them).
    # `submit --wait` needs a cluster: it prints what `watch` prints, by the same function.
    # `chaos` needs workers to break: tests/faults/test_chaos.py reads what it prints by its view.
    # `workers drain` needs a cluster: tests/unit/db/test_placement.py drains a host.
    assert set(COMMANDS) | {"submit --wait", "eval nightly", "eval accept", "chaos", "workers drain"} == set(
        JSON_OUTPUT
    )


@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified:UserWarning")
@pytest.mark.parametrize("command", COMMANDS)
def test_real_output_fits_the_documented_schema(finished: Home, vgen: Vgen, command: str) -> None:
    if command in ("watch", "delete"):  # which would wait for the two other jobs, or refuse
        vgen("cancel", finished.batch_id)

    outcome = vgen(*COMMANDS[command](finished), "--json")

    schema = _schemas()[command]
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(outcome.json)
    assert "additionalProperties" in schema  # a field that is not documented would be refused
