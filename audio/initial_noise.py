"""Make the x_T of an image: one voice or several, mixed with the seed's noise at the right variance.

If independent N(0, I) are added with the square roots of weights that sum to 1, the sum is N(0, I) again; all mixtures
here are of this kind. A walk from voice to voice along the sphere is a series of such mixtures, so each of its images
can be made again from its weights alone.

Sources: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985 (slerp); Everaert, Fitsios, Bocchio, Arpa,
Süsstrunk, Achanta, "Exploiting the signal-leak bias in diffusion models", WACV 2024 (low frequencies of x_T decide the
composition).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .gaussianity import is_gaussian
from .orthogonal_map import lowest_frequencies, named_part, scatter
from .qualities import FLOOR_DB, NAMES, Heard
from .whitening import Whitening, flatten, norms

SHAPE_ORDER = 8  # cosines in each direction that carry the shape of a sound: 4 whole waves


@dataclass(frozen=True, eq=False)
class Voices:
    """The latents of one file, and the whitening that turns them into noise; None: they are used as they are."""

    latents: np.ndarray  # [N, C, H, W] float32
    whitening: Whitening | None
    keep_noise: bool = True  # latents that could be a draw from N(0, I) are used as they are
    heard: Sequence[Heard] = ()  # what the latents do not hold of each recording; none if it is not known

    def whitened(self, row: int) -> bool:
        """Tell whether this row is turned into noise."""
        if self.whitening is None:
            return False
        return not (self.keep_noise and is_gaussian(self.latents[row : row + 1])[0])

    def noise(self, row: int, shape: Sequence[int]) -> np.ndarray:
        """Return the contribution of a row to x_T, float32 [c, h, w] of the given `shape`.

        A row that is turned into noise takes any shape; one that is used as it is keeps the shape of its latents.

        Raises:
            ValueError: the row is used as it is and has another shape; or the shape is too small for a voice.
        """
        rows = self.latents[row : row + 1]
        if self.whitening and self.whitened(row):
            return self.whitening.whiten(rows, shape, self.heard[row : row + 1])[0]
        if rows.shape[1:] != tuple(shape):
            raise ValueError(
                f"latents of {list(rows.shape[1:])} that are used as they are, for an image that needs {list(shape)}; "
                "only whitened voices fit every shape"
            )
        return rows[0]

    def sound_shape(self, row: int) -> np.ndarray:
        """Return the shape of a row's sound, [SHAPE_ORDER, SHAPE_ORDER]; zeros if the row is used as it is."""
        if not self.whitening or not self.whitened(row):
            return np.zeros((SHAPE_ORDER, SHAPE_ORDER))
        return sound_shape(self.whitening, self.latents[row : row + 1])


def initial_noise(
    parts: Sequence[tuple[Voices, int, float]],
    noise: np.ndarray,
    voice_strength: float,
    layout_strength: float = 0.0,
) -> np.ndarray:
    """Make the x_T of one image, float32 [C, H, W], from voices and the seed's noise.

    Latents that are used as they are get neither noise nor the shape of a sound.

    Args:
        parts: voices, a row of them, and its weight; weights sum to 1.
        noise: [C, H, W] float32, the seed's; x_T has its shape.
        voice_strength: share of the variance that the voices have, 0 to 1.
        layout_strength: share of the variance of the lowest frequencies that the shape of the sound has, 0 to 1.

    Raises:
        ValueError: a strength outside 0..1, or latents that are used as they are and have another shape than the noise.
    """
    parts = [part for part in parts if part[2] > 0]
    weights = [weight for *_, weight in parts]
    voice = combine_voices(np.stack([voices.noise(row, noise.shape) for voices, row, _ in parts]), weights)
    if not any(voices.whitened(row) for voices, row, _ in parts):
        return voice
    x_T = with_noise(voice, noise, voice_strength)
    if not layout_strength:
        return x_T
    shape = combine_voices(np.stack([voices.sound_shape(row) for voices, row, _ in parts]), weights)
    return imprint_shape(x_T, shape, layout_strength)


