"""Test the prior: how prompt and start noise together give coarse latents of an image."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import config
from audio.initial_noise import cosine_basis, imprint_shape
from audio.orthogonal_map import hadamard, spread, with_named
from ldm.checkpoint import load_model
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.grids import warp
from ldm.modules.low_frequencies import DCT_ORDER, common_shape, dct_basis, leading_numbers
from ldm.modules.prior import (
    CANDIDATE_MARGIN,
    CANDIDATES_PER_VARIANT,
    PriorSettings,
    PromptPrior,
    _blend_weights,
    tint_by_shape,
)
from ldm.modules.shapes import FIELD_GAIN, PLANE_REACH, Shapes
from training.scenes import augment, render
from training.scenes.patterns import PATTERN_FAMILIES
from training.scenes.scenes import COMPOSITIONS, Scene

CONTEXT = 8
HAS_PROMPT = torch.tensor([True])
VIEW = {"nearest": augment.NEAREST, "bend": augment.BEND, "knots": augment.KNOTS}
SHAPES = {"pattern": 3, "figure": 2, "composition": 2, "mood": 2, "second": 4, "blend": 2}
WIDTHS = {"extent": 12, "fields": 2, "width": 16, "cell_width": 8, "maps": 3}
OPTIONS: dict[str, Any] = {
    "size": 8,
    "shape_attributes": SHAPES,
    "colour_attributes": [4],
    "variants": 5,
    **WIDTHS,
    **VIEW,
}


@pytest.fixture
def prior() -> PromptPrior:
    torch.manual_seed(0)
    prior = PromptPrior(CONTEXT, 4, PriorSettings(**OPTIONS)).eval()
    for stored in (prior.shapes.patterns, prior.shapes.figures, prior.shapes.borders):
        torch.nn.init.normal_(stored, std=0.2)
    prior.shapes.foldings.copy_(torch.rand_like(prior.shapes.foldings) * 4 - 2)
    prior.shapes.repeats.copy_(torch.rand_like(prior.shapes.repeats) * 2 - 1)
    prior.draws.copy_(torch.from_numpy(np.random.default_rng(0).gumbel(size=prior.draws.shape)))
    return prior


def test_taste_decides_only_what_a_prompt_does_not_hint_at(prior):
    """A value of weight 0 is never drawn by chance, and always if the prompt says it; a hint at it is heard, too."""
    first, count = prior.shape_counts[0], sum(prior.shape_counts) + sum(prior.colour_counts)

    def drawn(*probabilities: float) -> set[int]:
        p = torch.full((1, count), 0.5)
        p[0, :first] = torch.tensor(probabilities)
        return set(prior.sample_attributes(p)[0, :, 0].tolist())

    assert drawn(0.1, 0.6, 0.3) == {0, 1, 2}
    prior.taste = {"pattern": [0.0, 1.0, 1.0]}
    assert drawn(0.1, 0.6, 0.3) == {1, 2}
    assert drawn(0.2, 0.5, 0.3) == {0, 1, 2}  # a hint
    assert drawn(0.8, 0.1, 0.1) == {0}
    prior.taste = {"pattern": [50.0, 1.0, 1.0]}
    assert 0 in drawn(0.01, 0.6, 0.39)


def test_each_attribute_has_probabilities(prior):
    p = prior.reader(torch.randn(2, 6, CONTEXT))
    assert p.shape == (2, 19)
    for part in p.split([*SHAPES.values(), 4], dim=1):
        torch.testing.assert_close(part.sum(dim=1), torch.ones(2))


def test_a_reader_finds_a_word_wherever_it_stands(prior):
    context = torch.randn(1, 6, CONTEXT)
    torch.testing.assert_close(prior.reader(context.flip(1)), prior.reader(context))


def test_one_prior_is_the_same_alone_and_among_all(prior):
    shapes = torch.stack([torch.randint(count, (2, 5)) for count in SHAPES.values()], dim=2)
    colours, variants = torch.rand(2, 5, 4), torch.tensor([3, 0, 4, 1, 2])
    every = prior.priors(shapes, colours, variants)
    assert every.shape == (2, 5, 4, 8, 8)
    alone = prior.priors(shapes[:, 1:2], colours[:, 1:2], variants[1:2].expand(2, 1))
    torch.testing.assert_close(alone, every[:, 1:2])


def test_colours_do_not_move_shapes(prior):
    """The masks are the same for all palettes."""
    shapes, palettes = torch.tensor([[[1, 1, 0, 1, 0, 0]]]), torch.eye(4)[:2, None, None]
    one, two = (prior.priors(shapes, colours, torch.tensor([2]))[0, 0].flatten(1) for colours in palettes)
    assert not torch.allclose(one, two, atol=1e-3)
    # both are 3 masks times a palette, and the masks sum to 1: together they span at most 3 dimensions
    values = torch.linalg.svdvals(torch.cat([one, two]))
    assert values[3] < 1e-4 * values[0]


def decide(prior: PromptPrior, pattern: list[float], mood: list[float], colours: list[float]) -> torch.Tensor:
    """Sample attributes [4000, 3 + 2 + 4] from probabilities of the reader: shapes by candidates, colours by noise.

    A figure appears only if it is probable; other attributes without a sure value are left to chance.
    """
    generator = torch.Generator().manual_seed(1)
    prior.draws = -(-torch.rand(4000, 19, generator=generator).log()).log()
    p = torch.tensor([[*pattern, 0.6, 0.4, 0.9, 0.1, *mood, 0.85, 0.05, 0.05, 0.05, 0.9, 0.1, *colours]])
    with torch.inference_mode():
        shapes = prior.sample_attributes(p)[0]
        mixed = prior.sample_colours(torch.randn(4000, 16, generator=generator), p.expand(4000, -1))
    assert shapes.shape == (4000, 6) and not shapes[:, [1, 2, 4, 5]].any()
    return torch.cat([*(torch.eye(n)[shapes[:, k]] for k, n in ((0, 3), (3, 2))), mixed], dim=1)


def test_chance_decides_what_a_prompt_leaves_open_as_often_as_it_is_likely(prior):
    attributes = decide(prior, [0.3, 0.36, 0.34], [0.1, 0.9], [0.36, 0.12, 0.22, 0.3])
    assert attributes[:, :5].unique().tolist() == [0, 1]
    torch.testing.assert_close(attributes[:, :3].mean(dim=0), torch.tensor([0.3, 0.36, 0.34]), atol=0.03, rtol=0)
    # attributes are independent
    first = torch.nn.functional.one_hot(attributes[:, 5:].argmax(dim=1), 4)
    both = (attributes[:, 0] * first[:, 0]).mean()
    assert both == pytest.approx(0.3 * first[:, 0].float().mean().item(), abs=0.03)


def test_colours_are_mixed_as_bright_as_they_are_alone(prior):
    """Each colour leads sometimes, probable ones more often; the norm of a mixture is between those of its parts."""
    mixed = decide(prior, [0.3, 0.36, 0.34], [0.1, 0.9], [0.36, 0.12, 0.22, 0.3])[:, 5:]
    often = torch.bincount(mixed.argmax(dim=1), minlength=4)
    assert (often > 40).all() and often[0] > often[1]
    assert (mixed > 0).sum(dim=1).unique().tolist()[:2] == [1, 2]
    lengths = prior.colours.norm(dim=1)
    painted = (mixed @ prior.colours).norm(dim=1)
    assert painted.min() > lengths.min() - 1e-3 and painted.max() < lengths.max() + 1e-3


def test_colours_that_are_painted_alike_are_chosen_alike(prior):
    prior.colours.data[1] = prior.colours.data[0] + 0.02 * torch.randn(256)
    mixed = decide(prior, [0.25, 0.4, 0.35], [0.1, 0.9], [0.25] * 4)[:, 5:]
    one, other = mixed[:, 0] > 0, mixed[:, 1] > 0
    assert (one & other).sum() > 0.9 * (one | other).sum()


def test_what_a_prompt_says_is_not_left_to_chance(prior):
    attributes = decide(prior, [0.15, 0.8, 0.05], [0.1, 0.9], [0.2, 0.1, 0.6, 0.1])
    torch.testing.assert_close(attributes, torch.tensor([0.0, 1, 0, 0, 1, 0, 0, 1, 0]).expand(4000, 9))


def test_a_mood_is_named_sooner_than_none_is(prior):
    """The reader is less sure of moods in prompts of few captions, such as "dark fish", but none is 0.54 or more."""
    for mood, share in (([0.44, 0.56], 1.0), ([0.56, 0.44], 0.44), ([0.8, 0.2], 0.0)):
        attributes = decide(prior, [0.15, 0.8, 0.05], mood, [0.2, 0.1, 0.6, 0.1])
        assert attributes[:, 4].mean().item() == pytest.approx(share, abs=0.03 if 0 < share < 1 else 0)


# --- shapes ---------------------------------------------------------------------------------------------------------
def fields_of(shapes: Shapes, **values: int) -> torch.Tensor:
    """Render the fields [8, size, size] of variant 1 of plain pattern 2, with the attributes `values` changed."""
    plain = {"pattern": 2, "figure": 0, "composition": 0, "mood": 0, "second": 0, "blend": 0}
    with torch.inference_mode():
        return shapes.fields(torch.tensor([list({**plain, **values}.values())]), torch.tensor([1]))[0]


def test_a_cell_shows_what_its_pattern_has_at_its_place(prior):
    """The grid points at centres of the plane's 12 cells, which cover −PLANE_REACH to PLANE_REACH."""
    shapes = prior.shapes
    row, column = torch.arange(8), torch.arange(8) + 4
    shapes.foldings[1, 0] = ((torch.stack([column, row], dim=1) + 0.5) / 6 - 1) * PLANE_REACH
    shown = fields_of(shapes)
    torch.testing.assert_close(shown[:2, 3], FIELD_GAIN * shapes.patterns.data[1, 2, :, row, column])
    assert shown[2:7].abs().max() == 0  # neither a second pattern, nor a figure, nor a border
    torch.testing.assert_close(shown[7], shown[7].T)
    assert shown[7, 0, 0] == 2 * 0.875**2


