"""From a recording to 4,096 numbers.

The recipe: mono at 22,050 Hz, 64 mel bands in dB below the loudest cell, resized to 64x64, flattened row by row
(row = mel band, column = time). It is `librosa.load`, `librosa.feature.melspectrogram`, `librosa.power_to_db` and
`cv2.resize`, and equals them within 1e-3 dB for every element (tests/audio/test_features.py). What librosa does is
written out here in NumPy, since importing librosa takes 2.5 s (25 s the first time) and this module 0.2 s.

Sound passes through in blocks, so that a recording of any length takes the same memory; what does not depend on where
blocks end gives the same bits for every recording, short or long.

Sources: librosa 0.11 (`core/spectrum.py`, `filters.py`); Slaney, Auditory Toolbox, 1998 (the mel scale).
"""

import functools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import soundfile
import soxr

from .decoding import AudioError, Sound, open_sound

AMIN = 1e-10  # power below which librosa.power_to_db sees nothing
FRAME_BLOCK = 32  # windows transformed at a time: 0.5 MB stays in a processor's cache
SPOOL = 64 << 20  # bytes of mel power kept in memory, 97 minutes of sound; more goes to a temporary file
RESIZED_WHOLE = 1 << 17  # windows, 51 minutes: up to here OpenCV resizes the picture, beyond it is averaged by columns
FEED = 1 << 18  # samples of sound in memory that are transformed at a time
LARGEST = float(np.finfo(np.float32).max)  # of a sum of channels
FULL_SCALE = 0.999  # a sample above this is as loud as the file can say
LIBRARIES = {
    "numpy": np.__version__,
    "soundfile": soundfile.__version__,
    "libsndfile": soundfile.__libsndfile_version__,
    "soxr": soxr.__version__,
    "opencv": cv2.__version__,
}
CONSTANTS = {  # what the recipe leaves as it is in librosa and OpenCV
    "channels": "mean",
    "resampler": "soxr_hq",
    "window": "hann",
    "center": True,
    "pad_mode": "constant",
    "power": 2.0,
    "fmin": 0.0,
    "fmax": "sample_rate / 2",
    "mel_scale": "slaney",
    "mel_norm": "slaney",
    "ref": "max",
    "amin": AMIN,
    "resize": "INTER_AREA",
}


@dataclass(frozen=True)
class Recipe:
    """The few numbers that decide what a vector means. Vectors of different recipes must never meet."""

    sample_rate: int = 22_050  # Hz
    n_mels: int = 64
    n_fft: int = 2048  # samples per window
    hop_length: int = 512  # samples between windows
    top_db: float = 80.0  # dB below the loudest cell
    picture_size: int = 64  # rows and columns

    @property
    def vector_size(self) -> int:
        return self.picture_size**2


RECIPE = Recipe()


@dataclass(frozen=True)
class AudioInfo:
    """What is worth knowing about a recording."""

    seconds: float
    source_rate: int  # Hz, in the file
    peak: float  # of the loudest channel; 1.0 is full scale
    clipped: float  # share of the samples that are at full scale in any channel
    decoder: str
    damage: str  # what of the file could not be read, "" if all could


@dataclass(frozen=True)
class Heard(AudioInfo):
    """A recording that has become a vector."""

    vector: np.ndarray  # [picture_size**2] float32, dB


@dataclass(frozen=True)
class Recording(AudioInfo):
    """A recording that is in memory as a whole."""

    samples: np.ndarray  # [T] float32, mono, at the recipe's sample rate


# --- one recording ---------------------------------------------------------------------------------------------------
def listen(path: Path | str, recipe: Recipe = RECIPE) -> Heard:
    """Read a recording of any length block by block; memory does not grow with it.

    Raises:
        AudioError: not a recording, broken, without samples, too short, silent, or with samples that are not numbers
            or far beyond full scale. Its message does not name the file.
        OSError: the file is not there, or may not be read.
    """
    with open_sound(path) as sound, _Spectrogram(recipe) as spectrogram:
        meter = _Meter(sound.sample_rate)
        for block in _resample(meter.watch(sound.blocks), sound.sample_rate, recipe.sample_rate):
            spectrogram.add(block)
        meter.check(recipe)
        return Heard(**meter.facts(sound), vector=spectrogram.vector())


def load_audio(path: Path | str, recipe: Recipe = RECIPE) -> Recording:
    """Read a recording into memory, as `librosa.load(path, sr=recipe.sample_rate)` does.

    Raises:
        AudioError, OSError: as `listen`, but silence is allowed; also a recording too long for the memory.
    """
    with open_sound(path) as sound:
        meter = _Meter(sound.sample_rate)
        try:
            blocks = list(_resample(meter.watch(sound.blocks), sound.sample_rate, recipe.sample_rate))
            meter.check(recipe)
            samples = np.concatenate(blocks)
        except MemoryError as error:
            raise AudioError("the recording is too long for the memory of this machine; cut it") from error
        return Recording(**meter.facts(sound), samples=samples)


def log_mel_vector(samples: np.ndarray, recipe: Recipe = RECIPE) -> np.ndarray:
    """Turn sound, float32 [T] at the recipe's sample rate, into its vector, float32 [picture_size**2].

    Raises:
        AudioError: nothing is to be heard, or the samples are far beyond full scale.
    """
    with _Spectrogram(recipe) as spectrogram:
        for start in range(0, len(samples), FEED):
            spectrogram.add(samples[start : start + FEED])
        return spectrogram.vector()


def overview(path: Path | str, columns: int, seconds: float, recipe: Recipe = RECIPE) -> tuple[np.ndarray, np.ndarray]:
    """What a person wants to see of a recording: its waveform, float32 [2, columns] (lowest and highest sample of
    each stretch), and its spectrogram, float32 [n_mels, columns] in dB. Memory does not grow with its length.

    Args:
        seconds: how long it is, as `listen`, which has to have found it usable, tells.

    Raises:
        AudioError, OSError: as `listen`.
    """
    length = int(np.ceil(seconds * recipe.sample_rate))  # samples
    waveform, begin = np.zeros((2, columns), np.float32), 0
    with open_sound(path) as sound, _Spectrogram(recipe) as spectrogram:
        for block in _resample(map(_mixed, sound.blocks), sound.sample_rate, recipe.sample_rate):
            column = np.minimum(np.arange(begin, begin + block.size) * columns // length, columns - 1)
            np.minimum.at(waveform[0], column, block)
            np.maximum.at(waveform[1], column, block)
            spectrogram.add(block)
            begin += block.size
        return waveform, spectrogram.picture(recipe.n_mels, columns)


def mel_edges(recipe: Recipe = RECIPE) -> np.ndarray:
    """Hz, [n_mels + 2]: band i begins at element i, is loudest at i + 1 and ends at i + 2 (Slaney's mel scale)."""
    linear_hz, break_hz, log_step = 200 / 3, 1000.0, np.log(6.4) / 27  # linear below 1 kHz, logarithmic above
    break_mel = break_hz / linear_hz
    top_hz = recipe.sample_rate / 2
    top_mel = top_hz / linear_hz if top_hz < break_hz else break_mel + np.log(top_hz / break_hz) / log_step
    mels = np.linspace(0, top_mel, recipe.n_mels + 2)
    return np.where(mels < break_mel, linear_hz * mels, break_hz * np.exp(log_step * (mels - break_mel)))


@functools.cache
def mel_filterbank(recipe: Recipe = RECIPE) -> np.ndarray:
    """Triangles of equal area on the mel scale, float32 [n_mels, n_fft // 2 + 1], as `librosa.filters.mel`."""
    edges = mel_edges(recipe)
    bins = np.fft.rfftfreq(recipe.n_fft, 1 / recipe.sample_rate)  # Hz
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


@functools.cache
def _hann(n_fft: int) -> np.ndarray:
    """The periodic window, float64: librosa's FFT is in float64, too. As [FRAME_BLOCK, n_fft], all rows alike: NumPy
    takes twice as long to multiply rows by one."""
    return np.tile(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft), (FRAME_BLOCK, 1))


def _inner_bins(recipe: Recipe) -> int:
    """How many there are between 0 Hz and half the sample rate, the two at which all triangles are 0."""
    return (recipe.n_fft - 1) // 2


@functools.cache
def _filters(recipe: Recipe) -> list[tuple[slice, slice, np.ndarray]]:
    """The filterbank in groups of neighbouring bands, each with the bins where they are not 0: a fifth of the work."""
    bank, groups = mel_filterbank(recipe)[:, 1 : _inner_bins(recipe) + 1], []
    for first in range(0, recipe.n_mels, 16):
        bands = slice(first, min(first + 16, recipe.n_mels))
        used = np.flatnonzero(bank[bands].any(axis=0))
        bins = slice(used[0], used[-1] + 1) if used.size else slice(0, 1)  # bands narrower than a bin are empty
        groups.append((bands, bins, np.ascontiguousarray(bank[bands, bins].T)))
    return groups


def _mixed(block: np.ndarray) -> np.ndarray:
    """[T, channels] -> [T], their mean. Summed by columns: np.mean along a short axis takes ten times as long."""
    if block.shape[1] == 1:
        return block[:, 0]
    mono = block[:, 0].copy()
    for channel in block.T[1:]:
        mono += channel
    return mono / np.float32(block.shape[1])


class _Meter:
    """Looks at the samples of a file as they pass by."""

    def __init__(self, source_rate: int) -> None:
        self.source_rate, self.samples, self.peak, self.clipped = source_rate, 0, 0.0, 0

    def watch(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Blocks [T, channels] as they are, mixed to mono [T]; peaks are measured before, since the mix hides them."""
        for block in blocks:
            peak = float(np.maximum(block.max(initial=0.0), -block.min(initial=0.0)))  # NaN if one sample is
            if not peak * block.shape[1] <= LARGEST:  # NaN, too
                raise AudioError(
                    "the recording has samples that are not finite numbers; export it again, e.g. as 16-bit wav"
                )
            self.peak = max(self.peak, peak)
            self.samples += len(block)
            if peak >= FULL_SCALE:
                self.clipped += int((np.abs(block) >= FULL_SCALE).any(axis=1).sum())
            yield _mixed(block)

    def check(self, recipe: Recipe) -> None:
        shortest = recipe.n_fft / recipe.sample_rate
        if not self.samples:
            raise AudioError("the recording holds no samples; record again")
        if self.samples / self.source_rate < shortest:
            raise AudioError(
                f"the recording lasts {self.samples / self.source_rate:.3f} s; {shortest:.3f} s at least are needed: "
                "record longer"
            )

    def facts(self, sound: Sound) -> dict:
        return {
            "decoder": sound.decoder,
            "damage": sound.damage(self.samples),
            "seconds": self.samples / self.source_rate,
            "source_rate": self.source_rate,
            "peak": self.peak,
            "clipped": self.clipped / self.samples,
        }


def _resample(blocks: Iterable[np.ndarray], source_rate: int, target_rate: int) -> Iterator[np.ndarray]:
    """As `librosa.resample` with its default, soxr_hq: the length is rounded up, and padded or cut to that.

    A soxr stream gives the bits that soxr gives for the whole, wherever blocks end.
    """
    if source_rate == target_rate:
        yield from blocks
        return
    stream = None
    taken = given = 0
    for block, last in _with_last(blocks):
        if last and not taken:  # a short recording, all at once: a stream would fill a large buffer with zeros first
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
    """Each block, and whether it is the last one."""
    blocks = iter(blocks)
    held = next(blocks, None)
    while held is not None:
        following = next(blocks, None)
        yield held, following is None
        held = following


class _Spectrogram:
    """Power in each mel band, windows centred, zeros beyond both ends, as `librosa.feature.melspectrogram`."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.loudest = np.float32(0.0)
        self._pending = np.zeros(recipe.n_fft // 2, np.float32)  # samples that later windows need
        self._power = tempfile.SpooledTemporaryFile(SPOOL)  # noqa: SIM115 (float32 [frames, n_mels], closed by __exit__)
        self._windowed = np.empty((FRAME_BLOCK, recipe.n_fft))
        self._bins = np.empty((FRAME_BLOCK, _inner_bins(recipe)), np.float32)

    def __enter__(self) -> "_Spectrogram":
        return self

    def __exit__(self, *_: object) -> None:
        self._power.close()

    def add(self, samples: np.ndarray, last: bool = False) -> None:
        """Take the next samples [T]; transform whole blocks of windows, so that the bits do not depend on T."""
        window, hop = self.recipe.n_fft, self.recipe.hop_length
        self._pending = np.concatenate([self._pending, samples])
        if len(self._pending) < window:
            return
        shape, step = (1 + (len(self._pending) - window) // hop, window), self._pending.itemsize
        # as sliding_window_view(self._pending, window)[::hop], which takes 50 µs
        frames = np.ndarray(shape, self._pending.dtype, self._pending, strides=(step * hop, step))
        ready = len(frames) if last else len(frames) // FRAME_BLOCK * FRAME_BLOCK
        power = np.empty((ready, self.recipe.n_mels), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # found, and said better, by picture()
            for start in range(0, ready, FRAME_BLOCK):
                stop = min(start + FRAME_BLOCK, ready)
                self._transform(frames[start:stop], power[start:stop])
        self.loudest = np.maximum(self.loudest, power.max(initial=0.0))  # NaN if one is
        self._power.write(power.data)
        self._pending = self._pending[ready * hop :]

    def _transform(self, frames: np.ndarray, power: np.ndarray) -> None:
        """Windows [n, n_fft] -> power [n, n_mels], in place, so that all of it stays in the cache."""
        n, inner = len(frames), _inner_bins(self.recipe)
        windowed = self._windowed[:n]
        windowed[:] = frames
        windowed *= _hann(self.recipe.n_fft)[:n]
        spectrum = cv2.dft(windowed, windowed, cv2.DFT_ROWS)  # bin 0, then real and imaginary part of each
        squares = np.multiply(spectrum, spectrum, out=spectrum)[:, 1 : 2 * inner + 1]
        bins = np.add(squares[:, ::2], squares[:, 1::2], out=self._bins[:n], casting="same_kind")
        for bands, covered, triangles in _filters(self.recipe):
            power[:, bands] = bins[:, covered] @ triangles

    def vector(self) -> np.ndarray:
        """The picture that the recipe asks for, row by row, float32 [picture_size**2]."""
        return self.picture(self.recipe.picture_size, self.recipe.picture_size).reshape(-1)

    def picture(self, rows: int, columns: int) -> np.ndarray:
        """End the sound, and return dB below the loudest cell, float32 [rows, columns].

        Raises:
            AudioError: nothing is to be heard, or the samples were far beyond full scale.
        """
        self.add(np.zeros(self.recipe.n_fft // 2, np.float32), last=True)
        if not np.isfinite(self.loudest):
            raise AudioError("the recording's samples are too large to be squared; scale them to -1..1")
        frames = self._power.tell() // (4 * self.recipe.n_mels)
        if frames <= max(RESIZED_WHOLE, columns):
            picture = cv2.resize(self._decibels(0, frames), (columns, rows), interpolation=cv2.INTER_AREA)
        else:
            means = np.stack([self._column(i / columns * frames, (i + 1) / columns * frames) for i in range(columns)])
            picture = cv2.resize(means.T.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        if picture.max() == picture.min():
            raise AudioError("the recording is silent; check that the microphone is on and record again")
        return picture

    def _column(self, begin: float, end: float) -> np.ndarray:
        """What INTER_AREA makes of frames `begin` to `end`, whose first and last count in part: float64 [n_mels]."""
        first, stop = int(begin), int(np.ceil(end))
        covered = np.minimum(np.arange(first + 1, stop + 1), end) - np.maximum(np.arange(first, stop), begin)
        return self._decibels(first, stop) @ covered / (end - begin)

    def _decibels(self, first: int, stop: int) -> np.ndarray:
        """As `librosa.power_to_db(ref=np.max)`, of some frames: float32 [n_mels, stop - first]."""
        row = 4 * self.recipe.n_mels
        self._power.seek(first * row)
        power = np.frombuffer(self._power.read((stop - first) * row), np.float32).reshape(-1, self.recipe.n_mels).T
        loudest = np.maximum(np.float32(AMIN), self.loudest)
        decibels = 10 * np.log10(np.maximum(np.float32(AMIN), power)) - 10 * np.log10(loudest)
        return np.ascontiguousarray(np.maximum(decibels, np.float32(-self.recipe.top_db)), np.float32)
