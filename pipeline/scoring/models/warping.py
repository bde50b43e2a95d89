"""Frames moved back along the flow, and how far they are from what they should show."""

import itertools

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from pipeline.scoring.clip import Frames
from pipeline.scoring.models import pixels
from pipeline.scoring.models.raft import Raft

_RELATIVE, _ABSOLUTE = 0.01, 0.5
"""The limits of a flow's consistency with the one back: Sundaram et al. 2010, as Lai et al. 2018 have them."""


@torch.inference_mode()
def warp_errors(raft: Raft, frames: Frames) -> list[tuple[float, float]]:
    """Of each pair of consecutive frames (T, H, W, 3): its error, and the share of pixels that are seen in both."""
    pairs = [both for t, u in itertools.pairwise(range(len(frames))) for both in ((t, u), (u, t))]
    flows = raft.flows(frames, pairs)
    errors = []
    for first, second in itertools.pairwise(range(len(frames))):
        there, back = (_unpadded(next(flows), *frames.shape[1:3]) for _ in range(2))
        images = pixels.tensor(frames[[first, second]], str(there.device)) / 255
        errors.append(pair_error(images[0], images[1], there, back))
    return errors


def pair_error(first: Tensor, second: Tensor, there: Tensor, back: Tensor) -> tuple[float, float]:
    """The mean squared difference between a frame and the next one moved back, over what is seen in both.

    Frames are (3, H, W) of 0..1, flows (2, H, W) in pixels, x before y: ``there`` from the first to the second. The
    result has the share of pixels that count too; without any the error is 0.
    """
    place = _grid(first.shape[-2], first.shape[-1], first.device) + there
    moved, returned = _sampled(second, place), _sampled(back, place)
    inside = (place >= 0).all(0) & (place[0] <= first.shape[-1] - 1) & (place[1] <= first.shape[-2] - 1)
    apart, length = (there + returned).square().sum(0), there.square().sum(0) + returned.square().sum(0)
    seen = inside & (apart <= _RELATIVE * length + _ABSOLUTE)
    count = int(seen.sum())
    error = (first - moved).square().mean(0)[seen].double().sum() / max(count, 1)
    return float(error), count / seen.numel()


def _unpadded(flow: Tensor, height: int, width: int) -> Tensor:
    top, left = (flow.shape[-2] - height) // 2, (flow.shape[-1] - width) // 2
    return flow[..., top : top + height, left : left + width].float()


def _grid(height: int, width: int, device: torch.device) -> Tensor:
    """The place of each pixel, (2, H, W), x before y."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([x, y]).float()


def _sampled(values: Tensor, place: Tensor) -> Tensor:
    """Values (C, H, W) at places (2, H, W), between pixels linearly."""
    longest = torch.tensor([values.shape[-1] - 1, values.shape[-2] - 1], device=place.device).view(2, 1, 1)
    at = (2 * place / longest - 1).permute(1, 2, 0)[None]
    return F.grid_sample(values[None], at, mode="bilinear", padding_mode="border", align_corners=True)[0]
