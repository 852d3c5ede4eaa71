"""The guess of a picture that a prompt allows, and how start noise decides what the prompt leaves open."""

import numpy as np
import pytest
import torch

from ldm.data import views
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.layout import DRAWS, MARGIN, PromptLayout, _nearness, _shares, seen

CONTEXT = 8
TOLD = torch.tensor([True])
VIEW = {"nearest": views.NEAREST, "bend": views.BEND, "knots": views.KNOTS}
SIZES = {"shape_attributes": [3, 2], "colour_attributes": [4], "variants": 5, "width": 16, "maps": 3}
OPTIONS = {"size": 8, **SIZES, **VIEW}


@pytest.fixture
def layout() -> PromptLayout:
    torch.manual_seed(0)
    layout = PromptLayout(CONTEXT, 4, **OPTIONS).eval()
    layout.draws.copy_(torch.from_numpy(np.random.default_rng(0).gumbel(size=layout.draws.shape)))
    return layout


def test_each_attribute_has_probabilities(layout):
    p = layout.reader(torch.randn(2, 6, CONTEXT))
    assert p.shape == (2, 9)
    for part in p.split([3, 2, 4], dim=1):
        torch.testing.assert_close(part.sum(dim=1), torch.ones(2))


def test_a_reader_finds_a_word_wherever_it_stands(layout):
    context = torch.randn(1, 6, CONTEXT)
    torch.testing.assert_close(layout.reader(context.flip(1)), layout.reader(context))


def test_one_guess_is_the_same_alone_and_among_all(layout):
    attributes, variants = torch.rand(2, 5, 9), torch.tensor([3, 0, 4, 1, 2])
    every = layout.guesses(attributes, variants)
    assert every.shape == (2, 5, 4, 8, 8)
    alone = layout.guesses(attributes[:, 1:2], variants[1:2].expand(2, 1))
    torch.testing.assert_close(alone, every[:, 1:2])


def test_colours_do_not_move_shapes(layout):
    """Cells that one palette makes equal are equal with every other."""
    attributes = torch.zeros(1, 1, 9)
    attributes[0, 0, [0, 3, 5]] = 1
    other = attributes.clone()
    other[0, 0, [5, 6]] = torch.tensor([0.0, 1.0])
    one, two = (layout.guesses(a, torch.tensor([2]))[0, 0].flatten(1) for a in (attributes, other))
    assert not torch.allclose(one, two, atol=1e-3)
    # both are 3 maps times a palette, and the maps sum to 1: together they span no more than 3 dimensions
    values = torch.linalg.svdvals(torch.cat([one, two]))
    assert values[3] < 1e-4 * values[0]


def decide(layout: PromptLayout, probabilities: list[float], draws: int) -> torch.Tensor:
    """Attributes [draws, 9] for `probabilities` of the reader: shapes decided by draws, colours by noise."""
    generator = torch.Generator().manual_seed(1)
    layout.draws = -(-torch.rand(draws, 9, generator=generator).log()).log()
    p = torch.tensor([probabilities])
    with torch.inference_mode():
        shapes = layout.decided(p)[0]
        colours = layout.coloured(torch.randn(draws, 16, generator=generator), p.expand(draws, -1))
    return torch.cat([shapes, colours], dim=1)


def test_chance_decides_what_a_prompt_leaves_open_as_often_as_it_is_likely(layout):
    attributes = decide(layout, [0.3, 0.36, 0.34, 0.1, 0.9, 0.36, 0.12, 0.22, 0.3], 4000)
    assert attributes[:, :5].unique().tolist() == [0, 1]
    torch.testing.assert_close(attributes[:, :3].mean(dim=0), torch.tensor([0.3, 0.36, 0.34]), atol=0.03, rtol=0)
    # one attribute tells nothing of another
    first = torch.nn.functional.one_hot(attributes[:, 5:].argmax(dim=1), 4)
    both = (attributes[:, 0] * first[:, 0]).mean()
    assert both == pytest.approx(0.3 * first[:, 0].float().mean().item(), abs=0.03)


