"""Frames to model inputs, exactly as VBench prepares them: its resizes have no antialiasing unless PIL does them.

Frames go to the device as bytes and are made into floats, resized and normalised there.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.scoring.clip import Frames

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SIDE = 224
_BATCH = 16


def batches(frames: Frames, size: int = _BATCH) -> Iterator[Frames]:
    """Runs of frames, so that a long clip needs no more memory than a short one."""
    for start in range(0, len(frames), size):
        yield frames[start : start + size]


def tensor(frames: Frames, device: str = "cpu") -> Tensor:
    """uint8 (T, H, W, 3) to float32 (T, 3, H, W) on the device, still 0..255."""
    return torch.from_numpy(np.array(frames)).to(device).permute(0, 3, 1, 2).float()


def normalised(images: Tensor, constants: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """Images of 0..1, (…, 3, H, W), by a mean and deviation per channel."""
    mean, deviation = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in constants)
    return (images - mean) / deviation


def shorter_side(height: int, width: int, side: int = SIDE) -> tuple[int, int]:
    """Height and width once the shorter is ``side``; the longer is cut to an integer."""
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def resized(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize without antialiasing; equal sizes are left as they are."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode=mode, align_corners=False, antialias=False)


def centre(images: Tensor, side: int = SIDE) -> Tensor:
    """The middle square; halves round to even, as Python's ``round`` does."""
    top, left = (round((length - side) / 2) for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def for_clip(frames: Frames, device: str = "cpu") -> Tensor:
    """Bicubic on floats, not clamped: background_consistency and aesthetic_quality."""
    images = tensor(frames, device)
    images = centre(resized(images, shorter_side(*images.shape[-2:]), "bicubic"))
    return normalised(images / 255, CLIP)


def for_viclip(frames: Frames, device: str = "cpu") -> Tensor:
    """Bicubic on bytes, so clamped and rounded: temporal_style and overall_consistency."""
    images = tensor(frames, device)
    images = resized(images, shorter_side(*images.shape[-2:]), "bicubic")
    images = centre(images.clamp(0, 255).round())
    return normalised(images / 255, CLIP)


def for_clip_by_pil(frames: Frames, device: str = "cpu") -> Tensor:
    """PIL's bicubic, which antialiases and runs on the CPU: appearance_style."""
    height, width = shorter_side(*frames.shape[1:3])
    pictures = [Image.fromarray(frame) for frame in frames]
    small = [p if p.size == (width, height) else p.resize((width, height), Image.Resampling.BICUBIC) for p in pictures]
    images = centre(tensor(np.stack([np.asarray(picture) for picture in small]), device))
    return normalised(images / 255, CLIP)


def for_dino(frames: Frames, device: str = "cpu") -> Tensor:
    """Bilinear, no crop: subject_consistency sees the whole frame."""
    images = tensor(frames, device)
    images = resized(images, shorter_side(*images.shape[-2:]), "bilinear")
    return normalised(images / 255, IMAGENET)


def for_umt(frames: Frames) -> Tensor:
    """OpenCV's bilinear on bytes, shorter side 256, then the middle 224: human_action."""
    height, width = frames.shape[1:3]
    if min(height, width) != 256:
        size = shorter_side(height, width, 256)
        frames = np.stack([bilinear_bytes(frame, *size) for frame in frames])
    images = centre(tensor(frames))
    return normalised(images / 255, IMAGENET)


MIDDLE_OF = 256
"""The shorter side of which VBench-I2V's DINO sees the middle ``SIDE`` pixels."""


def middle_for_dino(frames: Frames, device: str = "cpu") -> Tensor:
    """Bicubic on floats, not clamped, then the middle square: VBench-I2V's subject."""
    images = tensor(frames, device)
    height, width = images.shape[-2:]
    images = centre(resized(images, shorter_side(height, width, MIDDLE_OF), "bicubic"))
    return normalised(images / 255, IMAGENET)


def picture_for_dino(picture: Image.Image) -> Tensor:
    """PIL's bicubic, which antialiases: the picture of VBench-I2V's subject, (1, 3, H, W)."""
    images = tensor(_shrunk(picture, *shorter_side(picture.height, picture.width, MIDDLE_OF)))
    return normalised(centre(images) / 255, IMAGENET)


def for_dreamsim(frames: Frames, device: str = "cpu") -> Tensor:
    """Bicubic on floats, not clamped, to a square whatever the shape, of 0 to 1: VBench-I2V's background."""
    return resized(tensor(frames, device), (SIDE, SIDE), "bicubic") / 255


def picture_for_dreamsim(picture: Image.Image) -> Tensor:
    """The same by PIL's bicubic, which antialiases, (1, 3, H, W)."""
    return tensor(_shrunk(picture, SIDE, SIDE)) / 255


def _shrunk(picture: Image.Image, height: int, width: int) -> Frames:
    """One frame, (1, height, width, 3)."""
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))[None]


def middle(count: int, length: int) -> list[int]:
    """Indices of ``length`` frames, the middle of equal runs; a short clip's last index is repeated."""
    edges = np.linspace(0, count, min(length, count) + 1).astype(int).tolist()
    indices = [(a + b - 1) // 2 for a, b in itertools.pairwise(edges)]
    return indices + indices[-1:] * (length - len(indices))


def bilinear_bytes(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """OpenCV's INTER_LINEAR for bytes: weights of 11 bits, columns before rows, cut to 16 bits in between."""
    left, right, a, b = _columns(frame.shape[1], width)
    wide = frame.astype(np.int64)
    wide = wide[:, left] * a[:, None] + wide[:, right] * b[:, None]
    top, below, a, b = _rows(frame.shape[0], height)
    rows = ((a[:, None, None] * (wide[top] >> 4)) >> 16) + ((b[:, None, None] * (wide[below] >> 4)) >> 16)
    bounded: NDArray[np.uint8] = np.clip((rows + 2) >> 2, 0, 255).astype(np.uint8)
    return bounded


_Axis = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _rows(before: int, after: int) -> _Axis:
    """First and second source index of each target, and their weights; beyond the edge both are the edge."""
    index, part = _positions(before, after)
    return (np.clip(index, 0, before - 1), np.clip(index + 1, 0, before - 1), *_weights(part))


def _columns(before: int, after: int) -> _Axis:
    """The same; beyond the edge the edge alone has all the weight, which rounds otherwise than two halves."""
    index, part = _positions(before, after)
    part[(index < 0) | (index >= before - 1)] = 0
    return (np.clip(index, 0, before - 1), np.clip(index + 1, 0, before - 1), *_weights(part))


def _positions(before: int, after: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    place = ((np.arange(after) + 0.5) * (before / after) - 0.5).astype(np.float32)
    index = np.floor(place).astype(np.int64)
    return index, (place - index).astype(np.float32)


def _weights(part: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.rint((np.float32(1) - part) * 2048).astype(np.int64), np.rint(part * 2048).astype(np.int64)
