"""How near x_T is to noise, and to the voice: on recordings that the built-in calibration has never heard.

    python benchmarks/voice.py SOURCE

SOURCE holds the unpacked Debian packages that models/calibration/README.md names. Prints two tables: properties of x_T
beside those of N(0, I), and how often a recording that was changed is found again among all by its direction alone.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from einops import rearrange
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "models" / "calibration")]

import select_recordings as calibration_set  # noqa: E402

import config  # noqa: E402
from audio.calibration import Calibration  # noqa: E402
from audio.features import AudioError, Recipe, load_audio, samples_to_vector  # noqa: E402
from audio.whitening import WHITENING_NAME, Whitening, mix  # noqa: E402

PER_HALF = 75  # recordings of telephone speech, and as many wide-band ones
STRENGTH = 0.9
FREQUENCIES = (0, 1, 2, 4, 8, 12, 16)  # cycles over the latent's width
RECIPE = Recipe(**config.RECIPE)


def held_out(source: Path) -> list[np.ndarray]:
    """Sound [T] of recordings that are not in the calibration, evenly spaced over both halves."""
    chosen = set(calibration_set.select(source))
    seen = {calibration_set.digest(path) for path in chosen}
    sounds = []
    for folder, pattern in ((calibration_set.TELEPHONE, "*.wav"), (calibration_set.WIDE_BAND, "*.ogg")):
        others = [path for path in calibration_set.speech(source / folder, pattern, seen) if path not in chosen]
        others = [path for path in others if not any(part.startswith(("silence", "beep")) for part in path.parts)]
        for path in calibration_set.spaced(others, PER_HALF):
            try:
                sounds.append(load_audio(path, RECIPE).samples)
            except AudioError as error:
                print(f"{path.name}: {error}", file=sys.stderr)
    return sounds


def with_noise(snr_db: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    def change(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        noise = rng.standard_normal(sound.size)
        gain = np.sqrt(np.mean(sound**2.0) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
        return (sound + gain * noise).astype(np.float32)

    return change


def with_silence(before: float, after: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Silence in seconds at both ends; a negative time is cut off."""

    def change(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        start, end = (round(seconds * RECIPE.sample_rate) for seconds in (before, after))
        return np.pad(sound[max(0, -start) :], (max(0, start), max(0, end)))

    return change


CHANGES = {
    "white noise at 30 dB SNR": with_noise(30),
    "white noise at 20 dB SNR": with_noise(20),
    "white noise at 10 dB SNR": with_noise(10),
    "50 ms later": with_silence(-0.05, 0.05),
    "300 ms of silence at both ends": with_silence(0.3, 0.3),
    "a quarter as loud": lambda sound, rng: sound / 4,
}


def spatial_power(x: np.ndarray) -> list[float]:
    """Mean power of latents [B, C, h, w] at each of FREQUENCIES, in rings of the two-dimensional spectrum."""
    spectrum = (np.abs(np.fft.fft2(x)) ** 2).mean(axis=(0, 1)) / x[0, 0].size
    axis = np.fft.fftfreq(x.shape[-1], 1 / x.shape[-1])
    radius = np.hypot(axis[:, None], axis[None, :]).round().astype(int)
    return [float(spectrum[radius == frequency].mean()) for frequency in FREQUENCIES]


def properties(x: np.ndarray) -> list[str]:
    """A column of the first table for latents [B, C, h, w]."""
    norms = np.linalg.norm(rearrange(x, "b c h w -> b (c h w)"), axis=1) / np.sqrt(x[0].size)
    left, right = x[..., :-1].ravel(), x[..., 1:].ravel()
    standard = (x - x.mean()) / x.std()
    return [
        ", ".join(f"{power:.2f}" for power in spatial_power(x)),
        f"{np.corrcoef(left, right)[0, 1]:.3f}",
        f"{norms.min():.2f}–{norms.max():.2f}",
        f"{np.mean(standard**4):.1f}",
    ]


def found_again(known: np.ndarray, changed: np.ndarray) -> tuple[float, float]:
    """Share of `changed` [N, D] whose nearest by cosine in `known` [N, D] is their own, and the mean cosine to it."""
    known, changed = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (known, changed))
    cosines = changed @ known.T
    return float((cosines.argmax(axis=1) == np.arange(len(known))).mean()), float(cosines.diagonal().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="where the packages were unpacked")
    sounds = held_out(parser.parse_args().source.resolve())
    calibration = Calibration.load(config.BUILTIN_CALIBRATION_DIR, RECIPE)
    whitening = Whitening.load(config.BUILTIN_CALIBRATION_DIR / WHITENING_NAME)

    def latents(recordings: list[np.ndarray]) -> np.ndarray:
        z_scores = np.stack([calibration.z_score(samples_to_vector(sound, RECIPE)) for sound in recordings])
        return rearrange(z_scores, "n (c h w) -> n c h w", c=config.LATENT_CHANNELS, h=config.LATENT_SIZE)

    raw = latents(sounds)
    voices = whitening.voice_noise(raw)
    noise = np.random.default_rng(0).standard_normal(raw.shape, np.float32)
    columns = [properties(x) for x in (noise, raw, mix(voices, noise, STRENGTH))]
    names = ["power at " + ", ".join(map(str, FREQUENCIES)), "correlation with the neighbour", "norm / 64", "kurtosis"]
    print(
        f"\n| {len(sounds)} recordings | N(0, I) | raw z-score | x_T, strength {STRENGTH} |\n| --- | --- | --- | --- |"
    )
    for row in zip(names, *columns, strict=True):
        print("| " + " | ".join(row) + " |")

    cosines = np.abs(np.corrcoef(rearrange(voices, "b c h w -> b (c h w)"))[np.triu_indices(len(voices), 1)])
    print(f"\nbetween different recordings: median absolute cosine {np.median(cosines):.3f}")
    print("\n| found again (mean cosine) | raw z-score | x_T |\n| --- | --- | --- |")
    rng = np.random.default_rng(1)
    for name, change in tqdm(CHANGES.items(), disable=None):
        changed = latents([change(sound, rng) for sound in sounds])
        pairs = ((raw, changed), (voices, whitening.voice_noise(changed)))
        cells = [found_again(a.reshape(len(a), -1), b.reshape(len(b), -1)) for a, b in pairs]
        print(f"| {name} | " + " | ".join(f"{share:.0%} ({cosine:.2f})" for share, cosine in cells) + " |")


if __name__ == "__main__":
    main()