# --- several voices --------------------------------------------------------------------------------------------------
def combine_voices(parts: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Add parts [V, ...] as sum of sqrt(weight) * part, float32 [...], at the norm that independent parts would have.

    Noise [V, C, H, W] gets that norm in each channel's lowest frequencies, and in the rest: there similar voices are
    similar, and the sum of two would be too large, beside a rest that is too small.

    A part of weight 1 is returned bit for bit. Weights sum to 1 (`normalised_weights`). If the parts cancel each other,
    the sum stays 0.
    """
    if len(parts) == 1:
        return parts[0].astype(np.float32)
    if parts.ndim != 4:
        return _combined(parts, weights).astype(np.float32)
    low = lowest_frequencies(parts)
    channels = [_combined(low[:, channel], weights) for channel in range(low.shape[1])]
    return (np.stack(channels) + _combined(parts - low, weights)).astype(np.float32)


def _combined(parts: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    flat = flatten(parts)
    column = np.asarray(weights)[:, None]
    direction = (np.sqrt(column) * flat).sum(axis=0)
    norm = np.sqrt((column * norms(flat) ** 2).sum(axis=0))
    scale = norm / np.maximum(norms(direction[None])[0], 1e-12)
    return (direction * scale).reshape(parts.shape[1:])


def normalised_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """Scale weights so that they sum to 1.

    Raises:
        ValueError: a weight is below 0 or not finite, or none is above 0.
    """
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise ValueError(f"weights {' '.join(f'{weight:g}' for weight in weights)}: numbers from 0 up, one above 0")
    return tuple(weight / sum(weights) for weight in weights)


def walk(voices: int, frames: int) -> list[tuple[float, ...]]:
    """Compute the weights of each frame of a walk from the first of several voices to the last, along great circles.

    Slerp at t between orthogonal directions a and b is cos(t pi/2) a + sin(t pi/2) b, and voices are nearly orthogonal
    (median absolute cosine 0.07), so the weights are the squares: equal steps along the sphere. The first and the last
    frame are the voices themselves.
    """
    weights = []
    for frame in range(frames):
        position = frame * (voices - 1) / (frames - 1)
        left = min(int(position), voices - 2)
        share = math.sin((position - left) * math.pi / 2) ** 2
        weights.append(tuple({left: 1 - share, left + 1: share}.get(voice, 0.0) for voice in range(voices)))
    return weights


# --- voice and noise -------------------------------------------------------------------------------------------------
def with_noise(voice: np.ndarray, noise: np.ndarray, strength: float) -> np.ndarray:
    """Mix a voice with the seed's noise, both [C, H, W], into x_T, float32 [C, H, W].

    The voice has `strength` of the variance of x_T. Of the numbers that are named it has 1 - (1 - strength)², so that
    another seed hardly changes what an image shows of a voice.

    Raises:
        ValueError: as `mix_with_noise`.
    """
    own = noise_of_voice(voice, noise, strength)
    x_T = mix_with_noise(voice[None], own[None], strength)[0]
    if strength in (0, 1):
        return x_T
    rest = (1 - strength) ** 2
    named = math.sqrt(1 - rest) * voice + math.sqrt(rest) * own  # only what is named of it counts
    whole = x_T + named_part(named - x_T, len(NAMES))
    return (whole * (np.linalg.norm(x_T) / np.linalg.norm(whole))).astype(np.float32)


def mix_with_noise(voice: np.ndarray, noise: np.ndarray, strength: float) -> np.ndarray:
    """Mix voices with Gaussian noise: sqrt(strength) * voice + sqrt(1 - strength) * noise, float32 [B, C, H, W].

    Both have independent elements of unit variance, so the mixture has, too. Its norm is set to that of the noise,
    which follows the chi distribution like that of any x_T ~ N(0, I): the voice determines the direction, never the
    radius.

    Raises:
        ValueError: a strength outside 0..1, or shapes that differ.
    """
    _check_strength(strength, "noise", "voice")
    if voice.shape != noise.shape:
        raise ValueError(f"a voice of {voice.shape} and noise of {noise.shape}; they must have one shape")
    if strength == 0:
        return noise.astype(np.float32)
    both = math.sqrt(strength) * flatten(voice) + math.sqrt(1 - strength) * flatten(noise)
    radii = norms(flatten(noise))
    return (both * (radii / np.maximum(norms(both), 1e-12))).astype(np.float32).reshape(noise.shape)


def noise_of_voice(voice: np.ndarray, noise: np.ndarray, strength: float) -> np.ndarray:
    """Make the seed's part of x_T another one for each voice, float32 [C, H, W], of the same norm as the noise.

    The same noise in every x_T of an evening would make all images a little alike. So most of it becomes a rotation of
    the voice that the noise decides: the signs of the noise are multiplied with the voice, and the product is
    scattered. Similar voices still get similar noise, which a seed computed from all bits of a recording would not
    give. Of the noise itself (1 - strength)² stays, so that at strength 0 nothing of the voice is left.
    """
    _check_strength(strength, "noise", "voice")
    share = (1 - strength) ** 2
    own = scatter(np.where(noise < 0, -1.0, 1.0).reshape(1, -1) * voice.reshape(1, -1), noise.size)
    both = math.sqrt(1 - share) * own + math.sqrt(share) * noise.reshape(1, -1)
    radius = norms(flatten(noise[None]))
    return (both * (radius / np.maximum(norms(both), 1e-12))).reshape(noise.shape).astype(np.float32)


def _check_strength(strength: float, least: str, most: str) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"the strength is {strength}; 0 ({least} alone) to 1 ({most} alone) is allowed")


# --- the shape of a sound --------------------------------------------------------------------------------------------
def sound_shape(whitening: Whitening, latents: np.ndarray) -> np.ndarray:
    """Compute the coarse shape of one sound: z-scores [1, C, H, W] -> [SHAPE_ORDER, SHAPE_ORDER] of unit variance.

    It consists of low-frequency DCT coefficients of the spectrogram, FLOOR_DB deep, low pitches at the bottom: what a
    card shows, only coarser. The constant term is 0 (it would tint the whole image).
    """
    size = whitening.spectrogram_size
    decibels = whitening.to_decibels(latents)[0]
    spectrogram = np.maximum(decibels - decibels.max(), -FLOOR_DB).reshape(size, size)[::-1]  # [mel band, column]
    cosines = cosine_basis(size)
    coarse = cosines @ spectrogram @ cosines.T
    coarse[0, 0] = 0
    norm = np.linalg.norm(coarse)
    return coarse * (math.sqrt(coarse.size - 1) / norm) if norm else coarse


def imprint_shape(x_T: np.ndarray, shape: np.ndarray, strength: float) -> np.ndarray:
    """Give `strength` of the variance of the lowest frequencies of x_T [C, H, W] to a shape, the same in every channel.

    The rest of x_T, its mean and its norm stay as they are, so that its power is still that of N(0, I) at every
    frequency. A side with fewer elements than the shape takes as many of its frequencies as it has elements.

    Raises:
        ValueError: a strength outside 0..1.
    """
    _check_strength(strength, "no shape of the sound", "this shape")
    if not shape.any():
        return x_T
    down, across = cosine_basis(x_T.shape[1]), cosine_basis(x_T.shape[2])
    shape = shape[: len(down), : len(across)]
    low = np.einsum("ih,chw,jw->cij", down, x_T.astype(np.float64), across)
    shaped = math.sqrt(1 - strength) * low + math.sqrt(strength) * shape
    shaped[:, 0, 0] = low[:, 0, 0]
    changed = x_T + np.einsum("ih,cij,jw->chw", down, shaped - low, across)
    return (changed * (np.linalg.norm(x_T) / np.linalg.norm(changed))).astype(np.float32)


@functools.cache
def cosine_basis(size: int) -> np.ndarray:
    """Compute the first rows of the orthonormal DCT-II of `size` points: [min(SHAPE_ORDER, size), size]."""
    order, point = np.arange(min(SHAPE_ORDER, size))[:, None], np.arange(size)
    basis = np.cos(np.pi * order * (point + 0.5) / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis
