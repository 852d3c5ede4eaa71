"""The preview while sampling: the map from latents to colours, the file, and the events."""

import dataclasses
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import config
from ldm.checkpoint import load_model
from painting import preview, progress
from painting.painter import Step
from painting.preview import LinearDecoder, colour_fields, save_preview
from painting.progress import Progress


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
    model: Any = SimpleNamespace(first_stage_model=stage, encode_first_stage=stage.encode)
    images = colour_fields(2, 64, seed=1)
    decoder = LinearDecoder.fit(model.encode_first_stage)
    shown = decoder(stage.encode(images))
    assert decoder.weights.shape == (5, 3)
    torch.testing.assert_close(shown, F.avg_pool2d(images, 8), atol=1e-4, rtol=0)


def test_colour_fields_are_smooth_colourful_and_the_same_each_time():
    fields = colour_fields(3, 64)
    assert fields.shape == (3, 3, 64, 64) and fields.abs().max() <= 1
    assert torch.equal(fields, colour_fields(3, 64))
    assert all(field.std() > 0.3 for field in fields)
    assert (fields[..., 1:] - fields[..., :-1]).abs().mean() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_the_preview_resembles_what_is_decoded(dtype, monkeypatch):
    """Among images that it was not fitted to, each preview is nearest to its own."""
    monkeypatch.setattr(preview, "EXAMPLES", 4)  # because many processors are slow with bf16
    model = load_model(config.BUILTIN_MODEL_WEIGHTS, dtype=dtype)
    images = colour_fields(4, 64, seed=9)
    latents = model.encode_first_stage(images.to(dtype)).float()
    decoded = F.avg_pool2d(model.decode_first_stage(latents), 8)
    shown = LinearDecoder.fit(lambda x: model.encode_first_stage(x.to(dtype)))(latents)
    errors = (shown[:, None] - decoded[None]).pow(2).mean(dim=(2, 3, 4)).sqrt()
    assert torch.equal(errors.argmin(dim=1), torch.arange(4))
    assert errors.diagonal().max() < 0.15  # of −1…1
    assert errors[~torch.eye(4, dtype=torch.bool)].min() > 0.3


def test_the_file_is_whole_at_any_time(tmp_path):
    path = tmp_path / "preview.png"
    images = [np.full((3, 8, 8, 3), level, np.uint8) for level in (0, 200)]
    save_preview(images[0], path)
    sizes, done = set(), threading.Event()

    def look() -> None:
        while not done.is_set():
            sizes.add(np.asarray(Image.open(path)).shape)

    watcher = threading.Thread(target=look)
    watcher.start()
    for i in range(40):
        save_preview(images[i % 2], path)
    done.set()
    watcher.join()
    assert sizes == {(64, 64, 3)}  # three of 32×32 in two rows
    assert list(tmp_path.iterdir()) == [path]


def test_previews_and_events_come_when_they_are_due(tmp_path):
    """Two batches of five steps, a preview of the prior before each batch, and one every two steps of a batch."""
    events: list[dict] = []
    made: list[int] = []
    path = tmp_path / "preview.png"
    with Progress(5, path, 2, events.append) as shown:
        for number in range(1, 11):
            step = Step(number, 10, lambda: made.append(1) or np.zeros((1, 8, 8, 3), np.uint8))  # type: ignore[func-returns-value]
            if number in (1, 6):
                shown(dataclasses.replace(step, number=number - 1, sampled=False))
            shown(step)
    assert [event["progress"] for event in events if "progress" in event] == [[n, 10] for n in range(1, 11)]
    after = [events[i - 1]["progress"][0] if i else 0 for i, event in enumerate(events) if "preview" in event]
    assert after == [0, 2, 4, 5, 7, 9] and len(made) == 6  # previews cost nothing where none is due
    assert all(event["preview"] == str(path) for event in events if "preview" in event)


def test_previews_leave_a_pause_and_the_first_comes_at_once(tmp_path, monkeypatch):
    now, written = 0.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(progress, "save_preview", lambda *_: written.append(now))
    shown = Progress(10, tmp_path / "preview.png", 1, pause=0.35)
    with shown:
        for number in range(1, 11):
            now = round(number * 0.1, 1)
            shown(Step(number, 10, lambda: np.zeros((1, 8, 8, 3), np.uint8)))
    assert written == [0.1, 0.5, 0.9]
