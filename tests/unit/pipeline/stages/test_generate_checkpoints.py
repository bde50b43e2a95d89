"""The generate stage keeps checkpoints and goes on from them; a store or database that is away costs no clip."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pipeline import failpoints
from pipeline.errors import RetryableError, ServiceUnavailableError, StoppedError
from pipeline.generators.base import Phase, Progress
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.handoff import Handoff
from pipeline.outputs import StageOutputs
from pipeline.settings import load_settings
from pipeline.spec import BatchOptions, JobSpec
from pipeline.stages import checkpoint_upload, generate
from pipeline.states import Stage
from pipeline.storage.folder import FolderStorage
from pipeline.wiring import StageModels
from pipeline.work import CheckpointRef, StageContext, StepWork

SPEC = JobSpec(
    prompt="a lighthouse",
    seed=3,
    preset="idle",
    width=32,
    height=16,
    num_frames=5,
    fps=8,
    num_inference_steps=6,
    guidance_scale=1.0,
)
WORK = StepWork("job", "batch", 1, 1, 0, Stage.GENERATE, 1, SPEC, BatchOptions(), StageOutputs())


@dataclass
class Rows:
    """What the database would hold of one segment."""

    away: int = 0
    fenced: bool = False
    current: CheckpointRef | None = None
    steps: list[int] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)

    def record(self, saved: CheckpointRef) -> tuple[str, ...] | None:
        if self.away:
            self.away -= 1
            raise ServiceUnavailableError("the database is away")
        if self.fenced:
            return None
        before, self.current = self.current, saved
        self.steps.append(saved.step)
        return () if before is None else (before.key,)

    def discard(self, reason: str) -> tuple[str, ...]:
        self.discarded.append(reason)
        before, self.current = self.current, None
        return () if before is None else (before.key,)


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def context(tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> Iterator[StageContext]:
    monkeypatch.setattr(checkpoint_upload, "_PAUSE_S", 0.01)
    settings = load_settings(home=tmp_path, worker={"checkpoint_s": 0.001})
    with GeneratorProcess(settings, device_env={"VGEN_IDLE_STEP_S": "0.01"}) as generator:
        yield StageContext(
            settings=settings,
            models=StageModels(settings),
            storage=FolderStorage(tmp_path / "media"),
            handoff=Handoff.open(tmp_path / "handoff", 1_000_000),
            on_progress=lambda _: None,
            check=lambda: None,
            generator=generator,
            gpu_type="cpu",
            checkpoints=rows,
        )


def stored(context: StageContext) -> list[str]:
    return [item.key for item in context.storage.list("checkpoints/")]


def left_over(context: StageContext) -> list[str]:
    return [path.name for path in context.handoff.path.iterdir() if path.name != "handoff.id"]


def stop_at(step: int, *, keep: bool) -> object:
    def on_progress(progress: Progress) -> None:
        if progress.phase is Phase.DENOISE and progress.step >= step:
            raise StoppedError("stop", keep=keep)

    return on_progress


def interrupted(context: StageContext, rows: Rows, step: int) -> CheckpointRef:
    """What a drain at this step leaves, or one soon after."""
    with pytest.raises(StoppedError):
        generate.run(WORK, replace(context, on_progress=stop_at(step, keep=True)))
    assert rows.current is not None
    return rows.current


def test_the_newest_state_is_stored_once_and_the_older_ones_are_removed(context: StageContext, rows: Rows) -> None:
    generate.run(WORK, context)

    assert rows.current is not None
    assert rows.current.final
    assert rows.steps == sorted(rows.steps)
    assert stored(context) == [rows.current.key]
    data = context.storage.read_bytes(rows.current.key)
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (rows.current.sha256, rows.current.size)
    assert left_over(context) == ["job.1.0.1.rgb"]


def test_a_stop_that_keeps_leaves_a_state_from_which_the_next_attempt_goes_on(
    context: StageContext, rows: Rows
) -> None:
    kept = interrupted(context, rows, 2)
    assert not kept.final
    assert left_over(context) == []

    result = generate.run(replace(WORK, attempt=2, checkpoint=kept), context)

    facts = result.output.facts
    assert facts.resumed_from_step == kept.step
    assert facts.denoise_steps == 6 - kept.step + 1
    assert rows.discarded == []


def test_a_stop_that_does_not_keep_is_not_waited_for(context: StageContext, rows: Rows) -> None:
    settings = load_settings(home=context.settings.home, worker={"checkpoint_s": 60})
    with pytest.raises(StoppedError):
        generate.run(WORK, replace(context, settings=settings, on_progress=stop_at(2, keep=False)))
    assert rows.steps == []
    assert left_over(context) == []


@pytest.mark.parametrize("damage", ["missing", "changed", "of another request"])
def test_a_state_that_cannot_be_used_costs_the_steps_alone(context: StageContext, rows: Rows, damage: str) -> None:
    kept = interrupted(context, rows, 2)
    work = replace(WORK, attempt=2, checkpoint=kept)
    if damage == "missing":
        context.storage.delete(kept.key)
    elif damage == "changed":
        context.storage.put_bytes(kept.key, b"something else", content_type="text/plain")
    else:
        work = replace(work, spec=SPEC.model_copy(update={"seed": 4}))

    facts = generate.run(work, context).output.facts

    assert facts.denoise_steps == 6
    assert rows.discarded == [facts.checkpoint_unusable]
    assert kept.key not in stored(context)


def test_a_store_that_is_away_when_the_clip_begins_is_waited_for(context: StageContext, rows: Rows) -> None:
    kept = interrupted(context, rows, 2)

    class Away(FolderStorage):
        def download(self, key: str, path: Path) -> None:
            raise RetryableError("the store is away")

    with pytest.raises(RetryableError):
        generate.run(replace(WORK, checkpoint=kept), replace(context, storage=Away(context.settings.home / "media")))
    assert rows.discarded == []
    assert left_over(context) == []


def test_a_store_that_is_away_when_it_ends_costs_the_state_and_not_the_frames(
    context: StageContext, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "ClipCheckpoints", _impatient)
    monkeypatch.setattr(failpoints, "_plan", failpoints.Plan("checkpoint_upload=raise:RetryableError"))
    result = generate.run(WORK, context)
    assert result.output.facts.final_checkpoint == "not kept"
    assert rows.steps == []
    assert left_over(context) == ["job.1.0.1.rgb"]


def _impatient(work: StepWork, context: StageContext) -> checkpoint_upload.ClipCheckpoints:
    return checkpoint_upload.ClipCheckpoints(work, context, patience_s=0.05)


def test_a_database_that_comes_back_in_time_has_the_final_state(context: StageContext, rows: Rows) -> None:
    settings = load_settings(home=context.settings.home, worker={"checkpoint_s": 0.03})
    rows.away = 5
    generate.run(WORK, replace(context, settings=settings))
    assert rows.current is not None
    assert rows.current.final


def test_an_attempt_that_was_fenced_deletes_nothing(context: StageContext, rows: Rows) -> None:
    other = context.storage.put_bytes("checkpoints/job/1-0-9-x.safetensors", b"of another", content_type="x/y")
    rows.fenced = True
    generate.run(WORK, context)
    assert other.key in stored(context)