def test_colours_are_mixed_as_bright_as_they_are_alone(layout):
    """Each comes first now and then, the likelier the more often; a mixture is as long as its parts."""
    mixed = decide(layout, [0.3, 0.36, 0.34, 0.1, 0.9, 0.36, 0.12, 0.22, 0.3], 4000)[:, 5:]
    often = torch.bincount(mixed.argmax(dim=1), minlength=4)
    assert (often > 40).all() and often[0] > often[1]
    assert (mixed > 0).sum(dim=1).unique().tolist()[:2] == [1, 2]
    lengths = layout.colours.norm(dim=1)
    painted = (mixed @ layout.colours).norm(dim=1)
    assert painted.min() > lengths.min() - 1e-3 and painted.max() < lengths.max() + 1e-3


def test_colours_that_are_painted_alike_are_chosen_alike(layout):
    layout.colours.data[1] = layout.colours.data[0] + 0.02 * torch.randn(256)
    mixed = decide(layout, [0.25, 0.4, 0.35, 0.1, 0.9, 0.25, 0.25, 0.25, 0.25], 4000)[:, 5:]
    one, other = mixed[:, 0] > 0, mixed[:, 1] > 0
    assert (one & other).sum() > 0.9 * (one | other).sum()


def test_what_a_prompt_says_is_not_left_to_chance(layout):
    attributes = decide(layout, [0.3, 0.6, 0.1, 0.1, 0.9, 0.2, 0.1, 0.6, 0.1], 4000)
    torch.testing.assert_close(attributes, torch.tensor([0.0, 1, 0, 0, 1, 0, 0, 1, 0]).expand(4000, 9))


# --- what the noise decides ------------------------------------------------------------------------------------------
class Numbers:
    """A generator of random numbers that gives those it was made of."""

    def __init__(self, uniform: list[float], knots: np.ndarray) -> None:
        self.zoom, *self.place = uniform
        self.knots = knots

    def uniform(self, low, high, size=None):
        return low + (high - low) * (self.zoom if size is None else np.array(self.place))

    def choice(self, directions):
        return 1

    def normal(self, mean, deviation, shape):
        return mean + deviation * self.knots


def test_noise_sees_as_the_pictures_of_the_training_are_seen(layout, monkeypatch):
    """Its squares are the random numbers of `views.view`."""
    x_T = torch.randn(2, 4, 16, 16)
    squares = x_T.unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean(dim=(3, 5)) * 4
    seen_by_noise = layout.view(x_T)
    for row in range(2):
        knots = squares[row, :2].permute(1, 2, 0).numpy()
        uniform = torch.special.ndtr(squares[row, 2].flatten()[:3]).tolist()
        monkeypatch.setattr(views.np.random, "default_rng", lambda _, u=uniform, k=knots: Numbers(u, k))
        np.testing.assert_allclose(seen_by_noise[row], views.view(0, 8), atol=1e-4)


def noise_for(numbers: torch.Tensor, size: int = 16) -> torch.Tensor:
    """Noise [B, 4, size, size] whose squares have the numbers [B, 4, 4, 4]."""
    side = size // 4
    x = torch.randn(len(numbers), 4, 4, side, 4, side)
    x = x - x.mean(dim=(3, 5), keepdim=True) + numbers[:, :, :, None, :, None] / side
    return x.reshape(len(numbers), 4, size, size)


