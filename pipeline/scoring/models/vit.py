"""The two kinds of transformer block that the vision models here are made of, by the key names of their weights."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

HEAD = 64
"""Width of an attention head in every released model here: the number of heads follows from it, where no file says."""


class Attention(nn.Module):
    """Self-attention with one matrix for query, key and value. Bias on all three, or on query and value alone."""

    def __init__(self, width: int, heads: int, *, key_bias: bool) -> None:
        super().__init__()
        self._heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        self.q_bias: nn.Parameter | None = None if key_bias else nn.Parameter(torch.zeros(width))
        self.v_bias: nn.Parameter | None = None if key_bias else nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, width) to the same."""
        bias: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        joint = F.linear(tokens, self.qkv.weight, bias)
        joint = joint.view(*tokens.shape[:2], 3, self._heads, -1)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out


def quick_gelu(hidden: Tensor) -> Tensor:
    """OpenAI's approximation of GELU, in all of its CLIP models."""
    return hidden * torch.sigmoid(1.702 * hidden)


Activation = Callable[[Tensor], Tensor]


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self._activation = activation

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(self._activation(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """Pre-norm block of DINO and UMT; DreamSim has CLIP's towers in this form too, with their own norms and GELU."""

    def __init__(
        self, width: int, hidden: int, heads: int, *, key_bias: bool, eps: float = 1e-6, activation: Activation = F.gelu
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, key_bias=key_bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden, activation)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class ClipMlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.c_proj(quick_gelu(self.c_fc(tokens)))
        return out


class ClipBlock(nn.Module):
    """Pre-norm block of CLIP's towers, as ViCLIP has them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = ClipMlp(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.ln_1(tokens)
        tokens = tokens + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        out: Tensor = tokens + self.mlp(self.ln_2(tokens))
        return out


class ClipTransformer(nn.Module):
    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ClipBlock(width, heads) for _ in range(depth))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            tokens = block(tokens, mask)
        return tokens
