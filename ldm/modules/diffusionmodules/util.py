"""Small pieces that the U-Net is made of."""

import math

import torch
from torch import Tensor, nn


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines and sines of the timesteps `t` [B] at `dim / 2` frequencies from 1 to 1 / max_period: [B, dim] float32.

    Vaswani et al. 2017, section 3.5, with the cosines first as the published weights expect.

    Raises:
        ValueError: an odd `dim`.
    """
    if dim % 2:
        raise ValueError(f"a timestep embedding needs an even width, not {dim}")
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def zero_module(module: nn.Module) -> nn.Module:
    """`module` with all its parameters at zero, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
