"""What a prompt alone says of a picture: draws of all of it, of which the noise makes one guess.

A small U-Net is a good painter and a bad composer: what a spiral is, all over the picture, takes it more training than
a laptop can give. A picture of this program's art is a few shapes filled with a few colours, so that shapes and
colours can be learned apart, thousands of times as fast, and the U-Net be given what they make together.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

SURE = 0.75  # a likelier value of an attribute is what the prompt says, not a matter of chance
SURE_IF_NAMED = 0.4  # the same of figures and colours: none is there that the prompt does not ask for
DRAWS = 4  # for each variant
MARGIN = 0.01  # behind the noise's favourite, in standard deviations: draws that are nearer are mixed with it
COLOUR_MARGIN = 1.0  # the same for values of a colour, in log-probability
DRIFT = 0.4  # of colours that are not named, all over a picture: 0 is none, at 1 each place has its own
OWN = 0.3  # of a draw's liking, against that of its variant, which all of them have that are nearly as well liked
LARGEST = 5.0  # of a number from N(0, 1), beyond which float32 cannot tell its rank from 1
REACH = 2.1  # how far from its middle a pattern is known; a picture that is not folded shows it from −1 to 1
GAIN = 5.0  # of what is kept as a picture, over the weights: so it is learned as fast as all else
LOOKED_UP = ("pattern", "figure", "composition", "mood", "second", "blend")  # attributes that `Shapes` knows by name
BENDS = 6  # knots a side of how a mood bends a pattern
WAVES = 8  # cosines in each direction, the lowest, that may have a shape: those which `audio/initial_noise.py` lays out
CHANCE = 0.2  # how alike in these the channels of one noise of some thousands are by chance
FADE = 0.1  # how much more alike they are where all of the shape is seen
LEAN = 4.0  # of cells, in log-odds, where a shape in which all channels are the same is a standard deviation high
PURE = 0.03  # the least share of a colour in a cell, so that each cell can lean
OTHER = 6.0  # how little those cells lean that have a third colour, far from the way between the first two


def seen(latents: Tensor, coordinates: Tensor) -> Tensor:
    """What is at `coordinates` [B, H, W, 2] (of `training.scenes.augment.view`) of latents [B, C, H, W]."""
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


def _normal(*shape: int, std: float = 0.5) -> nn.Parameter:
    """From N(0, std²), or without numbers on the meta device, see `random_embedding`."""
    weight = torch.empty(*shape)
    return nn.Parameter(weight if weight.is_meta else nn.init.normal_(weight, std=std))


class Shapes(nn.Module):
    """Attributes of shapes to `maps` that share each cell of a picture among them.

    What is the same wherever it stands is learned once, as a small picture for each variant: the `fields` of each
    pattern on a plane of its own, those of each figure, and the border between two patterns. A composition only moves
    and folds a plane, as `training.scenes.render.foldings` says; a mood bends and zooms it; a figure is moved by what is
    learned. What a cell shows of each is then mixed cell by cell, in a way that all attributes decide: a field of a
    pattern has bands, is lit, or gives way to a figure.

    Args:
        attributes: how many values each has, by name: pattern, figure, composition, mood, second (pattern) and blend
            at least, of which figure, composition, second and blend have a value 0 for none.
        variants: shapes that the same attributes can have.
        size: of the picture, in cells.
        extent: of a pattern's plane, in cells.
        fields: of each pattern and each figure.
        width, cell_width: of the hidden layers, of the picture's and of each cell's.
        maps: what there is at the end.
    """

    # coordinates that cells have, given by training: in a pattern's plane, and in a figure's picture
    foldings: Tensor  # [variants, compositions, size, size, 2], the picture's edges being −1 and 1
    repeats: Tensor  # [compositions, size, size, 2], those of `grid_sample`

    def __init__(
        self,
        attributes: Mapping[str, int],
        variants: int,
        size: int,
        extent: int,
        fields: int,
        width: int,
        cell_width: int,
        maps: int,
    ) -> None:
        super().__init__()
        self.names, self.counts, self.size = list(attributes), list(attributes.values()), size
        patterns, figures, compositions = (attributes[name] for name in ("pattern", "figure", "composition"))
        self.patterns = _normal(variants, patterns, fields, extent, extent, std=0.02)
        self.figures = _normal(variants, figures, fields, size, size, std=0.02)
        self.borders = _normal(variants, attributes["blend"], 1, size, size, std=0.02)
        self.bends = nn.Parameter(torch.zeros(variants, patterns, 2, BENDS, BENDS))
        self.places = nn.Parameter(torch.zeros(variants, figures, compositions, 2, 3))
        self.zoom = nn.Parameter(torch.ones(attributes["mood"]))
        self.bend = _normal(attributes["mood"])
        self.register_buffer("foldings", torch.zeros(variants, compositions, size, size, 2))
        self.register_buffer("repeats", torch.zeros(compositions, size, size, 2))
        self.embedding = _normal(variants, sum(self.counts), width)
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)) for _ in range(2)
        )
        self.cell = nn.Linear(3 * fields + 2, cell_width)  # and the border and the distance from the middle
        self.modulation = nn.Linear(width, 2 * cell_width)
        self.share = nn.Linear(cell_width, maps)
        if not self.cell.weight.is_meta:
            nn.init.normal_(self.cell.weight)
            nn.init.normal_(self.modulation.weight, std=0.02)
            self.places.data[..., :2] = torch.eye(2)  # on the meta device it would import sympy, for a second

    def forward(self, values: Tensor, variant: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [N, maps, size²] of attributes' `values` [N, attributes] of `variant` [N], and what decides them.

        That is [N, width].
        """
        first = torch.tensor([0, *self.counts[:-1]], device=values.device).cumsum(dim=0)
        h = self.embedding[variant[:, None], values + first].sum(dim=1)
        for layer in self.hidden:
            h = h + layer(h)
        cells = rearrange(self.fields(values, variant), "n c h w -> n (h w) c").to(h.dtype)
        scale, shift = self.modulation(F.silu(h))[:, None].chunk(2, dim=2)
        shares = self.share(F.silu((1 + scale) * self.cell(cells) + shift))
        return rearrange(shares.softmax(dim=2), "n c m -> n m c"), h

    def fields(self, values: Tensor, variant: Tensor) -> Tensor:
        """What lies in each cell [N, 3 · fields + 2, size, size] float32: see the class. 0 where there is none."""
        pattern, figure, composition, mood, second, blend = (values[:, self.names.index(name)] for name in LOOKED_UP)
        at = self.foldings[variant, composition].float() * self.zoom[mood].float()[:, None, None, None]
        bend = self.bend[mood].float()[:, None, None, None]
        one = self._pattern(variant, pattern, at, bend)
        other, drawn, border = (one.new_zeros(len(one), n, *one.shape[2:]) for n in (one.shape[1], one.shape[1], 1))
        if (rows := second > 0).any():
            other[rows] = self._pattern(variant[rows], second[rows] - 1, at[rows], bend[rows])
            border[rows] = GAIN * self.borders[variant[rows], blend[rows]].float()
        if (rows := figure > 0).any():
            drawn[rows] = self._figure(variant[rows], figure[rows], composition[rows])
        axis = _centres(self.size, one.device)
        away = axis.square() + axis.square()[:, None]
        return torch.cat([one, other, drawn, border, away.expand(border.shape)], dim=1)

    def _pattern(self, variant: Tensor, pattern: Tensor, at: Tensor, bend: Tensor) -> Tensor:
        """Fields [N, fields, size, size] of patterns [N] at places [N, size, size, 2], bent by a share [N, 1, 1, 1]."""
        bends = self.bends[variant, pattern].float()
        bent = F.grid_sample(bends, at / REACH, padding_mode="border", align_corners=True)
        at = at + bend * rearrange(bent, "n xy h w -> n h w xy")
        kept = self.patterns[variant, pattern].float()
        return GAIN * F.grid_sample(kept, at / REACH, padding_mode="border", align_corners=False)

    def _figure(self, variant: Tensor, figure: Tensor, composition: Tensor) -> Tensor:
        """Fields [N, fields, size, size] of figures [N], moved as suits each composition [N]."""
        at, place = self.repeats[composition].float(), self.places[variant, figure, composition].float()
        moved = einsum(F.pad(at, (0, 1), value=1.0), place, "n h w i, n j i -> n h w j")
        kept = self.figures[variant, figure].float()
        return GAIN * F.grid_sample(kept, moved, padding_mode="border", align_corners=False)


