"""The transformer of ``shapes-wan``, its text, and one training loss.

The network predicts the clean latents, not the velocity (UniPC's ``prediction_type="sample"``): a network that is
hardly wider than its tokens learns that far sooner, for it need not carry the noise through every layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from examples.shapes.autoencoder import LATENT_CHANNELS
from examples.shapes.places import begin_with_places
from examples.shapes.text import TEXT_WIDTH, build_text_encoder, build_tokenizer

TEXT_TOKENS = 64
"""``max_sequence_length`` of the preset's calls: prompts are padded to it with zeros, which the network sees."""
_LEAST_SIGMA = 0.15
"""Errors at less noise than this count as at this."""


def build_transformer() -> WanTransformer3DModel:
    """The architecture with weights that find places, and random ones otherwise."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=5,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=448,
        num_layers=5,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    begin_with_places(transformer)
    return transformer


def build_scheduler(shift: float = 6.0) -> UniPCMultistepScheduler:
    """Flow matching: x = (1 - sigma) * clean + sigma * noise."""
    return UniPCMultistepScheduler(
        prediction_type="sample", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=shift
    )


class Denoiser(nn.Module):
    """Transformer and text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.text_encoder = build_text_encoder()
        self.tokenizer: Any = build_tokenizer()
        self._pads = _Pads()
        for block in self.transformer.blocks:
            block.attn2.set_processor(_PaddedKeys(self._pads))

    def forward(self, latents: Tensor, timestep: Tensor, captions: list[str]) -> Tensor:
        """The clean latents that it expects. ``timestep`` is n, or n × tokens where it differs inside a clip."""
        return self.transformer(latents, timestep, self._encode(captions), return_dict=False)[0]

    def _encode(self, captions: list[str]) -> Tensor:
        """Embeddings of the captions with one zero for all the padding: its attention is that of many equal keys."""
        tokens = self.tokenizer(captions, padding=True, return_tensors="pt")
        mask = tokens.attention_mask
        embeddings = self.text_encoder(tokens.input_ids, mask).last_hidden_state * mask[..., None]
        bias = torch.where(mask.bool(), 0.0, -math.inf)
        count = (TEXT_TOKENS - mask.sum(1)).float()
        self._pads.bias = torch.cat([bias, count.log()[:, None]], dim=1)[:, None, None]
        return F.pad(embeddings, (0, 0, 0, 1))


@dataclass
class _Pads:
    bias: Tensor | None = None


class _PaddedKeys:
    """Wan's cross-attention with a bias for each key."""

    def __init__(self, pads: _Pads) -> None:
        self._pads = pads

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> Tensor:
        query = attn.norm_q(attn.to_q(hidden_states))
        key, value = attn.norm_k(attn.to_k(encoder_hidden_states)), attn.to_v(encoder_hidden_states)
        query, key, value = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self._pads.bias)
        return attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))


def draw_sigmas(count: int, generator: torch.Generator) -> Tensor:
    """Mostly much noise: what a caption decides is already visible in latents that are less noisy."""
    sigmas = torch.sigmoid(1.8 + 1.5 * torch.randn(count, generator=generator))
    uniform = torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.1, uniform, sigmas).clamp(0.002, 0.999)


def loss_of(model: Denoiser, clean: Tensor, captions: list[str], generator: torch.Generator, *, given: bool) -> Tensor:
    """The velocity's squared error. With ``given``, the first frame is known: it has no noise and timestep 0."""
    sigmas = draw_sigmas(len(clean), generator)
    noise = torch.randn(clean.shape, generator=generator)
    level = sigmas.view(-1, 1, 1, 1, 1).expand(-1, 1, clean.shape[2], 1, 1)
    timestep = (sigmas * 1000).floor()  # as the scheduler rounds
    first = 0
    if given:
        first = 1
        level = torch.cat([torch.zeros_like(level[:, :, :1]), level[:, :, 1:]], dim=2)
        tokens = clean.shape[3] * clean.shape[4] // 4
        timestep = (level.flatten(1) * 1000).floor().repeat_interleave(tokens, dim=1)
    noisy = (1 - level) * clean + level * noise
    error = (model(noisy, timestep, captions) - clean)[:, :, first:]
    return (error.square().mean(dim=(1, 2, 3, 4)) / sigmas.clamp(min=_LEAST_SIGMA).square()).mean()
