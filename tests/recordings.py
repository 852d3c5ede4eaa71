"""Recordings for tests: the examples, parts of a real voice at any sample rate, and files that must be refused."""

from pathlib import Path

import numpy as np
import soundfile

import config

EXAMPLES = sorted(path for path in config.EXAMPLES_DIR.iterdir() if path.suffix in (".wav", ".ogg"))
RATE = config.RECIPE.sample_rate


def speech(seconds: float, rate: int) -> np.ndarray:
    """Return the beginning of a real recording as if it had been made at `rate`, float32 [T]."""
    samples, _ = soundfile.read(config.EXAMPLES_DIR / "voice_en.wav", dtype="float32")
    return np.resize(samples, round(seconds * rate))


def write_bad(path: Path, kind: str) -> None:
    """Write a file of a kind in BAD."""
    sound = speech(0.5, RATE)
    if kind == "nan":
        sound[100] = np.nan
    sounds = {"nan": sound, "huge": sound * 1e30, "silent": sound * 0, "short": sound[:100], "no_samples": sound[:0]}
    sounds["huge_together"] = np.stack([sound, sound], axis=1) / np.abs(sound).max() * 3e38
    if kind in sounds:
        soundfile.write(path, sounds[kind], RATE, subtype="FLOAT")
    elif kind == "slow":
        soundfile.write(path, sound, 100)
    else:
        whole = EXAMPLES[0].read_bytes()
        path.write_bytes({"empty": b"", "text": b"hello, world\n" * 99, "header_only": whole[:30]}[kind])


BAD = {  # kinds of files that are refused, each with a part of the message
    "nan": "not finite",
    "huge": "too large",
    "huge_together": "not finite",
    "silent": "silent",
    "short": "0.005 s",
    "no_samples": "no samples",
    "slow": "100 Hz",
    "empty": "the file is empty",
    "text": "not a recording",
    "header_only": "recording",
}
