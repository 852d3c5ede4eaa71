"""Find where a recording is spoken: silence, and what else is no voice, at both ends.

Who presses a key, waits, speaks, waits and presses again gives a recording of which one fifth is voice. The spectrogram
of 64 columns would spend a fifth of its columns on it. So silence is cut off before the columns are made.

1. The level of a window is the mean over its mel bands of how many dB each band is above the room's own noise there,
   the level that the band exceeds nearly always. So a loud hum counts as little as a faint hiss.
2. Where this level is high, somebody may speak: in *runs* of windows. Runs with short pauses between them belong
   together, in *parts*.
3. A voice is periodic. A part that hardly is, beside one that is, is a cough or a chair. A run at either end that is
   short and not periodic, and apart from the rest, is the click of a key.
4. With a margin, this is what is spoken. Of its squared level above a floor, 2 % are cut off at either end, because an
   edge by share moves less with noise than one by threshold.

models/calibration/README.md gives figures.
"""

from collections.abc import Sequence

import numpy as np

QUIET_SHARE = 0.15  # of the time, in which a band is at the level of the room's noise
QUIET_MARGIN_DB = 3.0  # above it; noise fluctuates
DEPTH_DB = 80.0  # below the loudest cell nothing is looked at
LOWEST_BANDS = 2  # are left out: rumble, hum
LOUDEST_WINDOWS = 8  # the softest of these has the level of the voice
THRESHOLD_SHARE = 0.15  # of the way from the level of pauses to that of the voice
DEVIATIONS = 4  # median absolute deviations of the level of pauses
LONGEST_PAUSE = 0.45  # seconds within a part
PERIODIC = 0.6  # periodicity from which a window is voiced
FEWEST_VOICED, VOICED_SHARE = 3, 0.2  # windows, and share of the windows, of a part that is voice
LEAST_PART = 0.1  # of the weight of the heaviest part
CLICK, APART = 0.15, 0.12  # seconds: a click lasts less than the first, and is the second or more from the voice
MARGIN = 0.37  # seconds
EDGE_FLOOR_DB, EDGE_SHARE = 20.0, 0.02
SHORTEST = 12  # windows, 0.28 s; a shorter recording has no silence to cut off

Span = tuple[int, int]  # first window, and the one after the last


def spoken(power: np.ndarray, periodicity: np.ndarray, windows_per_second: float) -> Span:
    """Find what is spoken in a recording.

    Args:
        power: of mel bands, [T, bands].
        periodicity: of the same windows, [T], 0 to 1; see `pitch.find_pitch`.
        windows_per_second: of them.

    Returns:
        The first window, and the one after the last; all of them where there is nothing to cut off.
    """
    windows = len(power)
    if windows < SHORTEST or not power.max() > 0:
        return 0, windows
    first, stop = _loud_parts(power, periodicity, windows_per_second)
    margin = round(MARGIN * windows_per_second)
    first, stop = max(0, first - margin), min(windows, stop + margin)
    start, end = energy_bounds(power[first:stop])
    return _at_least(SHORTEST, first + int(start) - 1, first + int(np.ceil(end)) + 1, windows)


def energy_bounds(power: np.ndarray) -> tuple[float, float]:
    """Find where a voice begins and ends in power [T, bands]: two places in windows, with fractions.

    Before the first and after the second lies EDGE_SHARE each of the squared level above the floor.
    """
    level = 10 * np.log10(np.maximum(power, power.max() * 1e-9))
    above = np.maximum(level - level.max() + EDGE_FLOOR_DB, 0)
    passed = np.concatenate(([0.0], np.cumsum((above * above).sum(axis=1, dtype=np.float64))))
    start, end = np.interp([EDGE_SHARE, 1 - EDGE_SHARE], passed / passed[-1], np.arange(len(passed)))
    return float(start), float(end)


