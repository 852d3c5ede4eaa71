"""Turn a recording into a vector of 4,096 numbers, its mel spectrogram.

The recipe: mono at 22,050 Hz, 64 mel bands in dB below the loudest cell, resized to 64x64, flattened row by row
(row = mel band, column = time). It is `librosa.load`, `librosa.feature.melspectrogram`, `librosa.power_to_db` and
`cv2.resize`, and equals them within 1e-3 dB for every element (tests/audio/test_features.py). librosa's computation is
written out here in NumPy, because importing librosa takes 2.5 s (25 s the first time) and this module 0.2 s.

Sound is read in blocks, so that a recording of any length takes the same memory. The result does not depend on where
the blocks end: short and long recordings give the same bits as if they were read at once.

Sources: librosa 0.11 (`core/spectrum.py`, `filters.py`); Slaney, Auditory Toolbox, 1998 (the mel scale).
"""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile
import soxr

from .channels import ChannelLevels, Choice
from .decoding import open_sound, sound_of
from .disturbances import (
    CHANGED_DB,
    HUM_BANDS,
    NOTHING_LEFT,
    OFFSET_STEADY_DB,
    RUMBLE_HZ,
    SHOWN_DB,
    STEADY_SHARE,
    USUAL_SHARE,
    Disturbances,
    LowLevels,
    decibels,
    offset_level,
)
from .levels import FULL_SCALE, count_clipped
from .mel import mel_edges
from .pitch import analysed_bins, find_pitch, mean_pitch
from .qualities import Heard
from .recipe import AMIN, RECIPE, Recipe
from .sound import AudioError, Silent, Sound
from .spoken import spoken

FRAME_BLOCK = 32  # windows transformed at a time: 0.5 MB fit into a processor's cache
SPOOL = 64 << 20  # bytes of mel power kept in memory, 97 minutes of sound; more goes to a temporary file
RESIZED_WHOLE = 1 << 17  # windows, 51 minutes: up to here OpenCV resizes the spectrogram, beyond columns are averaged
FEED = 1 << 18  # samples of a sound in memory that are transformed at a time
LARGEST = float(np.finfo(np.float32).max)  # the sum of all channels must not exceed it
LIBRARIES = {  # packages whose versions may change the bits of a vector
    "numpy": np.__version__,
    "soundfile": soundfile.__version__,
    "libsndfile": soundfile.__libsndfile_version__,
    "soxr": soxr.__version__,
    "opencv": cv2.__version__,
}


@dataclass(frozen=True)
class AudioInfo:
    """Facts about a recording."""

    seconds: float
    source_rate: int  # Hz, before resampling
    peak: float  # of the loudest channel; 1.0 is full scale
    clipped: float  # share of the samples that are at full scale in any channel
    decoder: str
    damage: str  # what is missing because the file is damaged, "" if nothing is
    note: str  # which of several sound streams or channels is used, and what was taken off; "" if there is nothing


@dataclass(frozen=True)
class Features(AudioInfo):
    """A recording that has become a vector."""

    vector: np.ndarray  # [spectrogram_size**2] float32, dB: the spectrogram of what is spoken, row by row
    loudest: float  # power of the spectrogram's loudest cell, from which its dB are measured
    begin: float  # seconds, where what is spoken begins
    end: float  # seconds, where it ends
    pitch_hz: float  # of the voice; 0 if no part of it is periodic
    periodicity: float  # 0 for noise to 1 for a tone, the mean over what is spoken

    @property
    def heard(self) -> Heard:
        """Facts that the vector does not hold."""
        return Heard(self.end - self.begin, self.pitch_hz, self.periodicity)


@dataclass(frozen=True)
class Waveform(AudioInfo):
    """A recording that is in memory as a whole."""

    samples: np.ndarray  # [T] float32, mono, at the recipe's sample rate


