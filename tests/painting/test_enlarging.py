"""Images of any size: what is sampled, and how it is enlarged."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from painting.enlarging import fitted
from painting.image_spec import sampled_size
from painting.ldm_painter import LatentDiffusionPainter
from painting.painter import spec_for


@pytest.mark.parametrize(
    ("size", "sampled"),
    [
        ((256, 256), (256, 256)),
        ((128, 192), (128, 192)),
        ((256, 512), (256, 512)),
        ((512, 512), (256, 256)),
        ((2048, 2048), (256, 256)),
        ((1080, 1920), (256, 448)),
        ((1920, 1080), (448, 256)),
        ((768, 1024), (256, 320)),
        ((200, 300), (256, 384)),  # a side that is no multiple of 64
        ((64, 2048), (64, 2048)),
    ],
)
def test_what_the_model_has_learnt_is_sampled(size, sampled):
    assert sampled_size(*size) == sampled


def disc(size: int, height: int, width: int, radius: float) -> torch.Tensor:
    """Draw a light disc in the middle of a dark image [1, 3, height, width] in −1…1, drawn at `size` times as many."""
    y, x = torch.meshgrid(torch.arange(size * height), torch.arange(size * width), indexing="ij")
    inside = torch.hypot(y + 0.5 - size * height / 2, x + 0.5 - size * width / 2) < size * radius
    fine = torch.where(inside, 0.6, -0.6)[None, None].expand(1, 3, -1, -1)
    return F.avg_pool2d(fine, size)


def rise(image: torch.Tensor) -> float:
    """Return the pixels between 10 and 90 % of the step of a disc's edge, to the right of the middle."""
    line = image[0, 0, image.shape[2] // 2, image.shape[3] // 2 :].numpy()[::-1]
    share = (line - line.min()) / (line.max() - line.min())
    ten, ninety = np.interp([0.1, 0.9], share, np.arange(len(share)))
    return float(ninety - ten)


@pytest.mark.parametrize("factor", [2, 4])
def test_edges_are_as_crisp_as_if_they_were_drawn_large(factor):
    small, large = disc(8, 64, 64, 20.3), disc(8, factor * 64, factor * 64, factor * 20.3)
    enlarged = fitted(small, factor * 64, factor * 64)
    cubic = F.interpolate(small, scale_factor=factor, mode="bicubic")
    assert rise(enlarged) < 1.5 * rise(large) < rise(cubic)
    assert (enlarged - large).abs().mean() < 0.4 * (cubic - large).abs().mean()
    assert enlarged.abs().max() < 0.601, "there is no bright or dark line beside an edge"


def test_slopes_stay_slopes():
    slope = torch.linspace(-0.8, 0.8, 64).expand(1, 3, 64, 64)
    cubic = F.interpolate(slope, scale_factor=4, mode="bicubic")
    torch.testing.assert_close(fitted(slope, 256, 256), cubic, atol=0.02, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(108, 192), (192, 130), (100, 100), (33, 80), (64, 65)])
def test_nothing_is_stretched_and_the_middle_is_kept(height, width):
    image = fitted(disc(4, 64, 96, 20), height, width)
    assert image.shape == (1, 3, height, width)
    light = image[0, 0] > 0
    rows, columns = light.any(dim=1).sum().item(), light.any(dim=0).sum().item()
    assert abs(rows - columns) <= 2
    assert abs(rows - 40 * max(height / 64, width / 96)) <= 2


def test_a_large_image_of_the_built_in_model_is_its_small_one():
    painter = LatentDiffusionPainter(precision="fp32", device="cpu")
    assert painter.latent_shape(1080, 1920) == (4, 32, 56)
    x_T = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    small, large, again = (
        painter.paint([spec_for(painter, "a blue butterfly", steps=1, height=size, width=size)], x_T)
        for size in (256, 500, 500)
    )
    assert large.shape == (1, 500, 500, 3) and np.array_equal(large, again)
    halved = F.interpolate(torch.from_numpy(large).permute(0, 3, 1, 2).float(), (256, 256), mode="area")
    assert np.corrcoef(halved.permute(0, 2, 3, 1).numpy().ravel(), small.ravel())[0, 1] > 0.98
