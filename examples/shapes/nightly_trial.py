"""Nights of an unchanged model, then of a damaged one, judged as the nightly evaluation judges them.

``python -m examples.shapes.nightly_trial FOLDER`` prints the table of docs/evaluation.md.

The amounts were written down before the first run: the noise that is added to the transformer (``DAMAGE``), the margin,
the prompts (the suite ``shapes``) and the nights. Every night draws new noise for every clip, which is harder than
a real night: there an unchanged model makes equal pixels of equal seeds, and is found ``identical``.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.shapes.evaluate import sample
from pipeline.scoring.clip import Clip, pixel_digest
from pipeline.scoring.compare import PASSED, Run, State, compare, median_run
from pipeline.scoring.compare.runs import Key, RunClip
from pipeline.scoring.metric import Context
from pipeline.scoring.registry import METRICS
from pipeline.scoring.residency import Models
from pipeline.scoring.suite import SHAPES_SUITE, read_suite
from tasks.upkeep.nightly import MEDIAN_OF

METRIC = METRICS["shapes.follows_prompt"]
NIGHTS = 20
MARGIN = 0.1
DAMAGE = 0.2
"""Gaussian noise on every matrix of the transformer, as a share of that matrix's standard deviation."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What was made in one night, and the verdict on it."""

    run: Run
    state: State

    @property
    def followed(self) -> float:
        return self.run.mean(METRIC.name) or 0.0


def main() -> None:
    """Make the nights, judge them in order; the table goes to standard output, each night to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nights", type=int, default=NIGHTS)
    parser.add_argument("--damage", type=float, default=DAMAGE)
    parser.add_argument("--margin", type=float, default=MARGIN)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    asked = parser.parse_args()
    numbers = [0, *range(2 * asked.nights + 1)]  # the first night twice
    damages = [0.0] * (asked.nights + 2) + [asked.damage] * asked.nights
    with ProcessPoolExecutor(asked.workers, get_context("spawn")) as pool:
        runs = pool.map(partial(made, asked.folder), damages, numbers)
        passed = [next(runs)]
        again = judged(passed, next(runs), asked.margin)
        unchanged = nights(islice(runs, asked.nights), passed, asked.margin)
        damaged = nights(runs, passed, asked.margin)
    print("| model | nights | followed | regressed | inconclusive | ok |\n| --- | --- | --- | --- | --- | --- |")  # noqa: T201
    print(row("unchanged, new noise", unchanged))  # noqa: T201
    print(row(f"damaged by {asked.damage:g}, new noise", damaged))  # noqa: T201
    print(f"\nThe first night again: {again.state}.")  # noqa: T201


def made(folder: Path, share: float, number: int) -> Run:
    """One night of the model with that damage, in a worker."""
    return night(_pipeline(folder, share), [entry.prompt for entry in read_suite(SHAPES_SUITE).entries], number)


@cache
def _pipeline(folder: Path, share: float) -> Any:
    from diffusers import WanPipeline  # noqa: PLC0415 - slow to load

    torch.set_num_threads(1)
    pipe = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    damage(pipe.transformer, share)
    return pipe


def night(pipe: Any, prompts: Sequence[str], number: int) -> Run:
    """A clip of each prompt, scored, with noise that no other night has; its clips have the keys of every night."""
    clips = {}
    for entry, shown in enumerate(sample(pipe, prompts, seed=1000 * number)):
        clip = Clip(Path(f"{entry}"), np.ascontiguousarray(shown.frames), None, has_audio=False)
        score = METRIC.score(clip, Context(Models(), shown.prompt))
        clips[Key(entry, 1)] = RunClip(str(entry), {METRIC.name: score}, pixel_digest(clip), shown.prompt)
    return Run(f"night {number}", clips)


def judged(passed: Sequence[Run], candidate: Run, margin: float) -> Judged:
    """The night against the median of the last that passed."""
    comparison = compare(median_run(passed[-MEDIAN_OF:]), candidate, [METRIC], {METRIC.name: margin})
    return Judged(candidate, comparison.state)


def nights(runs: Iterable[Run], passed: list[Run], margin: float) -> list[Judged]:
    """Night after night; one that passes is compared with from then on."""
    verdicts = []
    for run in runs:
        verdict = judged(passed, run, margin)
        print(f"{verdict.run.name}: {verdict.followed:.3f}, {verdict.state}", file=sys.stderr, flush=True)  # noqa: T201
        verdicts.append(verdict)
        if verdict.state in PASSED:
            passed.append(verdict.run)
    return verdicts


def damage(transformer: torch.nn.Module, share: float, seed: int = 0) -> None:
    """Add noise to every matrix and convolution, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in transformer.parameters():
            if weight.ndim > 1:
                noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
                weight.add_(share * weight.std() * noise)


def row(name: str, verdicts: Sequence[Judged]) -> str:
    """A row of the table."""
    counts = Counter(verdict.state for verdict in verdicts)
    mean = sum(verdict.followed for verdict in verdicts) / len(verdicts)
    states = " | ".join(str(counts[state]) for state in (State.REGRESSED, State.INCONCLUSIVE, State.OK))
    return f"| {name} | {len(verdicts)} | {mean:.3f} | {states} |"


if __name__ == "__main__":
    main()