def test_a_second_pattern_and_its_border_and_a_figure_are_shown_beside_the_first(prior):
    shapes = prior.shapes
    shown, second = fields_of(shapes, second=1, blend=1, figure=1), fields_of(shapes, pattern=0)
    torch.testing.assert_close(shown[:2], fields_of(shapes)[:2])
    torch.testing.assert_close(shown[2:4], second[:2])
    torch.testing.assert_close(shown[6], FIELD_GAIN * shapes.borders.data[1, 1, 0])
    shapes.repeats[0] = torch.nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 1, 8, 8], align_corners=False)[0]
    figure = fields_of(shapes, figure=1)[4:6]
    torch.testing.assert_close(figure, FIELD_GAIN * shapes.figures.data[1, 1], atol=1e-5, rtol=1e-4)
    shapes.places.data[1, 1, 0, 0, 2] = 0.25  # one of 8 cells
    torch.testing.assert_close(fields_of(shapes, figure=1)[4:6, :, :7], figure[:, :, 1:], atol=1e-5, rtol=1e-4)


def test_a_mood_zooms_and_bends_the_pattern(prior):
    shapes = prior.shapes
    shapes.bend.data[0] = 0.0
    plain, (middle, top) = fields_of(shapes)[:2], shapes.foldings[1, 0].clone().split(1, dim=2)
    shapes.zoom.data[1] = 0.5
    zoomed = fields_of(shapes, mood=1)[:2]
    assert not torch.allclose(zoomed, plain, atol=0.1)
    shapes.foldings[1, 0] /= 2
    torch.testing.assert_close(fields_of(shapes)[:2], zoomed)
    shapes.foldings[1, 0] = torch.cat([middle, top], dim=2)
    shapes.zoom.data[1], shapes.bend.data[1], shapes.bends.data[1, 2, 0] = 1.0, 0.5, 0.2
    bent = fields_of(shapes, mood=1)[:2]
    shapes.foldings[1, 0] = torch.cat([middle + 0.1, top], dim=2)
    torch.testing.assert_close(fields_of(shapes)[:2], bent, atol=1e-4, rtol=1e-3)


def test_grids_of_compositions_equal_those_of_the_drawing_code(monkeypatch):
    """Grids of the prior equal those that the drawing code evaluates, and a tiled figure repeats."""
    asked: list[np.ndarray] = []
    stripes = PATTERN_FAMILIES["stripes"]

    def spy(grid, rng):
        asked.append(np.stack([grid.x, grid.y], axis=2))
        return stripes.field(grid, rng)

    monkeypatch.setitem(PATTERN_FAMILIES, "stripes", replace(stripes, field=spy, warp=0.0))
    for number, composition in enumerate((None, *COMPOSITIONS)):
        render.render(Scene(5, "stripes", ("red", "blue"), composition=composition), 32, canonical=True)
        where = render.fold_grids(5, 32)[number]
        zoom = np.linalg.norm(asked[-1]) / np.linalg.norm(where)
        np.testing.assert_allclose(asked[-1], zoom * where, atol=1e-5)
        assert np.abs(where).max() < PLANE_REACH + 0.2
    tiled = render.tile_grids(32)[1 + COMPOSITIONS.index("tiled")]
    np.testing.assert_allclose(tiled[:16, :16], tiled[16:, 16:])
    np.testing.assert_allclose(tiled[:16, :16].mean(axis=(0, 1)), 0, atol=1e-6)


