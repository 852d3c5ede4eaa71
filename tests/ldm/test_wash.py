"""Test colour washes: what start noise decides of the light and the colours of an image."""

import pytest
import torch
from omegaconf import OmegaConf

import config
import ldm.modules.wash
from audio.qualities import NAMES
from ldm.modules.wash import (
    CONTRAST,
    DETAIL,
    DIRECTIONS,
    LEAST_DETAIL,
    LEAST_GAIN,
    LEAST_PARTS,
    MOST_GAIN,
    NAMED_COLOURS,
    NAMED_LIGHT,
    OFFICES,
    ColourWash,
)

YAML = OmegaConf.load(config.MODELS_DIR / "chladni" / "model.yaml")
RGB: list[list[float]] = OmegaConf.to_object(YAML.model.params.unet_config.params.layout.rgb)  # type: ignore[assignment]
SIZE = 16
OPEN, NAMED = torch.tensor(1.0), torch.tensor(0.0)


@pytest.fixture
def wash() -> ColourWash:
    return ColourWash(RGB)


def colours_of(latents: torch.Tensor) -> torch.Tensor:
    """Decode latents [1, 4, h, w] by the affine map: [3, h, w]."""
    weights = torch.tensor(RGB)
    return torch.einsum("chw,ck->khw", latents[0], weights[:-1]) + weights[-1][:, None, None]


def parts_of(colours: torch.Tensor) -> torch.Tensor:
    """Measure light, warm and green [3] of colours [3, h, w], each even, to the right, down, and in the middle."""
    directions = torch.tensor(DIRECTIONS)
    directions /= directions.square().mean(dim=1, keepdim=True).sqrt()
    return torch.einsum("khw,dk,fhw->df", colours, directions, fields_of_washes()) / (3 * SIZE**2)


def fields_of_washes() -> torch.Tensor:
    """Make the fields even, to the right, down, and in the middle: [4, SIZE, SIZE], of unit RMS."""
    axis = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    middle = -(axis.square() + axis[:, None].square())
    fields = torch.stack([torch.ones(SIZE, SIZE), axis.expand(SIZE, -1), axis[:, None].expand(-1, SIZE), middle])
    fields[3] -= fields[3].mean()
    return fields / fields.square().mean(dim=(1, 2), keepdim=True).sqrt()


@pytest.mark.parametrize("number", range(len(OFFICES)), ids=NAMES)
def test_each_number_has_one_office_and_no_other_changes_it(wash, number):
    prior, numbers = torch.randn(1, 4, SIZE, SIZE), torch.randn(len(OFFICES)).clamp(-1.3, 1.3)
    direction, field, strength = OFFICES[number]
    seen = parts_of(colours_of(prior + wash(prior, numbers, OPEN, OPEN)))
    assert seen[direction, field].item() == pytest.approx(strength * numbers[number].item(), abs=1e-4)
    numbers[number] += 0.25
    other = parts_of(colours_of(prior + wash(prior, numbers, OPEN, OPEN)))
    expected = torch.zeros(3, 4)
    expected[direction, field] = 0.25 * strength
    torch.testing.assert_close(other - seen, expected, atol=1e-4, rtol=0)


def test_offices_are_as_many_as_qualities_and_all_different():
    assert len(OFFICES) == len(NAMES) == len({office[:2] for office in OFFICES})


def finer_than_a_wash(colours: torch.Tensor) -> torch.Tensor:
    """Subtract the fields of a wash from colours [3, h, w]."""
    fields, parts = fields_of_washes(), torch.einsum("khw,fhw->kf", colours, fields_of_washes()) / SIZE**2
    return colours - torch.einsum("kf,fhw->khw", parts, fields)