def _at_least(length: int, first: int, stop: int, windows: int) -> Span:
    """Widen a span to at least `length` windows, within the recording."""
    lacking = max(0, length - (stop - first))
    first = max(0, first - (lacking + 1) // 2)
    return first, min(windows, max(stop + lacking // 2, first + length))


def _loud_parts(power: np.ndarray, periodicity: np.ndarray, windows_per_second: float) -> Span:
    """Find the span of the parts that are voice, without clicks at its ends; see the module."""
    level = _level(power)
    threshold = _threshold(level)
    runs = _runs(level > threshold)
    if not runs:
        return 0, len(power)
    voiced = periodicity > PERIODIC
    weight = np.maximum(level - threshold, 0)
    kept = _voices(_joined(runs, LONGEST_PAUSE * windows_per_second), weight, voiced)
    first, stop = kept[0][0], kept[-1][1]
    inner = [run for run in runs if first <= run[0] and run[1] <= stop]
    return _without_clicks(inner, voiced, windows_per_second)


def _level(power: np.ndarray) -> np.ndarray:
    """Compute how far each window is above the room's own noise: dB, the mean over the mel bands, smoothed: [T]."""
    level = 10 * np.log10(np.maximum(power[:, LOWEST_BANDS:], power.max() * 10 ** (-DEPTH_DB / 10)))
    quiet = np.quantile(level, QUIET_SHARE, axis=0) + QUIET_MARGIN_DB
    above = np.maximum(level - quiet, 0).mean(axis=1)
    padded = np.pad(above, 1, mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _threshold(level: np.ndarray) -> float:
    """Return the level [T] above which somebody may speak, from those of pauses and of the voice."""
    ordered = np.sort(level)
    voice = ordered[-min(LOUDEST_WINDOWS, len(level) // 2)]
    pauses = ordered[: max(4, len(level) // 2)]
    pause = float(np.median(pauses))
    deviation = float(np.median(np.abs(pauses - pause)))
    reach = float(voice) - pause
    return pause + min(max(THRESHOLD_SHARE * reach, DEVIATIONS * deviation, 1.0), 0.5 * reach)


def _runs(loud: np.ndarray) -> list[Span]:
    changes = np.flatnonzero(np.diff(np.concatenate(([False], loud, [False])).astype(np.int8)))
    return [(int(first), int(stop)) for first, stop in changes.reshape(-1, 2)]


def _joined(runs: Sequence[Span], longest_pause: float) -> list[Span]:
    parts = [runs[0]]
    for first, stop in runs[1:]:
        if first - parts[-1][1] <= longest_pause:
            parts[-1] = parts[-1][0], stop
        else:
            parts.append((first, stop))
    return parts


def _voices(parts: Sequence[Span], weight: np.ndarray, voiced: np.ndarray) -> list[Span]:
    """Choose the parts that are voice; if none is, as when somebody whispers, the heavy ones."""
    loud = weight > 0
    counts = [(int((voiced & loud)[first:stop].sum()), int(loud[first:stop].sum())) for first, stop in parts]
    are_voiced = [count >= max(FEWEST_VOICED, VOICED_SHARE * of) for count, of in counts]
    candidates = [part for part, is_voiced in zip(parts, are_voiced, strict=True) if is_voiced] or list(parts)
    heaviest = max(weight[first:stop].sum() for first, stop in candidates)
    return [(first, stop) for first, stop in candidates if weight[first:stop].sum() >= LEAST_PART * heaviest]


def _without_clicks(runs: list[Span], voiced: np.ndarray, windows_per_second: float) -> Span:
    """Take off short runs without voice at either end that stand apart from the next run."""

    def is_click(run: Span, distance: int) -> bool:
        short = run[1] - run[0] <= CLICK * windows_per_second
        return short and not voiced[run[0] : run[1]].any() and distance >= APART * windows_per_second

    while len(runs) > 1 and is_click(runs[0], runs[1][0] - runs[0][1]):
        runs = runs[1:]
    while len(runs) > 1 and is_click(runs[-1], runs[-1][0] - runs[-2][1]):
        runs = runs[:-1]
    return runs[0][0], runs[-1][1]
