"""Nights of an unchanged model, then four faults, judged as the nightly evaluation judges them.

``python -m examples.shapes.nightly_trial FOLDER`` prints the table of docs/nightly.md.

Everything that decides the outcome was written down, and committed, before the first run: the sizes of the faults
(``FAULTS``), the gates (``GATES``), the prompts (the suite ``shapes``) and the numbers of nights. Clips are encoded as
the line encodes them, and what is judged is the published file. Unchanged nights are of two kinds: equal seeds with
a rounding error of 1e-5 in every weight, another each night, as by another kernel or device; and new noise for every
clip, which is harder than any real night, and where only what the prompt asks for can be gated.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from examples.shapes.evaluate import STEPS, sample
from pipeline.digests import canonical_json, sha256_hex
from pipeline.encoding.ffmpeg import encode
from pipeline.media.packets import packets_sha256
from pipeline.scoring.clip import read_clip
from pipeline.scoring.compare import PASSED, Comparison, Run, State, compare, identical, median_run, read_margins
from pipeline.scoring.compare.runs import Key, RunClip
from pipeline.scoring.metric import Context
from pipeline.scoring.registry import METRICS
from pipeline.scoring.residency import Models
from pipeline.scoring.suite import SHAPES_SUITE, read_suite
from pipeline.spec import EncodeOptions
from tasks.upkeep.nightly import MEDIAN_OF

FOLLOWED = "shapes.follows_prompt"
GATES = (f"{FOLLOWED}=0.1", "common.psnr>=40", "common.ssim>=0.98")
"""The margins and bounds of nights with equal seeds; LPIPS and CLIP have no weights on this world's scale."""
NOISE_GATES = (f"{FOLLOWED}=0.1",)
"""Of nights with new noise, whose clips are others by intention."""
NIGHTS, NOISE_NIGHTS, FAULT_NIGHTS = 20, 10, 3
ROUNDING = 1e-5
"""Gaussian noise on every matrix of the transformer in an unchanged night, as a share of that matrix's deviation."""
FPS = 8


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a night's clips are made. ``seeds`` counts sets of seeds: those of one set are equal."""

    seeds: int = 0
    damage: float = 0.0
    """Gaussian noise on every matrix of the transformer, as a share of that matrix's standard deviation."""
    steps: int = STEPS
    quality: int = EncodeOptions().quality
    """The encoder's CRF."""
    noise: int = 0
    """The seed of that noise."""
    swapped: bool = False
    """The text encoder reads every token as another one: its embedding's rows are in another order."""


