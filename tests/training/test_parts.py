"""Parts of training that need no trained model."""

import numpy as np
import pytest
import torch

import config
from ldm.models.autoencoder import ShuffleAutoencoder
from ldm.models.diffusion.sampling import SamplingSettings
from painting.image_spec import ImageSpec
from training import diffusion, run
from training.first_stage import roughness
from training.scenes.augment import colour_mask, random_grid
from training.scenes.captions import COLOUR_WORDS
from training.scenes.scenes import attribute_values, recoloured, sample_scene

COLOUR_NAMES = {name for names in COLOUR_WORDS.values() for name in names}


def test_roughness_tells_noise_from_what_varies_slowly():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 4, 16, 16, generator=generator)
    ramp = torch.linspace(-1, 1, 16).expand(2, 4, 16, 16)
    assert roughness(noise) > 0.6
    assert roughness(ramp) < 0.01


@pytest.mark.parametrize("batch", [1, 3])
def test_orthogonal_start_loses_nothing_it_need_not(batch):
    """With as many channels as space-to-depth makes, decoder after encoder is nearly the identity at once."""
    torch.manual_seed(0)
    model = ShuffleAutoencoder([12], [1], [1], z_channels=12)
    x = torch.randn(batch, 3, 16, 16)
    mean = model.posterior(x)[0]
    assert mean.shape == (batch, 12, 8, 8)
    assert torch.linalg.matrix_rank(model.encoder.get_parameter("1.weight").squeeze()) == 12


def test_a_checkpoint_of_another_shape_is_named(tmp_path):
    kept, other = (
        run.TrainingRun(tmp_path, {"part": (part := torch.nn.Linear(n, 1))}, torch.optim.Adam(part.parameters()))
        for n in (2, 3)
    )
    kept.save(7)
    assert kept.resume() == 7
    with pytest.raises(ValueError, match="checkpoint.pt was written by another version, or with another yaml"):
        other.resume()


def test_batches_tell_of_the_scenes_that_their_latents_are_of():
    latents = np.arange(50, dtype=np.float16)[:, None, None, None] * np.ones((1, 4, 2, 2), np.float16)
    batch = diffusion.DiffusionBatches(latents, 30, 1000, 40, timesteps=500, prompt_dropout=0.5, seed=0)[7]
    rows = batch.x_0[:, 0, 0, 0].int().tolist()
    assert len(set(rows)) > 10
    scenes = [sample_scene(1000 + row) for row in rows]
    assert batch.values.tolist() == [attribute_values(scene) for scene in scenes]
    assert np.array_equal(batch.grids, np.stack([random_grid(1000 + row, 2) for row in rows]))
    assert batch.variants.tolist() == [scene.variant for scene in scenes]
    others = [recoloured(scene) if row >= 20 else scene for row, scene in zip(rows, scenes, strict=True)]
    assert batch.other_values.tolist() == [attribute_values(scene) for scene in others]
    for row, mask, prompt in zip(rows, batch.masks, batch.prompts, strict=True):
        np.testing.assert_array_equal(mask, colour_mask(1000 + row, 2))
        assert row < 20 or not COLOUR_NAMES & set(prompt.split())
    assert 5 < sum(row < 20 for row in rows) < 35
    assert 8 < sum(prompt == "" for prompt in batch.prompts) < 32
    assert batch.t.min() >= 0 and 490 < batch.t.max() <= 499 and (batch.t.diff() > 0).all()
    moved = batch.to(torch.device("meta"))
    assert moved.prompts == batch.prompts
    assert all(part.is_meta for name, part in moved._asdict().items() if name != "prompts")


def test_sheets_are_sampled_as_users_see_images():
    expected = SamplingSettings(ImageSpec.steps, ImageSpec.scale, guidance_rescale=config.BUILTIN_RESCALE)
    assert expected == diffusion.SHEET_SAMPLING


def test_the_learning_rate_rises_and_falls():
    rates = [run.scheduled_rate(2.0, step, steps=100, warmup=10) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == pytest.approx(1.82) and rates[99] == pytest.approx(0.02)
    assert run.scheduled_rate(2.0, 75, steps=100, warmup=10, power=0.5) == pytest.approx(1.0)
