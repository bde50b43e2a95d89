"""The encoder by principal components: fitted to clips in seconds, without gradients.

The linear layers of Wan's encoder are enough to halve space and time twice and to keep, of each 16 × 16 pixels and 4
frames, the 60 directions in which clips vary most. All else in it is made to change nothing: residual branches and
attention are zero, and a large constant channel keeps the last norm and its SiLU in their linear range. An encoder
that is trained together with its decoder takes hundreds of times longer to keep as much.

A first frame skips the layers that join frames. They are turned so that a chunk that stands still and a first frame
that looks like it have nearly the same latents.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from examples.shapes.autoencoder import LATENT_CHANNELS, WIDTH, patches

_SCALE = 2.0**-13
_GAIN = 64.0
"""Pixels are made small, and components large again, so that what a block's fixed shortcut adds stays small."""
_STRONGEST = 2.5
"""Standard deviation of the strongest component behind the last block."""
_CONSTANT = 1000.0
"""The last channel behind the last block; against it no latent changes the norm."""
_OFFSET, _SLOPE = 20.0, 0.4
"""Before the SiLU a channel of value x is at slope * (x + offset), where SiLU is the identity to three digits."""


@torch.no_grad()
def fit_encoder(vae: AutoencoderKLWan, clips: Tensor) -> None:
    """Write the encoder's weights, rounded to bfloat16, from clips (n × 3 × frames × H × W in -1..1)."""
    encoder = vae.encoder
    for weight in encoder.parameters():
        weight.zero_()
    for index in range(48):
        encoder.conv_in.weight[index, index, 2, 1, 1] = _SCALE
    blocks = encoder.down_blocks
    hidden = _first_layer(patches(clips))
    for block, last in ((blocks[0], False), (blocks[1], True)):
        _fit_space(block.downsampler.resample[1], hidden)
        _fit_time(block.downsampler, hidden)
        hidden = _down(block, hidden)
        if last:
            gain = _STRONGEST / 2 / hidden[:, :LATENT_CHANNELS].std(dim=(0, 2, 3, 4)).max()
            _scale_and_shift(block, hidden, gain)
            hidden = _down(block, _down(blocks[0], _first_layer(patches(clips))))
    _fit_tail(vae, 2 * hidden)
    for weight in (*encoder.parameters(), *vae.quant_conv.parameters()):
        weight.copy_(weight.bfloat16())


