"""What must hold when every job of some batches has ended, whatever was done to them: the invariants of the line."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import invariants
from db.session import Database
from pipeline.errors import NotFoundError
from pipeline.generators.base import GenerationRequest
from pipeline.generators.frames_file import frames_size
from pipeline.generators.idle import IdleGenerator
from pipeline.seeds import roll_seed, segment_seed
from pipeline.spec import JobSpec
from pipeline.storage.base import Storage

KINDS = {"video", "poster", "strip", "sidecar"}


@dataclass
class Report:
    """What was found; ``problems`` names each broken invariant with its job."""

    jobs: Counter[str] = field(default_factory=Counter)
    """Jobs by state."""
    lost: int = 0
    published_twice: int = 0
    committed_twice: int = 0
    fenced: int = 0
    rerolled: int = 0
    """Rolls that the gate turned down."""
    orphans: int = 0
    """Objects under media/ that no row names: for the sweep to remove."""
    gpu_s: float = 0.0
    wasted_gpu_s: float = 0.0
    """Time of attempts at generating that were not done, or were done and then rewound."""
    problems: list[str] = field(default_factory=list)


def check(database: Database, storage: Storage, batches: Sequence[str], *, objects: bool = True) -> Report:
    """Look at everything that belongs to the batches; ``objects`` also downloads what was published."""
    report = Report()
    with database.reading() as session:
        facts = _Facts(session, list(batches))
        _check_jobs(facts, report)
        _check_steps(facts, report)
        _check_frames(facts, report)
        _check_rolls(facts, report)
        _account(facts, report)
    report.problems += [str(broken) for broken in invariants.violations(database)]
    if objects:
        _check_objects(facts, storage, report)
    return report


def assert_sound(database: Database, storage: Storage, batches: Sequence[str], *, objects: bool = True) -> Report:
    """``check``, and nothing may be wrong."""
    report = check(database, storage, batches, objects=objects)
    assert not report.problems, "\n".join(report.problems)
    return report


class _Facts:
    """The rows of the batches, read in one transaction."""

    def __init__(self, session: Session, batches: list[str]) -> None:
        self._session = session
        self._batches = batches
        found = self._read("SELECT id, total, options FROM batches WHERE id IN :batches")
        self.totals = {batch_id: total for batch_id, total, _ in found}
        self.options = {batch_id: _json(options) for batch_id, _, options in found}
        self.jobs = self._read(
            "SELECT id, batch_id, state, spec, error_code, roll FROM jobs WHERE batch_id IN :batches"
        )
        mine = "IN (SELECT id FROM jobs WHERE batch_id IN :batches)"
        self.steps = self._read(f"SELECT id, job_id, roll, stage, state, attempt FROM steps WHERE job_id {mine}")
        columns = "step_id, job_id, stage, attempt, outcome, ended_at - started_at"
        self.runs = self._read(f"SELECT {columns} FROM stage_runs WHERE job_id {mine} ORDER BY step_id, attempt")
        self.artifacts = self._read(f"SELECT job_id, kind, key, sha256, size, roll FROM artifacts WHERE job_id {mine}")
        self.segments = self._read(f"SELECT job_id, roll, segment, frames_sha256 FROM segments WHERE job_id {mine}")
        self.events = self._read(f"SELECT job_id, kind FROM events WHERE job_id {mine}")
        self.state = {job[0]: job[2] for job in self.jobs}
        gone = self._read("SELECT id FROM jobs WHERE batch_id IN :batches AND deleted_at IS NOT NULL")
        self.deleted = {row[0] for row in gone}
        joined = self._read("SELECT joined_job_id FROM stream_sessions WHERE batch_id IN :batches")
        self.joined = {row[0] for row in joined}
        """Jobs that join a session's clips, and make no frames."""

    def _read(self, query: str) -> list[Any]:
        from sqlalchemy import bindparam  # noqa: PLC0415

        statement = text(query).bindparams(bindparam("batches", expanding=True))
        return list(self._session.execute(statement, {"batches": self._batches}).all())


def _json(value: Any) -> dict[str, Any]:
    """SQLite gives JSON as text."""
    found: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
    return found


