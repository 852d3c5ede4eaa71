"""The level meter of a recording, the detection of the end of speech, and advice on the level.

Levels are those of sound above 90 Hz, because an offset, rumble and the hum of the mains are no voice. The end of
speech is judged above 250 Hz, where the lines of a hum are weak, and every voice has sound.
"""

from collections import deque

import numpy as np

import config
from audio.filters import HighPass
from audio.levels import dbfs

REFRESH = 1 / 15  # seconds between two updates of the display
HEARD_HZ, SPEECH_HZ = 90.0, 250.0  # what lies below is not measured, and does not count as speech
METER_ORDER = 6  # of its high-pass; higher orders ring longer
SETTLING = 0.1  # seconds at the beginning that are not measured: there a filter answers to the beginning itself
BOTTOM_DBFS = -60.0  # the left end of the bar
LOWEST_DBFS = -99.0  # lowest number that is shown
HOLD = 1.5  # seconds before the peak mark begins to fall
FALL = 20.0  # dB a second
CLIP_SHOWN = 2.0  # seconds that the clipping warning stays
NARROWEST_BAR, WIDEST_BAR = 10, 40  # characters
# dBFS of the loudest sample; quieter speech is close to the noise of the room, and louder speech nearly clips
LOWEST_GOOD, HIGHEST_GOOD = -20, -6

WINDOW = 0.05  # seconds; each window is classified as speech or silence
REMEMBERED = 10.0  # seconds; the quietest window within them is taken for the noise of the room
SPEECH_DBFS = -50.0  # quieter windows are never speech
ABOVE_ROOM = 9.0  # dB by which speech is louder than the room
BELOW_LOUDEST = 12.0  # dB; windows this close to the loudest are speech, or a held tone would count as the room
SPOKEN = 0.2  # seconds of speech needed before silence counts; a pressed key is shorter


