"""Sampling grids: where the cells of a square map lie, and maps looked up at such places.

Coordinates are those of torch's `grid_sample` with `align_corners=False`: −1 and 1 are the outer edges of the map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cell_centres(size: int, device: torch.device, count: int | None = None) -> Tensor:
    """Return the centres [count] of cells in a row around 0, of which `size`, the default of count, cover −1 to 1."""
    count = size if count is None else count
    return (torch.arange(count, device=device) + 0.5) * (2 / size) - count / size


def warp(latents: Tensor, grid: Tensor) -> Tensor:
    """Look up latents [B, C, H, W] at the places `grid` [B, h, w, 2]: [B, C, h, w]; edges are reflected."""
    return F.grid_sample(latents, grid.to(latents), padding_mode="reflection", align_corners=False)