def _check_jobs(facts: _Facts, report: Report) -> None:
    """Invariants 1, 2, 3, 6: every job is there once, a deleted one too, has ended, and ended once."""
    counted = Counter(job[1] for job in facts.jobs)
    for batch_id, total in facts.totals.items():
        if counted[batch_id] != total:
            report.lost += abs(total - counted[batch_id])
            report.problems.append(f"batch {batch_id}: {total} submitted, {counted[batch_id]} jobs")
    report.jobs = Counter(str(state) for state in facts.state.values())
    ends = Counter((job, kind) for job, kind in facts.events)
    for job, _, state, *_ in facts.jobs:
        if state in ("waiting", "in_flight"):
            report.lost += 1
            report.problems.append(f"job {job}: still {state}")
        if ends[job, "job_succeeded"] > (state == "succeeded"):
            report.published_twice += 1
            report.problems.append(f"job {job}: succeeded {ends[job, 'job_succeeded']} times and is {state}")


def _check_steps(facts: _Facts, report: Report) -> None:
    """Invariants 5 and 7: a step is committed once, but for recorded rewinds; every attempt has its row."""
    rewinds = Counter(job for job, kind in facts.events if kind == "rewound")
    committed = Counter(run[0] for run in facts.runs if run[4] in ("done", "skipped", "held", "rejected"))
    attempts: dict[int, list[int]] = {}
    for run in facts.runs:
        attempts.setdefault(run[0], []).append(run[3])
    for step, job, _, stage, state, attempt in facts.steps:
        if committed[step] > 1 + rewinds[job]:
            report.committed_twice += 1
            report.problems.append(f"job {job}: {stage} committed {committed[step]} times, {rewinds[job]} rewinds")
        if state in ("running", "dispatched") or (state == "waiting" and facts.state[job] != "held"):
            report.problems.append(f"job {job}: {stage} is {state} though the job is {facts.state[job]}")
        if sorted(attempts.get(step, [])) != list(range(1, attempt + 1)):
            report.problems.append(f"job {job}: {stage} had {attempt} attempts, recorded: {attempts.get(step)}")
    published = Counter(run[1] for run in facts.runs if run[2] == "publish" and run[4] == "done")
    for job, times in published.items():
        if times > 1:
            report.published_twice += 1
            report.problems.append(f"job {job}: published {times} times")
    report.fenced = sum(kind == "fenced" for _, kind in facts.events)


def _check_frames(facts: _Facts, report: Report) -> None:
    """Invariant 8: the frames of each roll are those of an undisturbed run of the same request."""
    specs = {job[0]: JobSpec.model_validate(job[3]) for job in facts.jobs}
    made: dict[tuple[str, int], set[int]] = {}
    for job, roll, segment, digest in facts.segments:
        spec = specs[job] if roll == 1 else specs[job].model_copy(update={"seed": roll_seed(specs[job].seed, roll)})
        made.setdefault((job, roll), set()).add(segment)
        if spec.preset == "idle" and digest != _expected(specs, job, spec)[segment]:
            report.problems.append(
                f"job {job}: roll {roll}, segment {segment}: frames {digest} differ from an undisturbed run's"
            )
    for job, _, state, _, _, roll in facts.jobs:
        wanted: set[int] = set() if job in facts.joined else set(range(specs[job].segments))
        found = made.get((job, roll), set())
        if state == "succeeded" and found != wanted:
            report.problems.append(f"job {job}: succeeded with segments {found} of {specs[job].segments}")


def _check_rolls(facts: _Facts, report: Report) -> None:
    """No fault costs a roll: every roll but the last was turned down, once, and there are no more than were allowed."""
    retried = Counter(job for job, kind in facts.events if kind == "retry_requested")
    rejected = Counter(run[1] for run in facts.runs if run[4] == "rejected")
    for job, batch_id, state, _, code, roll in facts.jobs:
        score = facts.options[batch_id].get("score")
        most = 1 if score is None else 1 + score["reroll"] + retried[job]
        if roll > most:
            report.problems.append(f"job {job}: made {roll} times of at most {most}")
        last_too = state == "failed" and code == "gate_failed"
        if score is not None and rejected[job] < roll - 1 + last_too:
            report.problems.append(f"job {job}: {roll} rolls, {rejected[job]} turned down")
    report.rerolled = sum(rejected.values())


