"""`vgen report`: the figures of a batch that was really worked on, as text, JSON and a page."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cli.results.report import sparkline
from db.models import StageRun, Step
from db.reading.marks import marks
from pipeline.states import AttemptOutcome, JobState, Stage, StepState
from tests.line_helpers import home_of, settings_for, submit, work_off
from tests.unit.cli.conftest import Home, Vgen


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which a batch of four clips was made."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VGEN_IDLE_STEP_S", "0.02")
        settings = settings_for(tmp_path_factory.mktemp("report"))
        with home_of(settings) as database:
            lines = [{"prompt": f"clip <{number}>", "preset": "idle", "num_inference_steps": 5} for number in range(4)]
            work_off(settings, database, submit(settings, database, lines))
    return settings.home


def test_the_figures_agree_with_each_other(vgen: Vgen, worked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_HOME", str(worked))
    monkeypatch.setenv("VGEN_PRICES", "cpu=3.6")
    said = vgen("report", "--json")

    assert said.code == 0, said.err
    view = said.json
    assert (view["clips"], view["batch"]["counts"]["succeeded"]) == (4, 4)
    stages = {stage["stage"]: stage for stage in view["stages"]}
    assert {name: stage["attempts"] for name, stage in stages.items()} == dict.fromkeys(
        ("screen", "generate", "encode", "publish"), 4
    )
    assert stages["generate"]["outcomes"] == {"done": 4}
    (gpu,) = [worker for worker in view["workers"] if worker["gpu_type"]]
    assert gpu["seconds"]["generate"] == stages["generate"]["seconds"] >= 4 * 5 * 0.02
    assert sum(gpu["timeline"]["generate"]) * view["span_seconds"] == pytest.approx(
        gpu["seconds"]["generate"], rel=0.05
    )
    assert 0 < view["line_efficiency"] <= view["gpu_busy_share"] <= 1
    assert view["cost"] == pytest.approx(gpu["seconds"]["generate"] * 3.6 / 3600)
    assert view["cost_per_clip"] == pytest.approx(view["cost"] / 4, abs=1e-6)
    assert sum(view["generating"].values()) == pytest.approx(gpu["seconds"]["generate"], abs=0.05)
    assert view["notes"] == []


def test_the_page_is_whole_and_loads_nothing(
    vgen: Vgen, worked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_HOME", str(worked))
    said = vgen("report", "latest", "--html", tmp_path / "r.html")

    assert said.code == 0, said.err
    assert "line efficiency" in said.out
    assert "no cost: VGEN_PRICES has no price of cpu" in said.out
    text = (tmp_path / "r.html").read_text("utf-8")
    assert not re.search(r"<script|https?://|src=\"(?!data:image/webp;base64,)|href=\"(?!#main)", text)
    assert text.count('<img class="poster" src="data:') == 4
    assert "clip &lt;0&gt;" in text
    drawing = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    bars = [rect.get("class") for rect in drawing.iter("rect")]
    assert bars.count("empty") == 3
    assert {"generate", "encode", "publish"} <= set(bars)

    refused = vgen("report", "latest", "--html", tmp_path / "no" / "r.html")
    assert refused.code == 2
    assert "--html" in refused.err


def test_the_page_says_what_failed_and_why(vgen: Vgen, home: Home, tmp_path: Path) -> None:
    home.end(home.job_ids[1], JobState.FAILED, error_code="out_of_memory", error="it needs 9 GiB")
    assert vgen("report", home.batch_id, "--html", tmp_path / "r.html").code == 0
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "Failed and blocked (1)" in text
    assert "out_of_memory: it needs 9 GiB" in text
    assert f"vgen retry {home.job_ids[1]}" in text


def test_marks_say_what_was_killed_what_was_made_again_and_what_went_on(home: Home) -> None:
    database = home.database()
    ends = {"lease_ended": "killed", "rewound": "rewound", "done": "resumed"}
    with database.transaction() as session:
        for number, outcome in enumerate(ends, 1):
            facts = {"facts": {"resumed_from_step": 7}} if outcome == "done" else None
            step = Step(
                job_id=home.job_ids[0], batch_id=home.batch_id, roll=1, segment=number, stage=Stage.GENERATE,
                state=StepState.DONE, attempt=1, priority=0, output=facts,
            )  # fmt: skip
            session.add(step)
            session.flush()
            times = {"started_at": 1000 * number, "ended_at": 1000 * number + 500}
            ended = {"attempt": 1, "outcome": AttemptOutcome(outcome), "worker": "gpu0", "queue": "q", **times}
            session.add(StageRun(step_id=step.id, job_id=step.job_id, stage=step.stage, **ended))
        session.flush()
        shown = [(mark.kind.value, mark.at, mark.note) for mark in marks(session, home.batch_id)]
        session.rollback()
    database.close()
    assert shown == [("killed", 1500, ""), ("rewound", 2500, ""), ("resumed", 3000, "from step 7")]


def test_a_batch_that_has_not_begun(vgen: Vgen, home: Home, tmp_path: Path) -> None:
    said = vgen("report", home.batch_id, "--html", tmp_path / "r.html")
    assert said.code == 0, said.err
    assert "nothing of it has run yet" in said.out
    assert vgen("report", "latest", "--json").json["line_efficiency"] is None
    assert vgen("report", "nosuch").code == 2


@pytest.mark.parametrize(
    ("series", "shown"),
    [([[0.0, 0.001, 0.5, 1.0]], " ▁▄█"), ([[0.5, 0.5], [0.5, 0.9]], "██"), ([[0.0] * 79 + [1.0]], " " * 39 + "▄")],
)
def test_a_timeline_in_blocks(series: list[list[float]], shown: str) -> None:
    assert sparkline(series) == shown