@torch.no_grad()
def encode(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """The means that ``vae.encode`` gives, by the layers that do something only: far quicker."""
    hidden = _first_layer(patches(clips))
    for block in vae.encoder.down_blocks[:2]:
        hidden = _down(block, hidden)
    hidden = F.silu(vae.encoder.norm_out(2 * hidden))
    for layer in (vae.encoder.conv_out, vae.quant_conv):
        middle = layer.weight[:, :, -1, layer.kernel_size[1] // 2, layer.kernel_size[2] // 2, None, None, None]
        hidden = F.conv3d(hidden, middle, layer.bias)
    return hidden[:, :LATENT_CHANNELS]


def _first_layer(pixels: Tensor) -> Tensor:
    return F.pad(pixels * torch.tensor(_SCALE).bfloat16().float(), (0, 0, 0, 0, 0, 0, 0, WIDTH - pixels.shape[1]))


def _down(block: torch.nn.Module, hidden: Tensor) -> Tensor:
    """One block over all frames: the first alone, then the others, as the encoder does."""
    cache: list[Tensor | None] = [None]
    frames = (hidden[:, :, :1], hidden[:, :, 1:])
    parts = [block(part, feat_cache=cache, feat_idx=[0]) for part in frames if part.shape[2]]
    return torch.cat(parts, dim=2)


def _fit_space(layer: torch.nn.Conv2d, hidden: Tensor) -> None:
    """Each 2 × 2 places of a frame become the components in which they vary most."""
    quads = _quads(hidden)
    directions = _principal(quads, LATENT_CHANNELS)
    layer.weight[:LATENT_CHANNELS, :, :2, :2] = _GAIN * directions.T.reshape(LATENT_CHANNELS, WIDTH, 2, 2)


def _fit_time(downsampler: torch.nn.Module, hidden: Tensor) -> None:
    """Two frames become one, turned so that two equal frames become what one of them is."""
    frames = torch.stack([downsampler.resample(frame) for frame in hidden.transpose(1, 2).unbind(1)], dim=2)
    frames = frames[:, :LATENT_CHANNELS, 1:]
    pairs = torch.cat([frames[:, :, 0::2], frames[:, :, 1::2]], dim=1).transpose(0, 1).flatten(1).T
    directions = _principal(pairs, LATENT_CHANNELS)
    alike = directions[:LATENT_CHANNELS] + directions[LATENT_CHANNELS:]  # what an equal pair becomes, by component
    left, _, right = torch.linalg.svd(alike)
    turned = directions @ right.T @ left.T / 2**0.5
    joined = downsampler.time_conv.weight[:LATENT_CHANNELS, :LATENT_CHANNELS, :, 0, 0]
    joined[:, :, 1], joined[:, :, 2] = turned[:LATENT_CHANNELS].T, turned[LATENT_CHANNELS:].T


def _scale_and_shift(block: torch.nn.Module, hidden: Tensor, gain: Tensor) -> None:
    """Bring what the last block gives to half of its size, centred at half the offset, with the constant channel.

    The block after it has no layers, and its shortcut adds what is there: it doubles.
    """
    space, time = block.downsampler.resample[1], block.downsampler.time_conv
    space.weight.mul_(gain)
    mean = hidden[:, :LATENT_CHANNELS].mean(dim=(0, 2, 3, 4)) * gain
    shift = torch.full((WIDTH,), _OFFSET / 2)
    shift[:LATENT_CHANNELS] -= mean
    shift[LATENT_CHANNELS:] = 0
    shift[-1] = _CONSTANT / 2
    space.bias.copy_(shift.bfloat16())
    time.bias.copy_(space.bias - time.weight[:, :, :, 0, 0].sum(2) @ space.bias)


def _fit_tail(vae: AutoencoderKLWan, hidden: Tensor) -> None:
    """Turn the channels to the principal components of all latents, strongest first."""
    encoder = vae.encoder
    encoder.norm_out.gamma[:LATENT_CHANNELS] = _SLOPE * _CONSTANT / WIDTH**0.5
    before = F.silu(encoder.norm_out(hidden))[:, :LATENT_CHANNELS].transpose(0, 1).flatten(1).T
    directions = _principal(before, LATENT_CHANNELS) / _SLOPE
    encoder.conv_out.weight[:LATENT_CHANNELS, :LATENT_CHANNELS, 2, 1, 1] = directions.T
    bias = -before.mean(0) @ directions
    encoder.conv_out.bias[:LATENT_CHANNELS] = bias
    vae.quant_conv.weight.zero_()
    for index in range(2 * LATENT_CHANNELS):
        vae.quant_conv.weight[index, index] = 1.0
    vae.quant_conv.bias.zero_()
    vae.quant_conv.bias[:LATENT_CHANNELS] = bias - bias.bfloat16()
    vae.quant_conv.bias[LATENT_CHANNELS:] = -8.0  # the variance of a latent: next to none


def _quads(hidden: Tensor) -> Tensor:
    """All 2 × 2 places, one a row: channels, then rows, then columns."""
    n, c, t, h, w = hidden.shape
    cells = hidden.view(n, c, t, h // 2, 2, w // 2, 2)
    return cells.permute(0, 2, 3, 5, 1, 4, 6).reshape(-1, c * 4)


def _principal(rows: Tensor, count: int) -> Tensor:
    """The directions of most variance, as columns. Half of the rows are those that differ most from the mean."""
    apart = (rows - rows.mean(0)).square().sum(1)
    strong = rows[apart.topk(len(rows) // 8).indices]
    chosen = torch.cat([strong, rows[torch.arange(0, len(rows), 8)]]).double()
    covariance = (chosen - chosen.mean(0)).T @ (chosen - chosen.mean(0)) / len(chosen)
    return torch.linalg.eigh(covariance)[1].flip(1)[:, :count].float()
