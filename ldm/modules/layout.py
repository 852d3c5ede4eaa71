"""What a prompt alone says of a picture: guesses of all of it, among which the noise chooses.

A small U-Net is a good painter and a bad composer: what a spiral is, all over the picture, takes it more training than
a laptop can give. A picture of this program's art is a few shapes filled with a few colours, so that shapes and
colours can be learned apart, thousands of times as fast, and the U-Net be given what they make together.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import Tensor, nn

EMPTY = 0.05  # so near is the mean of an embedded prompt to that of the empty one, however it is rounded
SURE = 0.5  # a likelier value of an attribute is what the prompt says, not a matter of chance
DRAWS = 4  # for each variant
VIEWS = 16  # of each draw


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
    """A guess [B, C, H, W] of the clean latents from a prompt, out of many that noisy latents choose from.

    Each guess is a sum of `maps`, which share each cell among them, times a colour (a vector of latent channels) for
    each: what decides shapes is kept from what decides colours. The guess is that of one variant of all shapes, as it
    is in training, where the variant is known; so that the U-Net is told all that is to be known of the composition.
    What a prompt leaves open, each guess decides for itself, as likely as it is: noise chooses the pattern if words
    do not. And each is seen in several ways (`ldm/data/views.py`).

    Args:
        context_dim: width of the prompt's embedding.
        channels, size: of the latents.
        shape_attributes: how many values each attribute has that shapes depend on.
        colour_attributes: the same for colours.
        variants: shapes that the same attributes can have.
        width: of the hidden layers.
        maps: shapes of each guess.
    """

    # given by training
    draws: Tensor  # [DRAWS · variants, A]: Gumbel noise
    views: Tensor  # [VIEWS, size, size, 2]: coordinates
    nothing: Tensor  # [context_dim]: the mean embedding of the empty prompt

    def __init__(
        self,
        context_dim: int,
        channels: int,
        size: int,
        shape_attributes: Sequence[int],
        colour_attributes: Sequence[int],
        variants: int,
        width: int,
        maps: int,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.maps = channels, size, maps
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
        self.register_buffer("views", torch.zeros(VIEWS, size, size, 2))
        self.register_buffer("nothing", torch.zeros(context_dim))
        self._kept: tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]] | None = None  # context, see _kept_guesses

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

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """The guess for prompts [B, M, context_dim] that is most like latents `x` [B, C, H, W], or 0 for none.

        The likeness is the cosine: of latents that are a guess and noise it finds the guess, and of pure noise it
        prefers none. Once chosen, a guess is more and more of the latents, so that sampling does not change its mind.
        """
        small = F.interpolate(x.float(), (self.size, self.size), mode="area")
        guess = torch.empty_like(small)
        for rows, guesses, norms in self._kept_guesses(context):
            likeness = einsum(small[rows], guesses, "b c h w, k c h w -> b k") / norms
            guess[rows] = guesses[likeness.argmax(dim=1)]
        return F.interpolate(guess, x.shape[2:], mode="bilinear").to(x.dtype)

    def _kept_guesses(self, context: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each different prompt of `context`: its rows, its guesses [K, C, H, W] and their norms [K].

        They are kept: prompts stay the same through all steps of sampling, and often from picture to picture.
        """
        if self._kept is None or not torch.equal(self._kept[0], context):
            self._kept = None  # frees what was kept before more is made
            prompts, row = context.unique(dim=0, return_inverse=True)
            kept = []
            for number, prompt in enumerate(prompts):
                guesses = self._guesses_for(prompt)
                norms = guesses.square().sum(dim=(1, 2, 3)).sqrt()
                kept.append(((row == number).nonzero()[:, 0], guesses, norms))
            self._kept = (context, kept)
        return self._kept[1]

    def _guesses_for(self, prompt: Tensor) -> Tensor:
        """Every draw in every view [K, C, H, W] float32 for a prompt [M, context_dim]; for the empty one a single 0."""
        if (prompt.mean(dim=0) - self.nothing).abs().amax() < EMPTY:
            return torch.zeros(1, self.channels, self.size, self.size, device=prompt.device)
        variant = torch.arange(len(self.draws), device=prompt.device) % len(self.shapes)
        drawn = self.guesses(self.decided(prompt[None]), variant)[0].float()
        drawn = repeat(drawn, "k c h w -> (k v) c h w", v=len(self.views))
        return seen(drawn, repeat(self.views, "v h w xy -> (k v) h w xy", k=len(self.draws)))
