"""The pulse of a film: the image comes nearer where the sound is loud, and goes back slowly."""

import math

import numpy as np
from PIL import Image

NEAREST = 0.12  # of the width and height that is cut away at the loudest, with a pulse of 1
QUIET, LOUD = 20.0, 95.0  # percentiles of the loudness between which the zoom goes from 1 to the nearest
ATTACK, RELEASE = 0.06, 0.4  # seconds in which it comes nearer by 63 %, and goes back


def zooms(loudness: np.ndarray, fps: float, amount: float, loop: bool = False) -> np.ndarray:
    """Return the zoom [F] of each frame, 1 and above, from its loudness [F] in dB.

    Args:
        loudness: of the sound in each frame.
        fps: frames a second.
        amount: 0 = no pulse, 1 = strong.
        loop: after its end the film begins again.
    """
    low, high = np.percentile(loudness, [QUIET, LOUD])
    if not amount or high - low < 1:
        return np.ones(len(loudness))
    wanted = np.clip((loudness - low) / (high - low), 0, 1)
    rise, fall = (1 - math.exp(-1 / (fps * seconds)) for seconds in (ATTACK, RELEASE))
    level, levels = 0.0, np.empty(len(wanted))
    for _ in range(2 if loop else 1):  # the second round begins as the first one ends
        for frame, height in enumerate(wanted):
            level += (height - level) * (rise if height > level else fall)
            levels[frame] = level
    return 1 / (1 - NEAREST * amount * levels)


def zoomed(frame: np.ndarray, zoom: float) -> np.ndarray:
    """Return the middle of a frame [H, W, 3] uint8, enlarged by `zoom` to the same size."""
    if zoom == 1:
        return frame
    height, width = frame.shape[:2]
    x, y = (side * (1 - 1 / zoom) / 2 for side in (width, height))
    box = (x, y, width - x, height - y)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box))
