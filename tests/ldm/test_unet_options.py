"""Test the options of the built-in model's U-Net that published ones lack: the prompt's mean and positions."""

from typing import Any

import pytest
import torch
from einops import rearrange

from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.diffusionmodules.util import POSITION_CHANNELS, position_features


def unet(**changes) -> UNetModel:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "model_channels": 32,
        "num_res_blocks": 1,
        "attention_resolutions": [2],
        "context_dim": 8,
    }
    model = UNetModel(
        **{"in_channels": 4, "out_channels": 4, "channel_mult": [1, 2], "num_heads": 2, **options, **changes}
    )
    for parameter in model.parameters():  # the last layers start from zero, which would hide everything
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize(("height", "width"), [(5, 8), (8, 10), (7, 8)])
def test_sizes_that_cannot_be_halved_are_refused(height, width):
    with pytest.raises(ValueError, match=rf"{height}x{width}.*multiples of 4, in pixels multiples of 32"):
        unet(channel_mult=[1, 1, 2])(torch.randn(1, 4, height, width), torch.tensor([3]), torch.randn(1, 5, 8))


def test_mean_of_the_prompt_reaches_maps_without_attention():
    model = unet(pool_context=True, attention_resolutions=[])
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 8)
    attention: Any = model.middle_block[1]  # the one attention that is always there
    with torch.inference_mode():
        for parameter in attention.proj_out.parameters():
            parameter.zero_()
        assert not torch.equal(model(x, t, context), model(x, t, context + 1.0))
        torch.testing.assert_close(model(x, t, context.flip(1)), model(x, t, context))  # a mean has no order


def test_positions_tell_cells_apart():
    """On a flat map a convolution can only tell borders; with positions no two cells get the same output."""
    x, t, context = torch.zeros(1, 4, 32, 32), torch.tensor([3]), torch.randn(1, 5, 8)
    shape = {"channel_mult": [1], "attention_resolutions": [], "model_channels": 64}
    with torch.inference_mode():
        plain, positioned = (unet(positions=positions, **shape)(x, t, context)[0] for positions in (False, True))
    middle = (slice(None), slice(14, 18), slice(14, 18))  # 12 convolutions of 3×3 do not reach it from the border
    torch.testing.assert_close(plain[middle], plain[:, 15:16, 15:16].expand(4, 4, 4))
    cells = rearrange(positioned[middle], "c h w -> (h w) c")
    assert torch.pdist(cells).min() > 1e-3


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 12), (5, 3)])
def test_positions_are_round_and_centred(height, width):
    features = position_features(height, width, torch.device("cpu"))
    assert features.shape == (POSITION_CHANNELS, height, width)
    x, y, radius = features[:3]
    torch.testing.assert_close(x.flip(1), -x)
    torch.testing.assert_close(y.flip(0), -y)
    torch.testing.assert_close(radius, (x**2 + y**2).sqrt())
    shorter = (x[0] if width <= height else y[:, 0]).abs().max()
    assert shorter == pytest.approx(1 - 1 / min(height, width))  # the middle of the outermost cell