@pytest.mark.parametrize("variant", [0, 3])
def test_a_draw_that_the_noise_likes_best_by_far_is_the_guess(layout, monkeypatch, variant):
    """As the noise sees it, in the colours that it chooses; every other variant is mirrored."""
    monkeypatch.setattr("ldm.modules.layout.DRIFT", 0.0)
    layout.reader.told.weight.data *= 20
    context, numbers = torch.randn(1, 6, CONTEXT), torch.randn(1, 4, 4, 4)
    numbers[0, 3].flatten()[:5].fill_(0)
    numbers[0, 3].flatten()[[variant, (variant + 2) % 5]] = torch.tensor([4.0, 2.0])  # its second draw
    x_T = noise_for(numbers)
    with torch.inference_mode():
        probabilities = layout.reader(context)
        colours = layout.coloured(numbers[:, 2:].flatten(1), probabilities)
        attributes = torch.cat([layout.decided(probabilities)[:, DRAWS * variant + 1], colours], dim=1)
        drawn = layout.guesses(attributes[:, None], torch.tensor([variant]))[:, 0]
        target = seen(drawn.flip(3) if variant % 2 else drawn, layout.view(x_T))
        guess = layout(x_T, context, TOLD)
    torch.testing.assert_close(guess, torch.nn.functional.interpolate(target, (16, 16), mode="bilinear"))


def place_colours(layout: PromptLayout, monkeypatch: pytest.MonkeyPatch, context: torch.Tensor) -> torch.Tensor:
    """Attributes of colours [places, 4] that one guess is painted with."""
    painted = []
    coloured_in = layout._coloured_in
    monkeypatch.setattr(layout, "_coloured_in", lambda h, colour: (painted.append(colour), coloured_in(h, colour))[1])
    with torch.inference_mode():
        layout(torch.randn(1, 4, 8, 8), context, TOLD)
    monkeypatch.undo()
    return painted[0][:, 0]


def test_colours_that_are_not_named_drift_from_place_to_place(layout, monkeypatch):
    likely = layout.reader.told.bias.data
    likely[5:] = 0.0  # all four alike
    layout.reader.told.weight.data[5:] = 0.0
    left_open = place_colours(layout, monkeypatch, torch.randn(1, 6, CONTEXT))
    assert len(left_open) == 16 and len(left_open.unique(dim=0)) > 8
    likely[6] = 9.0
    named = place_colours(layout, monkeypatch, torch.randn(1, 6, CONTEXT))
    torch.testing.assert_close(named, torch.tensor([0.0, 1, 0, 0]).expand(16, 4))


def test_a_place_has_the_colours_of_the_knots_around_it():
    shares = _nearness(4, 32)
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(32, 32))
    assert shares[0, 0, 0] == shares[3, 0, 31] == shares[12, 31, 0] == shares[15, 31, 31] == 1
    assert ((shares > 0).sum(dim=0) <= 4).all()


def test_nothing_but_the_lowest_frequencies_decides(layout):
    """What else a sampler starts from may change as it likes."""
    context, numbers = torch.randn(1, 6, CONTEXT), torch.randn(1, 4, 4, 4)
    with torch.inference_mode():
        one, other = (layout(noise_for(numbers), context, TOLD) for _ in range(2))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_small_change_of_the_noise_is_a_small_change_of_the_guess(layout):
    """Where a hundredth of the noise's power is other noise; a hard choice among the draws is another in a tenth."""
    layout.reader.told.weight.data *= 20
    context = torch.randn(1, 6, CONTEXT).expand(500, 6, CONTEXT)
    numbers, others = torch.randn(2, 500, 4, 4, 4)
    with torch.inference_mode():
        one, other = (
            layout(noise_for(n), context, TOLD.expand(500)).flatten(1)
            for n in (numbers, 0.995 * numbers + 0.1 * others)
        )
    mean = one.mean(dim=0)
    assert (torch.cosine_similarity(one - mean, other - mean) > 0.5).float().mean() > 0.95


def test_pure_noise_prefers_no_draw(layout):
    """Of 20 draws, each is mostly chosen by about a twentieth of 4,000."""
    shares = _shares(layout._likings(torch.randn(4000, 16)), MARGIN)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(4000))
    assert shares.mean(dim=0).min() > 0.04 and shares.mean(dim=0).max() < 0.06


