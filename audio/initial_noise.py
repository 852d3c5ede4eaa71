"""From voices to the x_T of one picture: one voice or several, blended with the seed's noise at the right variance.

A blend of independent N(0, I) with the roots of weights that sum to 1 is N(0, I) again; all blends here are of this
kind. A walk from voice to voice along the sphere is a row of such blends, so a picture on its way needs nothing but its
weights to be made again.

Sources: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985 (slerp); Everaert, Fitsios, Bocchio, Arpa,
Süsstrunk, Achanta, "Exploiting the signal-leak bias in diffusion models", WACV 2024 (low frequencies of x_T decide the
layout).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .gaussianity import is_gaussian
from .whitening import Whitening, flatten, lengths

LAYOUT_ORDER = 8  # cosines in each direction that carry the shape of a sound: 4 whole waves


@dataclass(frozen=True, eq=False)
class Voices:
    """Latents of one file, and the whitening that turns them into noise. None: they are sampled from as they are."""

    latents: np.ndarray  # [N, C, H, W] float32
    whitening: Whitening | None
    keep_noise: bool = True  # those that are like N(0, I) already are left alone

    def whitened(self, row: int) -> bool:
        """Whether this row is made into noise."""
        if self.whitening is None:
            return False
        return not (self.keep_noise and is_gaussian(self.latents[row : row + 1])[0])

    def noise(self, row: int, shape: Sequence[int]) -> np.ndarray:
        """Return what a row contributes to x_T, float32 [c, h, w] of the given `shape`.

        A row that is made into noise takes any shape; one that is used as it is has the shape of its latents.

        Raises:
            ValueError: the row is used as it is, and of another shape; or the shape is too small for a voice.
        """
        rows = self.latents[row : row + 1]
        if self.whitening and self.whitened(row):
            return self.whitening.whiten(rows, shape)[0]
        if rows.shape[1:] != tuple(shape):
            raise ValueError(
                f"latents of {list(rows.shape[1:])} that are used as they are, for an image that needs {list(shape)}; "
                "only whitened voices fit every shape"
            )
        return rows[0]

    def layout(self, row: int) -> np.ndarray:
        """The shape of a row's sound, [LAYOUT_ORDER, LAYOUT_ORDER]; zeros where the row is left as it is."""
        if not self.whitening or not self.whitened(row):
            return np.zeros((LAYOUT_ORDER, LAYOUT_ORDER))
        return layout_of(self.whitening, self.latents[row : row + 1])


def initial_noise(
    parts: Sequence[tuple[Voices, int, float]],  # voices, row of them, weight
    noise: np.ndarray,  # [C, H, W] float32: the seed's; x_T has its shape
    voice_strength: float,
    layout_strength: float = 0.0,
) -> np.ndarray:
    """Make the x_T of one image, float32 [C, H, W], from voices and the seed's noise, whose shape it gets.

    Latents that are used as they are get neither noise nor the shape of a sound.

    Raises:
        ValueError: a strength outside 0..1, or latents that are used as they are and have another shape than the noise.
    """
    parts = [part for part in parts if part[2] > 0]
    weights = [weight for *_, weight in parts]
    voice = blend(np.stack([voices.noise(row, noise.shape) for voices, row, _ in parts]), weights)
    if not any(voices.whitened(row) for voices, row, _ in parts):
        return voice
    x_T = mix(voice[None], noise[None], voice_strength)[0]
    if not layout_strength:
        return x_T
    layout = blend(np.stack([voices.layout(row) for voices, row, _ in parts]), weights)
    return imprint_shape(x_T, layout, layout_strength)


