"""Loudness of samples, of which 1.0 is full scale."""

import math

import numpy as np

FULL_SCALE = 0.999  # a sample at or above this is as loud as its format can say
SILENCE_DBFS = -120.0  # dB of full scale, the level of no sound at all


def count_clipped(block: np.ndarray) -> int:
    """Count the frames of a block [T, channels] that are at full scale in any channel."""
    return int((np.abs(block) >= FULL_SCALE).any(axis=1).sum())


def dbfs(amplitude: float) -> float:
    """Convert an amplitude, or a root mean square, to dB of full scale."""
    return max(SILENCE_DBFS, 20 * math.log10(amplitude)) if amplitude > 0 else SILENCE_DBFS
