"""Nights of shapes-wan: what is made worse, and how nights are judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from examples.shapes.nightly_trial import FOLLOWED, NOISE_GATES, History, Judged, damage, judged, row, swap
from pipeline.encoding.ffmpeg import encode
from pipeline.media.packets import packets_sha256
from pipeline.scoring.compare import Run, State
from pipeline.scoring.compare.runs import Key, RunClip
from pipeline.scoring.metric import Score
from pipeline.spec import EncodeOptions


def _night(name: str, scores: list[float]) -> Run:
    return Run(name, {Key(n, 1): RunClip("", {FOLLOWED: Score(score)}, None) for n, score in enumerate(scores)})


def test_damage_is_a_share_of_each_matrix_s_spread_and_leaves_vectors() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(200, 300)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    damage(model, 0.2)
    apart = (model.weight - before["weight"]).std() / before["weight"].std()
    assert abs(apart - 0.2) < 0.01
    assert torch.equal(model.bias, before["bias"])


def test_a_swapped_text_encoder_has_the_same_rows_in_another_order() -> None:
    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(50, 4)

        def get_input_embeddings(self) -> torch.nn.Embedding:
            return self.words

    encoder = Encoder()
    before = encoder.words.weight.detach().clone()
    swap(encoder)
    after = encoder.words.weight.detach()
    assert not torch.equal(after, before)
    assert torch.equal(after.sort(dim=0).values, before.sort(dim=0).values)


def test_a_worse_night_is_flagged_and_an_equal_one_is_not() -> None:
    scores = [1.0, 0.75, 1.0, 0.75] * 9
    history = History(NOISE_GATES, [_night("0", scores)])
    alike = history.judge(_night("1", scores[1:] + scores[:1]))
    worse = history.judge(_night("2", [score - 0.4 * (n % 3 > 0) for n, score in enumerate(scores)]))
    assert (worse.state, alike.state) == (State.REGRESSED, State.OK)
    assert worse.by == (FOLLOWED,)
    mean = (worse.followed + alike.followed) / 2
    assert row("both", [worse, alike]) == f"| both | 2 | {mean:.3f} | – | – | 0 | 1 | 0 | 1 | {FOLLOWED} |"
    assert Judged(alike.run, State.OK).followed == 0.875


def test_files_are_judged_by_how_alike_they_are(tmp_path: Path) -> None:
    # Given a night, the same clips once more, and the same frames by a worse encoder
    rng = np.random.default_rng(0)
    frames = [np.kron(rng.integers(0, 255, (8, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(8)]
    nights = [_encoded(tmp_path / name, frames, quality) for name, quality in (("a", 18), ("b", 18), ("c", 50))]
    gates = ("common.psnr>=40", "common.ssim>=0.98")
    assert judged(nights[:1], nights[1], gates).state is State.IDENTICAL
    worse = judged(nights[:1], nights[2], gates)
    assert (worse.state, worse.by) == (State.REGRESSED, ("common.psnr", "common.ssim"))


def _encoded(folder: Path, frames: list[np.ndarray], quality: int) -> Run:
    folder.mkdir()
    clips = {}
    for number, frame in enumerate(frames):
        raw, path = folder / "raw", folder / f"{number}.mp4"
        raw.write_bytes(np.stack([frame] * 3).tobytes())
        encode(
            raw, path, width=128, height=64, num_frames=3, fps=8, options=EncodeOptions(quality=quality), metadata={},
            check=lambda: None, timeout_s=60.0,
        )  # fmt: skip
        clips[Key(number, 1)] = RunClip(str(path), {}, packets_sha256(path))
    return Run(folder.name, clips)