class PromptPrior(nn.Module):
    """A guess [B, C, H, W] of the clean latents from a prompt and the noise that sampling starts from.

    What is drawn is a sum of `maps`, which share each cell among them, times a colour (a vector of latent channels) for
    each: what decides shapes is kept from what decides colours. It is that of one variant of all shapes, as in
    training, where the variant is known; so that the U-Net is told all that is to be known of the composition.

    What a prompt leaves open, each of a few draws decides for itself, as likely as it is; colours that it leaves open
    are mixed, and drift from place to place. How all that comes out is decided by the lowest frequencies of the noise,
    its means over knots × knots squares of each channel: those of the first two bend what is seen (as in
    `training/scenes/augment.py`), the third's tell how near and from where, the fourth's choose draws, and the last two's
    colours. These are what changes least where a voice does (`audio/whitening.py`).

    What is more alike in all channels than chance makes it, as where noise was given the shape of a sound, is a shape
    to be seen: where it is high the picture leans towards its first colour, where it is low towards its second.

    All of it is continuous: what is nearly the same noise gives nearly the same picture, and between two noises lies a
    way without a jump. But a mean of two draws is two in one, and what is drawn of the mean of their embeddings is
    neither; so they are mixed only where the choice is very close, on short ways.

    Args:
        context_dim: width of the prompt's embedding.
        channels, size: of the latents; four channels at least.
        shape_attributes: how many values each attribute has that shapes depend on, by name, see `Shapes`.
        colour_attributes: the same for colours, without names; all of them have the same values.
        variants: shapes that the same attributes can have; knots × knots at most.
        nearest, bend, knots: the views' largest zoom, standard deviation of the bending (half pictures), knots a side.
        width, cell_width, extent, fields, maps: see `Shapes`.
    """

    draws: Tensor  # [DRAWS · variants, A]: Gumbel noise, given by training

    def __init__(
        self,
        context_dim: int,
        channels: int,
        size: int,
        shape_attributes: Mapping[str, int],
        colour_attributes: Sequence[int],
        variants: int,
        nearest: float,
        bend: float,
        knots: int,
        width: int,
        cell_width: int,
        extent: int,
        fields: int,
        maps: int,
    ) -> None:
        super().__init__()
        self.size, self.maps = size, maps
        self.nearest, self.bend, self.knots = nearest, bend, knots
        self.shape_parts, self.colour_parts = list(shape_attributes.values()), list(colour_attributes)
        self.split = [sum(self.shape_parts), sum(self.colour_parts)]
        self.reader = PromptReader(context_dim, [*self.shape_parts, *self.colour_parts])
        self.shapes = Shapes(shape_attributes, variants, size, extent, fields, width, cell_width, maps)
        self.colours = _normal(self.split[1], 256)
        self.tint = nn.Linear(width, 256)
        self.paint = nn.Sequential(nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, maps * channels))
        self.variants = variants
        self.register_buffer("draws", torch.zeros(DRAWS * variants, sum(self.split)))

    def decided(self, probabilities: Tensor) -> Tensor:
        """Values of attributes of shapes [B, K, attributes] of the K draws for `probabilities` [B, A] of the reader.

        The Gumbel-max trick: the largest of log-probabilities and fixed noise is a draw from the probabilities.
        """
        told = probabilities[:, : self.split[0]].split(self.shape_parts, dim=1)
        random = self.draws[:, : self.split[0]].split(self.shape_parts, dim=1)
        limits = (SURE_IF_NAMED if name == "figure" else SURE for name in self.shapes.names)
        scores = (
            p.log()[:, None] + _open(p, sure)[:, None, None] * noise
            for p, noise, sure in zip(told, random, limits, strict=True)
        )
        return torch.stack([score.argmax(dim=2) for score in scores], dim=2)

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
            shares = torch.where(_open(p, SURE_IF_NAMED)[:, None], _shares(scores, COLOUR_MARGIN), _one_hot(p))
            # a mean is shorter than its parts, and would be painted paler
            mixed.append(shares * (shares @ painted.norm(dim=1) / (shares @ painted).norm(dim=1))[:, None])
        return torch.cat(mixed, dim=1)

    def guesses(self, shapes: Tensor, colours: Tensor, variant: Tensor) -> Tensor:
        """Guesses [B, K, C, H, W] of `variant` [K] or [B, K].

        Args:
            shapes: values of the attributes of shapes [B, K, attributes].
            colours: those of colours, one-hot or mixed [B, K, A − S].
        """
        return self._coloured_in(*self._composition(shapes, variant), colours)

    def _composition(self, shapes: Tensor, variant: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [B, K, maps, cells] and what decides them [B, K, width], see `Shapes`."""
        count = shapes.shape[:2]
        maps, h = self.shapes(shapes.flatten(0, 1), variant.expand(count).flatten())
        return maps.unflatten(0, count), h.unflatten(0, count)

    def _coloured_in(self, maps: Tensor, h: Tensor, colours: Tensor) -> Tensor:
        """A composition [B or 1, K, …] in the colours of attributes [B, K, A − S]: [B, K, C, H, W]."""
        painted = self.paint(colours.to(self.colours.dtype) @ self.colours + self.tint(h))
        painted = rearrange(painted, "b k (m c) -> b k m c", m=self.maps)
        maps = maps.expand(len(painted), -1, -1, -1)
        return rearrange(einsum(maps, painted, "b k m n, b k m c -> b k c n"), "b k c (h w) -> b k c h w", h=self.size)

    def view(self, x_T: Tensor) -> Tensor:
        """How noise [B, C, H, W] sees what is drawn: coordinates [B, size, size, 2], see `training.scenes.augment.view`.

        Its means over knots × knots squares, normal numbers all, take the place of random numbers there: those of the
        first two channels bend, the first three of the third say how near and from where the picture is seen.
        """
        squares = _normal_numbers(x_T, self.knots)
        zoom, *place = (_uniform(squares[:, 2].flatten(1)[:, number]) for number in range(3))
        share = 1 / (1 + (self.nearest - 1) * zoom)
        centre = (2 * torch.stack(place, dim=1) - 1) * (1 - share)[:, None]
        axis = _centres(self.size, x_T.device)
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
                drawn = torch.cat([self._shown(noise, prompt) for noise, prompt in rows])
            guess[told] = drawn.float()
        return F.interpolate(guess, x_T.shape[2:], mode="bilinear")

    def _likings(self, chance: Tensor) -> Tensor:
        """How noise likes each draw by numbers `chance` [B, N] from N(0, 1), N at least the variants': [B, K], N(0, 1).

        Each variant has a number, and each of its draws a share of that of another variant.
        """
        numbers = chance[:, : self.variants]
        likings = [numbers + OWN * numbers.roll(-1 - draw, dims=1) for draw in range(DRAWS)]
        return torch.stack(likings, dim=2).flatten(1) / math.sqrt(1 + OWN**2)

    def _shown(self, x_T: Tensor, context: Tensor) -> Tensor:
        """One guess [1, C, size, size] for one `x_T` [1, C, H, W] and prompt [1, M, context_dim]."""
        drawn = self._composed(x_T, context)
        guess, *plain = seen(drawn, self.view(x_T).expand(len(drawn), -1, -1, -1)).split(1)
        # the shape is that of the picture, however near and from where the composition is seen
        height = common_shape(x_T, self.size, self.size) * (self.size / WAVES)
        return _leaning(guess, plain[0], plain[-1], LEAN * height)

    def _composed(self, x_T: Tensor, context: Tensor) -> Tensor:
        """Guesses [3, C, size, size], unseen, for one `x_T` [1, C, H, W] and prompt [1, M, context_dim].

        That is one composition in its colours, all in the first of them, and all in the second if pictures have two. Of
        the K draws those are drawn that have a share, and coloured in with the colours of each of knots × knots places;
        every other variant is mirrored.
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
        each = colours.split(self.colour_parts, dim=1)
        palettes = torch.stack([colours, *(one.repeat(1, len(each)) for one in each[:2])])
        palettes = palettes[:, :, None].expand(-1, -1, draw.shape[1], -1)
        drawn = torch.stack([self._coloured_in(*composition, palette) for palette in palettes]).float()
        drawn = torch.where((variant % 2 == 1)[..., None, None, None], drawn.flip(5), drawn)
        nearness = _nearness(self.knots, self.size).to(drawn)
        return einsum(shares.take_along_dim(draw, dim=1)[0], nearness, drawn, "k, n h w, p n k c h w -> p c h w")


# --- shapes that all channels have -----------------------------------------------------------------------------------
def common_shape(x_T: Tensor, height: int, width: int) -> Tensor:
    """What all channels of noise [B, C, H, W] have in common in its lowest frequencies: [B, 1, height, width].

    As noise of that size would have it; 0 where that is no more than chance makes it.
    """
    down, across = (_cosines(count, x_T.device) for count in x_T.shape[2:])
    low = einsum(down, x_T, across, "i h, b c h w, j w -> b c i j")
    low[..., 0, 0] = 0  # it would tint the whole
    common = F.normalize(low.flatten(1), dim=1).unflatten(1, low.shape[1:]).sum(dim=1, keepdim=True)
    alike = (common.square().sum(dim=(2, 3), keepdim=True) - 1) / (low.shape[1] - 1)  # 0 for noise, 1 if all the same
    common = common * (WAVES / math.sqrt(low.shape[1])) * ((alike - CHANCE) / FADE).clamp(0, 1)
    down, across = (_cosines(count, x_T.device) for count in (height, width))
    return einsum(down, common, across, "i h, b c i j, j w -> b c h w")


def _leaning(guess: Tensor, first: Tensor, second: Tensor, odds: Tensor) -> Tensor:
    """A guess [B, C, H, W] that leans by `odds` [B, 1, H, W] towards `first` or, where they are below 0, `second`.

    Those are the same all in one colour, of which each cell of the guess has a share; the log-odds of that change. So
    edges between colours move, and stay sharp, where a mean of two pictures would be dull. Cells of a third colour stay
    as they are: a step from one colour to another leads from theirs to none that is named.
    """
    way = first - second
    length = way.square().sum(dim=1, keepdim=True).clamp(min=1e-6)
    share = ((guess - second) * way).sum(dim=1, keepdim=True) / length
    aside = (guess - second - share * way).square().sum(dim=1, keepdim=True) / length
    before = share.logit(eps=PURE)
    return guess + (-OTHER * aside).exp() * way * ((before + odds).sigmoid() - before.sigmoid())


def _cosines(size: int, device: torch.device) -> Tensor:
    """The first rows of the orthonormal DCT-II of `size` points: [WAVES, size]."""
    order = torch.arange(WAVES, device=device)[:, None]
    basis = (math.pi / 2 * order * (_centres(size, device) + 1)).cos() * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


# --- choosing --------------------------------------------------------------------------------------------------------
def _open(p: Tensor, sure: float) -> Tensor:
    """Bool [B]: do probabilities [B, values], none of which reaches `sure`, leave it to chance?"""
    return p.amax(dim=1) < sure


def _one_hot(scores: Tensor) -> Tensor:
    """1 for the largest of [..., values], 0 for the others."""
    return F.one_hot(scores.argmax(dim=-1), scores.shape[-1]).to(scores)


def _shares(scores: Tensor, margin: float) -> Tensor:
    """[B, values] -> what is less than `margin` behind the largest has a share, the less the further; they sum to 1."""
    ahead = (scores - scores.amax(dim=1, keepdim=True) + margin).clamp(min=0)
    return ahead / ahead.sum(dim=1, keepdim=True)


# --- places ----------------------------------------------------------------------------------------------------------
def _centres(size: int, device: torch.device) -> Tensor:
    """Middles [size] of cells that reach from −1 to 1."""
    return (torch.arange(size, device=device) + 0.5) * (2 / size) - 1


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
