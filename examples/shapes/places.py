"""A transformer that tells, from the first step on, which place of the clip a token has.

Wan's transformer knows places by rotary embeddings only. They turn queries and keys, not values, so that tokens of like
content stay alike, and at the first step of sampling every token is noise. Here the first block begins with heads that
attend to the next token along one axis, or to the token itself where the axis ends. What such a head brings is taken
from a copy of the token's own values: at the end of the axis nothing is left of them. A feed-forward layer adds up what
is left, so that a token knows at which ends of the clip it lies. Heads of the second block, which attend in the same
ways, tell it which ends its neighbours lie at. Training goes on from there and may change all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from torch import nn

PROBES = 8
"""The values of a token that a head compares."""
_ALONG, _ACROSS = 34.0, 16.0
"""Gains of the attention's logits, along a head's axis and across it: sharp, so that one token is attended to."""
_BETWEEN = 0.7
"""The angle at which attention is strongest, in radians: the neighbour lies at 1, the token itself at 0, second."""
_SHARPNESS = 4.0
"""GELU(c x) + GELU(-c x) is nearly c |x|."""
_OTHERS = 0.3
"""How strongly all other layers begin."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Which token a head attends to: the axis (0 frames, 1 rows, 2 columns), and 1 for the one before, -1 after."""

    axis: int
    way: int


HEADS = (Neighbour(0, 1), Neighbour(0, -1), Neighbour(2, 1), Neighbour(2, -1), Neighbour(1, 1))
_COPIES = [slice(PROBES * (1 + head), PROBES * (2 + head)) for head in range(len(HEADS))]
"""Where each head's copy of the probes lies in a token's values; the probes themselves come first."""
_ENDS = slice(_COPIES[-1].stop, _COPIES[-1].stop + len(HEADS))
"""Of each head: -1 where the axis ends that way, else about 1."""
_NEXT_ENDS = slice(_ENDS.stop, _ENDS.stop + len(HEADS))
"""The same of the neighbour."""


@torch.no_grad()
def begin_with_places(model: WanTransformer3DModel) -> None:
    """Write the weights that find places into a new transformer of five heads."""
    size = model.config.attention_head_dim
    model.condition_embedder.time_proj.weight.mul_(0.1)
    model.condition_embedder.time_proj.bias.zero_()
    for block in model.blocks:
        block.scale_shift_table.zero_()
        block.scale_shift_table[:, [2, 5]] = 1.0  # the gates of attention and feed-forward layer
        for layer in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
            layer.weight.mul_(_OTHERS)
            layer.bias.zero_()
    one, two = model.blocks[:2]
    for layer in (one.attn2.to_out[0], one.ffn.net[2], two.attn1.to_out[0]):
        layer.weight[: _NEXT_ENDS.stop].zero_()
    _embed_copies(model.patch_embedding)
    for block in (one, two):
        _attend_to_neighbours(block.attn1, size)
    _compare(one.attn1, size)
    _add_up(one.ffn)
    _ask_neighbours(two.attn1, size)


def _embed_copies(layer: nn.Conv3d) -> None:
    """Each head has its copy of the probes; what is found out about ends begins at 0."""
    layer.weight.normal_(0, layer.weight[0].numel() ** -0.5)
    layer.bias.zero_()
    for copy in _COPIES:
        layer.weight[copy] = layer.weight[:PROBES]
    layer.weight[_ENDS.start : _NEXT_ENDS.stop].zero_()


def _attend_to_neighbours(attention: nn.Module, size: int) -> None:
    """Queries and keys that depend on places alone: one pair of values for each axis, that of its quickest rotation."""
    aside = 2 * (size // 6)
    pairs = (0, size - 2 * aside, size - aside)  # where frames, rows and columns begin in a head's values
    query, key = torch.zeros(len(HEADS), size), torch.zeros(len(HEADS), size)
    gain = torch.full((len(HEADS), size), 0.02)
    for head, neighbour in enumerate(HEADS):
        for axis, pair in enumerate(pairs):
            along = axis == neighbour.axis
            angle = neighbour.way * _BETWEEN if along else 0.0
            query[head, pair] = 1.0
            key[head, pair], key[head, pair + 1] = math.cos(angle), math.sin(angle)
            gain[head, pair : pair + 2] = ((_ALONG if along else _ACROSS) * size**0.5) ** 0.5
    scale = gain * query.square().mean().sqrt()  # what the norm over all heads takes away
    for layer, norm, begin in ((attention.to_q, attention.norm_q, query), (attention.to_k, attention.norm_k, key)):
        layer.weight.mul_(0.02)
        layer.bias.copy_(begin.flatten())
        norm.weight.copy_(scale.flatten())


def _compare(attention: nn.Module, size: int) -> None:
    """Each head brings the probes of the token it attends to, and they are taken from its copy."""
    attention.to_v.weight.mul_(_OTHERS)
    attention.to_v.bias.zero_()
    out = attention.to_out[0].weight
    out[:PROBES] = 0.0
    for head, copy in enumerate(_COPIES):
        rows = slice(head * size, head * size + PROBES)
        attention.to_v.weight[rows] = 0.0
        attention.to_v.weight[rows, :PROBES] = torch.eye(PROBES)
        out[:, rows] = 0.0
        out[copy] = 0.0
        out[copy, rows] = -torch.eye(PROBES)


def _add_up(ffn: nn.Module) -> None:
    """How much is left of each copy, between -1 and about 1."""
    inner, outer = ffn.net[0].proj, ffn.net[2]
    for head, copy in enumerate(_COPIES):
        rows = slice(head * 2 * PROBES, (head + 1) * 2 * PROBES)
        inner.weight[rows] = 0.0
        inner.bias[rows] = 0.0
        inner.weight[rows, copy] = torch.cat([torch.eye(PROBES), -torch.eye(PROBES)]) * _SHARPNESS
        outer.weight[:, rows] = 0.0
        outer.weight[_ENDS.start + head] = 0.0
        outer.weight[_ENDS.start + head, rows] = 2.0 / (_SHARPNESS * PROBES)
    outer.bias[_ENDS] = -1.0


def _ask_neighbours(attention: nn.Module, size: int) -> None:
    """Each head brings what its neighbour knows of the end in that direction."""
    attention.to_v.bias.zero_()
    out = attention.to_out[0].weight
    for head in range(len(HEADS)):
        row = head * size
        attention.to_v.weight[row] = 0.0
        attention.to_v.weight[row, _ENDS.start + head] = 1.0
        out[:, row] = 0.0
        out[_NEXT_ENDS.start + head, row] = 1.0
