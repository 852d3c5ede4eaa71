"""The prior: coarse latents of an image, predicted from the prompt and the start noise before sampling begins.

A small U-Net paints colours and textures well, but a spiral over the whole image would take it more training than a
laptop can give. The images of this program are a few shapes filled with a few colours, so shapes and colours can be
learned separately, thousands of times as fast. The U-Net receives the result as a second input.

    prompt embedding [M, D]                 start noise x_T [C, H, W]
            │                                   │
       PromptReader                       leading_numbers: from N(0, 1), of its lowest frequencies
            │                                   │
    probabilities of attributes                 │
            │                                   │
    sample_attributes ── candidates ◄────────── │ ── scores, the best candidates win
            │                                   │
    sample_colours ◄─────────────────────────── │ ── colours that the prompt leaves open
            │                                   │
    Shapes: soft masks [maps, cells]            │
            × palette [maps, C]                 │
            │                                   │
    composition [C, size, size]                 │
            │                                   │
          warp ◄─────── viewing_grid ◄───────── │ ── bending, zoom and position
            │                                   │
      tint_by_shape ◄── common_shape ◄───────── │ ── a shape that all channels share (low_frequencies.py)
            │                                   │
            + ◄──────── ColourWash ◄─────────── ┘ ── light and colours over the whole image (wash.py)
            │
    prior [C, size, size], resized to [C, H, W]; wider or higher where H and W differ: there edges are mirrored

The leading numbers come in this order: those of the wash, scores of variants, position, bending. The first one zooms,
too, and the first 16 choose open colours. In the noise of a
voice the first ones are its named qualities, and all of them repeat when the same is said again, the earlier the better
(audio/orthogonal_map.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from ldm.modules.diffusionmodules.util import normal_parameter
from ldm.modules.grids import cell_centres, warp
from ldm.modules.low_frequencies import DCT_ORDER, common_shape, gumbel, leading_numbers, uniform
from ldm.modules.reader import PromptReader
from ldm.modules.shapes import Shapes
from ldm.modules.wash import OFFICES, ColourWash

# The prompt decides an attribute if one of its values is more probable than this; else chance does.
SURE = 0.75
SURE_IF_NAMED = 0.4  # for figures and colours, which appear only if the prompt names them, and for its moods
FIGURE, MOOD, COLOUR = "figure", "mood", "colour"  # attributes
HINTED = 0.15  # a value that is more probable is what the prompt is about, so no taste rules it out

CANDIDATES_PER_VARIANT = 4
OWN_WEIGHT = 0.3  # of a candidate's own score against the score that all candidates of its variant share
CANDIDATE_MARGIN = 0.01  # standard deviations: candidates this close to the best are blended with it
COLOUR_MARGIN = 1.0  # the same for the values of a colour, in log-probability
COLOUR_NUMBERS = 16  # leading numbers that choose colours
PITCH = 0  # the leading number that zooms: high voices are small and many, deep ones are large and near
FADE = 0.2  # of probability, over which a wash fades where a prompt begins to name colours or light

# Log-odds in cells where the common shape is one standard deviation high. At 7 the right one of six spectrograms is
# found for 87 to 100 % of images, at 4 for 53 to 70 % (`python -m benchmarks.visible`).
TINT_STRENGTH = 7.0
MIN_SHARE = 0.03  # of a colour in a cell, so that its log-odds are finite
THIRD_COLOUR_DAMPING = 6.0  # cells of a third colour are tinted by exp(−6 d²), d from the line between the first two

PALETTE_WIDTH = 256  # of the vectors of colours, and of the layers that turn them into a palette


@dataclass(frozen=True)
class PriorSettings:
    """Numbers that decide the shape of a `PromptPrior`, by their names in the yaml of a model."""

    size: int  # height and width of the prior, in cells
    shape_attributes: Mapping[str, int]  # number of values of each attribute that shapes depend on; see `Shapes`
    colour_attributes: Sequence[int]  # the same for the colours, which share one list of values
    variants: int  # number of shapes that the same attributes can have, at most knots × knots
    nearest: float  # largest zoom of the viewing grid
    bend: float  # standard deviation of the grid's displacement, in half images
    knots: int  # squares a side
    width: int  # this and the others: see `Shapes`
    cell_width: int
    extent: int
    fields: int
    maps: int
    rgb: Sequence[Sequence[float]] = ()  # see `ColourWash`; without it there is no wash
    taste: Mapping[str, Sequence[float]] = field(default_factory=dict)  # weights of values that a prompt leaves open


class PromptPrior(nn.Module):
    """Predicts the prior [B, C, H, W], an estimate of the clean latents, from a prompt and the start noise.

    A composition is a sum of `maps` soft masks times one colour (a vector of latent channels) for each mask. It belongs
    to one variant of all shapes, as in training, where the variant is known.

    A prompt leaves attributes open. A few candidates per variant each fix them at random, as often as they are
    probable, and the start noise chooses among the candidates. Open colours are mixed, and a wash lies over them. The
    choice depends only on the means of the noise over knots × knots squares, because these change least between
    recordings of one voice.

    The map from noise to prior is continuous: similar noise gives a similar image. Averaging two candidates shows both
    at once, and rendering the average of their embeddings shows neither, so candidates are blended only where their
    scores are almost equal.

    Some attribute names are keys of the state dict of the built-in model and stay as they are: `colours`, `tint`,
    `paint`, `draws`.

    Args:
        context_dim: width of the prompt's embedding.
        channels: channels C of the latents, at least four.
        settings: all other numbers.
    """

    draws: Tensor  # [candidates, attributes' values], Gumbel noise that training sets

    def __init__(self, context_dim: int, channels: int, settings: PriorSettings) -> None:
        super().__init__()
        s = settings
        self.size, self.maps, self.variants = s.size, s.maps, s.variants
        self.nearest, self.bend, self.knots = s.nearest, s.bend, s.knots
        self.shape_counts, self.colour_counts = list(s.shape_attributes.values()), list(s.colour_attributes)
        self.shape_values, colour_values = sum(self.shape_counts), sum(self.colour_counts)
        self.reader = PromptReader(context_dim, [*self.shape_counts, *self.colour_counts])
        self.shapes = Shapes(s.shape_attributes, s.variants, s.size, s.extent, s.fields, s.width, s.cell_width, s.maps)
        self.colours = normal_parameter(colour_values, PALETTE_WIDTH, std=0.5)
        self.tint = nn.Linear(s.width, PALETTE_WIDTH)
        self.paint = nn.Sequential(
            nn.SiLU(),
            nn.Linear(PALETTE_WIDTH, PALETTE_WIDTH),
            nn.SiLU(),
            nn.Linear(PALETTE_WIDTH, s.maps * channels),
        )
        self.wash = ColourWash(s.rgb) if s.rgb else None
        self.taste = s.taste
        candidates = CANDIDATES_PER_VARIANT * s.variants
        self.register_buffer("draws", torch.zeros(candidates, self.shape_values + colour_values))

    # --- attributes ---

    def sample_attributes(self, probabilities: Tensor) -> Tensor:
        """Sample the shape attributes of all K candidates: [B, K, attributes], from the reader's [B, A].

        By the Gumbel-max trick: the argmax of log-probabilities plus Gumbel noise is a sample. The noise is fixed, so
        the same prompt has the same candidates. Where a prompt says nothing, some values are preferred to others.
        """
        parts = probabilities[:, : self.shape_values].split(self.shape_counts, dim=1)
        noises = self.draws[:, : self.shape_values].split(self.shape_counts, dim=1)
        tastes = (torch.tensor(self.taste.get(name, [1.0])).clamp(min=1e-9).log() for name in self.shapes.names)
        scores = (
            p.log()[:, None] + ~is_decided(p, name)[:, None, None] * (noise + ((p < HINTED) * taste.to(p))[:, None])
            for p, noise, name, taste in zip(parts, noises, self.shapes.names, tastes, strict=True)
        )
        return torch.stack([score.argmax(dim=2) for score in scores], dim=2)

    def sample_colours(self, normals: Tensor, probabilities: Tensor) -> Tensor:
        """Sample the colour attributes as weights [B, A − S] from `normals` [B, N] ~ N(0, 1) and the reader's [B, A].

        Again the Gumbel-max trick, but the Gumbel noise is a smooth function of `normals` and similar for colours with
        similar vectors, so that `normals` is a point in a space of colours. Values close to the best are mixed.
        (Relaxed samples of this kind: Maddison et al. 2016, arXiv 1611.00712; Jang et al. 2016, arXiv 1611.01144.)
        """
        normals = normals[:, : len(self.draws)]
        noises = (self.draws - self.draws.mean(dim=0))[: normals.shape[1]].float()  # [N, A]
        mixed = []
        for p, noise, vectors in zip(
            probabilities[:, self.shape_values :].split(self.colour_counts, dim=1),
            noises[:, self.shape_values :].split(self.colour_counts, dim=1),
            self.colours.float().split(self.colour_counts),
            strict=True,
        ):
            # project the fixed noise on the directions in which the colours differ: one unit vector for each value
            similar = F.normalize(vectors - vectors.mean(dim=0), dim=1)
            directions = F.normalize(similar @ (similar.T @ noise.T), dim=1)  # [values, N]
            scores = p.log() + gumbel(normals @ directions.T)
            is_named = is_decided(p, COLOUR)[:, None]
            weights = torch.where(is_named, _one_hot(p), _blend_weights(scores, COLOUR_MARGIN))
            # an average of vectors is shorter than its parts, and would give a paler colour
            norm = weights @ vectors.norm(dim=1) / (weights @ vectors).norm(dim=1)
            mixed.append(weights * norm[:, None])
        return torch.cat(mixed, dim=1)

    # --- compositions ---

    def priors(self, attributes: Tensor, colours: Tensor, variant: Tensor) -> Tensor:
        """Render priors [B, K, C, size, size] of `variant` [K] or [B, K], before any view of them is chosen.

        Args:
            attributes: values of the shape attributes [B, K, attributes].
            colours: colour attributes, one-hot or mixed [B, K, A − S].
        """
        return self._colorize(*self._masks(attributes, variant), colours)

    def _masks(self, attributes: Tensor, variant: Tensor) -> tuple[Tensor, Tensor]:
        """Render masks [B, K, maps, cells] and embeddings of the attributes [B, K, width]; see `Shapes`."""
        count = attributes.shape[:2]
        masks, h = self.shapes(attributes.flatten(0, 1), variant.expand(count).flatten())
        return masks.unflatten(0, count), h.unflatten(0, count)

    def _colorize(self, masks: Tensor, h: Tensor, colours: Tensor) -> Tensor:
        """Fill masks [B or 1, K, …] with the colours of attributes [B, K, A − S]: [B, K, C, size, size]."""
        palette = self.paint(colours.to(self.colours.dtype) @ self.colours + self.tint(h))
        palette = rearrange(palette, "b k (m c) -> b k m c", m=self.maps)
        masks = masks.expand(len(palette), -1, -1, -1)
        return rearrange(einsum(masks, palette, "b k m n, b k m c -> b k c n"), "b k c (h w) -> b k c h w", h=self.size)

    def extent_for(self, x_T: Tensor) -> tuple[int, int]:
        """Return height and width, in cells, of the prior for noise [B, C, H, W]; the shorter side has `size` cells."""
        shorter = min(x_T.shape[2:])
        height, width = (round(self.size * side / shorter) for side in x_T.shape[2:])
        return height, width

    def viewing_grid(self, x_T: Tensor) -> Tensor:
        """Return the places [B, height, width, 2] of a composition that noise [B, C, H, W] makes visible.

        Training draws the same grids at random (`training.scenes.augment`), of size × size cells. Here leading numbers
        of the noise take the place of its random numbers, and the longer side of noise that is not square sees more.
        """
        leading = leading_numbers(x_T, self.knots)
        begin = len(OFFICES) + self.variants
        place, bends = leading[:, begin : begin + 2], leading[:, begin + 2 : begin + 2 + 2 * self.knots**2]
        share = 1 / (1 + (self.nearest - 1) * uniform(-leading[:, PITCH]))  # visible part of the composition, a side
        centre = (2 * uniform(place) - 1) * (1 - share)[:, None]
        height, width = self.extent_for(x_T)
        down, right = (cell_centres(self.size, x_T.device, count) for count in (height, width))
        straight = torch.stack(torch.meshgrid(right, down, indexing="xy"), dim=2)  # [height, width, 2]
        knots = rearrange(self.bend * bends, "b (xy h w) -> b xy h w", xy=2, h=self.knots)
        bent = F.interpolate(knots, (height, width), mode="bicubic")
        return straight * share[:, None, None, None] + centre[:, None, None] + rearrange(bent, "b xy h w -> b h w xy")

    # --- from noise and prompt to the prior ---

    def scores(self, x_T: Tensor) -> Tensor:
        """Score the candidates by start noise `x_T` [B, C, H, W]: [B, K], standard normal."""
        return self._candidate_scores(leading_numbers(x_T.float(), self.knots)[:, len(OFFICES) :])

    def shares(self, x_T: Tensor) -> Tensor:
        """Return the shares of the candidates that `x_T` [B, C, H, W] chooses: [B, K], mostly 1 for one, 0 else."""
        return _blend_weights(self.scores(x_T), CANDIDATE_MARGIN)

    def forward(self, x_T: Tensor, context: Tensor, has_prompt: Tensor, shares: Tensor | None = None) -> Tensor:
        """Predict the prior [B, C, H, W] for prompts [B, M, context_dim] and start noise `x_T` [B, C, H, W].

        It is 0 where `has_prompt` [B] is false.

        Args:
            shares: of the candidates, [B, K], which sum to 1; None: `x_T` chooses.
        """
        prior = torch.zeros(*x_T.shape[:2], *self.extent_for(x_T), device=x_T.device)
        if has_prompt.any():
            # one image at a time, so that its prior is the same to the last bit whatever else is in the batch
            noises = x_T[has_prompt].float().split(1)
            # bfloat16 rounds probabilities near 1 to 1, for which the Gumbel noise is infinite
            with torch.autocast(x_T.device.type, enabled=False):
                chosen = [self.shares(noise) for noise in noises] if shares is None else shares[has_prompt].split(1)
                rows = zip(noises, context[has_prompt].split(1), chosen, strict=True)
                predicted = torch.cat([self._predict(*row) for row in rows])
            prior[has_prompt] = predicted.float()
        return F.interpolate(prior, x_T.shape[2:], mode="bilinear")

    def _predict(self, x_T: Tensor, context: Tensor, shares: Tensor) -> Tensor:
        """Predict one prior [1, C, height, width] for `x_T` [1, C, H, W] and a prompt [1, M, context_dim]."""
        leading, probabilities = leading_numbers(x_T, self.knots), self.reader(context)
        composed = self._compose(leading, probabilities, shares)
        prior, *plain = warp(composed, self.viewing_grid(x_T).expand(len(composed), -1, -1, -1)).split(1)
        # the shape belongs to the image, so the viewing grid does not move it
        height, width = prior.shape[2:]
        relief = common_shape(x_T, height, width) * (math.sqrt(height * width) / DCT_ORDER)
        tinted = tint_by_shape(prior, plain[0], plain[-1], TINT_STRENGTH * relief)
        if self.wash is None:
            return tinted
        return tinted + self.wash(prior, leading[0, : len(OFFICES)], *self._left_to_wash(probabilities))

    def _left_to_wash(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Tell how far a prompt leaves open which colours an image has, and how light it is: 0 to 1 each.

        It fades from one to the other, so that a film between two prompts does not jump.
        """
        parts = probabilities.split([*self.shape_counts, *self.colour_counts], dim=1)
        first, moods = parts[len(self.shape_counts)], parts[self.shapes.names.index(MOOD)]
        colour, mood = first.amax(), moods[0, 1:].amax()  # the first mood is none
        return 1 - ((colour - SURE_IF_NAMED) / FADE).clamp(0, 1), ((SURE_IF_NAMED - mood) / FADE).clamp(0, 1)

    def _compose(self, leading: Tensor, probabilities: Tensor, shares: Tensor) -> Tensor:
        """Compose [3, C, size, size] of candidates with `shares` [1, K], for one x_T's numbers [1, N] and one prompt.

        The three are the same composition in its own colours, all in the first colour, and all in the second; without
        the last if images have one colour only.
        """
        chosen = shares.nonzero()[:, 1][None]  # [1, K]: mostly one, rarely two
        attributes = self.sample_attributes(probabilities).take_along_dim(chosen[..., None], dim=1)
        colours = self.sample_colours(leading[:, :COLOUR_NUMBERS], probabilities)  # [1, A − S]
        variant = chosen // CANDIDATES_PER_VARIANT
        masks, h = self._masks(attributes, variant)
        each = colours.split(self.colour_counts, dim=1)
        palettes = torch.stack([colours, *(one.repeat(1, len(each)) for one in each[:2])])  # [3, 1, A − S]
        drawn = self._colorize(masks, h, palettes.expand(-1, chosen.shape[1], -1)).float()  # [3, K, C, size, size]
        # training mirrors half of its views; a viewing grid cannot without a jump, so odd variants are mirrored
        drawn = torch.where((variant % 2 == 1)[..., None, None, None], drawn.flip(-1), drawn)
        weights = shares.take_along_dim(chosen, dim=1)[0]
        return einsum(weights, drawn, "candidate, palette candidate c h w -> palette c h w")

    def _candidate_scores(self, normals: Tensor) -> Tensor:
        """Score each candidate by `normals` [B, N ≥ variants] ~ N(0, 1): [B, K], standard normal too.

        Each variant has a number of its own. Each of its candidates adds a share of another variant's number.
        """
        numbers = normals[:, : self.variants]
        scores = [numbers + OWN_WEIGHT * numbers.roll(-1 - i, dims=1) for i in range(CANDIDATES_PER_VARIANT)]
        return torch.stack(scores, dim=2).flatten(1) / math.sqrt(1 + OWN_WEIGHT**2)


