"""The pace of a film: it goes on quickly where the sound changes, and slowly where it stays the same.

Windows of some seconds overlap, so the path alone follows an average over seconds and knows no onset. A film therefore
goes along its path at a pace of its own: how much an image changes from one frame to the next follows how much the
sound changes meanwhile. It stays within three quarters of a second of the recording.
"""

from collections.abc import Sequence

import numpy as np

SLOWEST, FASTEST = 0.35, 2.0  # changes of an image where the sound stays the same, and where it changes most; mean 1
LOUD = 90.0  # percentile of the changes of the sound from which on the pace is the fastest
COMPRESSION = 0.5  # exponent of the changes of the sound, which is still most of the time
AVERAGE = 20.0  # seconds in which an image changes as much as it would at an even pace
AHEAD = 0.75  # seconds by which a film may be ahead of the recording, or behind it
FINE = 8  # moments a frame among which each frame chooses
LEAP = 3  # frames of the recording that a film may go on from one frame to the next
STILL = 1e-3  # of the mean change, added to all: in silence the image does not change at all
STRAY = 1e-3  # cost of being as far from the recording as allowed; that of standing still for a frame is 1


def pace_of(changes: np.ndarray) -> np.ndarray:
    """Return the pace [F] for changes of the sound [F], 0 and above, in any unit."""
    top = np.percentile(changes, LOUD) if len(changes) else 0.0
    if not top > 0:
        return np.ones(len(changes))
    return SLOWEST + (FASTEST - SLOWEST) * np.clip(changes / top, 0, 1) ** COMPRESSION


def frames_of_sound(flux: np.ndarray, rate: float, count: int, fps: float) -> np.ndarray:
    """Average a measure of the sound, `rate` times a second, over each of `count` frames; 0 after its end."""
    edges = np.round(np.arange(count + 1) * rate / fps).astype(int)
    total = np.concatenate([[0], np.cumsum(flux, dtype=np.float64)])
    edges = np.minimum(edges, len(flux))
    return np.diff(total[edges]) / np.maximum(np.diff(edges), 1)


def paced(lengths: np.ndarray, pace: np.ndarray, fps: float) -> np.ndarray:
    """Return the moment [F] that each frame shows, in frames from the beginning of the recording.

    They rise, they lie within AHEAD of the frame itself, and the changes of the image from one to the next differ least
    from what the pace asks for (dynamic programming): the sum of their squared differences, each over what is asked
    for, so that slow frames do not stand still. The first and the last frame show themselves.

    Args:
        lengths: [F − 1], how much the image changes from each frame to the next at an even pace, in any unit.
        pace: [F − 1].
        fps: frames a second.
    """
    count = len(lengths) + 1
    if count < 3 or not lengths.any():
        return np.arange(count, dtype=float)
    lengths = lengths + STILL * lengths.mean()
    width = round(AVERAGE * fps)
    wanted = pace * average(lengths, width) / average(pace, width)
    return _choose(np.concatenate([[0], np.cumsum(lengths)]), wanted, max(1, round(AHEAD * fps * FINE)))


def _choose(covered: np.ndarray, wanted: np.ndarray, most: int) -> np.ndarray:
    """Choose moments [F] by the way `covered` [F] at an even pace, and that `wanted` [F − 1] of each frame."""
    count, offsets = len(covered), np.arange(-most, most + 1)  # offsets in 1 / FINE frames
    frames, scale = np.arange(count), wanted.mean()
    stray = STRAY * (offsets / most) ** 2
    cost = np.where(offsets == 0, 0.0, np.inf)
    came_by = np.zeros((count, len(offsets)), np.int8)
    # changes of the offset; the frame itself goes on by one, and with few frames a second there are few offsets
    shifts = range(max(1 - FINE, 1 - len(offsets)), min((LEAP - 1) * FINE + 1, len(offsets)))
    before = np.interp(offsets / FINE, frames, covered)
    for frame in range(1, count):
        here = np.interp(frame + offsets / FINE, frames, covered)
        best = np.full(len(offsets), np.inf)
        for shift in shifts:
            to, since = _overlap(shift, len(offsets))
            misses = cost[since] + (here[to] - before[since] - wanted[frame - 1]) ** 2 / (wanted[frame - 1] * scale)
            better = misses < best[to]
            best[to][better], came_by[frame, to][better] = misses[better], shift
        moments = frame + offsets / FINE
        cost = np.where((moments >= 0) & (moments <= count - 1), best + stray, np.inf)
        before = here
    place, moments = most, np.empty(count)  # the last frame shows itself
    for frame in range(count - 1, -1, -1):
        moments[frame] = frame + offsets[place] / FINE
        place -= int(came_by[frame, place])
    return moments


def _overlap(shift: int, length: int) -> Sequence[slice]:
    """Return the slices of two arrays that lie over each other if the second one is shifted."""
    low, high = max(0, shift), min(length, length + shift)
    return slice(low, high), slice(low - shift, high - shift)


def average(values: np.ndarray, width: int) -> np.ndarray:
    """Average values [F] with the weights of a raised cosine, half of whose length is `width`."""
    window = np.hanning(2 * min(width, len(values) - 1) + 3)[1:-1]
    half = len(window) // 2
    padded = np.convolve(values, window)[half : half + len(values)]
    return padded / np.convolve(np.ones(len(values)), window)[half : half + len(values)]
