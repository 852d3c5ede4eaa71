"""Attention of the cells of a feature map to each other and to the words of a prompt.

"Attention Is All You Need" (Vaswani et al. 2017) inside a U-Net, as in "High-Resolution Image Synthesis with Latent
Diffusion Models" (Rombach et al. 2022, section 3.3 and appendix E.2.1).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.modules.diffusionmodules.util import GroupNorm, zero_module


class GEGLU(nn.Module):
    """`a · gelu(b)` of one projection `[a, b] = W x` (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, 2 * dim_out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """A gated two-layer perceptron on the last axis."""

    def __init__(self, dim: int, mult: int = 4) -> None:
        super().__init__()
        # index 1 was dropout in the published layout; the key of the last layer stays net.2
        self.net = nn.Sequential(GEGLU(dim, mult * dim), nn.Identity(), nn.Linear(mult * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class CrossAttention(nn.Module):
    """Multi-head attention of `x` [B, N, query_dim] to `context` [B, M, context_dim]; to itself without context.

    A prompt stays the same during all steps of sampling, so without gradients the keys and values of the last `context`
    are kept for the next call.
    """

    def __init__(self, query_dim: int, context_dim: int | None = None, heads: int = 8, dim_head: int = 64) -> None:
        super().__init__()
        inner_dim = heads * dim_head
        context_dim = context_dim or query_dim
        self.heads = heads
        self.to_q = nn.Linear(query_dim, inner_dim, bias=False)
        self.to_k = nn.Linear(context_dim, inner_dim, bias=False)
        self.to_v = nn.Linear(context_dim, inner_dim, bias=False)
        self.to_out: nn.Module = nn.Sequential(nn.Linear(inner_dim, query_dim))
        self._cached: tuple[Tensor, Tensor, Tensor] | None = None  # context, its keys and values

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        q = self._split(self.to_q(x))
        k, v = self._keys_values(x) if context is None else self._cached_keys_values(context)
        out = F.scaled_dot_product_attention(q, k, v)  # [B, heads, N, dim_head]
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)

    def _keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def _cached_keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return self._keys_values(context)
        # compared by identity: comparing values would cost a synchronisation with the device
        if self._cached is None or self._cached[0] is not context:
            self._cached = (context, *self._keys_values(context))
        return self._cached[1:]


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the prompt, perceptron; each acts on a normalised input and is added to it."""

    def __init__(self, dim: int, heads: int, dim_head: int, context_dim: int | None) -> None:
        super().__init__()
        self.attn1 = CrossAttention(dim, heads=heads, dim_head=dim_head)
        self.ff = FeedForward(dim)
        self.attn2 = CrossAttention(dim, context_dim, heads, dim_head)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the H·W cells of a feature map [B, C, H, W], added to it; starts as the identity."""

    def __init__(self, channels: int, heads: int, dim_head: int, depth: int, context_dim: int | None) -> None:
        super().__init__()
        inner_dim = heads * dim_head
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, inner_dim, 1)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(inner_dim, heads, dim_head, context_dim) for _ in range(depth)
        )
        self.proj_out = zero_module(nn.Conv2d(inner_dim, channels, 1))

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.proj_in(self.norm(x))
        tokens = rearrange(h, "b c h w -> b (h w) c")  # each cell is a token
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        h = rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])
        return x + self.proj_out(h)
