"""Words for what is seen of a voice: its named qualities, and their places among other voices (audio/qualities.py).

A place tells how many of 100 voices in the calibration, of similar length, have less of a quality: of pitch, 83 says
that 83 of them are deeper. Of the duration, all voices count.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .qualities import NAMES, Heard
from .whitening import Whitening

WORDS = {  # of each quality: a voice of a low place, and one of a high place
    "pitch": ("deep", "high"),
    "brightness": ("dark", "bright"),
    "openness": ("closed", "open"),  # its vowels, as in "see" and "moon", or as in "far"
    "breadth": ("thin", "full"),
    "periodicity": ("breathy", "clear"),
    "harmonics": ("blurred", "ringing"),
    "duration": ("short", "long"),
    "motion": ("even", "lively"),
    "rise": ("darkening", "brightening"),
    "onset": ("swelling", "fading"),  # loud at the end, or at the beginning
}
MIDDLE = 50  # the place that half of all voices are below
FAR = 30  # places from the middle, from which a quality is worth a word: four of ten are, of an average voice
ORDINARY = "in the middle of all voices"
SCALE = "----------+----------"  # of a chart, with the middle
LONGEST_WORD = max(len(word) for pair in WORDS.values() for word in pair)


def places_of(whitening: Whitening, latents: np.ndarray, heard: Sequence[Heard] = ()) -> list[dict[str, float]]:
    """Find the places of voices among those of a calibration.

    Args:
        whitening: of the calibration that made the latents.
        latents: z-scores [B, C, H, W].
        heard: what the z-scores do not hold of each recording; none if it is not known.

    Returns:
        For each voice the name of each quality, in the order of `qualities.NAMES`, and its place, 0 to 100. Qualities
        that are not known are left out.

    Raises:
        ValueError: as `Whitening.whiten`.
    """
    values = whitening.measure(whitening.stretch(whitening.to_decibels(latents)), heard)
    rows = whitening.qualities.percentiles(values).tolist()
    return [{name: place for name, place in zip(NAMES, row, strict=True) if np.isfinite(place)} for row in rows]


def describe(places: Mapping[str, float]) -> str:
    """Say in one line what is clearly not as usual in a voice, the strongest first.

    An example is "lively (92 of 100), dark (13) and thin (13)". The line is "" if no place is known.
    """
    rounded = {name: round(places[name]) for name in NAMES if name in places}
    strongest = sorted(rounded, key=lambda name: -abs(rounded[name] - MIDDLE))
    said = [(word, rounded[name]) for name in strongest if (word := unusual_word(name, rounded[name]))]
    if not said:
        return ORDINARY if rounded else ""
    (word, place), *rest = said
    others = [f"{word} ({place})" for word, place in rest]
    parts = [f"{word} ({place} of 100)", *others]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if others else parts)


def unusual_word(name: str, place: float) -> str:
    """Return the word for a quality at a place that is clearly not as usual; "" for any other place."""
    low, high = WORDS[name]
    distance = round(place) - MIDDLE
    return "" if abs(distance) < FAR else high if distance > 0 else low


def chart(places: Mapping[str, float]) -> list[str]:
    """Draw places as lines of text: the words of a quality at both ends of a scale, and the place on it."""
    lines = []
    for name, place in places.items():
        low, high = WORDS[name]
        scale = list(SCALE)
        scale[round(place / 100 * (len(SCALE) - 1))] = "o"
        lines.append(f"{low:>{LONGEST_WORD}} {''.join(scale)} {high:{LONGEST_WORD}} {place:3.0f}")
    return lines
