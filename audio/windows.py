"""Latents along a recording: one for each window of a few seconds, one window every hop.

Each window is a recording of its own: its latents equal those of a file that holds these samples, to the bit. So
windows that overlap share nothing but the decoding: resampling, channels and what disturbs are decided anew for each.
The recording is read once, block by block, and memory does not grow with it.

A window in which there is nothing to hear, or only what a pause leaves of a room, gets the latents of the last window
with sound, or of the first one where none came before.

Their file is one of latents [N, 4, 32, 32] as any other (`provenance.py`), with one more record: when each window
begins, how long they are, and which recording they are of.
"""

import collections
import contextlib
import errno
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .calibration import Calibration, to_latents
from .decoding import open_sound
from .features import Features, extract
from .files import atomic_path, sha256_of
from .provenance import note, read_latents, read_record, recording_name, statistics_sha256
from .qualities import UNHEARD, Heard
from .recipe import RECIPE, Recipe
from .sound import AudioError, Silent, Sound, naming
from .torch_zip import write_tensor

WINDOW, HOP = 3.0, 0.25  # seconds
SHORTEST_WINDOW, LONGEST_WINDOW = 0.1, 60.0  # seconds
SHORTEST_HOP, LONGEST_HOP = 0.01, 60.0  # seconds
MOST_SAMPLES = 1 << 25  # of all channels, in a window: 128 MB
PAUSE_DB = -50.0  # loudest cell of a window's spectrogram, against that of the recording: below, it is a pause
MOST_THREADS = 8
ROWS_AT_ONCE = 256  # windows that are copied together: 4 MB
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a disk, or of what a user may have of it
WINDOWS = "windows.json"  # the record
LONGEST_RECORD = 64_000_000  # bytes: the times of some million windows
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Timeline:
    """Windows of a recording."""

    times: np.ndarray  # [N] float64, seconds: when each window begins
    window: float  # seconds, the length of each window
    hop: float  # seconds from the beginning of one window to that of the next
    sha256: str  # of the recording's file
    seconds: float  # length of the recording
    channel: int | None  # the one that was heard, from 1; None: see `features.extract`


@dataclass(frozen=True, eq=False)
class Windows(Timeline):
    """Latents along a recording."""

    latents: np.ndarray  # [N, 4, 32, 32] float32: z-scores


def read_windows(path: Path) -> Windows:
    """Read latents along a recording from a .pt file; nothing in the file is executed.

    Raises:
        ValueError: the file holds something else, latents without times, or damaged ones.
        OSError: it cannot be read.
    """
    latents = read_latents(path).numpy()
    try:
        about = json.loads(read_record(path, WINDOWS, LONGEST_RECORD))
    except Exception as error:  # no zip archive, no such record, or damage, for which zipfile raises nearly any error
        raise ValueError(
            f"{path} holds {len(latents)} latents without times; latents along a recording are needed"
        ) from error
    if (found := _checked(about, latents)) is None:
        raise ValueError(f"{path} holds times that do not fit its {len(latents)} latents: make it again")
    return found


def _checked(about: object, latents: np.ndarray) -> Windows | None:
    """Put latents and what their record says together; None if the record holds anything else."""
    if not isinstance(about, dict):
        return None
    try:
        times = np.array(about["times"], np.float64)
        window, hop, seconds = (float(about[name]) for name in ("window", "hop", "seconds"))
        sha256, channel = about["recording_sha256"], about.get("channel")  # earlier versions kept no channel
    except (TypeError, ValueError, KeyError, OverflowError, RecursionError):
        return None
    if times.shape != (len(latents),) or not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
        return None
    if not (_usable(window, hop) and np.isfinite(times).all() and times[0] >= 0):
        return None
    if channel is not None and (type(channel) is not int or channel < 1):
        return None
    # the windows bear out the length of the recording, so that a file cannot ask for a film of a million hours
    steps = np.diff(times, prepend=0)
    even = (steps[1:] > 0).all() and (steps <= hop + SHORTEST_HOP).all()
    fits = even and times[-1] < seconds <= times[-1] + window + hop + SHORTEST_HOP
    return Windows(times, window, hop, sha256, seconds, channel, latents) if fits else None


def _usable(window: float, hop: float) -> bool:
    return SHORTEST_WINDOW <= window <= LONGEST_WINDOW and SHORTEST_HOP <= hop <= LONGEST_HOP


