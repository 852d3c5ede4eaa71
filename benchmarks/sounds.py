"""Recordings that are not in the built-in calibration, and changes that can happen to a recording: noise, level, codec.

SOURCE is always the folder that holds the unpacked Debian packages that models/calibration/README.md names.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

import config
from audio.features import AudioError, load_audio
from models.calibration import select_recordings as calibration_set

RECIPE = config.RECIPE
PER_HALF = 75  # recordings of telephone speech, and as many wide-band ones
ROOM_SNR_DB = 15
CHATTERING = 6  # people who talk in the background
QUIET_SHARE = 0.2  # share of a recording's windows that count as pauses, in which only the room is heard
FULL_SCALE = 32767 / 32768
MP3_64_KBIT = 0.63  # libsndfile's compression level at 22,050 Hz: 160 kbit/s at 0, 8 at 1

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # sound [T] -> sound [T']


def held_out_paths(source: Path, per_half: int = PER_HALF) -> list[Path]:
    """Choose recordings that are not in the calibration, evenly spaced over both halves, telephone first."""
    chosen = set(calibration_set.select(source))
    seen = {calibration_set.digest(path) for path in chosen}
    paths = []
    for folder, pattern in ((calibration_set.TELEPHONE, "*.wav"), (calibration_set.WIDE_BAND, "*.ogg")):
        others = [path for path in calibration_set.speech(source / folder, pattern, seen) if path not in chosen]
        others = [path for path in others if not any(part.startswith(("silence", "beep")) for part in path.parts)]
        paths += calibration_set.spaced(others, per_half)
    return paths


def speaker(path: Path, source: Path) -> str:
    """Name the speaker as far as the folder tells: the half and the language."""
    half, language = path.relative_to(source / "usr/share").parts[0], path.relative_to(source / "usr/share").parts[1:3]
    return f"{half}/{language[1] if half == 'asterisk' else language[0]}"


def read(paths: list[Path]) -> list[np.ndarray]:
    """Read each file at the recipe's sample rate: [T]; unusable files are named on stderr and left out."""
    sounds = []
    for path in paths:
        try:
            sounds.append(load_audio(path, RECIPE).samples)
        except AudioError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
    return sounds


# --- noise -----------------------------------------------------------------------------------------------------------
def add_noise(sound: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add `noise` [T] at `snr_db` below `sound` [T]; both are measured by their mean power over the whole."""
    gain = np.sqrt(np.mean(sound**2.0) / np.mean(noise**2.0)) * 10 ** (-snr_db / 20)
    return (sound + gain * noise).astype(np.float32)


def white_noise(snr_db: float) -> Change:
    """Make the change that adds white noise."""
    return lambda sound, rng: add_noise(sound, rng.standard_normal(sound.size), snr_db)


class Room:
    """Noise of rooms, made from recordings.

    Hum and fan have the spectrum of the pauses in the recordings; chatter is other people who talk.
    """

    def __init__(self, sounds: list[np.ndarray]) -> None:
        self.sounds = sounds
        self.spectrum = np.mean([self._of_pauses(sound) for sound in sounds], axis=0)  # power, [n_fft // 2 + 1]

    @staticmethod
    def _of_pauses(sound: np.ndarray) -> np.ndarray:
        """Compute the mean power spectrum of a recording's quietest windows, each relative to its power."""
        windows = np.lib.stride_tricks.sliding_window_view(sound.astype(np.float64), RECIPE.n_fft)[:: RECIPE.hop_length]
        power = np.abs(np.fft.rfft(windows * np.hanning(RECIPE.n_fft))) ** 2
        loudness = power.sum(axis=1)
        heard = np.flatnonzero(loudness > loudness.max() * 1e-9)  # digital silence has no spectrum
        quietest = heard[np.argsort(loudness[heard])[: max(1, round(QUIET_SHARE * len(heard)))]]
        return (power[quietest] / loudness[quietest, None]).mean(axis=0)

    def fan(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Make steady noise with the spectrum of the pauses."""
        spectrum = np.fft.rfft(rng.standard_normal(sound.size))
        frequencies, measured = np.fft.rfftfreq(sound.size), np.fft.rfftfreq(RECIPE.n_fft)
        return np.fft.irfft(spectrum * np.sqrt(np.interp(frequencies, measured, self.spectrum)), sound.size)

    def hum(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Make mains hum: 50 Hz and harmonics up to 1 kHz, each as strong as in the pauses, at random phases."""
        harmonics = np.arange(50, 1001, 50) / RECIPE.sample_rate  # cycles a sample
        strengths = np.sqrt(np.interp(harmonics, np.fft.rfftfreq(RECIPE.n_fft), self.spectrum))
        phases = 2 * np.pi * (harmonics[:, None] * np.arange(sound.size) + rng.random((len(harmonics), 1)))
        return strengths @ np.sin(phases)

    def chatter(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Play six other recordings at once, equally loud, in loops that start at random places."""
        others = [other for other in self.sounds if other is not sound]
        babble = np.zeros(sound.size)
        for index in rng.choice(len(others), CHATTERING, replace=False):
            voice = np.roll(others[index], rng.integers(others[index].size))
            babble += np.resize(voice, sound.size) / np.sqrt(np.mean(voice**2.0))
        return babble

    def noise(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Add hum, fan and chatter, all of the same power."""
        parts = [make(sound, rng) for make in (self.hum, self.fan, self.chatter)]
        return np.sum([part / np.sqrt(np.mean(part**2)) for part in parts], axis=0)

    def changes(self) -> dict[str, Change]:
        """Return the changes that add each kind of noise, by name."""
        kinds = {"hum": self.hum, "fan": self.fan, "chatter": self.chatter, "hum, fan and chatter": self.noise}

        def add(make: Change) -> Change:
            return lambda sound, rng: add_noise(sound, make(sound, rng), ROOM_SNR_DB)

        return {f"{kind} at {ROOM_SNR_DB} dB SNR": add(make) for kind, make in kinds.items()}


# --- other changes ---------------------------------------------------------------------------------------------------
def silence(before: float, after: float) -> Change:
    """Make the change that adds silence at both ends, in seconds; a negative time is cut off."""

    def change(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        start, end = (round(seconds * RECIPE.sample_rate) for seconds in (before, after))
        return np.pad(sound[max(0, -start) :], (max(0, start), max(0, end)))

    return change


def gain(decibels: float) -> Change:
    """Make the change of the level that a microphone's knob makes: 16 bits, clipped at full scale."""

    def change(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        louder = np.clip(sound * 10 ** (decibels / 20), -1, FULL_SCALE)
        return (np.round(louder * 32768) / 32768).astype(np.float32)

    return change


def mp3(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Encode as MP3 at 64 kbit/s, and decode."""
    file = io.BytesIO()
    how = {"subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": MP3_64_KBIT}
    soundfile.write(file, sound, RECIPE.sample_rate, format="MP3", **how)
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


def changes(sounds: list[np.ndarray]) -> dict[str, Change]:
    """Return changes that may happen to `sounds`, by name."""
    return (
        {f"white noise at {snr} dB SNR": white_noise(snr) for snr in (30, 20, 10)}
        | Room(sounds).changes()
        | {
            "10 dB louder": gain(10),
            "10 dB softer": gain(-10),
            "50 ms later": silence(-0.05, 0.05),
            "300 ms of silence at both ends": silence(0.3, 0.3),
            "mp3 at 64 kbit/s": mp3,
        }
    )
