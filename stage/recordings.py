"""Recordings of visitors while they are made: pieces from a browser, or the microphone of this machine."""

import io
import secrets
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

import config
from audio import recorder
from audio.levels import count_clipped, dbfs
from audio.recorder import Microphone
from live.meter import LOWEST_GOOD, Meter
from stage.access import Refusal

BEFORE, AFTER = 0.3, 0.1  # seconds that a page records before the press and after the release
MOST_PIECE = 1 << 18  # bytes of one piece, 1.3 s of mono sound at 96 kHz
RATES = (8_000, 192_000)  # Hz
SAMPLE_BYTES = 2
BAR = 0.02  # seconds of sound that a bar of a waveform stands for
BARS = 120  # of a whole recording, at most
ENDING = 2.0  # seconds in which the microphone of this machine has to end

OnBars = Callable[[list[int]], None]  # called with the newest bars, 0 to 100


class Loudness:
    """The waveform of a recording as bars: the peak of each BAR seconds, 0 at −60 dBFS or less, 100 at full scale."""

    def __init__(self, sample_rate: int) -> None:
        """Start with no sound; `sample_rate` in Hz."""
        self._size = max(1, round(BAR * sample_rate))
        self._rest = np.empty(0, np.float32)
        self._bars: list[int] = []

    def add(self, block: np.ndarray) -> list[int]:
        """Add a mono block [T], float32; return the bars that it completes."""
        samples = np.concatenate([self._rest, block])
        whole = len(samples) // self._size * self._size
        peaks = np.abs(samples[:whole].reshape(-1, self._size)).max(axis=1, initial=0.0)
        bars = np.clip(100 + 20 * np.log10(np.maximum(peaks, 1e-6)) / 0.6, 0, 100).astype(int).tolist()
        self._rest = samples[whole:]
        self._bars += bars
        return bars

    def whole(self) -> list[int]:
        """Return at most BARS bars for all of the sound: the loudest of each stretch."""
        if not self._bars:
            return []
        return [int(part.max()) for part in np.array_split(self._bars, min(BARS, len(self._bars)))]


class Upload:
    """A recording that a browser sends in pieces; it is on disk as it comes."""

    def __init__(self, path: Path, max_seconds: float, on_bars: OnBars) -> None:
        """Prepare the file `path`, which is made with the first piece."""
        self.id = secrets.token_urlsafe(12)
        self.path = path
        self.meter: Meter | None = None
        self.loudness: Loudness | None = None
        self.next = 0  # number of the piece that is awaited
        self.touched = time.monotonic()  # when the last piece came
        self.note = ""  # about it, for the artist
        self.margin = BEFORE + AFTER  # seconds that are not part of the press
        self._most = max_seconds + self.margin
        self._on_bars = on_bars
        self._rate = 0
        self._wav: wave.Wave_write | None = None
        self._ended = False
        self._lock = threading.Lock()

    def add(self, number: int, body: bytes) -> None:
        """Write piece `number`, a wav file of 16-bit mono sound; one that came before is left out.

        Raises:
            Refusal: it is no such file, or pieces before it are missing.
            OSError: it cannot be written.
        """
        with self._lock:
            self._add(number, body)

    def _add(self, number: int, body: bytes) -> None:
        self.touched = time.monotonic()
        if self._ended:
            raise Refusal("unknown", 410)
        if number < self.next:
            return
        if number > self.next:
            raise Refusal("piece missing")
        samples, rate = _read_wav(body)
        meter = self._open(rate)
        room = max(0, round(self._most * rate) - meter.frames)
        samples = samples[:room]
        assert self._wav and self.loudness
        self._wav.writeframes(samples.tobytes())  # also brings the header up to date
        self._file.flush()
        block = samples.astype(np.float32) / 32768
        meter.add(block, count_clipped(block[:, None]))
        self.next += 1
        if bars := self.loudness.add(block):
            self._on_bars(bars)

    def _open(self, rate: int) -> Meter:
        if self.meter is None:
            self._rate = rate
            self._file = self.path.open("xb")
            self._wav = wave.open(self._file, "wb")  # noqa: SIM115 (closed by `end`)
            self._wav.setnchannels(1)
            self._wav.setsampwidth(SAMPLE_BYTES)
            self._wav.setframerate(rate)
            self.meter, self.loudness = Meter(rate), Loudness(rate)
        if rate != self._rate:
            raise Refusal("not a recording", 415)
        return self.meter

    def end(self) -> None:
        """Close the file.

        Raises:
            OSError: its end cannot be written.
        """
        with self._lock:
            self._ended = True
            if self._wav:
                wav, self._wav = self._wav, None
                try:
                    wav.close()
                finally:
                    self._file.close()


