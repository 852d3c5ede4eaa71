"""The picture that is shown while sampling: what it is fitted to, and that it is rewritten whole."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import config
from ldm.checkpoint import load_model
from painting.preview import Preview, colour_fields, fit_linear_decoder


class LinearStage(nn.Module):
    """A first stage whose latents are an affine map of mean colours, so that the fit must be exact."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 4, 1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return 5 * self.mix(F.avg_pool2d(x, 8))


def test_a_linear_first_stage_is_inverted():
    torch.manual_seed(0)
    stage = LinearStage().requires_grad_(False)
    model = SimpleNamespace(first_stage_model=stage, encode_first_stage=stage.encode)
    pictures = colour_fields(2, 64, seed=1)
    shown = Preview(None, 1).picture(model, stage.encode(pictures))
    assert fit_linear_decoder(model).shape == (5, 3)
    torch.testing.assert_close(shown, F.avg_pool2d(pictures, 8), atol=1e-4, rtol=0)


def test_colour_fields_are_smooth_colourful_and_the_same_each_time():
    fields = colour_fields(3, 64)
    assert fields.shape == (3, 3, 64, 64) and fields.abs().max() <= 1
    assert torch.equal(fields, colour_fields(3, 64))
    assert all(field.std() > 0.3 for field in fields)
    assert (fields[..., 1:] - fields[..., :-1]).abs().mean() < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_the_preview_resembles_what_is_decoded(dtype):
    """Among pictures that it was not fitted to, each preview is nearest to its own."""
    model = load_model(config.BUILTIN_MODEL_WEIGHTS, dtype=dtype)
    pictures = colour_fields(4, 128, seed=9)
    latents = model.encode_first_stage(pictures.to(dtype)).float()
    decoded = F.avg_pool2d(model.decode_first_stage(latents), 8)
    shown = Preview(None, 1).picture(model, latents)
    errors = (shown[:, None] - decoded[None]).pow(2).mean(dim=(2, 3, 4)).sqrt()
    assert torch.equal(errors.argmin(dim=1), torch.arange(4))
    assert errors.diagonal().max() < 0.15  # of −1…1
    assert errors[~torch.eye(4, dtype=torch.bool)].min() > 0.3


def test_it_is_written_every_so_many_steps_and_read_whole_at_any_time(tmp_path):
    stage = LinearStage().requires_grad_(False)
    model = SimpleNamespace(first_stage_model=stage, encode_first_stage=stage.encode)
    preview = Preview(tmp_path / "preview.png", 3)
    latents = [torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)]
    preview.show(model, 1, latents[0])
    assert not preview.path.exists()
    preview.show(model, 2, latents[0])
    sizes, done = set(), threading.Event()

    def look() -> None:
        while not done.is_set():
            sizes.add(np.asarray(Image.open(preview.path)).shape)

    watcher = threading.Thread(target=look)
    watcher.start()
    for i in range(40):
        preview.show(model, 2 + 3 * i, latents[i % 2])
    done.set()
    watcher.join()
    assert sizes == {(64, 64, 3)}  # three of 32×32 in two rows
    assert list(tmp_path.iterdir()) == [preview.path]