# --- one recording ---------------------------------------------------------------------------------------------------
def extract(
    source: Path | str | np.ndarray,
    recipe: Recipe = RECIPE,
    sample_rate: int | None = None,
    channel: int | None = None,
    trim: bool = True,
) -> Features:
    """Turn a recording of any length into its vector. It is read block by block, so memory does not grow with it.

    Args:
        source: a file in any format that can be decoded, or samples [T] or [T, channels]: floats, of which 1.0 is full
            scale, or integers of 8, 16 or 32 bits. Samples give the same vector as a file that holds them.
        recipe: how to make the vector.
        sample_rate: of samples, in Hz; None for a file.
        channel: the one to use, from 1; None: the average of all, or of those that have sound (`channels.py`).
        trim: whether the vector leaves out silence, and what else is no voice, at both ends (`spoken.py`).

    Raises:
        AudioError: not a recording, broken, without samples, too short, silent, without that channel, or with samples
            that are not finite numbers or far beyond full scale. Its message does not name the file.
        OSError: the file does not exist or cannot be read.
    """
    with _heard(_Source(source, recipe, sample_rate, channel)) as (info, spectrogram):
        if trim:
            spectrogram.trim()
        return Features(
            **info(), vector=spectrogram.vector(), loudest=float(spectrogram.loudest), **spectrogram.voice()
        )


def load_audio(path: Path | str, recipe: Recipe = RECIPE) -> Waveform:
    """Read a recording into memory, as `librosa.load(path, sr=recipe.sample_rate)` does.

    Raises:
        AudioError, OSError: as `extract`, but silence is allowed; also a recording too long for the memory.
    """
    blocks: list[np.ndarray] = []

    def begin() -> Callable[[np.ndarray], None]:
        blocks.clear()
        return blocks.append

    try:
        with _heard(_Source(path, recipe), begin) as (info, _):
            return Waveform(**info(), samples=np.concatenate(blocks))
    except MemoryError as error:
        raise AudioError("the recording is too long for the memory of this machine; cut it") from error


def listen(
    source: Path | str,
    begin: Callable[[], Callable[[np.ndarray], None]],
    recipe: Recipe = RECIPE,
    channel: int | None = None,
) -> AudioInfo:
    """Read a recording as `extract` does, for another measure of it; memory does not grow with its length.

    Args:
        source: a file.
        begin: called when a reading begins, and again when something is found that is to be taken off. It returns a
            function that gets the samples [T] of each block, mono at the recipe's sample rate.
        recipe: as of `extract`.
        channel: as of `extract`.

    Raises:
        AudioError, OSError: as `extract`, but silence is allowed.
    """
    with _heard(_Source(source, recipe, None, channel), begin) as (info, _):
        return AudioInfo(**info())


def log_mel_vector(samples: np.ndarray, recipe: Recipe = RECIPE, trim: bool = True) -> np.ndarray:
    """Turn sound, float32 [T] at the recipe's sample rate, into its vector, float32 [spectrogram_size**2].

    `trim`: whether silence at both ends is left out, as of `extract`.

    Raises:
        AudioError: the sound is silent, or its samples are far beyond full scale.
    """
    with _Spectrogram(recipe) as spectrogram:
        for start in range(0, len(samples), FEED):
            spectrogram.add(samples[start : start + FEED])
        if trim:
            spectrogram.trim()
        return spectrogram.vector()


