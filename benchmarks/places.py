"""Changes of a recording that a booth, a gallery and other machines make. Sound is float32 [T] at the recipe's rate.

Signal-to-noise ratios are measured against the louder half of a recording's windows of 20 ms.
"""

import numpy as np
from scipy.signal import butter, sosfilt

from benchmarks.sounds import RECIPE, Change
from training.embedding.sound_changes import (
    another_microphone,
    automatic_gain,
    babble,
    coloured_noise,
    loudness,
    room,
    with_noise,
)

RATE = RECIPE.sample_rate
TALKERS = 8


def pink_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Make noise whose power falls by 3 dB an octave."""
    return coloured_noise(samples, rng, 0.5)


def waiting(seconds: float, snr_db: float) -> Change:
    """Make the change that adds so many seconds before and after, and white noise over all."""

    def change(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        longer = np.pad(sound, round(seconds * RATE))
        return with_noise(longer, rng.standard_normal(longer.size), loudness(sound), snr_db)

    return change


def loudspeaker_of_a_telephone(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Play through a small loudspeaker that distorts, in a room with noise."""
    band = sosfilt(butter(2, [500, 7000], "bandpass", fs=RATE, output="sos"), sound)
    coloured = another_microphone(band, rng, 3.0)
    distorted = np.tanh(2 * coloured / np.abs(coloured).max())
    heard = room(distorted, rng, 0.3, 3.0)
    return with_noise(heard, pink_noise(heard.size, rng), loudness(heard), 20)


def levelling(attack: float, release: float) -> Change:
    """Make the change of an automatic gain; times in seconds."""
    return lambda sound, rng: automatic_gain(sound, attack, release)


def places(talkers: list[np.ndarray]) -> dict[str, Change]:
    """Return the changes by name; `talkers` are other recordings, for babble."""

    def pink(snr_db: float) -> Change:
        return lambda sound, rng: with_noise(sound, pink_noise(sound.size, rng), loudness(sound), snr_db)

    def chatter(snr_db: float) -> Change:
        def change(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            chosen = [talkers[index] for index in rng.choice(len(talkers), TALKERS, replace=False)]
            return with_noise(sound, babble(sound.size, chosen, rng), loudness(sound), snr_db)

        return change

    def gallery(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return another_microphone(chatter(10)(room(sound, rng, 0.6), rng), rng)

    return {
        "3 s of noisy silence at both ends": waiting(3, 20),
        "5 s of noisy silence at both ends": waiting(5, 20),
        "pink noise at 5 dB SNR": pink(5),
        "babble at 5 dB SNR": chatter(5),
        "another microphone": another_microphone,
        "the loudspeaker of a telephone": loudspeaker_of_a_telephone,
        "automatic gain, 5 and 100 ms": levelling(0.005, 0.1),
        "automatic gain, 10 and 300 ms": levelling(0.01, 0.3),
        "a gallery: room 0.6 s, babble 10 dB, another microphone": gallery,
    }