class Meter:
    """Level and peak of a recording while it is made. All times are positions in the sound, not clock times."""

    def __init__(self, sample_rate: int) -> None:
        """Start with no sound; `sample_rate` in Hz."""
        self._rate = sample_rate
        self._heard = HighPass(sample_rate, HEARD_HZ, METER_ORDER)
        self.frames = 0
        self.peak = 0.0  # loudest sample of what is heard, 1.0 is full scale
        self._clipped = 0  # frames
        self._measured, self._energy = 0, 0.0  # frames, and the sum of their squares
        self._window = (0.0, 0)  # sum of squares and frames since the level was last shown
        self._held, self._held_since = 0.0, 0.0  # peak mark: amplitude, seconds
        self._clipped_at = -CLIP_SHOWN

    def add(self, block: np.ndarray, clipped: int) -> None:
        """Add a mono block [T], float32, of which `clipped` samples are at full scale."""
        self.frames += block.size
        heard = self._heard.add(block)[max(0, round(SETTLING * self._rate) - self.frames + block.size) :]
        peak = float(np.abs(heard).max(initial=0.0))
        energy = float(np.square(heard, dtype=np.float64).sum())
        self.peak = max(self.peak, peak)
        self._measured += heard.size
        self._energy += energy
        self._window = (self._window[0] + energy, self._window[1] + heard.size)
        self._clipped += clipped
        if clipped:
            self._clipped_at = self.seconds
        if peak >= self._falling():
            self._held, self._held_since = peak, self.seconds

    @property
    def seconds(self) -> float:
        """Length of the sound so far."""
        return self.frames / self._rate

    @property
    def clipped(self) -> float:
        """Share of the samples that are at full scale."""
        return self._clipped / max(self.frames, 1)

    @property
    def rms_dbfs(self) -> float:
        """Root-mean-square level of the whole sound."""
        return dbfs((self._energy / max(self._measured, 1)) ** 0.5)

    def _falling(self) -> float:
        """Return the amplitude of the peak mark: held for HOLD seconds, then falling."""
        return self._held * 10 ** (-FALL * max(0.0, self.seconds - self._held_since - HOLD) / 20)

    def line(self, width: int) -> str:
        """Return the meter in at most `width` characters: a bar, and as many numbers as fit."""
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
        """Return the meter as a line of a log."""
        level, peak = self._levels()
        clip = ", clipping" if self.seconds - self._clipped_at < CLIP_SHOWN else ""
        return f"{int(self.seconds)} s: level {level:.0f} dBFS, peak {peak:.0f} dBFS{clip}"

    def _levels(self) -> tuple[float, float]:
        """Return the level since the last call, and the peak mark, in dBFS."""
        energy, frames = self._window
        self._window = (0.0, 0)
        level, peak = dbfs((energy / max(frames, 1)) ** 0.5), dbfs(self._falling())
        return max(level, LOWEST_DBFS), max(peak, LOWEST_DBFS)

    # --- advice -------------------------------------------------------------------------------------------------------
    @property
    def silent(self) -> bool:
        """Whether nothing was louder than the noise of a sound card."""
        return self.peak < config.QUIET_PEAK

    @property
    def fault(self) -> str:
        """The reason why no image can be made, as a sentence, or ""."""
        if self.seconds < config.SHORT_SECONDS:
            return f"Only {self.seconds:.2f} s recorded; at least {config.SHORT_SECONDS} s are needed."
        if self.silent:
            return "No sound recorded. Is the microphone on?"
        return ""

    @property
    def warning(self) -> str:
        """Advice on a recording that is usable but could be better, or ""."""
        if self.clipped > config.CLIPPED_SHARE:
            return f"{self.clipped:.1%} of the samples are clipped; speak softer, or turn the microphone down"
        return ""

    def verdict(self) -> str:
        """Return whether the level is silent, low, good, high or clipping, and what to do."""
        if self.silent:
            return "silent: check that the microphone is on, and that it is the right one (--list_mics)"
        if self.warning:
            return f"clipping: {self.warning}"
        peak = round(dbfs(self.peak))
        measured = f"the loudest was {peak} dBFS ({LOWEST_GOOD} to {HIGHEST_GOOD} dBFS is good)"
        if peak < LOWEST_GOOD:
            return f"low: {measured}; speak louder, or turn the microphone up"
        if peak > HIGHEST_GOOD:
            return f"high: {measured}; speak softer, or turn the microphone down"
        return f"good: {measured}"


def bar(level: float, peak: float, width: int) -> str:
    """Draw levels in dBFS as `width` characters from BOTTOM_DBFS to 0: '#' up to the level, '|' at the peak."""

    def column(dbfs: float) -> int:
        return round(max(0.0, 1 - dbfs / BOTTOM_DBFS) * width)

    filled = min(column(level), width)
    marks = ["#"] * filled + ["-"] * (width - filled)
    if mark := min(column(peak), width):
        marks[mark - 1] = "|"
    return "".join(marks)


class SpeechEnd:
    """Detector of silence after speech.

    A window of 50 ms is speech if it is ABOVE_ROOM dB louder than the quietest recent window, or within BELOW_LOUDEST
    dB of the loudest one.
    """

    def __init__(self, sample_rate: int, silence: float) -> None:
        """Set how many seconds of `silence` end a recording."""
        self._heard = HighPass(sample_rate, SPEECH_HZ)
        self._size = round(WINDOW * sample_rate)
        self._after = silence
        self._rest = np.empty(0, np.float32)
        self._levels: deque[float] = deque(maxlen=round(REMEMBERED / WINDOW))  # dBFS
        self._loudest = -np.inf
        self._spoken = 0.0  # seconds of speech in all
        self._quiet = 0.0  # seconds since the last speech

    def add(self, block: np.ndarray) -> None:
        """Add a mono block [T], float32."""
        samples = np.concatenate([self._rest, self._heard.add(block)])
        whole = len(samples) // self._size * self._size
        for window in samples[:whole].reshape(-1, self._size):
            self._judge(dbfs(float(np.sqrt(np.square(window, dtype=np.float64).mean()))))
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
        """Whether there was speech, and then enough silence."""
        return self._spoken >= SPOKEN and self._quiet >= self._after
