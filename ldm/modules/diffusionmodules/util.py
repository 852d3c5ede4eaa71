"""Small parts of the U-Net and the autoencoder."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_PERIOD = 10_000  # timesteps / 2π, period of the slowest wave


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Embed timesteps `t` [B] by cosines and sines of `dim / 2` frequencies from 1 to 1 / MAX_PERIOD: [B, dim] float32.

    Vaswani et al. 2017, section 3.5, with the cosines first as the published weights expect.

    Raises:
        ValueError: `dim` is odd.
    """
    if dim % 2:
        raise ValueError(f"a timestep embedding needs an even width, got {dim}")
    half = dim // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


POSITION_CHANNELS = 29


def position_features(height: int, width: int, device: torch.device) -> Tensor:
    """Describe the position of each cell of a map, which a convolution alone cannot know: [29, height, width] float32.

    The channels are x, y and the distance r from the centre, where 1 is half of the shorter side; and sines and cosines
    of πx, 2πx, πy, 2πy, of πr, 2πr, 4πr, and of 1 to 6 times the angle. Rings, rays and tiles are simple sums of these.
    After "An Intriguing Failing of Convolutional Neural Networks and the CoordConv Solution" (Liu et al. 2018).
    """
    half = min(height, width) / 2
    down, right = ((torch.arange(n, dtype=torch.float32, device=device) + 0.5 - n / 2) / half for n in (height, width))
    y, x = torch.meshgrid(down, right, indexing="ij")
    radius, angle = torch.hypot(x, y), torch.atan2(y, x)
    plane = [math.pi * n * axis for axis in (x, y) for n in (1, 2)]
    phases = torch.stack([*plane, *(math.pi * n * radius for n in (1, 2, 4)), *(n * angle for n in range(1, 7))])
    return torch.cat([torch.stack([x, y, radius]), phases.sin(), phases.cos()])


def normal_parameter(*shape: int, std: float) -> nn.Parameter:
    """Make a parameter from N(0, std²); on the meta device without numbers, see `random_embedding`."""
    weight = torch.empty(*shape)
    return nn.Parameter(weight if weight.is_meta else nn.init.normal_(weight, std=std))


def zero_module(module: nn.Module) -> nn.Module:
    """Set all parameters of `module` to zero, so that a residual branch starts as nothing; return it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018, arXiv 1803.08494) over maps [B, C, H, W] in 32 groups.

    For channels-last maps below `SMALL` cells, torch's CPU kernel reads memory in strides. At [2, 128, 16, 16] in
    bfloat16 it takes four times as long as a conversion to contiguous memory, the kernel, and the conversion back.
    """

    SMALL = 1024  # cells, H · W; the limit at which torch changes its kernel

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(32, channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        strided = x.device.type == "cpu" and not x.is_contiguous() and x.shape[-2:].numel() < self.SMALL
        if not strided:
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


class Upsample(nn.Module):
    """Repetition that doubles height and width, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
