"""What a prompt alone says of a picture: guesses of all of it, among which the noise chooses.

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

EMPTY = 0.05  # so near is the mean of an embedded prompt to that of the empty one, however it is rounded
SURE = 0.5  # a likelier value of an attribute is what the prompt says, not a matter of chance
DRAWS = 4  # for each variant
DECISIVENESS = 200.0  # of the choice among draws: at 16 the guess is often two in one, without end walks have jumps


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

    What a prompt leaves open, each of a few draws decides for itself, as likely as it is. The noise chooses among the
    draws, and how they are seen (as in `ldm/data/views.py`). All of it is continuous: what is nearly the same noise
    gives nearly the same picture, and between two noises lies a way without a jump.

    Args:
        context_dim: width of the prompt's embedding.
        channels, size: of the latents; three channels at least.
        shape_attributes: how many values each attribute has that shapes depend on.
        colour_attributes: the same for colours.
        variants: shapes that the same attributes can have.
        nearest, bend, knots: the views' largest zoom, standard deviation of the bending (half pictures), knots a side.
        width: of the hidden layers.
        maps: shapes of each guess.
    """

    # given by training
    draws: Tensor  # [DRAWS · variants, A]: Gumbel noise
    nothing: Tensor  # [context_dim]: the mean embedding of the empty prompt

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
        self.register_buffer("nothing", torch.zeros(context_dim))

    def decided(self, context: Tensor) -> Tensor:
        """Attributes [B, K, A], each one-hot, of the K draws for prompts [B, M, context_dim].

        The Gumbel-max trick: the largest of log-probabilities and fixed noise is a draw from the probabilities.
        """
        drawn = []
        parts = self.reader.attributes
        for p, noise in zip(self.reader(context).split(parts, dim=1), self.draws.split(parts, dim=1), strict=True):
            unsure = (p.amax(dim=1) < SURE).to(p)
            values = (p.log()[:, None] + unsure[:, None, None] * noise).argmax(dim=2)
            drawn.append(F.one_hot(values, p.shape[1]))
        return torch.cat(drawn, dim=2).to(self.shapes)

    def guesses(self, attributes: Tensor, variant: Tensor) -> Tensor:
        """Guesses [B, K, C, H, W] for attributes [B, K, A] of the variants [K] or [B, K]."""
        shape, colour = attributes.to(self.shapes.dtype).split(self.split, dim=2)
        every = einsum(shape, self.shapes, "b k a, v a d -> b k v d")
        h = every.take_along_dim(variant.expand(every.shape[:2])[..., None, None], dim=2).squeeze(2)
        for layer in self.hidden:
            h = h + layer(h)
        maps = rearrange(self.draw(F.silu(h)), "b k (m n) -> b k m n", m=self.maps).softmax(dim=2)
        colours = self.paint(colour @ self.colours + self.tint(h))
        colours = rearrange(colours, "b k (m c) -> b k m c", m=self.maps)
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

    def forward(self, x_T: Tensor, context: Tensor) -> Tensor:
        """The guess for prompts [B, M, context_dim] and start noise `x_T` [B, C, H, W]; 0 for the empty prompt."""
        told = (context.mean(dim=1) - self.nothing).abs().amax(dim=1) >= EMPTY
        guess = torch.zeros(len(x_T), x_T.shape[1], self.size, self.size, device=x_T.device)
        if told.any():
            guess[told] = self._chosen(x_T[told].float(), context[told]).float()
        return F.interpolate(guess, x_T.shape[2:], mode="bilinear")

    def _chosen(self, x_T: Tensor, context: Tensor) -> Tensor:
        """Of all draws for each prompt, as they are seen, the likest to the noise: [B, C, size, size].

        Every other draw is mirrored.
        """
        variant = torch.arange(len(self.draws), device=context.device) % len(self.shapes)
        drawn = self.guesses(self.decided(context), variant).float()
        drawn[:, 1::2] = drawn[:, 1::2].flip(4)
        shown = seen(rearrange(drawn, "b k c h w -> b (k c) h w"), self.view(x_T))
        shown = rearrange(shown, "b (k c) h w -> b k c h w", c=x_T.shape[1])
        likeness = einsum(_normal_numbers(x_T, self.size), shown, "b c h w, b k c h w -> b k")
        likeness = likeness / shown.square().sum(dim=(2, 3, 4)).sqrt()  # from N(0, 1), for each draw
        return einsum((DECISIVENESS * likeness).softmax(dim=1), shown, "b k, b k c h w -> b c h w")


def _normal_numbers(x: Tensor, count: int) -> Tensor:
    """Means of noise [B, C, H, W] over count × count squares, times the root of their area: N(0, 1) again."""
    return F.interpolate(x, (count, count), mode="area") * (math.sqrt(x.shape[2] * x.shape[3]) / count)


def _uniform(normal: Tensor) -> Tensor:
    """What part of N(0, 1) lies below: uniform in 0…1."""
    return torch.special.ndtr(normal)
