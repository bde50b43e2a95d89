"""A finished clip goes on: in its own system, from a file in another, and once more by rerun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from cli.main import run
from db.clips import jobs
from db.evals import runs
from db.session import Database
from pipeline.settings import Settings, load_settings
from tasks.worker.scoring import open_run
from tests.line_helpers import (
    IDLE,
    artifacts_of,
    assert_published_once,
    home_of,
    job_list,
    settings_for,
    sidecar_of,
    stored_bytes,
    submit,
    work_off,
)

Vgen = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vgen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vgen:
    """Runs one command line in this process, in a home; exit code, stdout, stderr."""

    def call(settings: Settings, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("VGEN_HOME", str(settings.home))
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def made(settings: Settings, database: Database, answer: tuple[int, str, str]) -> dict[str, Any]:
    """The sidecar of the one job that the command stored, once it is made."""
    code, out, err = answer
    assert code == 0, err
    batch_id = json.loads(out)["batch"]["id"]
    work_off(settings, database, batch_id)
    assert_published_once(settings, database, batch_id)
    return sidecar_of(settings, database, job_list(database, batch_id)[0].id)


def pictures_of(settings: Settings, database: Database, job_id: str) -> list[bytes]:
    """Every frame of the published video."""
    path = settings.home / "looked-at.mp4"
    path.write_bytes(stored_bytes(settings, artifacts_of(database, job_id)["video"]))
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in video.decode(video=0)]


def has_its_length(settings: Settings, database: Database, job_id: str) -> bool | None:
    """What ``checks.length`` says of a clip in an evaluation run: whether it is as long as it should be."""
    with database.transaction() as session:
        batch_id = jobs.get(session, job_id).batch_id
        open_run(session, batch_id, kind="batch", metrics=["checks.length"])
    work_off(settings, database, batch_id)
    with database.reading() as session:
        (score,) = runs.of_jobs(session, [job_id])[job_id]
        return score.passed


def test_a_clip_goes_on_here_and_elsewhere_as_it_would_have_at_once(tmp_path: Path, vgen: Vgen) -> None:
    # Given a finished clip, and one of two segments with the same seed
    here, elsewhere = settings_for(tmp_path), load_settings(home=tmp_path / "elsewhere")
    file = tmp_path / "clip.vgen-state"
    with home_of(here) as database:
        lines = [{"prompt": "a boat", "seed": 5, **IDLE}, {"prompt": "a boat", "seed": 5, "segments": 2, **IDLE}]
        batch_id = submit(here, database, lines)
        work_off(here, database, batch_id)
        single, double = job_list(database, batch_id)

        # When the first is extended, its state is exported, and the extension is made once more
        extended = made(here, database, vgen(here, "extend", single.id, "it sinks", "--part", "--json"))
        assert vgen(here, "state", "export", single.id, "-o", file)[0] == 0
        again = made(here, database, vgen(here, "rerun", extended["job_id"], "--json"))
        film = made(here, database, vgen(here, "extend", single.id, "it sinks", "--json"))
        longer = made(here, database, vgen(here, "extend", film["job_id"], "a fish comes", "--json"))
        pictures = [pictures_of(here, database, job) for job in (double.id, film["job_id"], longer["job_id"])]
        first, both = (sidecar_of(here, database, job.id) for job in (single, double))
        lengths = [has_its_length(here, database, item["job_id"]) for item in (film, longer, extended)]

    with home_of(elsewhere) as database:
        moved = made(elsewhere, database, vgen(elsewhere, "state", "import", file, "it sinks", "--json"))

    # Then the whole is the clip of two segments, and goes on once more as one of three would
    assert film["frames"] == both["frames"]
    assert film["request"]["begins_with"]["frames_sha256"] == [first["frames"]["sha256"]]
    assert (longer["frames"]["num_frames"], longer["video"]["num_frames"]) == (13, 13)
    assert len(longer["request"]["begins_with"]["frames_sha256"]) == 2
    assert pictures[1] == pictures[0]
    assert pictures[2][: len(pictures[0])] == pictures[0], "what was there is not encoded again"

    assert lengths == [True] * 3, "a film is as long as its rows say, whoever scores it"

    second = both["segments"][1]
    # And each part is the second segment, and says what it extends
    for sidecar in (extended, again, moved):
        assert sidecar["frames"]["sha256"] == second["frames_sha256"]
        assert sidecar["frames"]["num_frames"] == second["num_frames"] == 4
        assert sidecar["prompt_used"] == "it sinks"
    assert (extended["request"]["extends"], extended["seed"]) == (single.id, second["seed"])


def test_what_cannot_go_on_and_files_that_are_wrong_are_told(tmp_path: Path, vgen: Vgen) -> None:
    settings = settings_for(tmp_path)
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{"prompt": "a", **IDLE}, {"prompt": "b", **IDLE}])
        done, waiting = job_list(database, batch_id)
        assert "is waiting: only a finished clip is extended" in vgen(settings, "extend", waiting.id, "x")[2]
        work_off(settings, database, batch_id)
        code, _, told = vgen(settings, "extend", done.id, " ", "--num-frames", "0", "--segments", "x")
        assert code == 2
        assert all(part in told for part in ("PROMPT: is empty", "--num-frames: '0' is", "--segments: 'x'"))
        assert vgen(settings, "state", "export", done.id, "-o", tmp_path / "good")[0] == 0

    good = tmp_path / "good"
    with safe_open(good, framework="np") as opened:
        head, frames = json.loads(opened.metadata()["vgen"]), opened.get_tensor("frames")
    assert frames.shape == (1, 32, 32, 3)
    wrong = {
        "expected 'vgen.state/1'": head | {"schema": "vgen.state/9"},
        "'last_frames' version 7": head | {"version": 7},
        "'latents' version 1": head | {"kind": "latents"},
        "its frames have sha256": head | {"sha256": "0" * 64},
        "has frames 3 in place of 1": head | {"payload": head["payload"] | {"frames": 3}},
        "request.fps: 0 is not a number over 0 and at most 240": head | {"request": head["request"] | {"fps": 0}},
        "request: is missing": {name: value for name, value in head.items() if name != "request"},
    }
    bad = tmp_path / "bad"
    for expected, changed in wrong.items():
        save_file({"frames": frames}, bad, {"vgen": json.dumps(changed)})
        code, _, told = vgen(settings, "state", "import", bad, "x")
        assert (code, expected in told) == (2, True), told
        assert str(bad) in told
    bad.write_bytes(good.read_bytes()[:-9])
    assert "is not a continuation state" in vgen(settings, "state", "import", bad, "x")[2]
    assert "cannot be read" in vgen(settings, "state", "import", tmp_path / "none", "x")[2]
