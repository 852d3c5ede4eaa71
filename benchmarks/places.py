"""Changes of a recording that a booth, a gallery and other machines make. Sound is float32 [T] at the recipe's rate.

Signal-to-noise ratios are measured against the louder half of a recording's windows of 20 ms.
"""

import math

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.signal import butter, fftconvolve, sosfilt

from benchmarks.sounds import RECIPE, Change

RATE = RECIPE.sample_rate
WINDOW = RATE // 50  # samples, 20 ms
TALKERS = 8


def loudness(sound: np.ndarray) -> float:
    """Return the root mean square of the louder half of the windows."""
    windows = sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW).astype(np.float64)
    power = np.sort((windows**2).mean(axis=1))
    return math.sqrt(power[len(power) // 2 :].mean())


def with_noise(sound: np.ndarray, noise: np.ndarray, level: float, snr_db: float) -> np.ndarray:
    """Add noise [T] at so many dB below a level."""
    return (sound + noise * (level * 10 ** (-snr_db / 20) / math.sqrt(np.mean(noise**2)))).astype(np.float32)


def pink_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Make noise whose power falls by 3 dB an octave."""
    frequencies = np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20)
    return np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) / np.sqrt(frequencies), samples)


def babble(samples: int, talkers: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Play TALKERS recordings at once, equally loud, in loops that start at random places."""
    sum_of_all = np.zeros(samples)
    for index in rng.choice(len(talkers), TALKERS, replace=False):
        voice = np.roll(talkers[index].astype(np.float64), rng.integers(len(talkers[index])))
        sum_of_all += np.resize(voice, samples) / math.sqrt(np.mean(voice**2) + 1e-12)
    return sum_of_all


def waiting(seconds: float, snr_db: float) -> Change:
    """Make the change that adds so many seconds before and after, and white noise over all."""

    def change(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        longer = np.pad(sound, round(seconds * RATE))
        return with_noise(longer, rng.standard_normal(longer.size), loudness(sound), snr_db)

    return change


def another_microphone(sound: np.ndarray, rng: np.random.Generator, deviation_db: float = 4.0) -> np.ndarray:
    """Filter by a random smooth response: ten points over the logarithm of the frequency."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(1024, 1 / RATE), 40) / 40)
    curve = CubicSpline(np.linspace(0, octaves[-1], 10), rng.standard_normal(10) * deviation_db)
    response = np.roll(np.fft.irfft(10 ** (curve(octaves) / 20)), 512) * np.hanning(1024)
    return fftconvolve(sound, response, mode="same").astype(np.float32)


def room(sound: np.ndarray, rng: np.random.Generator, reverberation: float, direct_db: float = 0.0) -> np.ndarray:
    """Add the reverberation of a room: exponentially decaying noise, 60 dB in so many seconds."""
    time = np.arange(round(reverberation * RATE)) / RATE
    response = rng.standard_normal(time.size) * np.exp(-6.91 * time / reverberation)
    response[: round(0.002 * RATE)] = 0
    response *= 10 ** (-direct_db / 20) / np.linalg.norm(response)
    response[0] = 1
    return fftconvolve(sound, response).astype(np.float32)[: sound.size + time.size // 2]


def loudspeaker_of_a_telephone(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Play through a small loudspeaker that distorts, in a room with noise."""
    band = sosfilt(butter(2, [500, 7000], "bandpass", fs=RATE, output="sos"), sound)
    coloured = another_microphone(band, rng, 3.0)
    distorted = np.tanh(2 * coloured / np.abs(coloured).max())
    heard = room(distorted, rng, 0.3, 3.0)
    return with_noise(heard, pink_noise(heard.size, rng), loudness(heard), 20)


def automatic_gain(attack: float, release: float) -> Change:
    """Make the change that levels a sound to a constant loudness, within 40 dB; times in seconds."""

    def change(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        step = 32
        blocks = sound[: len(sound) // step * step].reshape(-1, step).astype(np.float64)
        level = np.sqrt((blocks**2).mean(axis=1))
        envelope, now = np.empty_like(level), level[0]
        for index, one in enumerate(level):
            keep = math.exp(-step / RATE / (attack if one > now else release))
            envelope[index] = now = keep * now + (1 - keep) * one
        gain = 1 / np.maximum(envelope, envelope.max() / 100)
        levelled = sound * np.interp(np.arange(len(sound)), (np.arange(len(gain)) + 0.5) * step, gain)
        return (0.9 * levelled / np.abs(levelled).max()).astype(np.float32)

    return change


def places(talkers: list[np.ndarray]) -> dict[str, Change]:
    """Return the changes by name; `talkers` are other recordings, for babble."""

    def pink(snr_db: float) -> Change:
        return lambda sound, rng: with_noise(sound, pink_noise(sound.size, rng), loudness(sound), snr_db)

    def chatter(snr_db: float) -> Change:
        return lambda sound, rng: with_noise(sound, babble(sound.size, talkers, rng), loudness(sound), snr_db)

    def gallery(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return another_microphone(chatter(10)(room(sound, rng, 0.6), rng), rng)

    return {
        "3 s of noisy silence at both ends": waiting(3, 20),
        "5 s of noisy silence at both ends": waiting(5, 20),
        "pink noise at 5 dB SNR": pink(5),
        "babble at 5 dB SNR": chatter(5),
        "another microphone": another_microphone,
        "the loudspeaker of a telephone": loudspeaker_of_a_telephone,
        "automatic gain, 5 and 100 ms": automatic_gain(0.005, 0.1),
        "automatic gain, 10 and 300 ms": automatic_gain(0.01, 0.3),
        "a gallery: room 0.6 s, babble 10 dB, another microphone": gallery,
    }