def overview(
    path: Path | str,
    columns: int,
    shown: tuple[float, float],
    recipe: Recipe = RECIPE,
    channel: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute what a plot of a recording shows; memory does not grow with its length.

    Args:
        path: a file that `extract` has found usable.
        columns: of the plot.
        shown: where the plot begins and ends, in seconds: 0 and the length of the recording, or what is spoken.
        recipe: how to make the spectrogram.
        channel: as of `extract`.

    Returns:
        The waveform, float32 [2, columns] (lowest and highest sample of each stretch), and the spectrogram, float32
        [n_mels, columns] in dB.

    Raises:
        AudioError, OSError: as `extract`.
    """
    first, stop = (round(seconds * recipe.sample_rate) for seconds in shown)  # samples
    waveform = np.zeros((2, columns), np.float32)

    def begin() -> Callable[[np.ndarray], None]:
        waveform[:] = 0
        position = 0

        def draw(block: np.ndarray) -> None:
            nonlocal position
            part = block[max(0, first - position) : max(0, stop - position)]
            column = (np.arange(part.size) + max(0, position - first)) * columns // (stop - first)
            np.minimum.at(waveform[0], column, part)
            np.maximum.at(waveform[1], column, part)
            position += block.size

        return draw

    with _heard(_Source(path, recipe, None, channel), begin) as (_, spectrogram):
        spectrogram.use(*shown)
        return waveform, spectrogram.resized(recipe.n_mels, columns)


# --- listening, until nothing disturbs any more ----------------------------------------------------------------------
@dataclass(frozen=True)
class _Source:
    """A recording, and how it is read."""

    source: Path | str | np.ndarray
    recipe: Recipe = RECIPE
    sample_rate: int | None = None
    channel: int | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Sound]:
        if isinstance(self.source, str | Path):
            if self.sample_rate is not None:
                raise AudioError("a sample rate belongs to samples in memory; a file says its own: leave it out")
            with open_sound(self.source) as sound:
                yield sound
        else:
            yield sound_of(self.source, self.sample_rate)


@contextlib.contextmanager
def _heard(
    source: _Source, begin: Callable[[], Callable[[np.ndarray], None]] | None = None
) -> Iterator[tuple[Callable[[], dict[str, Any]], "_Spectrogram"]]:
    """Read a recording, once if nothing disturbs, else again without the disturbance; yield its facts and spectrogram.

    `begin` is called at the beginning of each reading, and returns a function that gets the samples [T] of each block.
    """
    choice, off = Choice(), Disturbances()
    while True:
        with source.opened() as sound, _Spectrogram(source.recipe) as spectrogram:
            stats = _SampleStats(sound, source.channel, choice, off)
            each = begin() if begin else None
            for block in stats.prepared(sound.blocks, source.recipe.sample_rate):
                spectrogram.add(block)
                if each:
                    each(block)
            stats.check(source.recipe)
            spectrogram.end()
            further = _next(source, stats, spectrogram)
            if further == (stats.choice, stats.off):
                yield functools.partial(stats.info, sound), spectrogram
                return
        choice, off = further


def _next(source: _Source, stats: "_SampleStats", spectrogram: "_Spectrogram") -> tuple[Choice, Disturbances]:
    """Return the channels to average and the disturbances to take off, as the last reading has found them."""
    choice, off = stats.choice, stats.off
    if stats.levels and not choice.used and (better := stats.levels.choice()).used:
        return better, off
    low = spectrogram.low_levels()
    if low is None:
        return choice, off
    recipe = source.recipe
    level = offset_level(stats.offset, recipe.n_fft, float(mel_filterbank(recipe)[0, 1]), low)
    limit = CHANGED_DB if off else SHOWN_DB
    if not (off.offset or off.rumble) and level > limit and low.steady > level - OFFSET_STEADY_DB:
        return choice, replace(off, offset=stats.offset)
    if not off.rumble and (low.passing > 0 or low.usual > SHOWN_DB or low.steady > limit):
        return choice, replace(off, rumble=True)
    if not off.hum and low.hum > limit:
        from .hum import find_hum

        with source.opened() as sound:
            again = _SampleStats(sound, source.channel, choice, off)
            hum = find_hum(again.prepared(sound.blocks, recipe.sample_rate), recipe.sample_rate)
        return choice, replace(off, hum=hum)
    return choice, off


# --- mel bands -------------------------------------------------------------------------------------------------------
@functools.cache
def mel_filterbank(recipe: Recipe = RECIPE) -> np.ndarray:
    """Compute triangles of equal area on the mel scale, float32 [n_mels, n_fft // 2 + 1], as `librosa.filters.mel`."""
    edges = mel_edges(recipe)
    bins = np.fft.rfftfreq(recipe.n_fft, 1 / recipe.sample_rate)  # Hz
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


@functools.cache
def _hann(n_fft: int) -> np.ndarray:
    """Compute the periodic Hann window, float64 [FRAME_BLOCK, n_fft], with identical rows.

    float64 because librosa's FFT uses it; repeated because NumPy takes twice as long to multiply rows by a single one.
    """
    return np.tile(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft), (FRAME_BLOCK, 1))


def _inner_bins(recipe: Recipe) -> int:
    """Count the bins between 0 Hz and half the sample rate; at these two all triangles are 0."""
    return (recipe.n_fft - 1) // 2


@functools.cache
def _filters(recipe: Recipe) -> list[tuple[slice, slice, np.ndarray]]:
    """Cut the filterbank into groups of neighbouring bands with only the bins that are not 0: a fifth of the work."""
    bank, groups = mel_filterbank(recipe)[:, 1 : _inner_bins(recipe) + 1], []
    for first in range(0, recipe.n_mels, 16):
        bands = slice(first, min(first + 16, recipe.n_mels))
        used = np.flatnonzero(bank[bands].any(axis=0))
        bins = slice(used[0], used[-1] + 1) if used.size else slice(0, 1)  # bands narrower than a bin are empty
        groups.append((bands, bins, np.ascontiguousarray(bank[bands, bins].T)))
    return groups


class _SampleStats:
    """Peak, clipping, length, offset and channels of a recording, measured while it is read and mixed."""

    def __init__(self, sound: Sound, channel: int | None, choice: Choice, off: Disturbances) -> None:
        self.source_rate, self.samples, self.peak, self.clipped = sound.sample_rate, 0, 0.0, 0
        self.choice, self.off = choice, off
        self.left, self._left_energy = 0.0, 0.0  # peak and sum of squares of what is left where something is taken off
        self._sum = 0.0
        self.levels = ChannelLevels(sound.sample_rate, sound.channels) if sound.channels > 1 else None
        if channel is not None:
            if not 1 <= channel <= sound.channels:
                has = "1 channel" if sound.channels == 1 else f"{sound.channels} channels"
                raise AudioError(f"the recording has {has}; there is no channel {channel}")
            self.choice, self.levels = Choice((channel - 1,)), None
        elif choice.used:
            self.levels = None  # chosen already

    def prepared(self, blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
        """Mix blocks [T, channels], take off what disturbs, and resample: mono [T] at a sample rate."""
        mono = self._mix(blocks)
        yield from _resample(self._cleaned(mono) if self.off else mono, self.source_rate, rate)

    def _cleaned(self, mono: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for block in self.off.taken_off(mono, self.source_rate):
            self.left = max(self.left, float(np.abs(block).max(initial=0.0)))
            self._left_energy += float(np.square(block, dtype=np.float64).sum())
            yield block

    def _mix(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Mix blocks [T, channels] to mono [T]; peaks are measured before, because the mix hides them."""
        for block in blocks:
            peak = float(np.maximum(block.max(initial=0.0), -block.min(initial=0.0)))  # NaN if one sample is
            if not peak * block.shape[1] <= LARGEST:  # NaN, too
                raise AudioError(
                    "the recording has samples that are not finite numbers; export it again, e.g. as 16-bit wav"
                )
            self.peak = max(self.peak, peak)
            self.samples += len(block)
            if peak >= FULL_SCALE:
                self.clipped += count_clipped(block)
            if self.levels:
                self.levels.add(block)
            mono = self.choice.mono(block)
            self._sum += float(mono.sum(dtype=np.float64))
            yield mono

    @property
    def offset(self) -> float:
        """Mean of all samples of the mix."""
        return self._sum / max(1, self.samples)

    def check(self, recipe: Recipe) -> None:
        """Raise AudioError if the recording is empty, shorter than one window, or nothing but a disturbance."""
        shortest = recipe.n_fft / recipe.sample_rate
        if not self.samples:
            raise AudioError("the recording holds no samples; record again")
        if self.samples / self.source_rate < shortest:
            raise AudioError(
                f"the recording lasts {self.samples / self.source_rate:.3f} s; at least {shortest:.3f} s are needed: "
                "record longer"
            )
        if self.off and self._left_energy < NOTHING_LEFT**2 * self.samples:
            raise Silent(
                f"the recording is silent but for {self.off.names()}; check that the microphone is on and record again"
            )

    def info(self, sound: Sound) -> dict[str, Any]:
        """Return the fields of AudioInfo."""
        notes = [f"sound stream {sound.stream + 1} of {sound.streams} is used"] if sound.streams > 1 else []
        notes += [self.choice.note] if self.choice.note else []
        notes += [f"{self.off.names()} taken off"] if self.off else []
        return {
            "decoder": sound.decoder,
            "damage": sound.damage(self.samples),
            "note": "; ".join(notes),
            "seconds": self.samples / self.source_rate,
            "source_rate": self.source_rate,
            "peak": self.left if self.off else self.peak,
            # floating point that exceeds full scale shows that full scale is no limit there
            "clipped": 0.0 if self.peak > 1 and not sound.clips else self.clipped / self.samples,
        }


def _resample(blocks: Iterable[np.ndarray], source_rate: int, target_rate: int) -> Iterator[np.ndarray]:
    """Resample as `librosa.resample` does by default, with soxr_hq.

    The length is rounded up, and the sound padded or cut to it. A soxr stream gives the same bits as soxr gives for the
    whole, wherever blocks end.
    """
    if source_rate == target_rate:
        yield from blocks
        return
    stream = None
    taken = given = 0
    for block, last in _with_last(blocks):
        if last and not taken:  # a short recording at once: a stream would first fill a large buffer with zeros
            resampled = soxr.resample(block, source_rate, target_rate, "soxr_hq")
        else:
            stream = stream or soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="soxr_hq")
            resampled = stream.resample_chunk(block, last=last)
        taken += block.size
        if last:
            rest = int(np.ceil(taken * (target_rate / source_rate))) - given
            resampled = resampled[:rest]
            if resampled.size < rest:
                resampled = np.concatenate([resampled, np.zeros(rest - resampled.size, np.float32)])
        given += resampled.size
        yield resampled


def _with_last(blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield each block, and whether it is the last one."""
    blocks = iter(blocks)
    held = next(blocks, None)
    while held is not None:
        following = next(blocks, None)
        yield held, following is None
        held = following


class _Spectrogram:
    """Power in mel bands as of `librosa.feature.melspectrogram`: centred windows, zeros beyond both ends."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.loudest = np.float32(0.0)
        self._frames, self._ended = 0, False
        self._low_bins = int(RUMBLE_HZ * recipe.n_fft / recipe.sample_rate)
        self._pending = np.zeros(recipe.n_fft // 2, np.float32)  # samples that later windows need
        self._power = tempfile.SpooledTemporaryFile(SPOOL)  # noqa: SIM115 (rows of float32, closed by __exit__)
        # of each frame: the power of the mel bands, pitch, periodicity, and of the lowest band what is below RUMBLE_HZ
        self._columns = recipe.n_mels + 3
        self._span: tuple[int, int] | None = None  # the frames that are used; None: all
        analysed = analysed_bins(recipe)
        self._pitch_bins = slice(analysed.start - 1, analysed.stop - 1)  # of the bins without that of 0 Hz
        self._windowed = np.empty((FRAME_BLOCK, recipe.n_fft))
        self._bins = np.empty((FRAME_BLOCK, _inner_bins(recipe)), np.float32)

    def __enter__(self) -> "_Spectrogram":
        return self

    def __exit__(self, *_: object) -> None:
        self._power.close()

    def add(self, samples: np.ndarray, last: bool = False) -> None:
        """Add the next samples [T]; whole blocks of windows are transformed, so that the bits do not depend on T."""
        window, hop = self.recipe.n_fft, self.recipe.hop_length
        self._pending = np.concatenate([self._pending, samples])
        if len(self._pending) < window:
            return
        shape, step = (1 + (len(self._pending) - window) // hop, window), self._pending.itemsize
        # as sliding_window_view(self._pending, window)[::hop], which takes 50 µs
        frames = np.ndarray(shape, self._pending.dtype, self._pending, strides=(step * hop, step))
        ready = len(frames) if last else len(frames) // FRAME_BLOCK * FRAME_BLOCK
        power = np.empty((ready, self._columns), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # found, and reported, by resized()
            for start in range(0, ready, FRAME_BLOCK):
                stop = min(start + FRAME_BLOCK, ready)
                self._transform(frames[start:stop], power[start:stop])
        self.loudest = np.maximum(self.loudest, power[:, : self.recipe.n_mels].max(initial=0.0))  # NaN if one is
        self._power.write(power.data)
        self._frames += ready
        self._pending = self._pending[ready * hop :]

    def _transform(self, frames: np.ndarray, power: np.ndarray) -> None:
        """Compute power [n, n_mels + 1] from windows [n, n_fft], in place, so that all of it stays in the cache."""
        n, inner = len(frames), _inner_bins(self.recipe)
        windowed = self._windowed[:n]
        windowed[:] = frames
        windowed *= _hann(self.recipe.n_fft)[:n]
        spectrum = cv2.dft(windowed, windowed, cv2.DFT_ROWS)  # bin 0, then real and imaginary part of each bin
        squares = np.multiply(spectrum, spectrum, out=spectrum)[:, 1 : 2 * inner + 1]
        bins = np.add(squares[:, ::2], squares[:, 1::2], out=self._bins[:n], casting="same_kind")
        for bands, covered, triangles in _filters(self.recipe):
            power[:, bands] = bins[:, covered] @ triangles
        power[:, -3:-1] = find_pitch(bins[:, self._pitch_bins], self.recipe)
        power[:, -1] = bins[:, : self._low_bins] @ mel_filterbank(self.recipe)[0, 1 : self._low_bins + 1]

    def end(self) -> None:
        """End the sound.

        Raises:
            AudioError: its samples were far beyond full scale.
        """
        if self._ended:
            return
        self._ended = True
        self.add(np.zeros(self.recipe.n_fft // 2, np.float32), last=True)
        if not np.isfinite(self.loudest):
            raise AudioError("the recording's samples are too large to be squared; scale them to -1..1")

    def low_levels(self) -> LowLevels | None:
        """Measure what lies below the voice; None if there is no sound. Call `end` before."""
        if not self.loudest > 0:
            return None
        power = self._rows(0, min(self._frames, RESIZED_WHOLE))
        low = power[:, -1]
        others = float(max((power[:, 0] - low).max(), power[:, 1 : self.recipe.n_mels].max(initial=0.0)))
        nearly_always, usually = int(STEADY_SHARE * len(power)), int(USUAL_SHARE * len(power))
        lowest = power[:, [*range(min(HUM_BANDS, self.recipe.n_mels)), -1]]
        ordered = np.partition(lowest, (nearly_always, usually), axis=0)
        *bands, steady = ordered[nearly_always].tolist()
        loudest = float(self.loudest) * 10 ** (float(self._small.max()) / 10)
        return LowLevels(
            passing=decibels(float(low.max()), others),
            usual=decibels(float(ordered[usually, -1]), loudest),
            steady=decibels(steady, loudest),
            hum=decibels(max(bands), loudest),
            loudest=loudest,
        )

    def vector(self) -> np.ndarray:
        """Return the recipe's spectrogram row by row, float32 [spectrogram_size**2]; the sound ends.

        Raises:
            AudioError: as `resized`.
        """
        self.end()
        return _unless_silent(self._small).reshape(-1)

    def resized(self, rows: int, columns: int) -> np.ndarray:
        """Return dB below the loudest cell, float32 [rows, columns]; the sound ends.

        Raises:
            AudioError: the sound is silent, or its samples were far beyond full scale.
        """
        self.end()
        return _unless_silent(self._resized(rows, columns))

    @functools.cached_property
    def _small(self) -> np.ndarray:
        return self._resized(self.recipe.spectrogram_size, self.recipe.spectrogram_size)

    def _resized(self, rows: int, columns: int) -> np.ndarray:
        first, stop = self._used()
        frames = stop - first
        if frames <= max(RESIZED_WHOLE, columns):
            return cv2.resize(self._decibels(first, stop), (columns, rows), interpolation=cv2.INTER_AREA)
        means = np.stack([self._column(i / columns * frames, (i + 1) / columns * frames) for i in range(columns)])
        return cv2.resize(means.T.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)

    def trim(self) -> None:
        """Leave out, in what follows, silence and what else is no voice at both ends; the sound ends.

        A recording of more than RESIZED_WHOLE frames stays whole, because it must not fill the memory.
        """
        self.end()
        if self._frames <= RESIZED_WHOLE and self.loudest > 0:
            rows = self._rows(0, self._frames)
            mels = rows[:, : self.recipe.n_mels]
            self._set_span(*spoken(mels, rows[:, -2], self.recipe.sample_rate / self.recipe.hop_length))

    def use(self, begin: float, end: float) -> None:
        """Leave out, in what follows, all but what is between two times in seconds; the sound ends."""
        self.end()
        per_second = self.recipe.sample_rate / self.recipe.hop_length
        first, stop = round(begin * per_second), round(end * per_second)
        if first > 0 or stop < self._frames - 1:  # the last frame lies at the very end, or before it
            self._set_span(first, min(stop, self._frames))

    def _set_span(self, first: int, stop: int) -> None:
        self._span = first, stop
        self.loudest = self._rows(first, stop)[:, : self.recipe.n_mels].max()
        self.__dict__.pop("_small", None)  # it was made of all frames

    def _used(self) -> tuple[int, int]:
        return self._span or (0, self._frames)

    def voice(self) -> dict[str, Any]:
        """Return where the voice is, its pitch and its periodicity: fields of `Features`; the sound ends."""
        self.end()
        first, stop = self._used()
        rows = self._rows(first, min(stop, first + RESIZED_WHOLE))
        pitch_hz, periodicity = mean_pitch(rows[:, -3], rows[:, -2], rows[:, : self.recipe.n_mels].sum(axis=1))
        seconds = self.recipe.hop_length / self.recipe.sample_rate
        return {"begin": first * seconds, "end": stop * seconds, "pitch_hz": pitch_hz, "periodicity": periodicity}

    def _column(self, begin: float, end: float) -> np.ndarray:
        """Average frames `begin` to `end`, the first and the last in part, as INTER_AREA does: float64 [n_mels]."""
        first, stop = int(begin), int(np.ceil(end))
        covered = np.minimum(np.arange(first + 1, stop + 1), end) - np.maximum(np.arange(first, stop), begin)
        return self._decibels(first, stop) @ covered / (end - begin)

    def _decibels(self, first: int, stop: int) -> np.ndarray:
        """Compute `librosa.power_to_db(ref=np.max)` of some frames: float32 [n_mels, stop - first]."""
        power = self._rows(first, stop)[:, : self.recipe.n_mels].T
        loudest = np.maximum(np.float32(AMIN), self.loudest)
        decibels = 10 * np.log10(np.maximum(np.float32(AMIN), power)) - 10 * np.log10(loudest)
        return np.ascontiguousarray(np.maximum(decibels, np.float32(-self.recipe.top_db)), np.float32)

    def _rows(self, first: int, stop: int) -> np.ndarray:
        """Read some frames: float32 [stop - first, columns]."""
        row = 4 * self._columns
        self._power.seek(first * row)
        return np.frombuffer(self._power.read((stop - first) * row), np.float32).reshape(-1, self._columns)


def _unless_silent(spectrogram: np.ndarray) -> np.ndarray:
    if spectrogram.max() == spectrogram.min():
        raise Silent("the recording is silent; check that the microphone is on and record again")
    return spectrogram
