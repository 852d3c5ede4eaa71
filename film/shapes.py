"""The shapes of a film: which one its start noise chooses, and for how long.

A model may choose among shapes by the highest score (`TransitionPainter.shape_scores`). Along a path the best one
changes several times a second, and each change would be a jump. A film keeps a shape until another one is better for
long enough, and then passes into it.
"""

import numpy as np

RATE = 8  # moments a second at which shapes are chosen
CHANGE = 6.0  # standard deviations × moments by which another shape must be better before it is worth a change


def steady(scores: np.ndarray, change: float = CHANGE) -> np.ndarray:
    """Choose a shape for each moment by scores [T, K]: [T], by dynamic programming (Viterbi 1967).

    The sum of the chosen scores is the highest that there is if each change of the shape costs `change`.
    """
    count, kinds = scores.shape
    came_from = np.empty((count, kinds), np.int32)
    total, same = np.zeros(kinds), np.arange(kinds, dtype=np.int32)
    for moment, row in enumerate(scores):
        best = int(total.argmax())
        changes = total[best] - change > total
        came_from[moment] = np.where(changes, best, same)
        total = np.where(changes, total[best] - change, total) + row
    chosen = np.empty(count, np.int64)
    last = int(total.argmax())
    for moment in range(count - 1, -1, -1):
        chosen[moment] = last
        last = came_from[moment, last]
    return chosen


def passing(chosen: np.ndarray, moments: np.ndarray, moment: float, seconds: float, kinds: int) -> np.ndarray:
    """Return the shares [K] float32 of the shapes at a moment, where shapes that are `chosen` pass into each other.

    Args:
        chosen: [T], the shape of each of `moments`.
        moments: [T] evenly spaced, seconds.
        moment: in seconds.
        seconds: a passage takes so long.
        kinds: number of shapes K.
    """
    spacing = (moments[-1] - moments[0]) / (len(moments) - 1)
    distance = (moments - moment) / spacing
    near = np.flatnonzero(np.abs(distance) < seconds / spacing + 1)
    # the share of a moment's shape is the part of the bell that is nearer to it than to the next moment
    edges = np.clip(np.stack([distance[near] - 0.5, distance[near] + 0.5]) * spacing * 2 / seconds, -1, 1)
    if near[0] == 0:
        edges[0, 0] = -1
    if near[-1] == len(moments) - 1:
        edges[1, -1] = 1
    below = (1 + edges + np.sin(np.pi * edges) / np.pi) / 2  # integral of the raised cosine
    shares = np.bincount(chosen[near], weights=below[1] - below[0], minlength=kinds)
    return (shares / shares.sum()).astype(np.float32)
