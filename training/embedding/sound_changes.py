"""Random changes of recordings, as rooms, noises, microphones and machines make them, before silence is cut off.

Changes of spectrograms (`spectrogram_changes`) are faster, and new at each step. But they do not change where a voice
is found to begin and to end, and how windows of sound add up. So some copies of the recordings are changed as sound.

Sound is float32 [T], mono, at the recipe's rate. Signal-to-noise ratios are measured against the louder half of a
recording's windows of 20 ms.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import soxr
from scipy.interpolate import CubicSpline
from scipy.signal import butter, fftconvolve, sosfilt

from audio.recipe import RECIPE

RATE = RECIPE.sample_rate
WINDOW = RATE // 50  # samples, 20 ms
SHORTEST_CUT = RATE // 2  # samples; nothing is cut off what is shorter
GAIN_STEP = 32  # samples, at which an automatic gain measures the level
Talkers = Callable[[int], Sequence[np.ndarray]]
"""Returns so many other recordings, chosen at random."""


def change_sound(sound: np.ndarray, rng: np.random.Generator, talkers: Talkers) -> np.ndarray:
    """Change a recording by a random chain of changes, each with its own chance."""

    def chance(share: float) -> bool:
        return rng.random() < share

    if chance(0.35):
        sound = faster(sound, 2 ** (rng.normal(0, 0.8) / 12))
    if chance(0.25) and len(sound) > SHORTEST_CUT:
        first, last = (round(RATE * rng.uniform(0, 0.12)) for _ in range(2))
        sound = sound[first : len(sound) - last]
    if chance(0.4):
        sound = room(sound, rng, rng.uniform(0.15, 1.2), rng.uniform(-1, 8))
    if chance(0.15):
        sound = tilted(sound, rng.uniform(-4, 4))
    if chance(0.12):
        sound = band(sound, rng.uniform(150, 500), rng.uniform(3000, 7500))
    if chance(0.08):
        sound = np.tanh(rng.uniform(1, 3) * sound / max(np.abs(sound).max(), 1e-9))
    sound = _disturbed(sound, rng, talkers)
    if chance(0.45):
        sound = another_microphone(sound, rng, rng.uniform(2, 5), int(rng.integers(6, 14)))
    if chance(0.2):
        sound = automatic_gain(sound, rng.uniform(0.003, 0.02), rng.uniform(0.08, 0.5))
    return sound.astype(np.float32)


def _disturbed(sound: np.ndarray, rng: np.random.Generator, talkers: Talkers) -> np.ndarray:
    """Add noise, babble, or nothing."""
    kind = rng.random()
    if kind < 0.25:
        noise, snr_db = coloured_noise(len(sound), rng, rng.uniform(0, 0.8)), rng.uniform(0, 25)
    elif kind < 0.55:
        noise, snr_db = babble(len(sound), talkers(int(rng.integers(1, 9))), rng), rng.uniform(2, 25)
    else:
        return sound
    return with_noise(sound, noise, loudness(sound), snr_db)


# --- the voice -------------------------------------------------------------------------------------------------------
def faster(sound: np.ndarray, factor: float) -> np.ndarray:
    """Play faster, which also raises the pitch; slower if the factor is below 1."""
    return soxr.resample(sound, RATE * factor, RATE, "HQ")


# --- the place -------------------------------------------------------------------------------------------------------
def loudness(sound: np.ndarray) -> float:
    """Return the root mean square of the louder half of the windows; of all samples if there is only one window."""
    windows = sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW).astype(np.float64)
    if len(windows) < 2:
        return math.sqrt(np.mean(sound.astype(np.float64) ** 2))
    power = np.sort((windows**2).mean(axis=1))
    return math.sqrt(power[len(power) // 2 :].mean())


def with_noise(sound: np.ndarray, noise: np.ndarray, level: float, snr_db: float) -> np.ndarray:
    """Add noise [T] at so many dB below a level."""
    return (sound + noise * (level * 10 ** (-snr_db / 20) / math.sqrt(np.mean(noise**2)))).astype(np.float32)


def coloured_noise(samples: int, rng: np.random.Generator, slope: float) -> np.ndarray:
    """Make noise whose amplitude falls with the frequency to the power of `slope`: 0 is white, 0.5 pink."""
    frequencies = np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20)
    return np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) / frequencies**slope, samples)


def babble(samples: int, talkers: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Play recordings at once, equally loud, in loops that start at random places."""
    total = np.zeros(samples)
    for talker in talkers:
        voice = np.roll(talker.astype(np.float64), rng.integers(len(talker)))
        total += np.resize(voice, samples) / math.sqrt(np.mean(voice**2) + 1e-12)
    return total


def room(sound: np.ndarray, rng: np.random.Generator, reverberation: float, direct_db: float = 0.0) -> np.ndarray:
    """Add the reverberation of a room: exponentially decaying noise, 60 dB in so many seconds."""
    time = np.arange(round(reverberation * RATE)) / RATE
    response = rng.standard_normal(time.size) * np.exp(-6.91 * time / reverberation)
    response[: round(0.002 * RATE)] = 0
    response *= 10 ** (-direct_db / 20) / np.linalg.norm(response)
    response[0] = 1
    return fftconvolve(sound, response).astype(np.float32)[: sound.size + time.size // 2]


# --- the machine -----------------------------------------------------------------------------------------------------
def another_microphone(
    sound: np.ndarray, rng: np.random.Generator, deviation_db: float = 4.0, points: int = 10
) -> np.ndarray:
    """Filter by a random smooth response through points over the logarithm of the frequency."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(1024, 1 / RATE), 40) / 40)
    curve = CubicSpline(np.linspace(0, octaves[-1], points), rng.standard_normal(points) * deviation_db)
    response = np.roll(np.fft.irfft(10 ** (curve(octaves) / 20)), 512) * np.hanning(1024)
    return fftconvolve(sound, response, mode="same").astype(np.float32)


def tilted(sound: np.ndarray, db_an_octave: float) -> np.ndarray:
    """Make high frequencies louder, or softer, against low ones."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(sound), 1 / RATE), 50) / 1000)
    return np.fft.irfft(np.fft.rfft(sound) * 10 ** (db_an_octave * octaves / 20), len(sound))


def band(sound: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Let a band through, as a telephone does."""
    return sosfilt(butter(2, [low_hz, high_hz], "bandpass", fs=RATE, output="sos"), sound)


def automatic_gain(sound: np.ndarray, attack: float, release: float) -> np.ndarray:
    """Level a sound to a constant loudness, within 40 dB; times in seconds."""
    blocks = sound[: len(sound) // GAIN_STEP * GAIN_STEP].reshape(-1, GAIN_STEP).astype(np.float64)
    level = np.sqrt((blocks**2).mean(axis=1))
    envelope, now = np.empty_like(level), level[0]
    for index, one in enumerate(level):
        keep = math.exp(-GAIN_STEP / RATE / (attack if one > now else release))
        envelope[index] = now = keep * now + (1 - keep) * one
    gain = 1 / np.maximum(envelope, envelope.max() / 100)
    levelled = sound * np.interp(np.arange(len(sound)), (np.arange(len(gain)) + 0.5) * GAIN_STEP, gain)
    return (0.9 * levelled / np.abs(levelled).max()).astype(np.float32)
