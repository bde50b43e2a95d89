from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import RefusedError, RetryableError, StoppedError
from pipeline.settings import EvalSettings, Settings
from pipeline.spec import BatchOptions, ScoreOptions
from pipeline.stages import encode, publish, score
from pipeline.states import Stage
from pipeline.wiring import StageModels
from pipeline.work import Outcome, StepWork
from tests.unit.pipeline.stages.encoded import Bench, make_bench

CHECKS = ScoreOptions(metrics=("checks",), gate=("checks.black", "checks.size"))


def _work(bench: Bench, stage: Stage = Stage.SCORE, options: ScoreOptions = CHECKS) -> StepWork:
    return replace(bench.work(stage), options=BatchOptions(score=options))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A clip that was encoded: its files lie in the hand-off folder and in the store, its frames' room is free."""
    bench = make_bench(tmp_path)
    result = encode.run(_work(bench, Stage.ENCODE), bench.context)
    bench.outputs = replace(bench.outputs, encode=result.output)
    assert result.after_commit is not None
    result.after_commit()
    assert bench.frames_path.stat().st_size == 0
    return bench


def test_a_clip_is_scored_and_its_sidecar_with_the_scores_is_what_is_published(bench: Bench) -> None:
    result = score.run(_work(bench), bench.context)

    assert result.outcome is Outcome.DONE
    assert {record.metric: record.passed for record in result.scores}["checks.size"] is True
    bench.outputs = replace(bench.outputs, score=result.output)
    published = publish.run(_work(bench, Stage.PUBLISH), bench.context)
    (sidecar,) = (item for item in published.artifacts if item.kind == "sidecar")
    content = json.loads(bench.context.storage.read_bytes(sidecar.key))
    assert content["scoring"]["scores"]["checks.size"]["score"] == 1.0
    before = json.loads(bench.context.storage.read_bytes(bench.outputs.encoded.file("sidecar").key))
    assert {name: value for name, value in content.items() if name != "scoring"} == before
    assert result.after_commit is not None
    result.after_commit()
    assert bench.left_in_handoff() == []


def test_scored_twice_it_says_the_same(bench: Bench) -> None:
    first, second = (score.run(_work(bench), bench.context) for _ in range(2))

    assert (first.output, first.scores) == (second.output, second.scores)


def test_a_clip_that_breaks_a_rule_is_rejected_with_its_reason(bench: Bench) -> None:
    result = score.run(
        _work(bench, options=ScoreOptions(metrics=("checks",), gate=("checks.length>=6",))), bench.context
    )

    assert result.outcome is Outcome.REJECTED
    assert result.output.reason == "checks.length>=6: it is 5"
    assert "replaced" not in result.output.as_json()


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_what_is_no_longer_in_the_folder_comes_from_the_store(bench: Bench, damage: str) -> None:
    expected = score.run(_work(bench), bench.context)
    for path in map(Path, bench.outputs.encoded.files.values()):
        path.unlink() if damage == "gone" else path.write_bytes(b"another file")

    result = score.run(_work(bench), bench.context)

    assert (result.output, result.scores) == (expected.output, expected.scores)


def test_a_clip_that_is_nowhere_has_its_frames_made_again(bench: Bench) -> None:
    Path(bench.outputs.encoded.files["video"]).unlink()
    bench.context.storage.delete(bench.outputs.encoded.file("video").key)

    with pytest.raises(RetryableError) as caught:
        score.run(_work(bench), bench.context)

    assert caught.value.code == "publish_missing"


def test_without_weights_a_metric_is_not_scored_unless_the_gate_needs_it(bench: Bench, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", eval=EvalSettings(weights_dir=tmp_path))
    context = replace(bench.context, settings=settings, models=StageModels(settings))
    metrics = ("checks.black", "vbench.imaging_quality")

    result = score.run(_work(bench, options=ScoreOptions(metrics=metrics)), context)
    (missing,) = (record for record in result.scores if record.score is None)
    assert (missing.metric, str(missing.reason).startswith("weights missing: musiq")) == (metrics[1], True)
    with pytest.raises(RefusedError) as caught:
        score.run(_work(bench, options=ScoreOptions(metrics=metrics, gate=(f"{metrics[1]}>=1",))), context)
    assert caught.value.code == "eval_weights_missing"


def test_it_can_be_stopped(bench: Bench) -> None:
    def stop() -> None:
        raise StoppedError("cancelled")

    with pytest.raises(StoppedError):
        score.run(_work(bench), replace(bench.context, check=stop))
