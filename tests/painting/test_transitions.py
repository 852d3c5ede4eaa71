"""Images between two prompts and between two shapes, as a film has them."""

import dataclasses

import numpy as np
import pytest
import torch

import config
import txt2img
from painting.image_spec import ImageSpec
from painting.ldm_painter import LatentDiffusionPainter
from painting.model_files import ModelFiles
from painting.painter import Painter, Transition, TransitionPainter
from tests.ldm.tiny_model import save_model, weights_of

SPEC = ImageSpec("a golden spiral on purple", steps=2, height=64, width=64, scale=1.5, precision="fp32", reading="near")
OTHER = dataclasses.replace(SPEC, prompt="calm blue and turquoise waves")
SHARES = np.linspace(0, 1, 9, dtype=np.float32)
NOISE = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def painter() -> Painter:
    return txt2img.painter_of(ModelFiles(config.BUILTIN_MODEL_WEIGHTS), "fp32", torch.device("cpu"))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def test_the_ends_of_a_transition_are_the_still_images(painter):
    one, other = painter.paint([SPEC], NOISE[:1]), painter.paint([OTHER], NOISE[:1])
    scores = painter.shape_scores(NOISE[:1])
    own = np.eye(scores.shape[1], dtype=np.float32)[scores[0].argmax()]
    both = (SPEC, OTHER)
    ends = [Transition(both, (1.0, 0.0)), Transition(both, (0.0, 1.0), own), Transition((SPEC,), (1.0,), own)]
    images = painter.paint_transitions(ends, NOISE[:1].expand(3, -1, -1, -1))
    for image, still in zip(images, (one, other, one), strict=True):
        assert np.abs(image.astype(int) - still[0]).max() <= 3, "to rounding: three images are sampled together"
    assert distance(one, other) > 20


def test_on_the_way_there_is_no_jump(painter):
    """Eight steps between two prompts, and as many between two shapes: none is much larger than the others."""
    scores = painter.shape_scores(NOISE[:1])
    first, second = (np.eye(scores.shape[1], dtype=np.float32)[at] for at in np.argsort(scores[0])[[-1, -20]])
    ways = [
        [Transition((SPEC, OTHER), (float(1 - share), float(share))) for share in SHARES],
        [
            Transition((SPEC,), (1.0,), (1 - share) * first + share * second)
            for share in np.linspace(0, 1, 9, dtype=np.float32)
        ],
    ]
    for way in ways:
        images = painter.paint_transitions(way, NOISE[:1].expand(9, -1, -1, -1))
        steps = [distance(one, other) for one, other in zip(images, images[1:], strict=False)]
        assert max(steps) < 0.5 * distance(images[0], images[-1]) and min(steps) > 0


def test_outlines_tell_how_far_images_are_apart(painter):
    """The larger change of the outline belongs to the larger change of the image."""
    specs = [SPEC, OTHER, SPEC]
    noises = torch.cat([NOISE[:1], NOISE[:1], (0.98**0.5 * NOISE[:1] + 0.02**0.5 * NOISE[1:2])])
    outlines = painter.outlines([Transition((spec,), (1.0,)) for spec in specs], noises)
    images = painter.paint(specs, noises)
    assert outlines.shape == (3, 4, 8, 8)
    far, near = (np.abs(outlines[i] - outlines[0]).mean() for i in (1, 2))
    assert far > near > 0 and distance(images[1], images[0]) > distance(images[2], images[0])


@pytest.mark.filterwarnings("ignore::painting.painter.PaintingNote")  # of its few words
def test_a_model_without_shapes_has_no_scores_and_start_noise_for_outlines(tmp_path):
    plain = LatentDiffusionPainter(save_model(tmp_path, weights_of()), precision="fp32", device="cpu")
    assert isinstance(plain, TransitionPainter)
    assert plain.shape_scores(NOISE).shape == (3, 0)
    specs = [dataclasses.replace(spec, reading="all") for spec in (SPEC, OTHER)]
    transitions = [Transition(tuple(specs), (share, 1 - share)) for share in (1.0, 0.5, 0.0)]
    np.testing.assert_array_equal(plain.outlines(transitions, NOISE), NOISE.numpy())
    images = plain.paint_transitions(transitions, NOISE[:1].expand(3, -1, -1, -1))
    for image, spec in ((images[0], specs[0]), (images[2], specs[1])):
        assert np.abs(plain.paint([spec], NOISE[:1])[0].astype(int) - image).max() <= 2
    assert distance(images[0], images[2]) > 0


def test_a_rough_image_is_the_fine_one_without_detail(painter, monkeypatch):
    wide = dataclasses.replace(SPEC, width=128)
    noise = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(2))
    fine = painter.paint([wide], noise)[0].astype(float)

    def decode(_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the decoder takes more than half of the time")

    monkeypatch.setattr(painter.model, "decode_first_stage", decode)
    rough = painter.paint_transitions([Transition((wide,), (1.0,), rough=True)], noise)[0].astype(float)
    assert rough.shape == (64, 128, 3)
    blocks = [image.reshape(8, 8, 16, 8, 3).mean((1, 3)) for image in (fine, rough)]
    assert np.corrcoef(blocks[0].ravel(), blocks[1].ravel())[0, 1] > 0.95
    assert np.abs(np.diff(rough, axis=1)).mean() < np.abs(np.diff(fine, axis=1)).mean()
