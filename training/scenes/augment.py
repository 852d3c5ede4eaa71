"""Augmentation of renders: random crops that are mirrored and bent, and masks that mix two sets of colours.

Shapes come in a few variants, which a small model can learn. Crops, mirroring and bending only move what an image
shows, so a model need not learn them; they make sure that no two renders of one prompt are alike.
"""

import cv2
import numpy as np

NEAREST = 1.4  # largest zoom
BEND = 0.04  # standard deviation of the displacement, in half image widths
KNOTS = 4  # knots a side; bending and colour masks are interpolated between them


def random_grid(seed: int, size: int) -> np.ndarray:
    """Draw a sampling grid: the place in the canonical image of each pixel of a crop, float32 [size, size, 2].

    x and y run from −1 to 1, from edge to edge of the image, as in torch's `grid_sample` with `align_corners=False`.
    Half of the grids are mirrored. Bending may lead over the edge; sample with reflection there.
    """
    rng = np.random.default_rng([seed, 4])
    share = 1 / rng.uniform(1, NEAREST)
    centre = rng.uniform(-1, 1, 2) * (1 - share)
    direction = rng.choice([-1, 1])
    knots = rng.normal(0, BEND, (KNOTS, KNOTS, 2)).astype(np.float32)
    axis = ((np.arange(size) + 0.5) * (2 / size) - 1) * share
    x, y = np.meshgrid(direction * axis + centre[0], axis + centre[1])
    bend = cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.stack([x, y], axis=2).astype(np.float32) + bend


def warp(image: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Sample an image [S, S, C] at the places of a grid [H, W, 2], reflected at its edges: [H, W, C]."""
    x, y = np.moveaxis((grid + 1) * (len(image) / 2) - 0.5, 2, 0)
    return cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def colour_mask(seed: int, size: int) -> np.ndarray:
    """Draw the share of the second set of colours in each pixel of a canonical image: 0…1, float32 [size, size].

    The knots lie from edge to edge. A third of them is 0 and a third is 1; the mask is linear between knots.
    """
    # a uniform number in −1…2, clipped, is 0 or 1 with probability 1/3 each
    knots = np.random.default_rng([seed, 5]).uniform(-1, 2, (KNOTS, KNOTS)).clip(0, 1)
    near = np.maximum(0, 1 - np.abs(np.linspace(0, KNOTS - 1, size)[:, None] - np.arange(KNOTS)))  # [size, KNOTS]
    return (near @ knots @ near.T).astype(np.float32)
