"""What a prompt alone says of a picture: draws of all of it, of which the noise makes one guess.

A small U-Net is a good painter and a bad composer: what a spiral is, all over the picture, takes it more training than
a laptop can give. A picture of this program's art is a few shapes filled with a few colours, so that shapes and
colours can be learned apart, thousands of times as fast, and the U-Net be given what they make together.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

SURE = 0.4  # a likelier value of an attribute is what the prompt says, not a matter of chance
DRAWS = 4  # for each variant
MARGIN = 0.01  # behind the noise's favourite, in standard deviations: draws that are nearer are mixed with it
COLOUR_MARGIN = 1.0  # the same for values of a colour, in log-probability
DRIFT = 0.8  # of colours that are not named, all over a picture: 0 is none, at 1 each place has its own
OWN = 0.3  # of a draw's liking, against that of its variant, which all of them have that are nearly as well liked
LARGEST = 5.0  # of a number from N(0, 1), beyond which float32 cannot tell its rank from 1


def seen(latents: Tensor, coordinates: Tensor) -> Tensor:
    """What is at `coordinates` [B, H, W, 2] (of `ldm.data.views.view`) of latents [B, C, H, W]."""
    return F.grid_sample(latents, coordinates.to(latents), padding_mode="reflection", align_corners=False)


class PromptReader(nn.Module):
    """Embedded prompts to the probabilities of each value of each attribute that a picture has.

    Each attribute looks for the words that tell of it: the mean over all of them learns many times as slowly.
    """

    GAIN = 4.0  # of the scores over what the weights give: so they are learned as fast as all else

    def __init__(self, context_dim: int, attributes: Sequence[int]) -> None:
        super().__init__()
        self.attributes = list(attributes)
        self.told = nn.Linear(context_dim, sum(attributes))
        self.relevance = nn.Linear(context_dim, len(self.attributes))

    def scores(self, context: Tensor) -> list[Tensor]:
        """Logits [B, values] of each attribute for prompts [B, M, context_dim]."""
        told = self.told(context).split(self.attributes, dim=2)
        weights = self.GAIN * self.relevance(context).softmax(dim=1)
        return [einsum(w, t, "b m, b m v -> b v") for w, t in zip(weights.unbind(dim=2), told, strict=True)]

    def forward(self, context: Tensor) -> Tensor:
        """Probabilities [B, sum of values]; those of each attribute sum to 1."""
        return torch.cat([scores.float().softmax(dim=1) for scores in self.scores(context)], dim=1)


def _normal(*shape: int) -> nn.Parameter:
    """From N(0, ½²), or without numbers on the meta device, see `random_embedding`."""
    weight = torch.empty(*shape)
    return nn.Parameter(weight if weight.is_meta else nn.init.normal_(weight, std=0.5))


class PromptLayout(nn.Module):
    """A guess [B, C, H, W] of the clean latents from a prompt and the noise that sampling starts from.

    What is drawn is a sum of `maps`, which share each cell among them, times a colour (a vector of latent channels) for
    each: what decides shapes is kept from what decides colours. It is that of one variant of all shapes, as in
    training, where the variant is known; so that the U-Net is told all that is to be known of the composition.

    What a prompt leaves open, each of a few draws decides for itself, as likely as it is; colours that it leaves open
    are mixed, and drift from place to place. How all that comes out is decided by the lowest frequencies of the noise,
    its means over knots × knots squares of each channel: those of the first two bend what is seen (as in
    `ldm/data/views.py`), the third's tell how near and from where, the fourth's choose draws, and the last two's
    colours. These are what changes least where a voice does (`audio/whitening.py`).

    All of it is continuous: what is nearly the same noise gives nearly the same picture, and between two noises lies a
    way without a jump. But a mean of two draws is two in one, and what is drawn of the mean of their embeddings is
    neither; so they are mixed only where the choice is very close, on short ways.

    Args:
        context_dim: width of the prompt's embedding.
        channels, size: of the latents; four channels at least.
        shape_attributes: how many values each attribute has that shapes depend on.
        colour_attributes: the same for colours.
        variants: shapes that the same attributes can have; knots × knots at most.
        nearest, bend, knots: the views' largest zoom, standard deviation of the bending (half pictures), knots a side.
        width: of the hidden layers.
        maps: shapes of each guess.
    """

    draws: Tensor  # [DRAWS · variants, A]: Gumbel noise, given by training

    def __init__(
        self,
        context_dim: int,
        channels: int,
        size: int,
        shape_attributes: Sequence[int],
        colour_attributes: Sequence[int],
        variants: int,
        nearest: float,
        bend: float,
        knots: int,
        width: int,
        maps: int,
    ) -> None:
        super().__init__()
        self.size, self.maps = size, maps
        self.nearest, self.bend, self.knots = nearest, bend, knots
        self.shape_parts, self.colour_parts = list(shape_attributes), list(colour_attributes)
        self.split = [sum(shape_attributes), sum(colour_attributes)]
        self.reader = PromptReader(context_dim, [*shape_attributes, *colour_attributes])
        self.shapes = _normal(variants, self.split[0], width)
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)) for _ in range(2)
        )
        self.draw = nn.Linear(width, maps * size * size)
        self.colours = _normal(self.split[1], 256)
        self.tint = nn.Linear(width, 256)
        self.paint = nn.Sequential(nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, maps * channels))
        self.register_buffer("draws", torch.zeros(DRAWS * variants, sum(self.split)))

    def decided(self, probabilities: Tensor) -> Tensor:
        """Attributes of shapes [B, K, S], each one-hot, of the K draws for `probabilities` [B, A] of the reader.

        The Gumbel-max trick: the largest of log-probabilities and fixed noise is a draw from the probabilities.
        """
        told = probabilities[:, : self.split[0]].split(self.shape_parts, dim=1)
        random = self.draws[:, : self.split[0]].split(self.shape_parts, dim=1)
        drawn = [
            _one_hot(p.log()[:, None] + _open(p)[:, None, None] * noise) for p, noise in zip(told, random, strict=True)
        ]
        return torch.cat(drawn, dim=2).to(self.shapes)

    def coloured(self, chance: Tensor, probabilities: Tensor) -> Tensor:
        """Attributes of colours [B, A − S] for `probabilities` [B, A] of the reader and `chance` [B, N] from N(0, 1).

        The Gumbel-max trick, with noise that comes from `chance` and is alike for colours that are painted alike: so
        the numbers are a point in a space of colours. Those that are nearly the largest are mixed. (Soft choices of
        this kind: Maddison et al., arXiv 1611.00712; Jang et al., arXiv 1611.01144.)
        """
        chance = chance[:, : len(self.draws)]
        random = (self.draws - self.draws.mean(dim=0))[: chance.shape[1]].float()  # [N, A]
        mixed = []
        for p, noise, painted in zip(
            probabilities[:, self.split[0] :].split(self.colour_parts, dim=1),
            random[:, self.split[0] :].split(self.colour_parts, dim=1),
            self.colours.float().split(self.colour_parts),
            strict=True,
        ):
            alike = F.normalize(painted - painted.mean(dim=0), dim=1)
            directions = F.normalize(alike @ (alike.T @ noise.T), dim=1)  # [values, N]
            scores = p.log() + _gumbel(chance @ directions.T)
            shares = torch.where(_open(p)[:, None], _shares(scores, COLOUR_MARGIN), _one_hot(p))
            # a mean is shorter than its parts, and would be painted paler
            mixed.append(shares * (shares @ painted.norm(dim=1) / (shares @ painted).norm(dim=1))[:, None])
        return torch.cat(mixed, dim=1)

    def guesses(self, attributes: Tensor, variant: Tensor) -> Tensor:
        """Guesses [B, K, C, H, W] for attributes [B, K, A] of the variants [K] or [B, K]."""
        shape, colour = attributes.split(self.split, dim=2)
        return self._coloured_in(self._composition(shape, variant), colour)

    def _composition(self, shape: Tensor, variant: Tensor) -> Tensor:
        """Attributes of shapes [B, K, S] of the variants [K] or [B, K] -> what decides them all [B, K, width]."""
        every = einsum(shape.to(self.shapes.dtype), self.shapes, "b k a, v a d -> b k v d")
        h = every.take_along_dim(variant.expand(every.shape[:2])[..., None, None], dim=2).squeeze(2)
        for layer in self.hidden:
            h = h + layer(h)
        return h

    def _coloured_in(self, h: Tensor, colour: Tensor) -> Tensor:
        """A composition [B or 1, K, width] in the colours of attributes [B, K, A − S]: [B, K, C, H, W]."""
        maps = rearrange(self.draw(F.silu(h)), "b k (m n) -> b k m n", m=self.maps).softmax(dim=2)
        colours = self.paint(colour.to(self.shapes.dtype) @ self.colours + self.tint(h))
        colours = rearrange(colours, "b k (m c) -> b k m c", m=self.maps)
        maps = maps.expand(len(colours), -1, -1, -1)
        return rearrange(einsum(maps, colours, "b k m n, b k m c -> b k c n"), "b k c (h w) -> b k c h w", h=self.size)

    def view(self, x_T: Tensor) -> Tensor:
        """How noise [B, C, H, W] sees what is drawn: coordinates [B, size, size, 2], see `ldm.data.views.view`.

        Its means over knots × knots squares, normal numbers all, take the place of random numbers there: those of the
        first two channels bend, the first three of the third say how near and from where the picture is seen.
        """
        squares = _normal_numbers(x_T, self.knots)
        zoom, *place = (_uniform(squares[:, 2].flatten(1)[:, number]) for number in range(3))
        share = 1 / (1 + (self.nearest - 1) * zoom)
        centre = (2 * torch.stack(place, dim=1) - 1) * (1 - share)[:, None]
        axis = (torch.arange(self.size, device=x_T.device) + 0.5) * (2 / self.size) - 1
        straight = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=2)  # [size, size, 2]
        bent = F.interpolate(self.bend * squares[:, :2], (self.size, self.size), mode="bicubic")
        return straight * share[:, None, None, None] + centre[:, None, None] + rearrange(bent, "b xy h w -> b h w xy")

    def forward(self, x_T: Tensor, context: Tensor, told: Tensor) -> Tensor:
        """The guess for prompts [B, M, context_dim] and start noise `x_T` [B, C, H, W]; 0 where not `told` [B]."""
        guess = torch.zeros(len(x_T), x_T.shape[1], self.size, self.size, device=x_T.device)
        if told.any():
            # one by one: so a guess is the same to the last bit, whatever else is in the batch
            rows = zip(x_T[told].float().split(1), context[told].split(1), strict=True)
            # in bfloat16 what is nearly 1 is 1, of which there is no Gumbel noise
            with torch.autocast(x_T.device.type, enabled=False):
                drawn = torch.cat([seen(self._composed(noise, prompt), self.view(noise)) for noise, prompt in rows])
            guess[told] = drawn.float()
        return F.interpolate(guess, x_T.shape[2:], mode="bilinear")

    def _likings(self, chance: Tensor) -> Tensor:
        """How noise likes each draw by numbers `chance` [B, N] from N(0, 1), N at least the variants': [B, K], N(0, 1).

        Each variant has a number, and each of its draws a share of that of another variant.
        """
        numbers = chance[:, : len(self.shapes)]
        likings = [numbers + OWN * numbers.roll(-1 - draw, dims=1) for draw in range(DRAWS)]
        return torch.stack(likings, dim=2).flatten(1) / math.sqrt(1 + OWN**2)

    def _composed(self, x_T: Tensor, context: Tensor) -> Tensor:
        """One guess [1, C, size, size], unseen, for one `x_T` [1, C, H, W] and prompt [1, M, context_dim].

        Of the K draws those are drawn that have a share, and coloured in with the colours of each of knots × knots
        places; every other variant is mirrored.
        """
        squares = _normal_numbers(x_T, self.knots)
        shares = _shares(self._likings(squares[:, 3].flatten(1)), MARGIN)
        draw = shares.nonzero()[:, 1][None]
        probabilities = self.reader(context)
        shapes = self.decided(probabilities).take_along_dim(draw[..., None], dim=1)
        chance = _drifting(squares[:, 2:4].flatten(1), self.knots**2)
        colours = self.coloured(chance, probabilities.expand(len(chance), -1))
        variant = draw // DRAWS
        composition = self._composition(shapes, variant)
        drawn = self._coloured_in(composition, colours[:, None].expand(-1, draw.shape[1], -1)).float()
        drawn = torch.where((variant % 2 == 1)[..., None, None, None], drawn.flip(4), drawn)
        nearness = _nearness(self.knots, self.size).to(drawn)
        return einsum(shares.take_along_dim(draw, dim=1)[0], nearness, drawn, "k, n h w, n k c h w -> c h w")[None]


# --- choosing --------------------------------------------------------------------------------------------------------
def _open(p: Tensor) -> Tensor:
    """Bool [B]: do probabilities [B, values] leave it to chance?"""
    return p.amax(dim=1) < SURE


def _one_hot(scores: Tensor) -> Tensor:
    """1 for the largest of [..., values], 0 for the others."""
    return F.one_hot(scores.argmax(dim=-1), scores.shape[-1]).to(scores)


def _shares(scores: Tensor, margin: float) -> Tensor:
    """[B, values] -> what is less than `margin` behind the largest has a share, the less the further; they sum to 1."""
    ahead = (scores - scores.amax(dim=1, keepdim=True) + margin).clamp(min=0)
    return ahead / ahead.sum(dim=1, keepdim=True)


# --- places ----------------------------------------------------------------------------------------------------------
def _drifting(chance: Tensor, places: int) -> Tensor:
    """`chance` [1, N] from N(0, 1) -> that of each place [places, N], N(0, 1) too, alike by 1 − DRIFT²."""
    others = torch.cat([chance.roll(1 + place * chance.shape[1] // places, dims=1) for place in range(places)])
    return math.sqrt(1 - DRIFT**2) * chance + DRIFT * others


def _nearness(knots: int, size: int) -> Tensor:
    """Shares [knots², size, size] of knots × knots places in each cell of a picture, bilinear; they sum to 1."""
    each = rearrange(torch.eye(knots**2), "n (y x) -> n 1 y x", y=knots)
    return F.interpolate(each, (size, size), mode="bilinear", align_corners=True).squeeze(1)


# --- numbers ---------------------------------------------------------------------------------------------------------
def _normal_numbers(x: Tensor, count: int) -> Tensor:
    """Means of noise [B, C, H, W] over count × count squares, times the root of their area: N(0, 1) again."""
    return F.interpolate(x, (count, count), mode="area") * (math.sqrt(x.shape[2] * x.shape[3]) / count)


def _uniform(normal: Tensor) -> Tensor:
    """What part of N(0, 1) lies below: uniform in 0…1."""
    return torch.special.ndtr(normal)


def _gumbel(normal: Tensor) -> Tensor:
    """N(0, 1) to Gumbel noise of the same rank."""
    return -(-_uniform(normal.clamp(-LARGEST, LARGEST)).log()).log()
