"""From an embedded prompt to the attributes of the image that it describes."""

from collections.abc import Sequence

import torch
from einops import einsum
from torch import Tensor, nn


class PromptReader(nn.Module):
    """Reads from a prompt how probable each value of each attribute is (pattern, figure, first colour, …).

    Each attribute attends to the words that concern it. A mean over all words learns many times as slowly.

    Args:
        context_dim: width of the prompt's embedding.
        attributes: number of values of each attribute.
    """

    GAIN = 4.0  # on the attention weights, so that they are learned as fast as the rest

    def __init__(self, context_dim: int, attributes: Sequence[int]) -> None:
        super().__init__()
        self.attributes = list(attributes)
        self.told = nn.Linear(context_dim, sum(attributes))  # logits of each word; the name is a state-dict key
        self.relevance = nn.Linear(context_dim, len(self.attributes))

    def scores(self, context: Tensor) -> list[Tensor]:
        """Return the logits [B, values] of each attribute for prompts [B, M, context_dim]."""
        logits = self.told(context).split(self.attributes, dim=2)
        weights = self.GAIN * self.relevance(context).softmax(dim=1)
        return [einsum(w, v, "b m, b m v -> b v") for w, v in zip(weights.unbind(dim=2), logits, strict=True)]

    def forward(self, context: Tensor) -> Tensor:
        """Return probabilities [B, sum of values]; those of each attribute sum to 1."""
        return torch.cat([scores.float().softmax(dim=1) for scores in self.scores(context)], dim=1)