def test_between_two_noises_there_is_no_jump(layout):
    """However quickly the guess becomes another on a way along the sphere: looked at closely, it does so in steps."""
    layout.reader.told.weight.data *= 20
    context, (a, b) = torch.randn(1, 6, CONTEXT), torch.randn(2, 4, 8, 8)

    def changes(first: float, last: float) -> torch.Tensor:
        angle = torch.linspace(first, last, 201)[:, None, None, None]
        with torch.inference_mode():
            guesses = layout(
                angle.cos() * a + angle.sin() * b, context.expand(201, 6, CONTEXT), TOLD.expand(201)
            ).flatten(1)
        return (guesses[1:] - guesses[:-1]).norm(dim=1)

    step = np.pi / 2 / 200
    coarse = changes(0, np.pi / 2)
    assert coarse.max() > 5 * coarse.median()  # here another draw comes in
    largest = int(coarse.argmax())
    near = changes(largest * step, (largest + 1) * step)
    assert near.max() < 0.1 * coarse.max()


def test_the_empty_prompt_has_no_guess(layout):
    with torch.inference_mode():
        told, empty = layout(torch.randn(2, 4, 8, 8), torch.randn(2, 6, CONTEXT), torch.tensor([True, False]))
    assert told.abs().max() > 0.01 and empty.abs().max() == 0


def test_numbers_that_hardly_occur_give_a_guess_in_mixed_precision_too(layout):
    x_T = noise_for(3 * torch.randn(20, 4, 4, 4))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert layout(x_T, torch.randn(20, 6, CONTEXT), TOLD.expand(20)).isfinite().all()


def test_each_row_has_the_guess_for_its_own_prompt(layout):
    a, b = torch.randn(2, 6, CONTEXT)
    layout.reader.told.weight.data *= 20
    x_T = torch.randn(4, 4, 8, 8)
    with torch.inference_mode():
        together = layout(x_T, torch.stack([a, b, a, b]), TOLD.expand(4))
        for row, prompt in enumerate([a, b, a, b]):
            assert torch.equal(together[[row]], layout(x_T[[row]], prompt[None], TOLD))
        assert not torch.allclose(together, layout(x_T, torch.stack([b, a, b, a]), TOLD.expand(4)), atol=1e-3)


@pytest.mark.parametrize("size", [(16, 24), (4, 8)])
def test_guesses_are_stretched_to_the_latents(layout, size):
    with torch.inference_mode():
        assert layout(torch.randn(2, 4, *size), torch.randn(2, 6, CONTEXT), TOLD.expand(2)).shape == (2, 4, *size)


@pytest.fixture
def unet() -> UNetModel:
    torch.manual_seed(0)
    model = UNetModel(
        4, 4, 32, 1, [2], CONTEXT, channel_mult=[1, 2], num_heads=2, layout={**OPTIONS, "size": 16}
    ).eval()
    torch.nn.init.normal_(model.out[2].weight)
    return model


def test_the_u_net_sees_the_guess(unet):
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 6, CONTEXT)
    with torch.inference_mode():
        one, other = (unet(x, t, context, guess) for guess in (torch.zeros_like(x), torch.ones_like(x)))
    assert not torch.allclose(one, other, atol=1e-3)


def test_shares_of_latents_and_guess_are_added_to_the_prediction(unet):
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 6, CONTEXT)
    guess = torch.randn(1, 4, 16, 16)
    with torch.inference_mode():
        before = unet(x, t, context, guess)
        unet.bypass.bias.copy_(torch.tensor([0.25, -2.0]))
        torch.testing.assert_close(unet(x, t, context, guess), before + 0.25 * x - 2 * guess)


def test_a_layout_needs_a_guess(unet):
    with pytest.raises(ValueError, match="needs a guess"):
        unet(torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 6, CONTEXT))