# --- several voices --------------------------------------------------------------------------------------------------
def blend(parts: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """[V, ...] -> sum of sqrt(weight) * part, float32 [...], at the length that independent parts would give it.

    A part of weight 1 comes out as it is, bit for bit. Weights sum to 1 (`shares`). A length of 0, where parts cancel,
    stays 0.
    """
    if len(parts) == 1:
        return parts[0].astype(np.float32)
    flat = flatten(parts)
    column = np.asarray(weights)[:, None]
    direction = (np.sqrt(column) * flat).sum(axis=0)
    length = np.sqrt((column * lengths(flat) ** 2).sum(axis=0))
    scale = length / np.maximum(lengths(direction[None])[0], 1e-12)
    return (direction * scale).astype(np.float32).reshape(parts.shape[1:])


def shares(weights: Sequence[float]) -> tuple[float, ...]:
    """Weights that sum to 1.

    Raises:
        ValueError: one below 0 or not finite, or none above 0.
    """
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise ValueError(f"weights {' '.join(f'{weight:g}' for weight in weights)}: numbers from 0 up, one above 0")
    return tuple(weight / sum(weights) for weight in weights)


def walk(voices: int, frames: int) -> list[tuple[float, ...]]:
    """Weights of each frame on the way from the first of so many voices to the last, along great circles.

    Slerp at t between orthogonal directions a and b is cos(t pi/2) a + sin(t pi/2) b, and voices are nearly orthogonal
    (median cosine 0.05), so the weights are the squares: even steps along the sphere. First and last are the voices
    themselves.
    """
    weights = []
    for frame in range(frames):
        position = frame * (voices - 1) / (frames - 1)
        left = min(int(position), voices - 2)
        share = math.sin((position - left) * math.pi / 2) ** 2
        weights.append(tuple({left: 1 - share, left + 1: share}.get(voice, 0.0) for voice in range(voices)))
    return weights


# --- voice and noise -------------------------------------------------------------------------------------------------
def mix(voice: np.ndarray, noise: np.ndarray, strength: float) -> np.ndarray:
    """Blend voices with Gaussian noise: sqrt(strength) * voice + sqrt(1 - strength) * noise, [B, C, H, W] float32.

    Both have independent unit-variance elements, so the blend has, too. Its norm is set to that of the noise, which
    follows the chi distribution as that of any x_T ~ N(0, I): the voice decides the direction, never the radius.

    Raises:
        ValueError: strength outside 0..1, or shapes that differ.
    """
    _check_strength(strength, "noise", "voice")
    if voice.shape != noise.shape:
        raise ValueError(f"a voice of {voice.shape} and noise of {noise.shape}; they must have one shape")
    if strength == 0:
        return noise.astype(np.float32)
    both = math.sqrt(strength) * flatten(voice) + math.sqrt(1 - strength) * flatten(noise)
    radii = lengths(flatten(noise))
    return (both * (radii / np.maximum(lengths(both), 1e-12))).astype(np.float32).reshape(noise.shape)


def _check_strength(strength: float, least: str, most: str) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"a strength of {strength}; 0 ({least} alone) to 1 ({most} alone) is allowed")


# --- layout ----------------------------------------------------------------------------------------------------------
def layout_of(whitening: Whitening, latents: np.ndarray) -> np.ndarray:
    """The coarse shape of one sound: z-scores [1, C, H, W] -> [LAYOUT_ORDER, LAYOUT_ORDER] of unit variance.

    The lowest cosines of its floored and aligned picture, low tones at the bottom, less the mean picture of all voices,
    which would make them alike, and without the constant one, which would tint the whole.
    """
    size = whitening.picture_size
    special = whitening.align(whitening.decibels(latents))[0] - whitening.centre_db
    picture = special.reshape(size, size)[::-1]  # [mel band, column]
    cosines = cosine_basis(size)
    coarse = cosines @ picture @ cosines.T
    coarse[0, 0] = 0
    length = np.linalg.norm(coarse)
    return coarse * (math.sqrt(coarse.size - 1) / length) if length else coarse


def imprint_shape(x_T: np.ndarray, layout: np.ndarray, strength: float) -> np.ndarray:
    """Give `strength` of the variance of the lowest frequencies of x_T [C, H, W] to a layout; every channel the same.

    The rest of x_T, its constant and its norm stay as they are, so that it is still of the power of N(0, I) throughout.
    A side of fewer elements than the layout takes as many of its frequencies as it has elements.

    Raises:
        ValueError: strength outside 0..1.
    """
    _check_strength(strength, "no layout", "layout")
    if not layout.any():
        return x_T
    down, across = cosine_basis(x_T.shape[1]), cosine_basis(x_T.shape[2])
    layout = layout[: len(down), : len(across)]
    low = np.einsum("ih,chw,jw->cij", down, x_T.astype(np.float64), across)
    shaped = math.sqrt(1 - strength) * low + math.sqrt(strength) * layout
    shaped[:, 0, 0] = low[:, 0, 0]
    changed = x_T + np.einsum("ih,cij,jw->chw", down, shaped - low, across)
    return (changed * (np.linalg.norm(x_T) / np.linalg.norm(changed))).astype(np.float32)


@functools.cache
def cosine_basis(size: int) -> np.ndarray:
    """Compute the first rows of the orthonormal DCT-II of `size` points: [min(LAYOUT_ORDER, size), size]."""
    order, point = np.arange(min(LAYOUT_ORDER, size))[:, None], np.arange(size)
    basis = np.cos(np.pi * order * (point + 0.5) / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis
