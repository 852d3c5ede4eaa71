"""The guess of a picture that a prompt allows, and how start noise decides what the prompt leaves open."""

import numpy as np
import pytest
import torch

from ldm.data import views
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.layout import DRAWS, PromptLayout, seen

CONTEXT = 8
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
    """Attributes [draws, 9] that are decided where the reader finds `probabilities`."""
    layout.draws = -(-torch.rand(draws, 9, generator=torch.Generator().manual_seed(1)).log()).log()
    layout.reader.forward = lambda context: torch.tensor([probabilities])
    return layout.decided(torch.randn(1, 6, CONTEXT))[0]


def test_chance_decides_what_a_prompt_leaves_open_as_often_as_it_is_likely(layout):
    attributes = decide(layout, [0.25, 0.4, 0.35, 0.1, 0.9, 0.4, 0.1, 0.2, 0.3], 4000)
    assert attributes.unique().tolist() == [0, 1]
    torch.testing.assert_close(attributes[:, :3].mean(dim=0), torch.tensor([0.25, 0.4, 0.35]), atol=0.03, rtol=0)
    torch.testing.assert_close(attributes[:, 5:].mean(dim=0), torch.tensor([0.4, 0.1, 0.2, 0.3]), atol=0.03, rtol=0)
    # one attribute tells nothing of another
    both = (attributes[:, 0] * attributes[:, 5]).mean()
    assert both == pytest.approx(0.25 * 0.4, abs=0.03)


def test_what_a_prompt_says_is_not_left_to_chance(layout):
    attributes = decide(layout, [0.3, 0.6, 0.1, 0.1, 0.9, 0.4, 0.1, 0.2, 0.3], 4000)
    assert attributes[:, :5].unique(dim=0).tolist() == [[0, 1, 0, 0, 1]]


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


def likest_noise(layout: PromptLayout, context: torch.Tensor, draw: int) -> torch.Tensor:
    """Noise [1, 4, 8, 8] that is like one draw, as it is seen by it."""
    x_T, target = torch.randn(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    with torch.inference_mode():
        drawn = layout.guesses(layout.decided(context), torch.arange(DRAWS * 5) % 5)[:, draw]
        for _ in range(30):  # how it is seen hangs on the noise itself
            target = seen(drawn.flip(3) if draw % 2 else drawn, layout.view(x_T))
            x_T = x_T + 0.3 * target * (20 / target.norm())
    return x_T


@pytest.mark.parametrize("draw", [4, 7])
def test_the_draw_that_is_likest_to_the_noise_is_the_guess(layout, draw):
    layout.reader.told.weight.data *= 20
    context = torch.randn(1, 6, CONTEXT)
    x_T = likest_noise(layout, context, draw)
    with torch.inference_mode():
        drawn = layout.guesses(layout.decided(context), torch.arange(DRAWS * 5) % 5)[:, draw]
        target = seen(drawn.flip(3) if draw % 2 else drawn, layout.view(x_T))
        guess = layout(x_T, context)
    assert torch.cosine_similarity(guess.flatten(1), target.flatten(1)) > 0.98


def test_pure_noise_prefers_no_draw(layout, monkeypatch):
    """However bold some are: of 20, each as large as another, each is mostly chosen by a twentieth of 4,000."""
    drawn = torch.randn(1, 20, 4, 8, 8) * torch.linspace(0.2, 2.0, 20)[:, None, None, None]
    drawn[:, 1::2] = drawn[:, 1::2].flip(4)
    monkeypatch.setattr(
        layout, "guesses", lambda attributes, variant: drawn.expand(len(attributes), -1, -1, -1, -1).clone()
    )
    monkeypatch.setattr(layout, "view", lambda x_T: seen_straight(8).expand(len(x_T), -1, -1, -1))
    with torch.inference_mode():
        guess = layout(torch.randn(4000, 4, 8, 8), torch.randn(1, 6, CONTEXT).expand(4000, 6, CONTEXT))
    straight = drawn[0].clone()
    straight[1::2] = straight[1::2].flip(3)
    chosen = torch.cosine_similarity(guess.flatten(1)[:, None], straight.flatten(1)[None], dim=2).argmax(dim=1)
    counts = chosen.bincount(minlength=20)
    assert counts.min() > 131 and counts.max() < 269  # five standard deviations


def seen_straight(size: int) -> torch.Tensor:
    return torch.nn.functional.affine_grid(torch.eye(2, 3)[None], (1, 1, size, size), align_corners=False)


def test_between_two_noises_there_is_no_jump(layout):
    """However quickly the guess becomes another on a way along the sphere: looked at closely, it does so in steps."""
    layout.reader.told.weight.data *= 20
    context, (a, b) = torch.randn(1, 6, CONTEXT), torch.randn(2, 4, 8, 8)

    def guesses(first: float, last: float) -> torch.Tensor:
        angle = torch.linspace(first, last, 201)[:, None, None, None]
        with torch.inference_mode():
            return layout(angle.cos() * a + angle.sin() * b, context.expand(201, 6, CONTEXT)).flatten(1)

    def changes(guesses: torch.Tensor) -> torch.Tensor:
        return (guesses[1:] - guesses[:-1]).norm(dim=1)

    step = np.pi / 2 / 200
    coarse = changes(guesses(0, np.pi / 2))
    largest = int(coarse.argmax())
    near = guesses(largest * step, (largest + 1) * step)
    whole = (near[-1] - near[0]).norm()
    assert whole > 5 * coarse.median()  # here another draw is chosen
    assert changes(near).max() < 0.1 * whole


def test_the_empty_prompt_has_no_guess(layout):
    context = torch.randn(2, 6, CONTEXT)
    layout.nothing.copy_(context[1].mean(dim=0))
    with torch.inference_mode():
        told, empty = layout(torch.randn(2, 4, 8, 8), context)
    assert told.abs().max() > 0.01 and empty.abs().max() == 0


def test_each_row_has_the_guess_for_its_own_prompt(layout):
    a, b = torch.randn(2, 6, CONTEXT)
    layout.reader.told.weight.data *= 20
    x_T = torch.randn(4, 4, 8, 8)
    with torch.inference_mode():
        together = layout(x_T, torch.stack([a, b, a, b]))
        for row, prompt in enumerate([a, b, a, b]):
            torch.testing.assert_close(together[[row]], layout(x_T[[row]], prompt[None]))
        assert not torch.allclose(together, layout(x_T, torch.stack([b, a, b, a])), atol=1e-3)


@pytest.mark.parametrize("size", [(16, 24), (4, 8)])
def test_guesses_are_stretched_to_the_latents(layout, size):
    with torch.inference_mode():
        assert layout(torch.randn(2, 4, *size), torch.randn(2, 6, CONTEXT)).shape == (2, 4, *size)


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