def _expected(specs: dict[str, JobSpec], job: str, spec: JobSpec) -> list[str]:
    """The sha256 of the frames of each segment of a job; a session's goes on from that of the job which it extends."""
    if spec.extends not in specs:
        return undisturbed(spec)
    chain = [spec]
    while (before := chain[0].extends) in specs:
        chain.insert(0, specs[str(before)])
    with tempfile.TemporaryDirectory() as folder:
        generator = IdleGenerator()
        generator.load("idle", lambda progress: None)
        digests = [
            _frames(generator, each, each.seed, each.seam_frames if place else 0, Path(folder))
            for place, each in enumerate(chain)
        ]
    return digests[-1:]


def undisturbed(spec: JobSpec) -> list[str]:
    """The sha256 of the frames of each segment that the idle generator makes of this by itself."""
    known = (spec.seed, spec.width, spec.height, spec.num_frames, spec.segments)
    if known not in _undisturbed:
        with tempfile.TemporaryDirectory() as folder:
            generator = IdleGenerator()
            generator.load("idle", lambda progress: None)
            _undisturbed[known] = [_segment(generator, spec, segment, Path(folder)) for segment in range(spec.segments)]
    return _undisturbed[known]


def _segment(generator: IdleGenerator, spec: JobSpec, segment: int, folder: Path) -> str:
    """One segment by itself; the last frames of the one before lie in ``folder``."""
    return _frames(generator, spec, segment_seed(spec.seed, segment), spec.seam_frames if segment > 0 else 0, folder)


def _frames(generator: IdleGenerator, spec: JobSpec, seed: int, repeats: int, folder: Path) -> str:
    path, last = folder / "frames", folder / "last"
    frame = frames_size(spec) // spec.num_frames
    path.write_bytes(bytes(frame * (spec.num_frames - repeats)))
    quick = spec.model_copy(update={"num_inference_steps": 1, "seed": seed})
    request = GenerationRequest(
        spec=quick, prompt=spec.prompt, frames_path=path, previous=last if repeats else None, repeats=repeats
    )
    digest = generator.generate(request, lambda progress: None).frames_sha256
    last.write_bytes(path.read_bytes()[-frame * spec.seam_frames :] if spec.seam_frames else b"")
    return digest


_undisturbed: dict[tuple[int, int, int, int, int], list[str]] = {}


def _check_objects(facts: _Facts, storage: Storage, report: Report) -> None:
    """Invariant 4: a job that succeeded and was not deleted has its four files, whole, and no other job has any."""
    kinds: dict[str, list[str]] = {}
    named = set()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "object"
        for job, kind, key, sha256, size, _ in facts.artifacts:
            kinds.setdefault(job, []).append(kind)
            named.add(key)
            try:
                storage.download(key, target)
            except NotFoundError:
                report.problems.append(f"job {job}: {kind} {key} is not in the store")
                continue
            content = target.read_bytes()
            if (len(content), hashlib.sha256(content).hexdigest()) != (size, sha256):
                report.problems.append(f"job {job}: {kind} {key} is not what was recorded")
    stored = [item.key for item in storage.list("media/")]
    report.orphans = sum(key.split("/")[1] in facts.state and key not in named for key in stored)
    for job, state in facts.state.items():
        if sorted(kinds.get(job, [])) != (sorted(KINDS) if state == "succeeded" and job not in facts.deleted else []):
            report.problems.append(f"job {job} is {state} and has {sorted(kinds.get(job, []))}")


def _account(facts: _Facts, report: Report) -> None:
    generated: Counter[int] = Counter()
    for step, _, stage, _, outcome, milliseconds in facts.runs:
        if stage != "generate":
            continue
        report.gpu_s += milliseconds / 1000
        generated[step] += outcome == "done"
        if outcome != "done" or generated[step] > 1:
            report.wasted_gpu_s += milliseconds / 1000
