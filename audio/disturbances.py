"""Find and take off sound that nobody hears as a voice: a constant offset, rumble below 40 Hz, and hum of the mains.

The recipe measures all levels from the loudest cell of the spectrogram. Where one of these is that loud, the voice is
left out. A recording without them passes unchanged, to the bit.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .hum import Hum

RUMBLE_HZ = 40.0  # no voice reaches below
RUMBLE_CUTOFF_HZ = 55.0  # of the high-pass: 40 Hz is 33 dB down, the 80 Hz of the lowest voices lose 0.001 dB
SHOWN_DB = -23.0  # of the loudest cell of the vector: x_T is made of what is above -20 dB, together with the voice
CHANGED_DB = -40.0  # the same, in a recording that is changed anyway
OFFSET_STEADY_DB = 6.0  # an offset is there all the time: what is always there is hardly softer than the mean says
STEADY_SHARE, USUAL_SHARE = 0.1, 0.5  # share of the time that a steady sound, and wind, may be softer
HUM_BANDS = 5  # mel bands, up to 307 Hz, in which hum of the mains is loudest
NOTHING_LEFT = 5e-5  # root mean square, -86 dBFS: where no more is left, there was nothing else


@dataclass(frozen=True)
class LowLevels:
    """Levels of low sound in a spectrogram, in dB of the loudest cell of the vector that is made of it."""

    passing: float  # loudest cell of what lies below RUMBLE_HZ, in dB of the loudest of all else
    usual: float  # what it exceeds half of the time
    steady: float  # what it exceeds nearly always
    hum: float  # what one of the lowest bands exceeds nearly always
    loudest: float  # power of that cell


@dataclass(frozen=True)
class Disturbances:
    """Sound to take off; nothing for a clean recording."""

    offset: float = 0.0
    rumble: bool = False
    hum: "Hum | None" = None

    def __bool__(self) -> bool:
        return bool(self.offset or self.rumble or self.hum)

    def taken_off(self, blocks: Iterable[np.ndarray], sample_rate: int) -> Iterator[np.ndarray]:
        """Take them off samples [T] in blocks."""
        if self.offset:
            blocks = (block - np.float32(self.offset) for block in blocks)
        if self.rumble:
            from .filters import HighPass

            blocks = HighPass(sample_rate, RUMBLE_CUTOFF_HZ).filtered(blocks)
        if self.hum:
            from .hum import without_hum

            blocks = without_hum(blocks, sample_rate, self.hum)
        yield from blocks

    def names(self) -> str:
        """Name them, for people."""
        found = [f"a constant offset of {self.offset:.3g}"] if self.offset else []
        found += [f"rumble below {RUMBLE_HZ:.0f} Hz"] if self.rumble else []
        found += [f"hum of {self.hum.mains:.0f} Hz"] if self.hum else []
        return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def offset_level(offset: float, n_fft: int, weight: float, levels: LowLevels) -> float:
    """Return the level of an offset's cell in dB of the loudest cell of the vector.

    A Hann window spreads an offset over the lowest bins; `weight` is that of the first one in the lowest band.
    """
    return decibels((offset * n_fft / 4) ** 2 * weight, levels.loudest)


def decibels(power: float, reference: float) -> float:
    """Return the ratio of two powers in dB; -inf for no power."""
    if power <= 0:
        return -math.inf
    return 10 * math.log10(power / reference) if reference > 0 else math.inf
