"""Views: how near, from where and how bent the shapes of a picture are seen, and where colours give way to others.

Shapes come in a few variants, which a small model can learn; views are endless, and need not be learned, since they
only move what is there. So no two pictures of the same prompt are alike.
"""

import cv2
import numpy as np

NEAREST = 1.4  # zoom
BEND = 0.04  # standard deviation of the displacement, half pictures
KNOTS = 4  # a side, between which the bending is interpolated, and the drift of colours


def view(seed: int, size: int) -> np.ndarray:
    """Where in the whole picture each pixel of a view of it lies: x and y in −1…1, float32 [size, size, 2].

    The coordinates are those of torch's `grid_sample` with `align_corners=False`: −1 and 1 are the edges of the
    picture. Half of the views are mirrored. Bending may lead over the edge, where the picture is to be reflected.
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


def seen(picture: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """What is at `coordinates` [H, W, 2] (of `view`) of a picture [S, S, C]: [H, W, C]."""
    x, y = np.moveaxis((coordinates + 1) * (len(picture) / 2) - 0.5, 2, 0)
    return cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def drift(seed: int, size: int) -> np.ndarray:
    """What part other colours have in each pixel of a whole picture whose colours drift: 0…1, float32 [size, size].

    At a third of the knots, which lie from edge to edge, none, and at a third all; between them it is interpolated.
    """
    knots = np.random.default_rng([seed, 5]).uniform(-1, 2, (KNOTS, KNOTS)).clip(0, 1)
    near = np.maximum(0, 1 - np.abs(np.linspace(0, KNOTS - 1, size)[:, None] - np.arange(KNOTS)))  # [size, KNOTS]
    return (near @ knots @ near.T).astype(np.float32)
