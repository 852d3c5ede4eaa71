"""Sampling grids: where the cells of a square map lie, and maps looked up at such places.

Coordinates are those of torch's `grid_sample` with `align_corners=False`: −1 and 1 are the outer edges of the map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cell_centres(size: int, device: torch.device) -> Tensor:
    """Return the centres [size] of `size` cells that cover −1 to 1."""
    return (torch.arange(size, device=device) + 0.5) * (2 / size) - 1


def warp(latents: Tensor, grid: Tensor) -> Tensor:
    """Look up latents [B, C, H, W] at the places `grid` [B, h, w, 2]: [B, C, h, w]; edges are reflected."""
    return F.grid_sample(latents, grid.to(latents), padding_mode="reflection", align_corners=False)