def tint_by_shape(prior: Tensor, first: Tensor, second: Tensor, odds: Tensor) -> Tensor:
    """Tint a prior [B, C, H, W] towards `first` where `odds` [B, 1, H, W] are positive, else towards `second`.

    `first` and `second` are the same composition in one colour each. Every cell holds a share of either, and the
    log-odds of that share change by `odds`: edges between colours move and stay sharp, where an average of two images
    would be dull. Cells of a third colour change little, because a step from one named colour to another leads from
    the third to no named colour.
    """
    way = first - second
    length = way.square().sum(dim=1, keepdim=True).clamp(min=1e-6)
    share = ((prior - second) * way).sum(dim=1, keepdim=True) / length
    aside = (prior - second - share * way).square().sum(dim=1, keepdim=True) / length
    before = share.logit(eps=MIN_SHARE)
    return prior + (-THIRD_COLOUR_DAMPING * aside).exp() * way * ((before + odds).sigmoid() - before.sigmoid())


# --- choosing --------------------------------------------------------------------------------------------------------


def is_decided(p: Tensor, attribute: str) -> Tensor:
    """Tell where a prompt decides an attribute, by the probabilities [B, values] of its values: bool [B]."""
    largest, value = p.max(dim=1)
    if attribute == MOOD:  # the first mood is none; a prompt that names none gives each other less than a tenth
        return largest >= torch.where(value > 0, SURE_IF_NAMED, SURE)
    return largest >= (SURE_IF_NAMED if attribute in (FIGURE, COLOUR) else SURE)


def _one_hot(scores: Tensor) -> Tensor:
    """Return 1 for the largest of [..., values], 0 for the others."""
    return F.one_hot(scores.argmax(dim=-1), scores.shape[-1]).to(scores)


def _blend_weights(scores: Tensor, margin: float) -> Tensor:
    """Weigh scores [B, values] linearly, from 0 at `margin` below the best; the weights sum to 1."""
    ahead = (scores - scores.amax(dim=1, keepdim=True) + margin).clamp(min=0)
    return ahead / ahead.sum(dim=1, keepdim=True)
