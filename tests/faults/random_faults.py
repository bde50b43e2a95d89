"""A long run under random faults: ``python -m tests.faults.random_faults --seconds 1800 --seed 1``.

A cluster of several hosts works off small batches while seeded dice choose faults. Then everything is healed, failed
jobs are tried again as an operator would, and the oracle judges. Exit code 1, with the seed, when anything is lost.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from db.clips import cancel_retry_approve
from db.clips.batches import Limits
from tests.faults import invariant_check, session_check, session_clients
from tests.faults.fault_cluster import World, running_world
from tests.faults.fault_kinds import FAULTS, Mend
from tests.faults.http_clients import Asked, Client, together
from tests.faults.session_clients import Seen
from tests.faults.wait_log import WaitLog

SETTLE_S = 240.0
"""Everything must have ended so long after the last fault was mended: some jobs wait out a backoff of two minutes."""
OPEN_JOBS = 16
"""As many are always there to be hit."""
PICKY = {"score": "checks", "gate": ["checks.black", "checks.flicker>=0.09"]}
"""The idle generator's frames are noise by seed: some clips keep the second rule, and always the same ones."""
CHOICES: Sequence[Mapping[str, Any]] = (
    *({}, {}, {"score": "checks", "gate": ["checks.black"]}, {**PICKY, "reroll": 3}, {**PICKY, "reroll": 1}),
    {"limits": Limits(max_gpu_ms=4_000)},
)
"""What the batches of a storm ask for, each by chance."""
_LONGEST = 5
"""So many of the longest waits are told, each with what held the step."""


