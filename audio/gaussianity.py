"""Tests of latents against N(0, I), the noise that a sampler expects.

For each latent: its power at spatial frequencies, 1 at all for N(0, I); correlation with the right and the lower
neighbour and of channels, 0; mean, 0; norm over that of N(0, I), 1; kurtosis, 3; the p-value of Jarque and Bera's test
for a normal distribution. `python -m audio LATENTS.pt` prints them. This module needs NumPy alone.
"""

import dataclasses
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Limits of `is_gaussian`, each at least five standard deviations of what N(0, I) shows for 4,096 elements: the mean
# varies by 1/64 = 0.016, norm / 64 by 1/sqrt(2 * 4096) = 0.011, the correlation of 3,968 pairs of neighbours by 0.016.
MEAN_LIMIT, RADIUS_LIMIT, NEIGHBOUR_LIMIT = 0.08, 0.06, 0.08
CHANNEL_LIMIT = 0.16  # five standard deviations of the correlation of 1,024 pairs
P_LIMIT = 1e-5  # one draw from N(0, I) in 100,000 counts as not normal
STRONG = 8.0  # times the power of N(0, I); of rings of four elements, two in a million have more
SHOWN = (0, 1, 2, 4, 8, 16)  # cycles over the latent
TITLES = ("right", "lower", "chann", "mean", "norm", "kurt")
WIDTH, INDENT = 100, " " * 8
WORST = 5  # latents that the summary names


@dataclass(frozen=True)
class Findings:
    """Measurements of one latent [C, H, W]."""

    power: np.ndarray  # at 0, 1, 2, ... cycles over the latent
    right: float  # correlations
    lower: float
    channels: float  # the largest of any two, absolute
    mean: float
    radius: float  # norm / sqrt(elements)
    kurtosis: float
    p_normal: float  # probability that N(0, s²) gives a skewness and kurtosis as far off or farther
    gaussian: bool  # `is_gaussian`: it is sampled from as it is
    shape: tuple[int, ...]  # C, H, W


def examine(latent: np.ndarray) -> Findings:
    """Measure one latent [C, H, W] of finite elements."""
    x = np.asarray(latent, np.float64)
    batch = x[None]
    skewness, kurtosis = _skewness_and_kurtosis(x)
    return Findings(
        power=spatial_power(batch),
        right=float(correlation(batch[..., :-1], batch[..., 1:])[0]),
        lower=float(correlation(batch[..., :-1, :], batch[..., 1:, :])[0]),
        channels=_largest_channel_correlation(x),
        mean=float(x.mean()),
        radius=float(np.sqrt((x**2).mean())),
        kurtosis=kurtosis,
        p_normal=jarque_bera(x.size, skewness, kurtosis),
        gaussian=bool(is_gaussian(batch)[0]),
        shape=x.shape,
    )


def is_gaussian(latents: np.ndarray) -> np.ndarray:
    """Test for each of [B, C, H, W] whether it could be a draw from N(0, I): bool [B].

    The test looks at the mean, the norm, and the correlation with the right and the lower neighbour. More than 99.99 %
    of draws pass; z-scored spectrograms do not, because their neighbours correlate by 0.9.
    """
    latents = np.asarray(latents, dtype=np.float64)
    flat = latents.reshape(len(latents), -1)
    slack = _slack(4096, flat.shape[1])
    mean_ok = np.abs(flat.mean(axis=1)) <= MEAN_LIMIT * slack
    radius_ok = np.abs(np.linalg.norm(flat, axis=1) / math.sqrt(flat.shape[1]) - 1) <= RADIUS_LIMIT * slack
    right = correlation(latents[..., :-1], latents[..., 1:])
    lower = correlation(latents[..., :-1, :], latents[..., 1:, :])
    return mean_ok & radius_ok & (np.maximum(np.abs(right), np.abs(lower)) <= NEIGHBOUR_LIMIT * slack)


def _slack(measured: int, elements: int) -> float:
    """Return the factor of a limit that was made for `measured` elements: what fewer show varies more."""
    return max(1.0, math.sqrt(measured / max(1, elements)))


