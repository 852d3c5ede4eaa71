"""Colour wash: what start noise decides of the light and the colours of an image where the prompt leaves them open.

A wash is a smooth field of colour over the whole image: one of three colour directions (light or dark, warm or cool,
green or magenta), everywhere the same, rising from left to right or from top to bottom, or from the edges to the
middle. Ten numbers from N(0, 1) set ten of these twelve fields, each one field, so that an image shows each number.
In the noise of a voice they are the named qualities of that voice, in this order:

    pitch          warm above, cool below
    brightness     light or dark
    openness       warm or cool
    breadth        green or magenta
    periodicity    warm in the middle, cool at the edges
    harmonics      warm on the right, cool on the left
    duration       light below, dark above
    motion         green above, magenta below
    rise           light on the right, dark on the left
    onset          light in the middle, dark at the edges

An affine map from a latent cell to its mean colour, as of a linear preview, translates between colours and latents.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

from ldm.modules.grids import cell_centres

# directions of colour in red, green, blue: light, warm, green
DIRECTIONS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-0.5, 1.0, -0.5))
LIGHT, WARM, GREEN = range(3)
EVEN, RIGHT, DOWN, MIDDLE = range(4)  # fields

# direction, field and strength of each number; the strength is the RMS of the change of colours in −1…1
OFFICES = (
    (WARM, DOWN, -0.2),
    (LIGHT, EVEN, 0.26),
    (WARM, EVEN, 0.42),
    (GREEN, EVEN, 0.47),
    (WARM, MIDDLE, 0.16),
    (WARM, RIGHT, 0.23),
    (LIGHT, DOWN, 0.18),
    (GREEN, DOWN, -0.14),
    (LIGHT, RIGHT, 0.24),
    (LIGHT, MIDDLE, 0.22),
)
LARGEST = 1.6  # standard deviations; what is beyond them changes colours no more
# RMS of what is finer than a wash, in colours of −1…1; less makes more repeats alike (`python -m benchmarks.visible`)
CONTRAST = 0.08
LEAST_PARTS = (0.0, 0.06, 0.04)  # of it in each direction, so that no image has one hue
LEAST_DETAIL = 0.07  # of light and dark within DETAIL cells, so that no image is soft (`python -m benchmarks.looks`)
DETAIL = 3
LEAST_GAIN, MOST_GAIN, MOST_DETAIL = 0.35, 3.0, 8.0  # gains of a composition or of one of its directions; of detail
NAMED_COLOURS = 0.4  # of the strength of light from one side, where the prompt names the colours
NAMED_LIGHT = 0.4  # of the strength of light or dark, where the prompt says how light the image is


class Maps(NamedTuple):
    """Constant tensors of a wash."""

    fields: Tensor  # [4, height, width], of unit RMS
    to_colours: Tensor  # [C, 3], from latents to changes of red, green and blue
    to_parts: Tensor  # [C, 3], from a latent cell to its parts in DIRECTIONS
    constant: Tensor  # [3], parts of latents of 0
    to_latents: Tensor  # [3, C], from parts to the smallest change of a latent cell that makes them


class ColourWash:
    """Makes washes for priors [1, C, height, width]. It has no weights.

    Args:
        rgb: affine map from the C channels of a latent cell to red, green and blue in −1…1, [C + 1, 3]; the last row
            is the constant.
    """

    def __init__(self, rgb: Sequence[Sequence[float]]) -> None:
        self._rgb = tuple(tuple(row) for row in rgb)

    @staticmethod
    @functools.lru_cache(maxsize=8)
    def _maps(rgb: tuple[tuple[float, ...], ...], height: int, width: int) -> Maps:
        colours = torch.tensor(rgb)
        directions = torch.tensor(DIRECTIONS)
        directions = directions / directions.square().mean(dim=1, keepdim=True).sqrt()
        down, right = (cell_centres(count, colours.device) for count in (height, width))
        right, down = right.expand(height, -1), down[:, None].expand(-1, width)
        middle = -(right.square() + down.square())
        fields = torch.stack([torch.ones_like(middle), right, down, middle - middle.mean()])
        return Maps(
            fields / fields.square().mean(dim=(1, 2), keepdim=True).sqrt(),
            colours[:-1],
            colours[:-1] @ directions.T / 3,
            colours[-1] @ directions.T / 3,
            directions @ torch.linalg.pinv(colours[:-1]),
        )

    def __call__(self, prior: Tensor, numbers: Tensor, open_colours: Tensor, open_light: Tensor) -> Tensor:
        """Return the wash of one prior [1, C, height, width], to be added to it: [1, C, height, width].

        Where colours are open, the prior's own even and sloping parts give way to the wash: the image shows the
        numbers alone in them. Where the prompt names colours, only light from one side, above or the middle is added.

        Args:
            prior: the composition.
            numbers: of N(0, 1), [len(OFFICES)].
            open_colours: how far the prompt leaves the colours open, 0 to 1.
            open_light: how far it leaves open how light or dark the image is, 0 to 1.
        """
        maps = Maps(*(values.to(prior.device) for values in self._maps(self._rgb, *prior.shape[2:])))
        wanted = torch.zeros(len(DIRECTIONS), len(maps.fields), device=prior.device)
        for number, (direction, field, strength) in zip(numbers.clamp(-LARGEST, LARGEST), OFFICES, strict=True):
            wanted[direction, field] = strength * number
        smooth = _fields_in(prior[0], maps)
        own = maps.to_parts.T @ smooth  # [directions, fields]
        own[:, EVEN] += maps.constant
        # light or dark, if the prompt says so, is only moved a little
        change = wanted - own
        change[LIGHT, EVEN] = open_light * change[LIGHT, EVEN] + (1 - open_light) * NAMED_LIGHT * wanted[LIGHT, EVEN]
        light = torch.zeros_like(wanted)
        light[LIGHT, RIGHT:] = NAMED_COLOURS * wanted[LIGHT, RIGHT:]
        change = open_colours * change + (1 - open_colours) * light
        washed = einsum(change, maps.to_latents, maps.fields, "d f, d c, f h w -> c h w")
        return (washed + open_colours * _enrichment(prior[0] - _laid_out(smooth, maps), maps))[None]


def _fields_in(values: Tensor, maps: Maps) -> Tensor:
    """Measure the fields of washes in values [C, height, width]: [C, fields]."""
    return einsum(values, maps.fields, "c h w, f h w -> c f") / maps.fields[0].numel()


def _laid_out(strengths: Tensor, maps: Maps) -> Tensor:
    """Add up the fields of washes by their strengths [C, fields]: [C, height, width]."""
    return einsum(strengths, maps.fields, "c f, f h w -> c h w")


def _enrichment(rest: Tensor, maps: Maps) -> Tensor:
    """Return what a composition without the fields of washes, [C, height, width], lacks to be neither flat nor soft."""
    contrast = _rms(einsum(rest, maps.to_colours, "c h w, c k -> k h w"))
    gain = (CONTRAST / contrast).clamp(LEAST_GAIN, MOST_GAIN)
    parts = gain * einsum(rest, maps.to_parts, "c h w, c d -> d h w")
    more = [_factor(part, least, MOST_GAIN) - 1 for part, least in zip(parts, LEAST_PARTS, strict=True)]
    # detail is finer than a wash by far, so it hides less of the wash than contrast does
    light, margin = parts[LIGHT, None], DETAIL // 2
    inner = light[:, margin:-margin, margin:-margin] - F.avg_pool2d(light, DETAIL, stride=1)
    detail = F.pad(inner, (margin,) * 4, mode="replicate")
    detail = detail - _laid_out(_fields_in(detail, maps), maps)
    added = torch.stack(more)[:, None, None] * parts
    added[LIGHT] += (_factor(detail, LEAST_DETAIL, MOST_DETAIL) - 1) * detail[0]
    return (gain - 1) * rest + einsum(added, maps.to_latents, "d h w, d c -> c h w")


def _factor(values: Tensor, least: float, most: float) -> Tensor:
    """Return what gives values an RMS of `least`, from 1 to `most`."""
    return (least / _rms(values)).clamp(1, most)


def _rms(values: Tensor) -> Tensor:
    """Return the root of the mean square, above 0."""
    return values.square().mean().sqrt().clamp(min=1e-6)