# --- choices of the noise -------------------------------------------------------------------------------------------
class Numbers:
    """A random generator that returns given numbers."""

    def __init__(self, uniform: list[float], knots: np.ndarray) -> None:
        self.zoom, *self.place = uniform
        self.knots = knots

    def uniform(self, low, high, size=None):
        return low + (high - low) * (self.zoom if size is None else np.array(self.place))

    def choice(self, directions):
        return 1

    def normal(self, mean, deviation, shape):
        return mean + deviation * self.knots


def test_viewing_grids_of_noise_equal_those_of_training(prior, monkeypatch):
    """Leading numbers take the place of the random numbers of `augment.random_grid`; a deep voice is near."""
    x_T = torch.randn(2, 4, 16, 16)
    leading = leading_numbers(x_T, 4)
    grids = prior.viewing_grid(x_T)
    for row in range(2):
        knots = leading[row, 17:49].reshape(2, 4, 4).permute(1, 2, 0).numpy()
        uniform = torch.special.ndtr(torch.cat([-leading[row, :1], leading[row, 15:17]])).tolist()
        monkeypatch.setattr(augment.np.random, "default_rng", lambda _, u=uniform, k=knots: Numbers(u, k))
        np.testing.assert_allclose(grids[row], augment.random_grid(0, 8), atol=1e-4)


def test_noise_that_is_not_square_sees_more_of_the_same_composition(prior):
    """The middle is what a square shows, as high and as wide; beside it lie other places."""
    prior.bend = 0.0  # else the whole width is bent as one
    square = torch.randn(1, 4, 16, 16)
    places = prior.viewing_grid(square)
    for dim, middle in ((3, (slice(None), slice(None), slice(4, 12))), (2, (slice(None), slice(4, 12)))):
        # the same leading numbers
        longer = square.repeat_interleave(2, dim=dim) / math.sqrt(2)
        grid = prior.viewing_grid(longer)
        torch.testing.assert_close(grid[middle], places)
        assert grid.shape[dim - 1] == 16 and grid[..., 3 - dim].abs().max() > places.abs().max()
        assert prior(longer, torch.randn(1, 6, CONTEXT), HAS_PROMPT).shape == longer.shape


def noise_for(leading: torch.Tensor, size: int = 16) -> torch.Tensor:
    """Draw noise [B, 4, size, size] whose leading numbers are `leading` [B, 64]."""
    side = size // 4
    means = torch.from_numpy(hadamard(leading.reshape(-1, 16).double().numpy())).float().reshape(-1, 4, 4, 4).flip(1)
    x = torch.randn(len(means), 4, 4, side, 4, side)
    x = x - x.mean(dim=(3, 5), keepdim=True) + means[:, :, :, None, :, None] / side
    return x.reshape(len(means), 4, size, size)


def test_the_leading_numbers_are_those_that_a_voice_is_spread_with(prior):
    named, codes = np.random.default_rng(0).normal(size=(2, 10)), np.random.default_rng(1).normal(size=(2, 200))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    x = spread(*with_named(named, codes, np.full(200, 1 / 200), (4, 32, 32)), (4, 32, 32)) * 64
    leading = leading_numbers(torch.from_numpy(x).float(), 4).numpy()
    np.testing.assert_allclose(leading[:, :10], named, atol=1e-4)
    assert np.corrcoef(leading[:, 10:].ravel(), codes[:, :54].ravel())[0, 1] > 0.999
    noise = torch.randn(1, 4, 16, 16)
    torch.testing.assert_close(leading_numbers(noise_for(leading_numbers(noise, 4)), 4), leading_numbers(noise, 4))