def _read_wav(body: bytes) -> tuple[np.ndarray, int]:
    """Return the samples [T] int16 and the rate of a wav file.

    Raises:
        Refusal: it is something else.
    """
    try:
        with wave.open(io.BytesIO(body)) as file:
            rate, form = file.getframerate(), (file.getnchannels(), file.getsampwidth(), file.getcomptype())
            frames = file.readframes(len(body))
    except (wave.Error, EOFError, ValueError, ZeroDivisionError):
        raise Refusal("not a recording", 415) from None
    if form != (1, SAMPLE_BYTES, "NONE") or not RATES[0] <= rate <= RATES[1] or len(frames) % SAMPLE_BYTES:
        raise Refusal("not a recording", 415)
    return np.frombuffer(frames, "<i2"), rate


class MachineRecording:
    """A recording from the microphone of this machine, made by a thread of its own."""

    def __init__(self, path: Path, microphone: Microphone, max_seconds: float, on_bars: OnBars) -> None:
        """Start to record to `path`, a new file."""
        self.id = secrets.token_urlsafe(12)
        self.path = path
        self.next = 0
        self.touched = time.monotonic()
        self.margin = 0.0
        self.note = ""
        self._microphone = microphone
        self.meter: Meter | None = Meter(microphone.sample_rate)
        self.loudness: Loudness | None = Loudness(microphone.sample_rate)
        self._most, self._on_bars = max_seconds, on_bars
        self._stop, self._started = threading.Event(), threading.Event()
        self._failure: Exception | None = None
        self.broke = False  # the microphone ended, or gave no sound: it may be another one next time
        self._thread = threading.Thread(target=self._record, daemon=True)
        self._thread.start()

    def _record(self) -> None:
        assert self.meter and self.loudness
        meter, loudness = self.meter, self.loudness

        def on_block(block: np.ndarray, clipped: int) -> None:
            self.touched = time.monotonic()
            meter.add(block, clipped)
            self._on_bars(loudness.add(block))

        def stop() -> bool:
            return self._stop.is_set() or meter.seconds >= self._most

        try:
            recording = recorder.record(self.path, self._microphone, stop, self._started.set, on_block)
            self.note = recording.ended_by or recording.note
            self.broke = bool(recording.ended_by) or meter.silent
        except Exception as error:  # `end` raises it in the thread that asks
            self._failure = error
            self.broke = True
        finally:
            self._started.set()

    def wait_until_started(self) -> None:
        """Wait until the microphone delivers, so that nothing is lost of what a visitor says after that."""
        self._started.wait(recorder.FIRST_SOUND)

    def end(self) -> None:
        """End the recording.

        Raises:
            MicrophoneError: no sound came.
            OSError: it cannot be written.
        """
        self._stop.set()
        self._thread.join(recorder.FIRST_SOUND + ENDING)
        if self._failure:
            raise self._failure


Recording = Upload | MachineRecording


def verdict(recording: Recording) -> tuple[str, str]:
    """Judge a finished recording; return the code of what makes it unusable, and that of advice ("": none)."""
    meter = recording.meter
    if meter is None or meter.seconds - recording.margin < config.SHORT_SECONDS:
        return "short", ""
    if meter.silent:
        return "silent", ""
    if meter.warning:
        return "", "clipped"
    return "", "quiet" if round(dbfs(meter.peak)) < LOWEST_GOOD else ""
