"""The pre-norm transformer encoder of prompts; parameter names as in CompVis's BERT weights.

The names come from the x-transformers library: `attn_layers.layers` alternates attention and perceptron, each as an
entry [norm, block].
"""

import torch
from torch import Tensor, nn

from ldm.modules.attention import CrossAttention


class _Perceptron(nn.Module):
    """A perceptron of two layers with GELU, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # nested, and with a place for dropout, so that the keys are net.0.0 and net.2 as published
        self.net = nn.Sequential(
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU()), nn.Identity(), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _Attention(CrossAttention):
    """Self-attention whose output projection is `to_out`, not `to_out.0`."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__(dim, heads=heads, dim_head=dim_head)
        self.to_out = nn.Linear(heads * dim_head, dim)


class _Layer(nn.ModuleList):
    """A pair [norm, block]: the block acts on a normalised input and is added to it."""

    def forward(self, x: Tensor) -> Tensor:
        norm, block = self
        return x + block(norm(x))


class Encoder(nn.Module):
    """A stack of `depth` times attention and perceptron over tokens [B, N, dim]."""

    def __init__(self, dim: int, depth: int, heads: int = 8, dim_head: int = 64) -> None:
        super().__init__()
        blocks = [block for _ in range(depth) for block in (_Attention(dim, heads, dim_head), _Perceptron(dim))]
        self.layers = nn.ModuleList(_Layer([nn.LayerNorm(dim), block]) for block in blocks)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def random_embedding(count: int, dim: int, std: float) -> nn.Embedding:
    """Make a trainable embedding from N(0, std²), or without numbers on the meta device.

    Any arithmetic on the meta device, nn.Embedding's own initialisation too, imports torch's compiler for two seconds.
    """
    weight = torch.empty(count, dim)
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)
    return nn.Embedding.from_pretrained(weight, freeze=False)


class AbsolutePositionalEmbedding(nn.Module):
    """One learned vector for each position: [N, dim] for tokens [B, N]."""

    def __init__(self, dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.emb = random_embedding(max_seq_len, dim, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.emb(torch.arange(x.shape[1], device=x.device))


class TransformerWrapper(nn.Module):
    """From tokens [B, N] int64 to embeddings [B, N, dim]: token and position vectors, encoder, final norm."""

    def __init__(self, num_tokens: int, max_seq_len: int, dim: int, depth: int) -> None:
        super().__init__()
        self.token_emb = random_embedding(num_tokens, dim, std=1.0)
        self.pos_emb = AbsolutePositionalEmbedding(dim, max_seq_len)
        self.attn_layers = Encoder(dim, depth)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_emb(tokens)
        return self.norm(self.attn_layers(x + self.pos_emb(x)))