def write_windows(
    path: Path,
    timeline: Timeline,
    shape: tuple[int, int, int],
    blocks: Iterable[np.ndarray],
    statistics: str | None,
    names: Sequence[str] = (),
    heard: Sequence[Heard] = (),
) -> None:
    """Write latents along a recording to the .pt file `path` atomically; memory does not grow with their number.

    Args:
        path: of the file.
        timeline: the windows.
        shape: of the latents of one window, (4, 32, 32).
        blocks: the latents of all windows, arrays [n, 4, 32, 32] float32.
        statistics: see `provenance.save_latents`.
        names: see `provenance.save_latents`.
        heard: see `provenance.save_latents`.

    Raises:
        OSError: the file cannot be written.
    """
    record = {
        "window": timeline.window,
        "hop": timeline.hop,
        "seconds": timeline.seconds,
        "recording_sha256": timeline.sha256,
        "times": timeline.times.tolist(),
        "channel": timeline.channel,
    }
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            write_tensor(file, (len(timeline.times), *shape), blocks)
        note(temporary, statistics, names, heard, {WINDOWS: record})


# --- making them -----------------------------------------------------------------------------------------------------
@dataclass
class WindowsReport:
    """Facts about latents along a recording, collected while they are made."""

    seconds: float = 0.0  # length of the recording
    windows: int = 0
    pauses: int = 0  # windows that got the latents of another one
    damage: str = ""  # what is missing because the file is damaged, "" if nothing is
    peak: float = 0.0  # of the loudest channel; 1.0 is full scale
    clipped: float = 0.0  # share of the samples that are at full scale, where it is largest
    beyond: int = 0  # windows with sound above `beyond_hz`
    beyond_hz: float | None = None  # above it the calibration has none; None: it reaches to the top
    notes: collections.Counter[str] = field(default_factory=collections.Counter)  # `AudioInfo.note` of how many windows


