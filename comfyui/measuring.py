"""AUDIO of ComfyUI to the latents of voices, by the code and the calibration that the scripts use."""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading import CALIBRATION, audio_module, place

if TYPE_CHECKING:
    import numpy as np

CALIBRATION_FILES = ("mean.npy", "std.npy", "whitening.npz")


@dataclass(frozen=True, eq=False)
class Voices:
    """The voices of one AUDIO, measured."""

    latents: "np.ndarray"  # [V, 4, 32, 32] float32: z-scores, as process_live_audio.py writes them
    heard: Sequence[Any]  # audio.qualities.Heard of each: what its latents do not hold
    whitening: Any  # audio.whitening.Whitening

    @property
    def fingerprint(self) -> bytes:
        """Return the sha256 of the latents: 32 bytes."""
        return hashlib.sha256(self.latents.astype("<f4").tobytes()).digest()


def measure(audio: Mapping[str, Any] | None, calibration: str = "") -> Voices:
    """Measure each recording of an AUDIO: a mapping of `waveform` [V, channels, T] and `sample_rate` in Hz.

    Args:
        audio: from any node; the mapping may be lazy.
        calibration: a folder with mean.npy, std.npy and whitening.npz; "" for the built-in one.

    Raises:
        ValueError: no sound, no waveform, sound that cannot be used, or no such calibration.
        OSError: a file cannot be read.
        ImportError: a package is missing.
    """
    import numpy as np

    recordings, rate = _recordings(audio)
    folder = _folder(calibration)
    measured = [_measure_one(number, recordings, rate, folder) for number in range(len(recordings))]
    path = folder / CALIBRATION_FILES[-1]
    changed = path.stat()
    whitening = _whitening(path, measured[0].statistics, changed.st_mtime_ns, changed.st_size)
    return Voices(np.concatenate([one.latents for one in measured]), [one.heard for one in measured], whitening)


def _measure_one(number: int, recordings: "list[np.ndarray]", rate: Any, folder: Path) -> Any:
    """Return the `audio.calibration.VoiceLatents` of one recording; of several, an error says which one it was."""
    try:
        return audio_module("calibration").voice_latents(recordings[number], folder, sample_rate=rate)
    except audio_module("sound").AudioError as error:
        if len(recordings) == 1:
            raise
        raise ValueError(f"recording {number + 1} of {len(recordings)}: {error}") from error


@functools.lru_cache(maxsize=2)
def _whitening(path: Path, statistics: str, *changed: int) -> Any:
    """Load a whitening once for each state of its file."""
    return audio_module("provenance").load_whitening(path, statistics)


def _recordings(audio: Mapping[str, Any] | None) -> "tuple[list[np.ndarray], Any]":
    """Return the recordings of an AUDIO, each [T, channels] float32, and their sample rate in Hz."""
    import torch

    if audio is None:
        raise ValueError("no sound came; connect Load Audio, or a video that has sound")
    try:
        waveform, rate = audio["waveform"], audio["sample_rate"]
    except (TypeError, KeyError, IndexError):
        raise ValueError(f"{type(audio).__name__} came, and AUDIO is needed; connect Load Audio") from None
    if not torch.is_tensor(waveform):
        raise ValueError(f"the waveform is {type(waveform).__name__}, and a tensor is needed; use Load Audio")
    if not waveform.is_floating_point():
        raise ValueError(
            f"the samples are {waveform.dtype}, and floating point is needed; load the file with Load Audio"
        )
    shape = list(waveform.shape)
    if waveform.ndim != 3 or not shape[0] or shape[1] > shape[2] > 0:
        raise ValueError(f"the waveform is {shape}, and [recordings, channels, samples] is needed; use Load Audio")
    if not waveform.numel():
        raise ValueError(f"the waveform is {shape}, so it holds no samples; record again")
    return [recording.numpy().T for recording in waveform.detach().to("cpu", torch.float32)], rate


def _folder(calibration: str) -> Path:
    """Return the folder of a calibration.

    A workflow may come from anybody. So a folder on another machine is refused: only to look for it would sign in there
    with the user's name, on Windows.
    """
    text = calibration.strip()
    if not text:
        return place(CALIBRATION)
    if text[:1] in ("/", "\\") and text[1:2] in ("/", "\\", "?"):  # on Windows \??\ is the same as \\?\
        raise ValueError(f"the calibration {text} is on another machine; copy its folder to this one")
    folder = Path(os.path.expanduser(text)).absolute()  # Path's own fails for users that do not exist
    if missing := [name for name in CALIBRATION_FILES if not (folder / name).is_file()]:
        raise ValueError(
            f"no calibration in {folder} (missing: {', '.join(missing)}); name the folder data/stats of voicetoimg, "
            "or nothing for the built-in calibration"
        )
    return folder
