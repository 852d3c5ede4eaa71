"""Taste: what an image shows where its prompt leaves it open.

Weights of the values that the prior draws by chance; 1 is as often as in the training data, 0 never. They were chosen
by looking at all patterns in the colours of several voices: soft ones, such as clouds and plasma, look empty there, and
folded compositions carry any pattern.
"""

from collections.abc import Mapping
from typing import Any

from training.scenes.scenes import SHAPE_ATTRIBUTES

PATTERNS = {
    "mandala": 2.0, "feathers": 2.0, "scales": 2.0, "labyrinth": 2.0, "circles": 2.0, "kaleidoscope": 1.5,
    "contours": 1.5, "hexagons": 1.0, "fractal": 1.5, "spiral": 0.4, "rays": 1.0, "tunnel": 1.0, "polygons": 1.0,
    "triangles": 1.0, "zigzag": 1.0, "cells": 1.0, "rings": 0.7, "veins": 0.7, "mosaic": 0.3,
    "rosette": 0.3, "lattice": 0.3,
}  # fmt: skip  # others: 0
COMPOSITIONS = {
    "kaleidoscopic": 5.0, "mirrored": 2.0, "tiled": 2.0, None: 0.5, "centred": 0.3, "diagonal": 0.3, "offset": 0.2
}  # fmt: skip
MOODS = {"calm": 0.2, "dark": 0.3, "soft": 0.0, "dreamy": 0.0}  # others: 1


def taste_node() -> dict[str, list[float]]:
    """Return the weights of all values of three attributes, as the yaml of a model has them."""
    weights: dict[str, tuple[Mapping[Any, float], float]] = {
        "pattern": (PATTERNS, 0.0),
        "composition": (COMPOSITIONS, 1.0),
        "mood": (MOODS, 1.0),
    }
    return {
        name: [table.get(value, other) for value in SHAPE_ATTRIBUTES[name]] for name, (table, other) in weights.items()
    }