@dataclass
class Storm:
    """The faults of one run, in order, with the times (seconds since 1970) at which they happened."""

    seed: int
    happened: list[tuple[float, str]] = field(default_factory=list)
    failed_to_inflict: Counter[str] = field(default_factory=Counter)
    _mends: list[tuple[float, str, str, Mend]] = field(default_factory=list)

    def blow(
        self,
        world: World,
        seconds: float,
        between_s: tuple[float, float],
        *,
        names: Sequence[str] | None = None,
        meanwhile: Callable[[], object],
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        """Inflict faults for so long; ``meanwhile`` is called between them. Everything is mended at the end."""
        dice = Random(self.seed)
        chosen = {name: FAULTS[name] for name in names or FAULTS}
        end = time.monotonic() + seconds
        next_fault = time.monotonic()
        while time.monotonic() < end:
            self._mend_due(time.monotonic())
            if time.monotonic() >= next_fault:
                next_fault = time.monotonic() + dice.uniform(*between_s)
                name = dice.choices(list(chosen), [fault.weight for fault in chosen.values()])[0]
                lasts = dice.uniform(*chosen[name].lasts_s)
                if chosen[name].target not in {target for _, target, _, _ in self._mends} - {""}:
                    self._inflict(world, name, lasts, Random(dice.random()), say)
            meanwhile()
            time.sleep(0.1)
        self._mend_due(float("inf"))

    def _inflict(self, world: World, name: str, lasts: float, dice: Random, say: Callable[[str], object]) -> None:
        fault = FAULTS[name]
        say(name)
        self.happened.append((time.time(), name))
        try:
            mend = fault.inflict(world, dice)
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001  # another fault is in its way: the database it asks is away
            self.failed_to_inflict[f"{name}: {type(error).__name__}"] += 1
            return
        if mend is not None:
            self._mends.append((time.monotonic() + lasts, fault.target, name, mend))

    def _mend_due(self, now: float) -> None:
        for item in sorted(self._mends, key=lambda one: one[0]):
            if item[0] <= now:
                item[3]()
                self._mends.remove(item)


@dataclass
class Outcome:
    """What a storm left behind."""

    seed: int
    faults: Counter[str]
    report: invariant_check.Report
    retried: int
    """Jobs that had used up their tries and were put back by hand once all was well."""
    recoveries: list[tuple[float, str]]
    """Seconds, and what was interrupted."""
    settled_s: float
    over_http: Asked
    """What clients of the servers asked for, and were answered."""
    watched: Seen
    """What clients that watch sessions went through."""

    @property
    def sound(self) -> bool:
        return not self.problems

    @property
    def problems(self) -> list[str]:
        return [*self.report.problems, *self.over_http.problems, *self.watched.problems]

    def lines(self) -> Iterable[str]:
        """For people."""
        report, times = self.report, sorted(self.recoveries)
        yield f"seed {self.seed}: {sum(self.faults.values())} faults"
        for name, count in self.faults.most_common():
            yield f"  {count:4} {name}"
        yield f"jobs {sum(report.jobs.values())}: {dict(report.jobs)}; put back by hand after the storm: {self.retried}"
        yield f"clips that the gate turned down: {report.rerolled}"
        yield f"over HTTP: {len(self.over_http.answered)} asked for, {len(self.over_http.deleted)} of them deleted"
        yield f"sessions watched: {sum(bool(each.id) for each in self.watched.sessions)}"
        for what, count in sorted(self.watched.counted.items()):
            yield f"  {count:4} {what}"
        yield (
            f"lost {report.lost}, published twice {report.published_twice}, steps recorded twice "
            f"{report.committed_twice}; fenced attempts {report.fenced}; orphaned objects {report.orphans}"
        )
        if times:
            p50, p90 = statistics.median(took for took, _ in times), times[int(0.9 * (len(times) - 1))][0]
            yield f"from a fault to the interrupted step running again ({len(times)} times, at most): "
            yield f"  p50 {p50:.1f} s, p90 {p90:.1f} s; the longest:"
            yield from (f"  {took:.1f} s ({said})" for took, said in reversed(times[-_LONGEST:]))
        wasted = 100 * report.wasted_gpu_s / report.gpu_s if report.gpu_s else 0.0
        yield f"GPU time {report.gpu_s:.1f} s, of which wasted {report.wasted_gpu_s:.1f} s ({wasted:.0f} %)"
        yield f"all jobs had ended {self.settled_s:.0f} s after the last fault"
        yield from self.problems


def run(
    world: World,
    *,
    seconds: float,
    seed: int,
    between_s: tuple[float, float] = (0.5, 2.5),
    names: Sequence[str] | None = None,
    open_jobs: int = OPEN_JOBS,
    clients: int = 3,
    watchers: int = 3,
    say: Callable[[str], object] = lambda text: None,
) -> Outcome:
    """Blow a storm over a world whose hosts work, settle, and judge; ``open_jobs`` are never fewer meanwhile.

    Where the world has servers, so many clients ask them for videos, poll and delete, and so many watch sessions.
    """
    dice = Random(seed + 1)
    before = {row[0] for row in world.rows("SELECT id FROM batches")}
    since = world.one("SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint")
    storm = Storm(seed)
    feeder, waits = _Feeder(world, dice, open_jobs), WaitLog(world)
    callers, viewers = _clients(world, seed, clients), session_check.storm_watchers(world, seed, watchers)

    def meanwhile() -> None:
        feeder.feed()
        waits.look()

    for client in (*callers, *viewers):
        client.start()
    try:
        storm.blow(world, seconds, between_s, names=names, meanwhile=meanwhile, say=say)
    finally:
        began = time.monotonic()
        _heal(world)
        asked, watched = together(callers), session_clients.together(viewers)
    say("all is well again")
    session_check.finish(world, watched)
    batches = [row[0] for row in world.rows("SELECT id FROM batches") if row[0] not in before]
    world.wait_ended(*batches, patience_s=SETTLE_S)
    retried = _retry_failed(world, batches)
    world.wait_ended(*batches, patience_s=SETTLE_S)
    watched.problems += session_check.problems(world, watched, since)
    world.wait_ended(*batches, patience_s=SETTLE_S)
    settled = time.monotonic() - began
    report = invariant_check.check(world.database, world.store, batches)
    failed = world.rows(f"SELECT id, error_code, error FROM jobs WHERE {_FAILED} AND batch_id IN {_listed(batches)}")
    report.problems += [f"job {job}: failed with all healed: {code}: {error}" for job, code, error in failed]
    asked.problems += _not_as_answered(world, asked, batches)
    faults = Counter(name for _, name in storm.happened)
    times = recoveries(world, batches, storm.happened, waits)
    return Outcome(seed, faults, report, retried, times, settled, asked, watched)


def _clients(world: World, seed: int, count: int) -> list[Client]:
    """Clients that ask for what takes a while, so that some of it is deleted while a GPU works on it."""

    def urls() -> list[str]:
        return [server.url for server in world.servers]

    def still_at_work(video_id: str) -> str | None:
        query = f"SELECT worker FROM steps WHERE job_id = '{video_id.removeprefix('video_')}' AND state = 'running'"
        at_work = world.rows(query)
        return f"{video_id}: deleted while {at_work[0][0]} goes on with it" if at_work else None

    names = [f"storm {seed} client {number}" for number in range(count if world.servers else 0)]
    return [Client(name, urls, poll=True, steps=(2, 60), after_delete=still_at_work) for name in names]


def _not_as_answered(world: World, asked: Asked, batches: Sequence[str]) -> list[str]:
    """What was answered over HTTP and is not so in the rows: lost, made twice, or there after it was deleted."""
    rows = world.rows(f"SELECT id, spec, deleted_at FROM jobs WHERE batch_id IN {_listed(batches)}")
    stored: dict[str, list[str]] = {}
    for job_id, spec, _ in rows:
        stored.setdefault(spec["prompt"], []).append(f"video_{job_id}")
    problems = [
        f"{prompt!r} was answered with {video}, and stored as {stored.get(prompt)}"
        for prompt, video in asked.answered.items()
        if stored.get(prompt) != [video]
    ]
    there = {f"video_{job_id}" for job_id, _, deleted_at in rows if deleted_at is None}
    return problems + [f"{video} was deleted, and is there" for video in sorted(asked.deleted & there)]


def _heal(world: World) -> None:
    """All servers, wires, hosts, clocks and people are well again."""
    world.redis_command("CONFIG SET maxmemory 0")
    world.heal()
    world.execute("UPDATE batches SET paused = false")
    world.execute("UPDATE queues SET paused = false")
    world.execute("UPDATE batches SET max_gpu_ms = NULL, max_cost = NULL, over_budget = false")
    world.serve(len(world.servers))
    gone = [host for host in world.hosts.values() if host.process is None or host.process.poll() is not None]
    for host in gone:
        host.kill()
        host.start()


_FAILED = "state = 'failed' AND error_code <> 'gate_failed'"
"""A clip of which every roll was turned down has ended as it must."""


def _retry_failed(world: World, batches: Sequence[str]) -> int:
    failed = world.rows(f"SELECT id FROM jobs WHERE {_FAILED} AND batch_id IN {_listed(batches)}")
    for (job_id,) in failed:
        with world.database.transaction() as session:
            cancel_retry_approve.retry(session, job_id)
    return len(failed)


def _listed(batches: Sequence[str]) -> str:
    return "(" + ", ".join(f"'{batch_id}'" for batch_id in batches) + ")"


class _Feeder:
    """Submits a small batch whenever few jobs are open."""

    def __init__(self, world: World, dice: Random, open_jobs: int) -> None:
        self._world = world
        self._dice = dice
        self._open_jobs = open_jobs
        self._looked = 0.0

    def feed(self) -> None:
        if time.monotonic() - self._looked < 1.0:
            return
        self._looked = time.monotonic()
        try:
            waiting = self._world.one("SELECT count(*) FROM jobs WHERE state IN ('waiting', 'in_flight')")
            if waiting < self._open_jobs:
                self._world.submit(self._lines(), **self._dice.choice(CHOICES))
        except Exception:  # noqa: BLE001  # the database is away or read-only: the next time, then
            return

    def _lines(self) -> list[dict[str, Any]]:
        return [
            {
                "prompt": f"clip {number}",
                "num_inference_steps": self._dice.randint(2, 40),
                "segments": self._dice.choice((1, 1, 1, 2, 3)),
            }
            for number in range(self._dice.randint(2, 6))
        ]


def recoveries(
    world: World, batches: Sequence[str], happened: Sequence[tuple[float, str]], waits: WaitLog
) -> list[tuple[float, str]]:
    """For each interrupted attempt: seconds from the first fault that fell into it to the next attempt's start.

    An upper bound: which of several faults ended the attempt is not known.
    """
    rows = world.rows(
        f"""SELECT a.started_at / 1000.0, a.ended_at / 1000.0, b.started_at / 1000.0, a.stage, a.outcome, a.error_code,
            EXISTS (SELECT 1 FROM events e
                WHERE e.batch_id = j.batch_id AND e.kind = 'budget_reached' AND e.at <= b.started_at), j.id
        FROM stage_runs a JOIN stage_runs b ON b.step_id = a.step_id AND b.attempt = a.attempt + 1
        JOIN jobs j ON j.id = a.job_id
        WHERE a.outcome IN ('lease_ended', 'retried') AND j.batch_id IN {_listed(batches)}"""
    )
    found = []
    for started, ended, again, stage, outcome, code, over_budget, job_id in rows:
        within = [at for at, _ in happened if float(started) <= at <= float(ended)]
        waited = float(again) - float(ended)
        said = f"{stage} {outcome}, {code}; ended after {float(ended) - float(started):.1f} s, waited {waited:.1f} s"
        said += ", its batch's budget reached" if over_budget else ""
        said += f"; meanwhile {waits.between(job_id, float(ended), float(again))}"
        found.append((max(0.0, float(again) - (within[0] if within else float(ended))), said))
    return found


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--servers", type=int, default=2, help="servers that clients ask over HTTP meanwhile")
    parser.add_argument("--between", type=float, nargs=2, default=(1.0, 5.0), help="seconds between two faults")
    parser.add_argument("--bare", action="store_true", help="the same over pure Celery chains, afterwards")
    parser.add_argument("--verbose", action="store_true")
    chosen = parser.parse_args()
    tell(f"seed {chosen.seed}, {chosen.seconds:g} s, {chosen.hosts} hosts")
    started = time.monotonic()

    def say(text: str) -> None:
        if chosen.verbose:
            tell(f"{time.monotonic() - started:7.1f} s  {text}")

    with tempfile.TemporaryDirectory(prefix="vgen-storm-") as folder:
        with running_world(Path(folder)) as world:
            world.serve(chosen.servers, session_clients.CONFIG)
            world.start(*(world.host(f"host{number}") for number in range(chosen.hosts)))
            try:
                outcome = run(world, seconds=chosen.seconds, seed=chosen.seed, between_s=tuple(chosen.between), say=say)
            except AssertionError as error:
                tell(f"seed {chosen.seed} failed: {error}")
                return 1
        tell("\n".join(outcome.lines()))
        if chosen.bare:
            from tests.faults import bare  # noqa: PLC0415

            jobs_made = sum(outcome.report.jobs.values())
            tell(bare.run(Path(folder), chosen.seconds, chosen.seed, jobs_made, chosen.hosts, tuple(chosen.between)))
    if not outcome.sound:
        tell(f"seed {chosen.seed} failed")
    return 0 if outcome.sound else 1


if __name__ == "__main__":
    sys.exit(main())
