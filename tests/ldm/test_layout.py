"""The guesses of a picture that a prompt alone allows, and how noisy latents choose among them."""

import math

import numpy as np
import pytest
import torch

from ldm.data.views import view
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.layout import DRAWS, VIEWS, PromptLayout, seen

CONTEXT = 8
OPTIONS = {"size": 8, "shape_attributes": [3, 2], "colour_attributes": [4], "variants": 5, "width": 16, "maps": 3}
GUESSES = DRAWS * 5 * VIEWS


@pytest.fixture
def layout() -> PromptLayout:
    torch.manual_seed(0)
    layout = PromptLayout(CONTEXT, 4, **OPTIONS).eval()
    layout.draws.copy_(torch.from_numpy(np.random.default_rng(0).gumbel(size=layout.draws.shape)))
    layout.views.copy_(torch.from_numpy(np.stack([view(seed, 8) for seed in range(VIEWS)])))
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


def fixed(layout: PromptLayout, count: int) -> torch.Tensor:
    """Let all prompts have the same `count` guesses [count, 4, 8, 8], each of another size."""
    guesses = torch.randn(count, 4, 8, 8) * torch.linspace(0.2, 2.0, count)[:, None, None, None]
    layout._guesses_for = lambda prompt: guesses
    return guesses


@pytest.mark.parametrize("alpha_bar", [0.05, 0.2, 1.0])
def test_noisy_latents_choose_the_guess_they_were_made_of(layout, alpha_bar):
    guesses = fixed(layout, 40)
    clean = guesses / guesses.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() * 2
    x = math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * torch.randn(40, 4, 8, 8)
    with torch.inference_mode():
        assert torch.equal(layout(x, torch.randn(1, 6, CONTEXT).expand(40, 6, CONTEXT)), guesses)


def test_pure_noise_prefers_no_guess(layout):
    """However bold some are: each of 20 is chosen by a twentieth of 4,000, within five standard deviations."""
    guesses = fixed(layout, 20)
    with torch.inference_mode():
        chosen = layout(torch.randn(4000, 4, 8, 8), torch.randn(1, 6, CONTEXT).expand(4000, 6, CONTEXT))
    counts = torch.stack([(chosen == guess).flatten(1).all(dim=1).sum() for guess in guesses])
    assert counts.sum() == 4000
    assert counts.min() > 131 and counts.max() < 269


def test_every_draw_is_seen_in_every_view(layout):
    with torch.inference_mode():
        context = torch.randn(1, 6, CONTEXT)
        guesses = layout._guesses_for(context[0])
        assert guesses.shape == (GUESSES, 4, 8, 8)
        drawn = layout.guesses(layout.decided(context), torch.arange(DRAWS * 5) % 5)[0]
        one = seen(drawn[[7]], layout.views[[3]])
        torch.testing.assert_close(guesses[[7 * VIEWS + 3]], one)
        layout.views.copy_(seen_straight(8))
        straight = layout._guesses_for(context[0])
    torch.testing.assert_close(straight, drawn.repeat_interleave(VIEWS, dim=0), atol=1e-5, rtol=1e-4)


def seen_straight(size: int) -> torch.Tensor:
    return torch.nn.functional.affine_grid(torch.eye(2, 3)[None], (1, 1, size, size), align_corners=False)


def test_the_empty_prompt_has_no_guess(layout):
    context = torch.randn(2, 6, CONTEXT)
    layout.nothing.copy_(context[1].mean(dim=0))
    with torch.inference_mode():
        told, empty = layout(torch.randn(2, 4, 8, 8), context)
    assert told.abs().max() > 0.01 and empty.abs().max() == 0


def test_each_row_has_the_guess_for_its_own_prompt(layout):
    a, b = torch.randn(2, 6, CONTEXT)
    layout.reader.told.weight.data *= 20
    x = torch.randn(4, 4, 8, 8)
    with torch.inference_mode():
        together = layout(x, torch.stack([a, b, a, b]))
        for row, prompt in enumerate([a, b, a, b]):
            torch.testing.assert_close(together[[row]], layout(x[[row]], prompt[None]))
        assert not torch.allclose(together, layout(x, torch.stack([b, a, b, a])), atol=1e-3)


def test_a_prompt_is_read_once(layout, monkeypatch):
    read, calls = layout.reader.forward, []
    monkeypatch.setattr(layout.reader, "forward", lambda context: calls.append(1) or read(context))
    x, context = torch.randn(3, 4, 8, 8), torch.randn(1, 6, CONTEXT).expand(3, 6, CONTEXT)
    with torch.inference_mode():
        first = layout(x, context)
        assert torch.equal(layout(x, context.clone()), first)
        assert len(calls) == 1
        assert not torch.equal(layout(x, context + 1), first)  # another prompt is read anew


@pytest.mark.parametrize("size", [(16, 24), (4, 8)])
def test_guesses_are_stretched_to_the_latents(layout, size):
    with torch.inference_mode():
        assert layout(torch.randn(2, 4, *size), torch.randn(2, 6, CONTEXT)).shape == (2, 4, *size)


@pytest.fixture
def unet() -> UNetModel:
    torch.manual_seed(0)
    model = UNetModel(
        4, 4, 32, 1, [2], CONTEXT, channel_mult=[1, 2], num_heads=2, patch_size=2, layout={**OPTIONS, "size": 16}
    ).eval()
    torch.nn.init.normal_(model.out[2].weight)
    return model


def test_the_u_net_sees_the_guess(unet):
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 6, CONTEXT)
    with torch.inference_mode():
        own = unet(x, t, context)
        assert torch.equal(unet(x, t, context, unet.layout(x, context)), own)
        assert not torch.allclose(unet(x, t, context, torch.ones(1, 4, 16, 16)), own, atol=1e-3)


def test_shares_of_latents_and_guess_are_added_to_the_prediction(unet):
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 6, CONTEXT)
    guess = torch.randn(1, 4, 16, 16)
    with torch.inference_mode():
        before = unet(x, t, context, guess)
        unet.bypass.bias.copy_(torch.tensor([0.25, -2.0]))
        torch.testing.assert_close(unet(x, t, context, guess), before + 0.25 * x - 2 * guess)


def test_a_layout_needs_a_prompt(unet):
    with pytest.raises(ValueError, match="needs a prompt"):
        unet(torch.randn(1, 4, 16, 16), torch.tensor([500]))