FAULTS: Mapping[str, Mapping[str, Any]] = {
    "damaged: a fifth of each matrix's deviation": {"damage": 0.2},
    "worse schedule: 6 steps in place of 12": {"steps": 6},
    "lower encode quality: CRF 40 in place of 18": {"quality": 40},
    "swapped text encoder": {"swapped": True},
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What was made in one night, and the verdict on it."""

    run: Run
    state: State
    by: tuple[str, ...] = ()
    """The metrics that regressed."""

    @property
    def followed(self) -> float:
        return self.run.mean(FOLLOWED) or 0.0


@dataclass
class History:
    """Nights with one set of gates, each compared with those before that passed."""

    gates: tuple[str, ...]
    passed: list[Run] = field(default_factory=list)
    verdicts: list[Judged] = field(default_factory=list)

    def judge(self, night: Run) -> Judged:
        """Judge the night against the median of the last that passed, and remember it."""
        verdict = judged(self.passed, night, self.gates)
        self.verdicts.append(verdict)
        if verdict.state in PASSED:
            self.passed.append(verdict.run)
        return verdict


def main() -> None:
    """Make the nights, judge them in order; the table goes to standard output, each night to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nights", type=int, default=NIGHTS)
    parser.add_argument("--noise-nights", type=int, default=NOISE_NIGHTS)
    parser.add_argument("--fault-nights", type=int, default=FAULT_NIGHTS)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    baselines = [Recipe(seeds=number) for number in range(asked.fault_nights)]
    again = [Recipe(damage=ROUNDING, noise=1 + number) for number in range(asked.nights)]
    noise = [Recipe(seeds=100 + number) for number in range(asked.noise_nights)]
    faults = [replace(baseline, **change) for change in FAULTS.values() for baseline in baselines]
    recipes = [*baselines, Recipe(), *again, *noise, *faults]
    with (
        tempfile.TemporaryDirectory(prefix="vgen-trial-") as out,
        ProcessPoolExecutor(asked.workers, get_context("spawn")) as pool,
    ):
        runs = pool.map(partial(night, asked.folder, Path(out)), recipes, range(len(recipes)))
        firsts = [next(runs) for _ in baselines]
        repeated = judged(firsts[:1], next(runs), GATES)
        unchanged, noisy = History(GATES, firsts[:1]), History(NOISE_GATES, firsts[:1])
        for history, count in ((unchanged, asked.nights), (noisy, asked.noise_nights)):
            for _ in range(count):
                _say(history.judge(next(runs)))
        rows = [row("unchanged, rounded otherwise", unchanged.verdicts), row("unchanged, new noise", noisy.verdicts)]
        for name in FAULTS:
            verdicts = [judged([first], next(runs), GATES) for first in firsts]
            for verdict in verdicts:
                _say(verdict)
            rows.append(row(name, verdicts))
    print(HEAD, *rows, f"\nThe first night again: {repeated.state}.", sep="\n")  # noqa: T201


def _say(verdict: Judged) -> None:
    print(f"{verdict.run.name}: {verdict.followed:.3f}, {verdict.state}", file=sys.stderr, flush=True)  # noqa: T201


def night(folder: Path, out: Path, recipe: Recipe, number: int) -> Run:
    """One night's clips as files, scored by what can be seen in them alone, in a worker."""
    pipe = _pipeline(folder, recipe.damage, recipe.noise, recipe.swapped)
    entries = read_suite(SHAPES_SUITE).entries
    prompts = [entry.prompt for entry in entries]
    shown = sample(pipe, prompts, steps=recipe.steps, seed=1000 * recipe.seeds)
    clips = {}
    for entry, one in enumerate(shown):
        raw, path = out / f"{number}.raw", out / f"{number}-{entry}.mp4"
        raw.write_bytes(one.frames.tobytes())
        frames, height, width, _ = one.frames.shape
        options = EncodeOptions(quality=recipe.quality)
        encode(
            raw, path, width=width, height=height, num_frames=frames, fps=FPS, options=options, metadata={},
            check=lambda: None, timeout_s=60.0,
        )  # fmt: skip
        facts = {"frames": sha256_hex(one.frames.tobytes()), "encode": options.model_dump()}
        same = sha256_hex(canonical_json({**facts, "packets": packets_sha256(path)}))
        score = METRICS[FOLLOWED].score(read_clip(path), Context(Models(), one.prompt))
        clips[Key(entry, recipe.seeds)] = RunClip(str(path), {FOLLOWED: score}, same, one.prompt)
        raw.unlink()
    return Run(f"night {number}", clips)


@lru_cache(maxsize=2)
def _pipeline(folder: Path, share: float, noise: int, swapped: bool) -> Any:
    from diffusers import WanPipeline  # noqa: PLC0415 - slow to load

    torch.set_num_threads(1)
    pipe = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    if share:
        damage(pipe.transformer, share, noise)
    if swapped:
        swap(pipe.text_encoder)
    return pipe


def judged(passed: Sequence[Run], candidate: Run, gates: Sequence[str] = GATES) -> Judged:
    """The night against the median of the last that passed; its clips against those of the last."""
    margins = read_margins(gates, "gate")
    # New noise has seeds of its own: prompts are compared, as the clips are others.
    candidate = replace(candidate, clips=_with_seeds_of(passed[-1], candidate))
    likenesses = [name for name in margins if METRICS[name].perfect is not None]
    baseline = median_run(passed[-MEDIAN_OF:])
    if likenesses and not identical(baseline, candidate):
        candidate = _with_likenesses(baseline, candidate, likenesses)
    comparison = compare(baseline, candidate, [METRICS[name] for name in margins], margins)
    return Judged(candidate, comparison.state, _regressed(comparison))


def _regressed(comparison: Comparison) -> tuple[str, ...]:
    return tuple(one.metric.name for one in comparison.metrics if one.state is State.REGRESSED)


def _with_seeds_of(baseline: Run, candidate: Run) -> dict[Key, RunClip]:
    keys = {key.entry: key for key in baseline.clips}
    return {keys[key.entry]: clip for key, clip in candidate.clips.items()}


def _with_likenesses(baseline: Run, candidate: Run, names: Sequence[str]) -> Run:
    models, clips = Models(), {}
    for key, clip in candidate.clips.items():
        reference = read_clip(Path(baseline.clips[key].video))
        shown, context = read_clip(Path(clip.video)), Context(models, reference=reference)
        scores = {name: METRICS[name].score(shown, context) for name in names}
        clips[key] = replace(clip, scores={**clip.scores, **scores})
    return replace(candidate, clips=clips)


def damage(transformer: torch.nn.Module, share: float, seed: int = 0) -> None:
    """Add noise to every matrix and convolution, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in transformer.parameters():
            if weight.ndim > 1:
                noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
                weight.add_(share * weight.std() * noise)


def swap(text_encoder: Any, seed: int = 0) -> None:
    """Order the rows of the token embedding anew, in place: as a text encoder of another vocabulary."""
    weight = text_encoder.get_input_embeddings().weight
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        weight.copy_(weight[order])


HEAD = (
    "| model | nights | followed | PSNR, dB | SSIM | identical | ok | inconclusive | regressed | by |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)
_STATES = (State.IDENTICAL, State.OK, State.INCONCLUSIVE, State.REGRESSED)


def row(name: str, verdicts: Sequence[Judged]) -> str:
    """A row of the table: means over the nights, and how many of them had which verdict."""
    counts = Counter(verdict.state for verdict in verdicts)
    means = [_mean(verdicts, metric) for metric in (FOLLOWED, "common.psnr", "common.ssim")]
    states = " | ".join(str(counts[state]) for state in _STATES)
    by = ", ".join(dict.fromkeys(metric for verdict in verdicts for metric in verdict.by)) or "–"
    return f"| {name} | {len(verdicts)} | {' | '.join(means)} | {states} | {by} |"


def _mean(verdicts: Sequence[Judged], metric: str) -> str:
    means = [mean for verdict in verdicts if (mean := verdict.run.mean(metric)) is not None]
    return f"{sum(means) / len(means):.3f}" if means else "–"


if __name__ == "__main__":
    main()