@pytest.mark.parametrize("variant", [0, 3])
def test_a_candidate_far_above_the_others_is_the_prior(prior, variant):
    """In the view and the colours that the noise chooses; odd variants are mirrored."""
    prior.reader.told.weight.data *= 20
    context, numbers = torch.randn(1, 6, CONTEXT), torch.randn(1, 64)
    numbers[0, 10:15] = 0
    numbers[0, [10 + variant, 10 + (variant + 2) % 5]] = torch.tensor([4.0, 2.0])  # its second draw
    x_T = noise_for(numbers)
    with torch.inference_mode():
        probabilities = prior.reader(context)
        colours = prior.sample_colours(numbers[:, :16], probabilities)
        shapes = prior.sample_attributes(probabilities)[:, [CANDIDATES_PER_VARIANT * variant + 1]]
        drawn = prior.priors(shapes, colours[:, None], torch.tensor([variant]))[:, 0]
        target = warp(drawn.flip(3) if variant % 2 else drawn, prior.viewing_grid(x_T))
        predicted = prior(x_T, context, HAS_PROMPT)
    torch.testing.assert_close(predicted, torch.nn.functional.interpolate(target, (16, 16), mode="bilinear"))


def test_nothing_but_the_lowest_frequencies_decides(prior):
    """Higher frequencies of the noise have no influence."""
    context, numbers = torch.randn(1, 6, CONTEXT), torch.randn(1, 64)
    with torch.inference_mode():
        one, other = (prior(noise_for(numbers), context, HAS_PROMPT) for _ in range(2))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_small_change_of_the_noise_is_a_small_change_of_the_prior(prior):
    """Replace a hundredth of the noise's power; the choice of the candidate then changes in an eighth of the cases."""
    prior.reader.told.weight.data *= 20
    context = torch.randn(1, 6, CONTEXT).expand(100, 6, CONTEXT)
    numbers, others = torch.randn(2, 100, 64)
    with torch.inference_mode():
        one, other = (
            prior(noise_for(n), context, HAS_PROMPT.expand(100)).flatten(1)
            for n in (numbers, 0.995 * numbers + 0.1 * others)
        )
    mean = one.mean(dim=0)
    assert (torch.cosine_similarity(one - mean, other - mean) > 0.5).float().mean() > 0.9


def test_pure_noise_prefers_no_candidate(prior):
    """Each of 20 candidates has about a twentieth of the weight over 20,000 noises."""
    shares = _blend_weights(prior._candidate_scores(torch.randn(20_000, 16)), CANDIDATE_MARGIN)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(20_000))
    assert shares.mean(dim=0).min() > 0.04 and shares.mean(dim=0).max() < 0.06


def test_shares_blend_the_candidates_that_a_film_names(prior):
    """The shares that start noise chooses give its own prior, and those of two candidates what lies between theirs."""
    x_T, context = torch.randn(1, 4, 8, 8), torch.randn(1, 6, CONTEXT)
    with torch.inference_mode():
        own = prior(x_T, context, HAS_PROMPT)
        assert torch.equal(prior(x_T, context, HAS_PROMPT, prior.shares(x_T)), own)
        one, other = torch.nn.functional.one_hot(torch.tensor([[2], [7]]), 20).float()
        ends = [prior(x_T, context, HAS_PROMPT, shares) for shares in (one, other)]
        middle = prior(x_T, context, HAS_PROMPT, 0.25 * one + 0.75 * other)
    torch.testing.assert_close(middle, 0.25 * ends[0] + 0.75 * ends[1])
    assert not torch.allclose(ends[0], ends[1], atol=0.01)
    assert torch.equal(prior.scores(x_T).argmax(dim=1), prior.shares(x_T).argmax(dim=1))


@pytest.mark.slow
def test_between_two_noises_there_is_no_jump(prior):
    """Smaller steps give smaller changes, also in the place on an arc between them where the prior changes fastest."""
    prior.reader.told.weight.data *= 20
    context, (a, b) = torch.randn(1, 6, CONTEXT), torch.randn(2, 4, 8, 8)

    def changes(first: float, last: float) -> torch.Tensor:
        angle = torch.linspace(first, last, 101)[:, None, None, None]
        with torch.inference_mode():
            predicted = prior(
                angle.cos() * a + angle.sin() * b, context.expand(101, 6, CONTEXT), HAS_PROMPT.expand(101)
            ).flatten(1)
        return (predicted[1:] - predicted[:-1]).norm(dim=1)

    step = np.pi / 2 / 100
    coarse = changes(0, np.pi / 2)
    assert coarse.max() > 5 * coarse.median()  # here another candidate takes over
    largest = int(coarse.argmax())
    near = changes(largest * step, (largest + 1) * step)
    assert near.max() < 0.1 * coarse.max()


