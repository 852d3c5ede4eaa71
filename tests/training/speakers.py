"""Synthetic speakers: pulses of a pitch through the formants of vowels."""

import math

import numpy as np
from scipy.signal import lfilter

RATE = 16_000
VOWELS = {"a": (800, 1200), "e": (500, 1900), "i": (300, 2300), "o": (450, 900), "u": (320, 750)}  # formants in Hz


def say(vowels: str, pitch_hz: float, tract: float, rng: np.random.Generator) -> np.ndarray:
    """Make the sound of a voice, pulses of a pitch through two formants for each vowel; each take differs a little."""
    parts = []
    for vowel in vowels:
        samples = round(RATE * 0.2 * rng.uniform(0.85, 1.15))
        phase = np.cumsum(np.full(samples, pitch_hz * rng.uniform(0.96, 1.04) / RATE))
        sound = np.diff(np.floor(phase), prepend=0) + 0.01 * rng.standard_normal(samples)
        for hz in VOWELS[vowel]:
            angle, radius = 2 * math.pi * hz * tract * rng.uniform(0.97, 1.03) / RATE, 0.97
            sound = lfilter([1], [1, -2 * radius * math.cos(angle), radius**2], sound)
        parts.append(sound * np.hanning(samples) ** 0.25)
    whole = np.concatenate(parts)
    return (0.5 * whole / np.abs(whole).max() + 1e-4 * rng.standard_normal(len(whole))).astype(np.float32)
