"""The recipe: the few numbers that decide what a vector means, and how they are written down. Imports no other package.

`config.py` reads this module, so it has to be quick to import.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

AMIN = 1e-10  # power below which librosa.power_to_db sees nothing
CONSTANTS = {  # settings of librosa and OpenCV that the recipe leaves as they are
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
ON_DISK = {"spectrogram_size": "picture_size"}  # fields that have another name in files
MEAN_NAME, STD_NAME = "mean.npy", "std.npy"  # files of a calibration's folder


@dataclass(frozen=True)
class Recipe:
    """How a recording becomes a vector. Vectors of different recipes must never meet."""

    sample_rate: int = 22_050  # Hz, after resampling
    n_mels: int = 64  # mel bands
    n_fft: int = 2048  # samples per window
    hop_length: int = 512  # samples between windows
    top_db: float = 80.0  # dB, depth of the spectrogram below its loudest cell
    spectrogram_size: int = 64  # rows (mel bands) and columns (time), after resizing

    @property
    def vector_size(self) -> int:
        """Elements of a vector: 4096."""
        return self.spectrogram_size**2

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as files hold it."""
        return {ON_DISK.get(name, name): value for name, value in asdict(self).items()}


RECIPE = Recipe()


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Find the first entry of `now` that `before` has with another value, or lacks: its name and both values."""
    return next(((name, before.get(name), value) for name, value in now.items() if before.get(name) != value), None)