def correlation(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute Pearson's correlation of two [B, ...]: [B]; 0 where one of them is constant or empty."""
    if not left.size:
        return np.zeros(len(left))
    left, right = (np.asarray(half, np.float64).reshape(len(half), -1) for half in (left, right))
    left, right = left - left.mean(axis=1, keepdims=True), right - right.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / np.where(scale > 0, scale, 1.0)


def _largest_channel_correlation(x: np.ndarray) -> float:
    """Return the largest absolute correlation of any two channels of [C, H, W]; 0 if one is constant, or alone."""
    centred = x.reshape(len(x), -1)
    centred = centred - centred.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(norms > 0, norms, 1.0)
    return float(np.abs((unit @ unit.T)[np.triu_indices(len(unit), 1)]).max(initial=0))


def spatial_power(latents: np.ndarray) -> np.ndarray:
    """Average the power of [B, C, H, W] in rings of the two-dimensional spectrum, at 0 ... min(H, W) / 2 cycles."""
    height, width = latents.shape[-2:]
    spectrum = (np.abs(np.fft.fft2(latents)) ** 2).mean(axis=(0, 1)) / (height * width)
    down, across = (np.fft.fftfreq(size, 1 / size) for size in (height, width))
    ring = np.hypot(down[:, None], across).round().astype(int)
    return np.array([spectrum[ring == frequency].mean() for frequency in range(min(height, width) // 2 + 1)])


def jarque_bera(count: int, skewness: float, kurtosis: float) -> float:
    """Compute the p-value of Jarque, Bera, "A test for normality of observations and regression residuals", 1987.

    Their statistic follows the chi-squared distribution with two degrees of freedom, whose upper tail is exp(-x / 2).
    """
    return math.exp(-count / 12 * (skewness**2 + (kurtosis - 3) ** 2 / 4))


def _skewness_and_kurtosis(x: np.ndarray) -> tuple[float, float]:
    """Compute skewness and kurtosis of all elements; 0 and 3, as of a normal distribution, if all are the same."""
    centred = x - x.mean()
    variance = (centred**2).mean()
    if not variance:
        return 0.0, 3.0
    return float((centred**3).mean() / variance**1.5), float((centred**4).mean() / variance**2)


def complaints(found: Findings) -> list[str]:
    """List the differences of a latent from N(0, I), the worst for an image first."""
    strongest = int(found.power.argmax())
    slack, channel_slack = _slack(4096, math.prod(found.shape)), _slack(1024, math.prod(found.shape[1:]))
    checks = {
        f"{found.power[strongest]:.3g} times the power of noise at frequency {strongest}, so images are flat": (
            found.power[strongest] > STRONG
        ),
        f"neighbours correlate by {max(found.right, found.lower, key=abs):.2f}": (
            max(abs(found.right), abs(found.lower)) > NEIGHBOUR_LIMIT * slack
        ),
        f"channels correlate by {found.channels:.2f}": found.channels > CHANNEL_LIMIT * channel_slack,
        f"the mean is {found.mean:.2f}": abs(found.mean) > MEAN_LIMIT * slack,
        f"{found.radius:.2f} times the norm": abs(found.radius - 1) > RADIUS_LIMIT * slack,
        f"elements are not normal (p {found.p_normal:.0e})": found.p_normal < P_LIMIT,
    }
    return [what for what, wrong in checks.items() if wrong]


def verdict(found: Findings) -> str:
    """Say in a line whether a latent is like noise, and if not, why."""
    wrong = complaints(found)
    if not wrong:
        return "like noise"
    return f"{'close to noise' if found.gaussian else 'not like noise'}: {'; '.join(wrong)}"


# --- reports ---------------------------------------------------------------------------------------------------------
def figures(found: Findings) -> dict[str, tuple[float, float]]:
    """Return the figures of a latent by what they are, each with that of N(0, I)."""
    shown = {f"power at {frequency} cycles": (found.power[frequency], 1.0) for frequency in _frequencies(found)}
    return shown | {
        "correlation with the right neighbour": (found.right, 0.0),
        "correlation with the lower neighbour": (found.lower, 0.0),
        "largest correlation of channels": (found.channels, 0.0),
        "mean": (found.mean, 0.0),
        "norm, over that of noise": (found.radius, 1.0),
        "kurtosis": (found.kurtosis, 3.0),
    }


def summary(found: Sequence[Findings], names: Sequence[str]) -> list[str]:
    """Describe many latents in a few lines, no wider than a terminal: the range of each figure, and the worst ones."""
    table = [figures(one) for one in found]
    across: dict[str, Callable[[np.ndarray], Any]] = {"here": np.min}
    if len(found) > 1:
        across = {"median": np.median, "lowest": np.min, "highest": np.max}
    lines = [f"{'':36}{'noise':>9}" + "".join(f"{title:>9}" for title in across)]
    for name, (_, ideal) in table[0].items():
        values = np.array([row[name][0] for row in table])
        lines.append(f"{name:36}{ideal:9g}" + "".join(f"{_column(value(values)):>9}" for value in across.values()))
    lines.append(f"like noise: {sum(not complaints(one) for one in found)} of {len(found)}")
    worst = sorted((row for row in range(len(found)) if complaints(found[row])), key=lambda row: -_distance(found[row]))
    for row in worst[:WORST]:
        lines += _wrapped(f"{_named(row, names)}: {verdict(found[row])}")
    if len(worst) > WORST:
        lines.append(f"and {len(worst) - WORST} more that are not")
    return lines


def listing(found: Sequence[Findings], names: Sequence[str], voices: Sequence[str] = ()) -> list[str]:
    """Describe each latent in lines no wider than a terminal; `voices` are lines about their voices, "" for none."""
    shown = _frequencies(found[0])
    powers = "".join(f"{f'P {frequency}':>7}" for frequency in shown)
    lines = [f"latent{powers}" + "".join(f"{title:>7}" for title in TITLES) + f"{'p normal':>10}"]
    for row, one in enumerate(found):
        related = (one.right, one.lower, one.channels, one.mean, one.radius, one.kurtosis)
        line = f"{row:6}" + "".join(f"{_short(one.power[frequency]):>7}" for frequency in shown)
        lines.append(line + "".join(f"{figure:7.2f}" for figure in related) + f"{one.p_normal:10.1e}")
        lines += _wrapped(f"{names[row]}: {verdict(one)}" if names[row] else verdict(one))
        lines += _wrapped(f"voice: {voices[row]}") if voices and voices[row] else []
    return lines


def as_json(found: Sequence[Findings], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return all that is known of each latent, as JSON holds it."""
    return [
        {"row": row, "recording": names[row]}
        | dataclasses.asdict(one)
        | {"power": one.power.tolist(), "complaints": complaints(one)}
        for row, one in enumerate(found)
    ]


def _frequencies(found: Findings) -> list[int]:
    return [frequency for frequency in SHOWN if frequency < len(found.power)]


def _distance(found: Findings) -> float:
    """Order latents by how far they are from noise: by the power at one frequency, and by the other figures."""
    related = (found.right, found.lower, found.channels, found.mean, found.radius - 1)
    return float(found.power.max()) + max(map(abs, related))


def _named(row: int, names: Sequence[str]) -> str:
    return f"{row} ({names[row]})" if names[row] else str(row)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)


def _column(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 10 else _short(number)


def _short(number: float) -> str:
    return f"{number:.3g}".replace("e+0", "e")
