"""The NOISE of ComfyUI that a voice decides.

A NOISE is any object with a `seed` and a method `generate_noise`. ComfyUI asks for the noise when it knows the latents,
so the noise has the shape of whatever model is connected.
"""

import hashlib
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import named
from .loading import audio_module
from .measuring import Voices

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

NAME = "Voice Noise"
# Torch's generator on a CPU looks at the lower 32 bits of a seed alone. Seeds of fill noise are below FILL_SEEDS, and
# the lower 32 bits of `seed` never are: else a sampler's later noise could be the fill noise again.
FILL_SEEDS = 1 << 31
SEEDS = 1 << 62  # some samplers add 1 to a seed, and torch allows less than 2**63

Shape = tuple[int, int, int]


class VoiceNoise:
    """Noise N(0, I) from voices. It has no state: the same latents get the same bits, in any order of calls."""

    def __init__(self, voices: Voices, strength: float, seed: int) -> None:
        """Keep what the noise is made of.

        Args:
            voices: item k of a batch of latents gets voice k, and begins again after the last.
            strength: share of the variance that the voice has, 0 to 1; the rest is seeded noise, another for each item.
            seed: what samplers draw later noise with; from `later_seed`.

        Raises:
            ValueError: the strength is outside 0…1, or NaN.
        """
        # ComfyUI checks what is typed, but neither NaN nor what another node gives
        if not 0 <= strength <= 1:
            raise ValueError(f"voice_strength is {strength}, and 0 to 1 is needed")
        self.voices = voices
        self.strength = strength
        self.seed = seed

    def generate_noise(self, input_latent: Mapping[str, Any]) -> Any:
        """Make noise for latents.

        Args:
            input_latent: LATENT; its `samples` [B, …] of 2 to 5 dimensions, or several such tensors in one nested
                tensor; perhaps `batch_index`, the number of each item [B].

        Returns:
            float32 on the CPU, of the shape of the samples, of mean 0 and variance 1; nested if they are nested.
            Items of one number are the same. Frames, and the parts of nested samples, are independent.

        Raises:
            ValueError: samples of another kind, too small, or numbers that are none.
        """
        with named(NAME):
            samples = input_latent["samples"]
            nested = bool(getattr(samples, "is_nested", False))
            parts = list(samples.unbind()) if nested else [samples]
            shapes = [tuple(part.shape) for part in parts]
            noise = self._noise(shapes, _numbers(input_latent.get("batch_index"), shapes[0][0]))
            return type(samples)(noise) if nested else noise[0]

    def _noise(self, shapes: Sequence[tuple[int, ...]], numbers: Sequence[int]) -> list["Tensor"]:
        """Make noise of each of `shapes`, for items of these numbers."""
        import numpy as np
        import torch

        if len({shape[0] for shape in shapes}) != 1:
            raise ValueError(f"the parts of these latents have different numbers of items: {list(map(list, shapes))}")
        parts = [_as_image(shape) for shape in shapes]
        used = {number % len(self.voices.latents) for number in numbers}
        voices = {voice: self._parts_of(voice, parts) for voice in used}
        made = {number: self._filled(voices[number % len(self.voices.latents)], number) for number in set(numbers)}
        items = zip(*(made[number] for number in numbers), strict=True)
        return [torch.from_numpy(np.stack(item)).reshape(shape) for item, shape in zip(items, shapes, strict=True)]

    def _parts_of(self, voice: int, parts: Sequence[Shape]) -> "list[np.ndarray]":
        """Make a voice's noise for all parts of a latent; parts of one shape get noise as if they were frames."""
        import numpy as np

        row, heard = self.voices.latents[voice : voice + 1], self.voices.heard[voice : voice + 1]
        noise = {}
        for part, count in Counter(parts).items():
            channels, height, width = part
            whole = self.voices.whitening.whiten(row, (count * channels, height, width), heard)[0]
            noise[part] = iter(np.split(whole, count))
        return [next(noise[part]) for part in parts]

    def _filled(self, voice: "Sequence[np.ndarray]", number: int) -> "list[np.ndarray]":
        """Mix a voice's noise with the noise of seed `number`, the same that the scripts draw with `--seed`."""
        import torch

        generator = torch.Generator().manual_seed(number)
        made = audio_module("initial_noise")
        items = []
        for part in voice:
            fill = torch.randn(part.shape, generator=generator).numpy()
            items.append(made.with_noise(part, fill, self.strength))
        return items


def later_seed(source: bytes) -> int:
    """Return a seed for later noise that depends on `source` alone: 2**31 to 2**62, and never that of fill noise."""
    return int.from_bytes(hashlib.sha256(source).digest()[:8], "big") % SEEDS | FILL_SEEDS


def _as_image(shape: tuple[int, ...]) -> Shape:
    """Return channels, rows and columns for the items of latents [B, …]; frames count as channels.

    Items of two dimensions, of sound or of 3-D shapes, count as one channel. Thousands of channels of a few numbers
    each would not become noise: the means of parts of a channel, which the leading axes of a voice set, would hold a
    quarter of the variance.

    Raises:
        ValueError: not 2 to 5 dimensions, or too small to hold a voice.
    """
    match shape[1:]:
        case (length,):
            size = (1, 1, length)
        case (height, width):
            size = (1, height, width)
        case (channels, height, width):
            size = (channels, height, width)
        case (channels, frames, height, width):
            size = (channels * frames, height, width)
        case _:
            raise ValueError(f"the latents are {list(shape)}, and 2 to 5 dimensions are known; use another model")
    if not shape[0] or not all(size) or not audio_module("orthogonal_map").capacity(size):
        raise ValueError(f"the latents are {list(shape)}, which is too small for a voice; use larger ones")
    return size


def _numbers(batch_index: Any, items: int) -> list[int]:
    """Return the number of each item of a batch: those of `batch_index` if there is one, else 0, 1, 2, …"""
    if batch_index is None:
        return list(range(items))
    try:
        numbers = [operator.index(number) for number in batch_index]
    except TypeError:
        raise ValueError(f"batch_index is {batch_index!r}, and a list of whole numbers is needed") from None
    if len(numbers) != items or not all(0 <= number < FILL_SEEDS for number in numbers):
        raise ValueError(f"batch_index is {numbers}, and {items} whole numbers from 0 up are needed, one for each item")
    return numbers
