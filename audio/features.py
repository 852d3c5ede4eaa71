"""From a recording to 4,096 numbers, and from a folder of recordings to one matrix.

The recipe: mono at 22,050 Hz, 64 mel bands in dB below the loudest cell, resized to 64x64, flattened row by row
(row = mel band, column = time). It is `librosa.load`, `librosa.feature.melspectrogram`, `librosa.power_to_db` and
`cv2.resize`, and equals them within 1e-3 dB for every element (tests/audio/test_features.py). What librosa does is
written out here in NumPy, since importing librosa takes 2.5 s (25 s the first time) and this module 0.2 s.

Sources: librosa 0.11 (`core/spectrum.py`, `filters.py`); Slaney, Auditory Toolbox, 1998 (the mel scale).
"""

import csv
import functools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import soundfile
import soxr

from files import atomic_path, sha256_of

AMIN = 1e-10  # power below which librosa.power_to_db sees nothing
MIN_SOURCE_RATE, MAX_SOURCE_RATE = 1_000, 1_000_000  # Hz
READ_BLOCK = 1 << 20  # samples of every channel decoded at a time
FRAME_BLOCK = 1024  # windows transformed at a time: 32 MB, however long the recording is
FULL_SCALE = 0.999  # a sample above this is as loud as the file can say
LIBRARIES = {
    "numpy": np.__version__,
    "soundfile": soundfile.__version__,
    "libsndfile": soundfile.__libsndfile_version__,
    "soxr": soxr.__version__,
    "opencv": cv2.__version__,
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


class AudioError(ValueError):
    """A recording that cannot become a vector; the message says what came, what is allowed and what to do."""


@dataclass(frozen=True)
class Recording:
    """Sound that was read, and what is worth knowing about the file it came from."""

    samples: np.ndarray  # [T] float32, mono, at the recipe's sample rate
    seconds: float
    source_rate: int  # Hz, in the file
    peak: float  # 1.0 is full scale
    clipped: float  # share of the samples that are at full scale


# --- one recording ---------------------------------------------------------------------------------------------------
def audio_to_vector(path: Path | str, recipe: Recipe = RECIPE) -> np.ndarray:
    """Read a recording and return its vector, float32 [picture_size**2], 0 dB (loudest) down to -top_db.

    Raises:
        AudioError: the file holds no usable sound (see `load_audio` and `samples_to_vector`).
        OSError: the file is not there, or may not be read.
    """
    try:
        return samples_to_vector(load_audio(path, recipe).samples, recipe)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error


def load_audio(path: Path | str, recipe: Recipe = RECIPE) -> Recording:
    """Read a recording in any format that libsndfile knows, as `librosa.load(path, sr=recipe.sample_rate)` does.

    Raises:
        AudioError: not a recording, broken, without samples, too short, or with samples that are not numbers. Its
            message does not name the file.
        OSError: the file is not there, or may not be read.
    """
    with open(path, "rb") as stream:  # so that a missing file is an OSError, not libsndfile's "System error"
        if not stream.read(1):
            raise AudioError("the file is empty; record again")
        stream.seek(0)
        samples, source_rate = _read_mono(stream)
    if not samples.size:
        raise AudioError("the recording holds no samples; record again")
    seconds = samples.size / source_rate
    shortest = recipe.n_fft / recipe.sample_rate
    if seconds < shortest:
        raise AudioError(f"the recording lasts {seconds:.3f} s; {shortest:.3f} s at least are needed: record longer")
    if not np.isfinite(samples).all():
        raise AudioError("the recording has samples that are not finite numbers; export it again, e.g. as 16-bit wav")
    loudness = np.abs(samples)
    return Recording(
        samples=_resample(samples, source_rate, recipe.sample_rate),
        seconds=seconds,
        source_rate=source_rate,
        peak=float(loudness.max()),
        clipped=float((loudness >= FULL_SCALE).mean()),
    )


def samples_to_vector(samples: np.ndarray, recipe: Recipe = RECIPE) -> np.ndarray:
    """Turn sound, float32 [T] at the recipe's sample rate, into its vector, float32 [picture_size**2].

    Raises:
        AudioError: nothing is to be heard, or the samples are far beyond full scale.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # found, and said better, on the next line
        power = mel_power(samples, recipe)  # [n_mels, frames]
    if not np.isfinite(power).all():
        raise AudioError("the recording's samples are too large to be squared; scale them to -1..1")
    loudest = power.max()
    decibels = 10 * np.log10(np.maximum(np.float32(AMIN), power)) - 10 * np.log10(np.maximum(AMIN, loudest))
    decibels = np.maximum(decibels, decibels.max() - recipe.top_db).astype(np.float32)
    if decibels.max() == decibels.min():
        raise AudioError("the recording is silent; check that the microphone is on and record again")
    size = (recipe.picture_size, recipe.picture_size)
    return cv2.resize(decibels, size, interpolation=cv2.INTER_AREA).reshape(-1)


def mel_power(samples: np.ndarray, recipe: Recipe = RECIPE) -> np.ndarray:
    """Power in each mel band: [T] -> float32 [n_mels, T // hop_length + 1], windows centred, zeros beyond both ends."""
    half = recipe.n_fft // 2
    padded = np.pad(samples, half)
    frames = np.lib.stride_tricks.sliding_window_view(padded, recipe.n_fft)[:: recipe.hop_length]  # [frames, n_fft]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(recipe.n_fft) / recipe.n_fft)  # float64: librosa's FFT is too
    bands = mel_filterbank(recipe)
    power = np.empty((recipe.n_mels, len(frames)), dtype=np.float32)
    for start in range(0, len(frames), FRAME_BLOCK):
        spectrum = np.fft.rfft(frames[start : start + FRAME_BLOCK] * hann, axis=-1).astype(np.complex64)
        power[:, start : start + FRAME_BLOCK] = bands @ (np.abs(spectrum) ** 2).T
    return power


@functools.cache
def mel_filterbank(recipe: Recipe = RECIPE) -> np.ndarray:
    """Triangles of equal area on Slaney's mel scale, float32 [n_mels, n_fft // 2 + 1], as `librosa.filters.mel`."""
    linear_hz, break_hz, log_step = 200 / 3, 1000.0, np.log(6.4) / 27  # linear below 1 kHz, logarithmic above
    break_mel = break_hz / linear_hz
    top_hz = recipe.sample_rate / 2
    top_mel = top_hz / linear_hz if top_hz < break_hz else break_mel + np.log(top_hz / break_hz) / log_step
    mels = np.linspace(0, top_mel, recipe.n_mels + 2)
    edges = np.where(mels < break_mel, linear_hz * mels, break_hz * np.exp(log_step * (mels - break_mel)))  # Hz
    bins = np.fft.rfftfreq(recipe.n_fft, 1 / recipe.sample_rate)  # Hz
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def _read_mono(stream: BinaryIO) -> tuple[np.ndarray, int]:
    """Decode block by block, so that neither many channels nor a header that lies about the length take memory."""
    try:
        with soundfile.SoundFile(stream) as file:
            rate, blocks = file.samplerate, []
            if not MIN_SOURCE_RATE <= rate <= MAX_SOURCE_RATE:
                raise AudioError(
                    f"a sample rate of {rate} Hz; {MIN_SOURCE_RATE} to {MAX_SOURCE_RATE} Hz are allowed: convert it"
                )
            while len(block := file.read(READ_BLOCK, dtype="float32", always_2d=True)):  # [T, channels]
                blocks.append(block.mean(axis=1))
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw, which libsndfile cannot open
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise AudioError(
            f"not a recording that can be read ({reason}); wav, flac, ogg, mp3 and aiff can be: "
            "convert it, e.g. with `ffmpeg -i FILE out.wav`"
        ) from error
    except MemoryError as error:
        raise AudioError("the recording is too long for the memory of this machine; cut it") from error
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32), rate


def _resample(samples: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """As `librosa.resample` with its default, soxr_hq: the length is rounded up, and padded or cut to that."""
    if source_rate == target_rate:
        return samples
    length = int(np.ceil(samples.size * (target_rate / source_rate)))
    resampled = soxr.resample(samples, source_rate, target_rate, quality="soxr_hq")[:length]
    return np.pad(resampled, (0, length - resampled.size))


# --- a folder of recordings ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Measured:
    """One file of a batch: either a vector, or the reason why there is none."""

    path: str  # relative to the folder, with forward slashes
    vector: np.ndarray | None = None
    seconds: float = 0.0
    source_rate: int = 0  # Hz
    sha256: str = ""
    reason: str = ""


@dataclass(frozen=True)
class BatchReport:
    rows: int
    skipped: int
    seconds: float  # of sound in all rows


def find_recordings(folder: Path) -> list[str]:
    """Every file below `folder` but hidden ones, as relative paths in an order that no file system changes."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def measure(folder: Path, path: str, recipe: Recipe) -> Measured:
    """Do one file of a batch. Whatever is wrong with the file becomes a reason, so that a batch goes on."""
    try:
        recording = load_audio(folder / path, recipe)
        vector = samples_to_vector(recording.samples, recipe)
        digest = sha256_of(folder / path)
    except (AudioError, OSError, MemoryError) as error:
        return Measured(path, reason=" ".join(str(error).split()) or type(error).__name__)
    return Measured(path, vector, recording.seconds, recording.source_rate, digest)


def prepare_batch(folder: Path, output: Path, recipe: Recipe = RECIPE, workers: int = 1) -> BatchReport:
    """Write the vectors of all recordings below `folder` to `output`, float32 [N, picture_size**2].

    Beside it, named after it: `.csv` (what each row is), `_skipped.csv` (which files gave no row, and why) and `.json`
    (the recipe and the libraries). All four appear together at the end, or none does. The bits do not depend on the
    number of workers: each works with one thread, and results are taken in the order of the paths.

    Raises:
        ValueError: there are no recordings, or none that can be used.
        OSError: something cannot be written.
    """
    paths = find_recordings(folder)
    if not paths:
        raise ValueError(f"no files in {folder}; put recordings (wav, flac, ogg, mp3, ...) there, or name --input_dir")
    with ExitStack() as stack:
        targets = (output, *(output.with_name(output.stem + end) for end in (".csv", "_skipped.csv", ".json")))
        matrix_path, table_path, skipped_path, about_path = [stack.enter_context(atomic_path(p)) for p in targets]
        matrix = stack.enter_context(MatrixWriter(matrix_path, recipe.vector_size))
        table = stack.enter_context(_table(table_path, "row", "path", "seconds", "sample_rate", "sha256"))
        skipped_table = stack.enter_context(_table(skipped_path, "path", "reason"))
        seconds, skipped, first = 0.0, 0, None
        for one in _measure_all(folder, paths, recipe, workers):
            if one.vector is None:
                skipped, first = skipped + 1, first or one
                skipped_table.writerow((one.path, one.reason))
                continue
            table.writerow((matrix.rows, one.path, f"{one.seconds:.3f}", one.source_rate, one.sha256))
            matrix.append(one.vector)
            seconds += one.seconds
        if first and not matrix.rows:
            raise ValueError(f"none of the {skipped} files in {folder} can be used; {first.path}: {first.reason}")
        about = {"recipe": asdict(recipe), "recordings": matrix.rows, "seconds": seconds, "libraries": LIBRARIES}
        about_path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return BatchReport(matrix.rows, skipped, seconds)


def _measure_all(folder: Path, paths: list[str], recipe: Recipe, workers: int) -> Iterator[Measured]:
    """Yield one result for each path, in order, with a progress bar where somebody watches."""
    from joblib import Parallel, delayed, parallel_config
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    # threadpool_limits is for workers=1, which joblib runs in this process; inner_max_num_threads for its children.
    backend = {"backend": "loky", "inner_max_num_threads": 1} if workers > 1 else {"backend": "sequential"}
    with threadpool_limits(limits=1), parallel_config(**backend):
        jobs = (delayed(measure)(folder, path, recipe) for path in paths)
        results = Parallel(n_jobs=workers, return_as="generator")(jobs)
        yield from tqdm(results, total=len(paths), unit="file", disable=None)


class MatrixWriter:
    """A float32 .npy that grows row by row on disk, whose number of rows is known only at the end."""

    def __init__(self, path: Path, width: int) -> None:
        self.width, self.rows = width, 0
        self._file = open(path, "wb")  # noqa: SIM115 (closed by __exit__)
        self._header()
        self._data_start = self._file.tell()

    def append(self, row: np.ndarray) -> None:
        assert row.shape == (self.width,) and row.dtype == np.float32, (row.shape, row.dtype)
        self._file.write(row.tobytes())
        self.rows += 1

    def _header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.width)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> "MatrixWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            self._header()  # NumPy pads headers for this: the rows may grow to 21 digits
            assert self._file.tell() == self._data_start


@contextmanager
def _table(path: Path, *heading: str) -> Iterator[Any]:
    """Open a csv file with a heading, and yield its writer. File names are bytes: some are not UTF-8."""
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        writer.writerow(heading)
        yield writer
