"""How loud it is: the level meter, the end of speech, and what is wrong with a recording."""

from collections import deque

import numpy as np

import config
from audio.recorder import decibels

REFRESH = 1 / 15  # seconds between two pictures of the meter
BOTTOM_DBFS = -60.0  # the left end of the bar
LOWEST_DBFS = -99.0  # that is shown
HOLD = 1.5  # seconds that the peak mark stays where it is
FALL = 20.0  # dB a second that it falls after that
CLIP_SHOWN = 2.0  # seconds
NARROWEST_BAR, WIDEST_BAR = 10, 40  # characters
LOW_PEAK = 10 ** (-24 / 20)  # below it speech is used, but room noise is near

WINDOW = 0.05  # seconds of sound that are judged speech or silence
REMEMBERED = 10.0  # seconds of sound that the quietest of which is taken for the room
SPEECH_DBFS = -50.0  # nothing below it is speech
ABOVE_ROOM = 9.0  # dB that speech is louder than the room, unless ...
BELOW_LOUDEST = 12.0  # ... that is nearer to the loudest speech: a steady tone is no room
SPOKEN = 0.2  # seconds above the threshold that are speech, and not a key pressed


class Meter:
    """Level and peak of what is heard, as text, and what is known of the whole. All times are of the sound."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self.frames = 0
        self.peak = 0.0  # loudest sample, 1.0 is full scale
        self._clipped = 0  # frames
        self._energy = 0.0  # sum of squares
        self._window = (0.0, 0)  # sum of squares and frames since the last text
        self._held, self._held_since = 0.0, 0.0  # amplitude, seconds
        self._clipped_at = -CLIP_SHOWN

    def add(self, block: np.ndarray, clipped: int) -> None:
        """A block [T] float32, mono, `clipped` of whose frames are at full scale."""
        self.frames += block.size
        peak = float(np.abs(block).max(initial=0.0))
        energy = float(np.square(block, dtype=np.float64).sum())
        self.peak = max(self.peak, peak)
        self._energy += energy
        self._window = (self._window[0] + energy, self._window[1] + block.size)
        self._clipped += clipped
        if clipped:
            self._clipped_at = self.seconds
        if peak >= self._falling():
            self._held, self._held_since = peak, self.seconds

    @property
    def seconds(self) -> float:
        return self.frames / self._rate

    @property
    def clipped(self) -> float:
        """Share of the frames that are at full scale."""
        return self._clipped / max(self.frames, 1)

    @property
    def rms_dbfs(self) -> float:
        return decibels((self._energy / max(self.frames, 1)) ** 0.5)

    def _falling(self) -> float:
        """Amplitude of the peak mark now."""
        return self._held * 10 ** (-FALL * max(0.0, self.seconds - self._held_since - HOLD) / 20)

    def line(self, width: int) -> str:
        """The meter in at most `width` characters: a bar, and as many numbers as there is room for."""
        level, peak = self._levels()
        clip = "  CLIP" if self.seconds - self._clipped_at < CLIP_SHOWN else ""
        numbers = f"{level:6.1f} dBFS"
        fullest = f"{self.seconds:5.1f} s  {numbers}  peak {peak:6.1f}"
        room = width - len(fullest) - len("  []  CLIP")
        if room >= NARROWEST_BAR:
            return f"{fullest}  [{bar(level, peak, min(room, WIDEST_BAR))}]{clip}"
        shorter = (fullest, f"{self.seconds:.1f} s {numbers}", f"{level:.0f} dB")
        text = next((text for text in shorter if len(text + "  CLIP") <= width), "")
        return (text + clip)[:width]

    def plain(self) -> str:
        """The meter where lines stay."""
        level, peak = self._levels()
        clip = ", clipping" if self.seconds - self._clipped_at < CLIP_SHOWN else ""
        return f"{int(self.seconds)} s: level {level:.0f} dBFS, peak {peak:.0f} dBFS{clip}"

    def _levels(self) -> tuple[float, float]:
        """Level since the last call and held peak, dBFS."""
        energy, frames = self._window
        self._window = (0.0, 0)
        level, peak = decibels((energy / max(frames, 1)) ** 0.5), decibels(self._falling())
        return max(level, LOWEST_DBFS), max(peak, LOWEST_DBFS)

    # --- judging -----------------------------------------------------------------------------------------------------
    @property
    def silent(self) -> bool:
        return self.peak < config.QUIET_PEAK

    @property
    def fault(self) -> str:
        """Why no picture can be made of what was heard, or ""."""
        if self.seconds < config.SHORT_SECONDS:
            return f"That was {self.seconds:.2f} s, at least {config.SHORT_SECONDS} s are needed"
        if self.silent:
            return "Nothing was to be heard, is the microphone on"
        return ""

    @property
    def warning(self) -> str:
        """What makes it a poor start for a picture, or ""."""
        if self.clipped > config.CLIPPED_SHARE:
            return f"{self.clipped:.1%} of the samples are clipped; speak softer, or turn the microphone down"
        return ""

    def verdict(self) -> str:
        """Silent, low, good or clipping, and what to do."""
        if self.silent:
            return "silent: is the microphone on, and is it the right one (--list_mics)?"
        if self.warning:
            return f"clipping: {self.warning}"
        if self.peak < LOW_PEAK:
            return f"low: the loudest was {decibels(self.peak):.0f} dBFS; speak louder, or turn the microphone up"
        return f"good: the loudest was {decibels(self.peak):.0f} dBFS"


def bar(level: float, peak: float, width: int) -> str:
    """Levels in dBFS as `width` characters from BOTTOM_DBFS to 0: '#' up to the level, '|' at the peak."""

    def column(dbfs: float) -> int:
        return round(max(0.0, 1 - dbfs / BOTTOM_DBFS) * width)

    filled = min(column(level), width)
    marks = ["#"] * filled + ["-"] * (width - filled)
    if mark := min(column(peak), width):
        marks[mark - 1] = "|"
    return "".join(marks)


class SpeechEnd:
    """Notices silence after speech.

    A window of 50 ms is speech if it is ABOVE_ROOM dB louder than the quietest window of late, and in any case if it
    comes within BELOW_LOUDEST dB of the loudest.
    """

    def __init__(self, sample_rate: int, silence: float) -> None:
        """`silence`: seconds of it that end a recording."""
        self._size = round(WINDOW * sample_rate)
        self._after = silence
        self._rest = np.empty(0, np.float32)
        self._levels: deque[float] = deque(maxlen=round(REMEMBERED / WINDOW))  # dBFS
        self._loudest = -np.inf
        self._spoken = 0.0  # seconds
        self._quiet = 0.0  # seconds since the last speech

    def add(self, block: np.ndarray) -> None:
        """A block [T] float32, mono."""
        samples = np.concatenate([self._rest, block])
        whole = len(samples) // self._size * self._size
        for window in samples[:whole].reshape(-1, self._size):
            self._judge(decibels(float(np.sqrt(np.square(window, dtype=np.float64).mean()))))
        self._rest = samples[whole:]

    def _judge(self, level: float) -> None:
        self._levels.append(level)
        self._loudest = max(self._loudest, level)
        above_room = min(min(self._levels) + ABOVE_ROOM, self._loudest - BELOW_LOUDEST)
        if level > max(SPEECH_DBFS, above_room):
            self._spoken += WINDOW
            self._quiet = 0.0
        else:
            self._quiet += WINDOW

    @property
    def reached(self) -> bool:
        return self._spoken >= SPOKEN and self._quiet >= self._after