# --- shapes that all channels have -----------------------------------------------------------------------------------
def noise_with_shape(strength: float, *size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw noise [1, 4, *size] with a shape in all channels, and return it with that shape [8, 8]."""
    shape = np.random.default_rng(0).normal(size=(DCT_ORDER, DCT_ORDER))
    shape[0, 0] = 0
    shape *= np.sqrt((shape.size - 1) / np.square(shape).sum())
    shown = cosine_basis(8).T @ shape @ cosine_basis(8)
    noise = torch.randn(4, *size, generator=torch.Generator().manual_seed(0)).numpy()
    return torch.from_numpy(imprint_shape(noise, shape, strength))[None], torch.from_numpy(shown).float()


def test_the_frequencies_of_shapes_are_those_of_sounds():
    np.testing.assert_allclose(dct_basis(24, torch.device("cpu")), cosine_basis(24), atol=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (64, 24)])
def test_a_shape_of_all_channels_is_known_by_how_alike_they_are(size):
    heights = []
    for strength in (0.3, 0.5, 0.8, 1.0):
        x_T, shape = noise_with_shape(strength, *size)
        known = common_shape(x_T, 8, 8)[0, 0]
        assert torch.corrcoef(torch.stack([known.flatten(), shape.flatten()]))[0, 1] > 0.99 * strength**0.5
        heights.append(known.std(correction=0).item())
    assert 0 < heights[0] < heights[1] < heights[2] < heights[3] == pytest.approx(1)


def test_noise_has_no_shape_but_by_chance():
    noise = torch.randn(5000, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    heights = common_shape(noise, 8, 8).std(dim=(1, 2, 3))
    assert (heights > 0).sum() < 10 and heights.max() < 0.5
    assert common_shape(torch.zeros(1, 4, 16, 16), 8, 8).abs().max() == 0


def test_cells_are_tinted_by_the_log_odds_of_their_shares():
    first, second = torch.tensor([[1.0, 2, 0], [0, -1, 0]])[..., None, None].split(1)
    share = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])[None, None, None]
    predicted, odds = share * first + (1 - share) * second, torch.ones(1, 1, 1, 5)
    assert torch.equal(tint_by_shape(predicted, first, second, 0 * odds), predicted)
    tinted = tint_by_shape(predicted, first, second, math.log(4) * odds)[0, 0, 0]
    torch.testing.assert_close(tinted[1:4], torch.tensor([0.5, 0.8, 16 / 17]))
    assert tint_by_shape(predicted, first, second, -9 * odds)[0, 0].max() < 0.04
    assert torch.equal(tint_by_shape(predicted, first, first, odds), predicted)  # there is only one colour


def test_cells_of_a_third_colour_stay_as_they_are():
    first, second, third = (8 * torch.eye(3)).reshape(3, 1, 3, 1, 1)
    tinted = tint_by_shape(third, first, second, torch.full((1, 1, 1, 1), 9.0))
    torch.testing.assert_close(tinted, third, atol=0.05, rtol=0)


@pytest.fixture
def two_colours() -> PromptPrior:
    torch.manual_seed(0)
    prior = PromptPrior(CONTEXT, 4, PriorSettings(**{**OPTIONS, "colour_attributes": [4, 4]})).eval()
    for stored in (prior.shapes.patterns, prior.shapes.figures):
        torch.nn.init.normal_(stored, std=0.2)
    return prior


def test_the_prior_shows_the_shape_that_all_channels_of_the_noise_share(two_colours):
    context = torch.randn(1, 6, CONTEXT)
    for strength in (0.0, 0.5, 0.8):
        x_T, shape = noise_with_shape(strength, 8, 8)
        with torch.inference_mode():
            predicted = two_colours(x_T, context, HAS_PROMPT)
            numbers, probabilities = leading_numbers(x_T, 4), two_colours.reader(context)
            composed = two_colours._compose(numbers, probabilities, two_colours.shares(x_T))
            plain, first, second = warp(composed, two_colours.viewing_grid(x_T).expand(3, -1, -1, -1))
        towards = ((predicted[0] - plain) * (first - second)).sum(dim=0)
        if strength:
            assert torch.equal(towards > 0, common_shape(x_T, 8, 8)[0, 0] > 0)
            assert torch.corrcoef(torch.stack([towards.flatten(), shape.flatten()]))[0, 1] > 0.5
        else:
            assert torch.equal(predicted[0], plain)


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.8, 1.0])
def test_sampling_starts_without_the_shape_that_the_prior_shows(strength):
    """The start has no common shape any more; noise without a shape does not change."""
    model = load_model(config.BUILTIN_MODEL_WEIGHTS)
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.start(noise), noise)
    x_T = noise_with_shape(strength, 32, 32)[0]
    before, after = (
        cosine_basis(32) @ x.mean(dim=(0, 1)).numpy() @ cosine_basis(32).T for x in (x_T, model.start(x_T))
    )
    before[0, 0] = after[0, 0] = 0
    assert np.linalg.norm(after) < 0.2 * np.linalg.norm(before)


def test_the_empty_prompt_has_no_prior(prior):
    with torch.inference_mode():
        predicted, empty = prior(torch.randn(2, 4, 8, 8), torch.randn(2, 6, CONTEXT), torch.tensor([True, False]))
    assert predicted.abs().max() > 0.01 and empty.abs().max() == 0


def test_extreme_numbers_give_a_prior_in_mixed_precision_too(prior):
    x_T = noise_for(3 * torch.randn(20, 4, 4, 4))
    context = torch.randn(20, 6, CONTEXT)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        mixed = prior(x_T, context, HAS_PROMPT.expand(20))
    assert mixed.isfinite().all()
    with torch.inference_mode():
        assert torch.equal(mixed, prior(x_T, context, HAS_PROMPT.expand(20)))  # nor are other candidates chosen


def test_each_row_has_the_prior_for_its_own_prompt(prior):
    a, b = torch.randn(2, 6, CONTEXT)
    prior.reader.told.weight.data *= 20
    x_T = torch.randn(4, 4, 8, 8)
    with torch.inference_mode():
        together = prior(x_T, torch.stack([a, b, a, b]), HAS_PROMPT.expand(4))
        for row, prompt in enumerate([a, b, a, b]):
            assert torch.equal(together[[row]], prior(x_T[[row]], prompt[None], HAS_PROMPT))
        assert not torch.allclose(together, prior(x_T, torch.stack([b, a, b, a]), HAS_PROMPT.expand(4)), atol=1e-3)


@pytest.mark.parametrize("size", [(16, 24), (4, 8)])
def test_priors_are_resized_to_the_latents(prior, size):
    with torch.inference_mode():
        assert prior(torch.randn(2, 4, *size), torch.randn(2, 6, CONTEXT), HAS_PROMPT.expand(2)).shape == (2, 4, *size)


@pytest.fixture
def unet() -> UNetModel:
    torch.manual_seed(0)
    model = UNetModel(
        4, 4, 32, 1, [2], CONTEXT, channel_mult=[1, 2], num_heads=2, layout={**OPTIONS, "size": 16}
    ).eval()
    last: Any = model.out[2]
    torch.nn.init.normal_(last.weight)
    return model


def test_the_u_net_uses_the_prior(unet):
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 6, CONTEXT)
    with torch.inference_mode():
        one, other = (unet(x, t, context, predicted) for predicted in (torch.zeros_like(x), torch.ones_like(x)))
    assert not torch.allclose(one, other, atol=1e-3)


def test_shares_of_latents_and_prior_are_added_to_the_prediction(unet):
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 6, CONTEXT)
    predicted = torch.randn(1, 4, 16, 16)
    with torch.inference_mode():
        before = unet(x, t, context, predicted)
        unet.bypass.bias.copy_(torch.tensor([0.25, -2.0]))
        torch.testing.assert_close(unet(x, t, context, predicted), before + 0.25 * x - 2 * predicted)


def test_a_u_net_with_a_prior_needs_one(unet):
    with pytest.raises(ValueError, match="needs a prior"):
        unet(torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 6, CONTEXT))
