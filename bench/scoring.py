"""Clips scored per minute and dimension, the share of decoding, and the same by calling each model naively.

    python -m bench.scoring [--clips 4] [--frames 24] [--width 320] [--height 192] [--weights DIR] [--device cpu]
                            [--precision float32] [--metrics vbench.dynamic_degree,…] [--full-size]
    python -m bench.scoring --oracle

"Shared" is what ``vgen eval run`` and the steps of an evaluation run do: each clip decoded once, while the one before
is scored, each model loaded once, features used twice where two dimensions need them. "Naive" decodes the clip and
loads the model anew for each clip and dimension. "CPU s" are the processor's seconds for a clip, which on a GPU are
what it costs beside. Without --weights the models are small and random, so that the shares say little about real ones:
decoding and loading weigh more. With --full-size they are random, but as large as the released ones (5 GB of files are
written for it), so that rates are theirs.

``--oracle`` compares every stored clip with the official scores in tests/data/vbench_oracle; the tests compare fewer.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.scoring import GROUPS, METRICS, Clip, Context, Metric, Models, Score, Weights, read_clip
from pipeline.scoring.families import family_of
from pipeline.scoring.kinetics import KINETICS_400
from pipeline.scoring.run import ClipToScore, load, score_clips, score_loaded
from tests.data.vbench_oracle import tiny_weights

PROMPT = "A person is riding a bike"
STYLE = {"appearance_style": "Van Gogh style"}
DATA = Path(tiny_weights.__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("clips", 4), ("frames", 24), ("width", 320), ("height", 192)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--metrics", default=",".join(name for name in GROUPS["vbench"] if not METRICS[name].external))
    parser.add_argument("--oracle", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.weights or Path(folder) / "weights"
        if arguments.weights is None:
            tiny_weights.write_all(weights, full_size=arguments.full_size)
        if arguments.oracle:
            compare_with_oracle(Models(Weights(weights), arguments.device))
            return
        made_of = arguments.weights or (
            "as large as released ones, random" if arguments.full_size else "small and random"
        )
        where = f"{arguments.device}, {arguments.precision}"
        print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {where}; weights {made_of}")
        print(f"{arguments.clips} clips of {arguments.frames} frames, {arguments.width}x{arguments.height}")
        measure(list(made(Path(folder), arguments)), Weights(weights), arguments)


def measure(paths: list[Path], weights: Weights, arguments: argparse.Namespace) -> None:
    def models_anew() -> Models:
        return Models(Weights(weights.directory), arguments.device, arguments.precision)

    metrics = [METRICS[name] for name in arguments.metrics.split(",")]
    items = [ClipToScore(path, PROMPT, auxiliary=STYLE) for path in paths]
    list(score_clips(items[:1], metrics, models_anew()))  # so that imports are not measured
    models = models_anew()
    for metric in metrics:
        models.get(metric.family) if metric.family else None
    shared = dict.fromkeys((metric.name for metric in metrics), 0.0)
    naive, cpu = dict(shared), dict(shared)
    decode = 0.0
    for item in items:  # in turns, so that a busy machine slows both
        loaded = load(item, metrics)
        decode += loaded.seconds
        for metric in metrics:
            begun = time.process_time()
            result = score_loaded(loaded, [metric], models)
            cpu[metric.name] += time.process_time() - begun
            shared[metric.name] += result.score_seconds[metric.name]
            naive[metric.name] += naively(item.video, metric, models_anew())
    print(f"{'dimension':<24}{'clips/min':>10}{'CPU s':>8}{'naive':>10}{'naive / shared':>16}")
    for metric in metrics:
        ours, theirs = shared[metric.name], naive[metric.name]
        rates = [60 * len(paths) / seconds for seconds in (ours, theirs)]
        seconds = cpu[metric.name] / len(paths)
        print(f"{metric.dimension:<24}{rates[0]:>10.1f}{seconds:>8.2f}{rates[1]:>10.1f}{theirs / ours:>16.1f}")
    whole = decode + sum(shared.values())
    rates = [60 * len(paths) / seconds for seconds in (whole, sum(naive.values()))]
    print(
        f"together: shared {rates[0]:.1f} clips/min, naive {rates[1]:.1f}; decoding is {decode / whole:.1%} of shared"
    )
    families = len({family_of(metric) for metric in metrics})
    rate = 60 * len(paths) / (families * decode + sum(shared.values()))
    print(f"a step for each of {families} families, as before, would decode {families} times: {rate:.1f} clips/min")
    begun = time.perf_counter()
    list(score_clips(items, metrics, models))
    print(f"the whole, decoding ahead: {60 * len(paths) / (time.perf_counter() - begun):.1f} clips/min")
    print(f"loading all models once: {sum(models.load_seconds.values()):.1f} s")


def naively(path: Path, metric: Metric, models: Models) -> float:
    started = time.perf_counter()
    with models.computing(metric.family):
        metric.score(read_clip(path), Context(models, PROMPT, auxiliary=STYLE))
    return time.perf_counter() - started


def made(folder: Path, arguments: argparse.Namespace) -> Iterator[Path]:
    """Soft shapes that drift, with grain, as H.264."""
    y, x = np.mgrid[0 : arguments.height, 0 : arguments.width].astype(float)
    for number in range(arguments.clips):
        grain = np.random.default_rng(number).integers(-6, 7, (arguments.height, arguments.width, 1))
        path = folder / f"{number}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(24))
            stream.width, stream.height, stream.pix_fmt = arguments.width, arguments.height, "yuv420p"
            for t in range(arguments.frames):
                planes = [127 + 90 * np.sin(x / (30 + c) + y / (40 - c) + t / 5 + c + number) for c in range(3)]
                picture = np.clip(np.stack(planes, -1) + grain, 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
        yield path


def compare_with_oracle(models: Models) -> None:
    oracle: dict[str, Any] = json.loads((DATA / "scores.json").read_text("utf-8"))
    clips = {path.stem: read_clip(path) for path in sorted((DATA / "clips").glob("*.mp4"))}
    for dimension, official in oracle["dimensions"].items():
        metric = METRICS.get(f"vbench.{dimension}") or METRICS.get(f"vbench_tools.{dimension}")
        if metric is None:
            continue  # the reference metrics' own numbers
        worst, differ, compared = 0.0, [], 0
        for name, wanted in official.items():
            if isinstance(wanted, dict) and "skipped" in wanted:
                continue
            context = Context(models, oracle["prompts"][name], auxiliary={"appearance_style": oracle["styles"][name]})
            if dimension == "human_action":
                apart, same = _actions(models, clips[name], wanted)
            else:
                apart, same = _apart(metric.score(clips[name], context), wanted)
            worst, compared = max(worst, apart), compared + 1
            differ += [] if same else [name]
        verdicts = f"verdicts that differ: {differ or 'none'}"
        print(f"{dimension:<24}{compared:>3} clips, largest difference {worst:.2g}, {verdicts}", flush=True)


def _actions(models: Models, clip: Clip, wanted: dict[str, Any]) -> tuple[float, bool]:
    top = models.get("umt").top(clip)
    same = [KINETICS_400[index] for index, _ in top] == [label for label, _ in wanted["top"]]
    return max(abs(ours - theirs) for (_, ours), (_, theirs) in zip(top, wanted["top"], strict=True)), same


def _apart(score: Score, wanted: Any) -> tuple[float, bool]:
    """Return how far apart the scores are (flows: relatively), and whether both were scored, with the same verdict."""
    if not isinstance(wanted, dict):
        return (float("inf"), False) if score.score is None else (abs(score.score - wanted), True)
    if "error" in wanted:
        return 0.0, score.score is None
    verdict = float(wanted.get("dynamic", wanted.get("static")))
    pairs = list(zip(score.details["speeds"], wanted["flows"], strict=True))
    return max((abs(ours - theirs) / theirs for ours, theirs in pairs), default=0.0), score.score == verdict


if __name__ == "__main__":
    main()
