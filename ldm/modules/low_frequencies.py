"""Lowest frequencies of start noise: the standard-normal numbers in them, and a shape that all channels share.

The lowest frequencies change least between two recordings of one voice, so the prior decides by them.
"""

import math

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

from ldm.modules.grids import cell_centres

DCT_ORDER = 8  # frequencies in each direction that may hold a shape; audio/initial_noise.py writes the same ones
MAX_NORMAL = 5.0  # standard deviations; beyond them float32 rounds the cumulative probability to 1

# A shape counts as far as the channels are more similar than chance makes them: 0 = independent, 1 = equal.
CHANCE_SIMILARITY = 0.2  # reached by one noise in some thousands
SIMILARITY_RANGE = 0.1  # above it the shape fades in over this range


def square_means(x: Tensor, count: int) -> Tensor:
    """Average noise [B, C, H, W] over count × count squares: [B, C, count, count], scaled to N(0, 1) again."""
    return F.interpolate(x, (count, count), mode="area") * (math.sqrt(x.shape[2] * x.shape[3]) / count)


def leading_numbers(x_T: Tensor, count: int) -> Tensor:
    """Return the numbers from N(0, 1) that decide an image's layout, [B, C · count²], of noise [B, C, H, W].

    They are the Walsh-Hadamard transform of the means over count × count squares, the last channel first, so that each
    of them depends on a whole channel. The noise of a voice is made by the same transform (audio/orthogonal_map.py).
    """
    means = square_means(x_T, count).flatten(2).flip(1)  # [B, C, squares]
    transform = torch.ones(1, 1, device=x_T.device)
    while len(transform) < means.shape[2]:
        transform = torch.cat([torch.cat([transform, transform], 1), torch.cat([transform, -transform], 1)])
    return (means @ transform / math.sqrt(means.shape[2])).flatten(1)


def uniform(normal: Tensor) -> Tensor:
    """Map N(0, 1) to the uniform distribution on 0…1, by the cumulative probability."""
    return torch.special.ndtr(normal)


def gumbel(normal: Tensor) -> Tensor:
    """Map N(0, 1) to the standard Gumbel distribution, keeping the order."""
    return -(-uniform(normal.clamp(-MAX_NORMAL, MAX_NORMAL)).log()).log()


def dct_basis(size: int, device: torch.device) -> Tensor:
    """Return the first rows of the orthonormal DCT-II of `size` points: [DCT_ORDER, size]."""
    order = torch.arange(DCT_ORDER, device=device)[:, None]
    basis = (math.pi / 2 * order * (cell_centres(size, device) + 1)).cos() * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def common_shape(x_T: Tensor, height: int, width: int) -> Tensor:
    """Return the low-frequency shape that all channels of noise [B, C, H, W] share: [B, 1, height, width].

    It is 0 where the channels are no more similar than chance makes them. Its scale is that of noise of the given size.
    """
    down, across = (dct_basis(count, x_T.device) for count in x_T.shape[2:])
    low = einsum(down, x_T, across, "i h, b c h w, j w -> b c i j")
    low[..., 0, 0] = 0  # the mean would tint the whole image
    common = F.normalize(low.flatten(1), dim=1).unflatten(1, low.shape[1:]).sum(dim=1, keepdim=True)
    # the squared norm of the sum of C channels is 1 if they are independent, and C if they are equal
    similarity = (common.square().sum(dim=(2, 3), keepdim=True) - 1) / (low.shape[1] - 1)
    fade = ((similarity - CHANCE_SIMILARITY) / SIMILARITY_RANGE).clamp(0, 1)
    common = common * (DCT_ORDER / math.sqrt(low.shape[1])) * fade
    down, across = (dct_basis(count, x_T.device) for count in (height, width))
    return einsum(down, common, across, "i h, b c i j, j w -> b c h w")