def make_windows(
    recording: Path,
    path: Path,
    folder: Path,
    window: float = WINDOW,
    hop: float = HOP,
    recipe: Recipe = RECIPE,
    channel: int | None = None,
    each: Callable[[int, int], None] = lambda done, expected: None,
    trim: bool = True,
) -> WindowsReport:
    """Write latents along a recording, by the calibration in `folder`, to the .pt file `path`.

    A recording shorter than a window is one window.

    Args:
        window: seconds, SHORTEST_WINDOW to LONGEST_WINDOW.
        hop: seconds from one window's beginning to the next one's, SHORTEST_HOP to LONGEST_HOP.
        channel: see `features.extract`.
        each: called after each window with how many are done, and roughly how many there will be; 0: not known.
        trim: whether silence at both ends of each window is left out; see `features.extract`.

    Raises:
        ValueError: the recording cannot be used (`sound.AudioError`, which names the file), the calibration is
            broken or of another recipe, or `window` or `hop` is out of its limits.
        OSError: a file cannot be read or written.
    """
    if not _usable(window, hop):
        raise ValueError(
            f"windows of {window:g} s every {hop:g} s cannot be made: a window lasts {SHORTEST_WINDOW:g} to "
            f"{LONGEST_WINDOW:g} s, and the next one begins {SHORTEST_HOP:g} to {LONGEST_HOP:g} s later"
        )
    calibration = Calibration.load(folder, recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _naming_latents(path), tempfile.TemporaryFile(dir=path.parent) as spool:
        with naming(recording), open_sound(recording) as sound:
            maker = _Maker(calibration, recipe, channel, trim, spool)
            maker.run(sound, window, hop, each)
            rows = maker.rows()
        report, times = maker.report, np.array(maker.times)
        timeline = Timeline(times, window, hop, sha256_of(recording), report.seconds, channel)
        statistics = statistics_sha256(calibration.mean_db, calibration.std_db)
        names = [f"{recording_name(recording)} {time:.2f} s" for time in times]
        write_windows(path, timeline, maker.shape, maker.blocks(rows), statistics, names, maker.heard(rows))
    return report


@contextlib.contextmanager
def _naming_latents(path: Path) -> Iterator[None]:
    """Let errors of the nameless file, in which latents wait, name the file `path` that is made of them."""
    try:
        yield
    except OSError as error:
        folder = os.path.dirname(str(error.filename))
        if folder == os.path.abspath(path.parent) or error.errno in FULL:
            error.filename = str(path)
        raise


class _Maker:
    """Latents of windows, which wait in a file for the rows that they become."""

    def __init__(
        self, calibration: Calibration, recipe: Recipe, channel: int | None, trim: bool, spool: BinaryIO
    ) -> None:
        self._calibration, self._recipe, self._spool = calibration, recipe, spool
        self._channel, self._trim = channel, trim
        side = math.isqrt(recipe.vector_size // 4)
        self.shape = (4, side, side)
        self.times: list[float] = []
        self._loudest: list[float] = []  # power of each window, 0 where there is none
        self._heard: list[Heard] = []  # of each window
        self.report = WindowsReport(beyond_hz=calibration.band_hz(recipe))

    def run(self, sound: Sound, window: float, hop: float, each: Callable[[int, int], None]) -> None:
        """Measure all windows of a recording."""
        expected = max(1, 1 + int((sound.seconds - window) / hop)) if sound.seconds else 0
        cuts = _Cuts(sound, window, hop)
        for time, found in _in_order(self._measured, cuts.windows()):
            self._add(time, found)
            each(len(self.times), max(expected, len(self.times)) if expected else 0)
        if not cuts.samples:
            raise AudioError("the recording holds no samples; record again")
        self.report.seconds = cuts.samples / sound.sample_rate
        self.report.damage = sound.damage(cuts.samples)

    def rows(self) -> list[int]:
        """Return which window's latents each window gets.

        Raises:
            Silent: there is sound in none.
        """
        loudest = np.array(self._loudest)
        voiced = loudest > loudest.max() * 10 ** (PAUSE_DB / 10)
        if not voiced.any():
            raise Silent("the recording is silent; check that the microphone is on and record again")
        self.report.windows, self.report.pauses = len(voiced), int((~voiced).sum())
        last = np.maximum.accumulate(np.where(voiced, np.arange(len(voiced)), -1))
        return np.where(last < 0, voiced.argmax(), last).tolist()

    def blocks(self, rows: list[int]) -> Iterator[np.ndarray]:
        """Yield the latents of all windows, [n, 4, 32, 32]."""
        size = 4 * math.prod(self.shape)
        for begin in range(0, len(rows), ROWS_AT_ONCE):
            chosen = rows[begin : begin + ROWS_AT_ONCE]
            self._spool.seek(min(chosen) * size)
            held = self._spool.read((max(chosen) - min(chosen) + 1) * size)
            yield np.frombuffer(held, np.float32).reshape(-1, *self.shape)[np.array(chosen) - min(chosen)]

    def heard(self, rows: list[int]) -> list[Heard]:
        """Return what the latents do not hold of all windows."""
        return [self._heard[row] for row in rows]

    def _measured(self, window: tuple[float, int, np.ndarray]) -> tuple[float, Features | None]:
        time, sample_rate, samples = window
        try:
            return time, extract(samples, self._recipe, sample_rate, self._channel, self._trim)
        except Silent:
            return time, None
        except AudioError as error:
            raise AudioError(f"at {time:.2f} s {error}" if time else str(error)) from error

    def _add(self, time: float, found: Features | None) -> None:
        self.times.append(time)
        self._loudest.append(found.loudest if found else 0.0)
        self._heard.append(found.heard if found else UNHEARD)
        vector = np.zeros(self._recipe.vector_size, np.float32) if found is None else found.vector
        self._spool.write(to_latents(self._calibration.z_score(vector)[None]).data.cast("B"))
        if found is None:
            return
        report = self.report
        report.peak, report.clipped = max(report.peak, found.peak), max(report.clipped, found.clipped)
        report.beyond += report.beyond_hz is not None and self._calibration.reaches_beyond(vector, self._recipe)
        if found.note:
            report.notes[found.note] += 1


class _Cuts:
    """Windows that are cut out of a recording while it is decoded."""

    def __init__(self, sound: Sound, window: float, hop: float) -> None:
        self._sound, self._hop = sound, hop * sound.sample_rate
        self._length = round(window * sound.sample_rate)
        self.samples = 0  # of each channel, so far
        if self._length * sound.channels > MOST_SAMPLES:
            raise AudioError(
                f"a window of {window:g} s holds {self._length * sound.channels:,} samples of all {sound.channels} "
                f"channels, and {MOST_SAMPLES:,} are allowed: make windows shorter, or convert the recording"
            )

    def windows(self) -> Iterator[tuple[float, int, np.ndarray]]:
        """Yield the time in seconds, the sample rate in Hz and the samples [T, channels] of each window."""
        rate, number, first = self._sound.sample_rate, 0, 0
        held: np.ndarray = np.zeros((0, self._sound.channels), np.float32)  # from sample `first` of the recording
        for block in self._sound.blocks:
            self.samples += len(block)
            held = np.concatenate([held, block])
            while (begin := round(number * self._hop)) + self._length <= self.samples:
                yield begin / rate, rate, held[begin - first : begin - first + self._length]
                number += 1
            gone = min(begin - first, len(held))
            held, first = held[gone:], first + gone
        if not number and self.samples:
            yield 0.0, rate, held


def _in_order(
    function: Callable[[tuple[float, int, np.ndarray]], tuple[float, Features | None]],
    items: Iterable[tuple[float, int, np.ndarray]],
) -> Iterator[tuple[float, Features | None]]:
    """Call a function for each item in threads, one for each core, and yield the results in order."""
    from joblib import cpu_count
    from threadpoolctl import threadpool_limits

    threads = min(MOST_THREADS, cpu_count())
    waiting: collections.deque[Future[tuple[float, Features | None]]] = collections.deque()
    with contextlib.ExitStack() as stack:
        stack.enter_context(threadpool_limits(limits=1))  # each window by one thread
        pool = ThreadPoolExecutor(threads)
        stack.callback(pool.shutdown, cancel_futures=True)
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