@pytest.mark.parametrize(("contrast", "gain"), [(1.0, None), (1e3, LEAST_GAIN), (1e-3, MOST_GAIN)])
def test_what_is_finer_than_a_wash_keeps_its_shape_and_has_one_contrast(wash, contrast, gain, monkeypatch):
    """So washes are as visible in images of all patterns; where a prompt names the colours, nothing is changed."""
    monkeypatch.setattr(ldm.modules.wash, "LEAST_PARTS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(ldm.modules.wash, "LEAST_DETAIL", 0.0)
    prior, numbers = torch.randn(1, 4, SIZE, SIZE), torch.randn(len(OFFICES))
    usual = finer_than_a_wash(colours_of(prior)).square().mean().sqrt().item()
    prior *= contrast * CONTRAST / usual * 1.5
    before = finer_than_a_wash(colours_of(prior))
    wanted = 1 / 1.5 if gain is None else gain
    for open_colours, factor in ((OPEN, wanted), (NAMED, 1.0)):
        after = finer_than_a_wash(colours_of(prior + wash(prior, numbers, open_colours, OPEN)))
        torch.testing.assert_close(after, factor * before, atol=1e-5 * max(1.0, contrast), rtol=1e-3)


@pytest.mark.parametrize("direction", range(3))
def test_no_composition_has_one_hue(wash, direction, monkeypatch):
    """A composition that differs in one direction alone keeps its shape there, and nothing is made up elsewhere."""
    monkeypatch.setattr(ldm.modules.wash, "LEAST_DETAIL", 0.0)
    torch.manual_seed(direction)
    weights, directions = torch.tensor(RGB)[:-1], torch.tensor(DIRECTIONS)
    directions /= directions.square().mean(dim=1, keepdim=True).sqrt()
    to_latents = directions @ torch.linalg.pinv(weights)
    shape = torch.randn(3, SIZE, SIZE) * torch.full((3, 1, 1), 0.02).index_fill(0, torch.tensor(direction), 0.15)
    prior = torch.einsum("dhw,dc->chw", shape, to_latents)[None]
    after = finer_than_a_wash(colours_of(prior + wash(prior, torch.randn(len(OFFICES)), OPEN, OPEN)))
    seen = torch.einsum("khw,dk->dhw", after, directions) / 3
    rms = seen.square().mean(dim=(1, 2)).sqrt()
    for one, least in enumerate(LEAST_PARTS):
        found = finer_than_a_wash(colours_of(prior))
        before = torch.einsum("khw,k->hw", found, directions[one]).flatten()
        assert rms[one] >= min(least, 2 * 0.02 * CONTRAST / 0.15)
        assert torch.corrcoef(torch.stack([before, seen[one].flatten()]))[0, 1] > 0.999


def detail_of(colours: torch.Tensor) -> torch.Tensor:
    """Measure the RMS of light, of colours [3, h, w], that is finer than DETAIL cells, away from the edges."""
    light = colours.mean(dim=0)
    inner = light[DETAIL // 2 : -(DETAIL // 2), DETAIL // 2 : -(DETAIL // 2)]
    return (inner - light.unfold(0, DETAIL, 1).unfold(1, DETAIL, 1).mean(dim=(2, 3))).square().mean().sqrt()


@pytest.mark.parametrize("edge", [0.5, 2.0])
def test_no_composition_is_soft(wash, edge):
    """Edges between light and dark become steeper; they stay where they are, and colours stay as they are."""
    axis = torch.linspace(-3, 3, SIZE)
    disc = torch.tanh((2 - torch.hypot(axis, axis[:, None])) / edge)
    directions = torch.tensor(DIRECTIONS)
    prior = 0.1 * torch.einsum("hw,c->chw", disc, directions[0] @ torch.linalg.pinv(torch.tensor(RGB)[:-1]))[None]
    change = finer_than_a_wash(colours_of(wash(prior, torch.randn(len(OFFICES)), OPEN, OPEN)))
    before = finer_than_a_wash(colours_of(prior))
    assert detail_of(before) < LEAST_DETAIL / 4 and detail_of(before + change) > 4 * detail_of(before)
    assert torch.corrcoef(torch.stack([before[0].flatten(), (before + change)[0].flatten()]))[0, 1] > 0.8
    assert (change - change.mean(dim=0)).abs().max() < 1e-4


def test_named_colours_stay_but_for_light_from_one_side(wash):
    prior, numbers = torch.randn(1, 4, SIZE, SIZE), torch.ones(len(OFFICES))
    change = parts_of(colours_of(prior + wash(prior, numbers, NAMED, OPEN)) - colours_of(prior))
    assert change[1:].abs().max() < 1e-4 and abs(change[0, 0]) < 1e-4
    slopes = {field: strength for direction, field, strength in OFFICES if direction == 0 and field}
    for field, strength in slopes.items():
        assert change[0, field].item() == pytest.approx(NAMED_COLOURS * strength, abs=1e-4)


def test_a_dark_image_stays_dark(wash):
    prior, numbers = torch.randn(1, 4, SIZE, SIZE), torch.ones(len(OFFICES))
    change = parts_of(colours_of(prior + wash(prior, numbers, OPEN, NAMED)) - colours_of(prior))
    assert change[0, 0].item() == pytest.approx(NAMED_LIGHT * OFFICES[NAMES.index("brightness")][2], abs=1e-4)


def test_a_wash_fades_between_two_prompts(wash):
    prior, numbers = torch.randn(1, 4, SIZE, SIZE), torch.randn(len(OFFICES))
    ends = [wash(prior, numbers, share, OPEN) for share in (NAMED, OPEN)]
    middle = wash(prior, numbers, torch.tensor(0.25), OPEN)
    torch.testing.assert_close(middle, 0.75 * ends[0] + 0.25 * ends[1])
