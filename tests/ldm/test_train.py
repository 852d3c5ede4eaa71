"""The training of the built-in model, in miniature: that it learns, resumes, and exports what loads."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import config
from ldm import train
from ldm.checkpoint import load_model
from ldm.data.captions import vocabulary
from ldm.models.autoencoder import ShuffleAutoencoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A training folder with word vectors and a tiny trained first stage."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "words").mkdir()
    words = vocabulary()
    (folder / "words" / "vocab.txt").write_text("\n".join(words))
    np.save(
        folder / "words" / "word_vectors.npy", np.random.default_rng(0).standard_normal((len(words), 8), np.float32)
    )
    OmegaConf.save(tiny_config(), folder / "tiny.yaml")
    command("first_stage", folder)
    return folder


def tiny_config() -> OmegaConf:
    """The built-in model's yaml, shrunk."""
    tiny = OmegaConf.load(config.CONFIGS_DIR / "latent-diffusion" / "chladni.yaml")
    parts = tiny.model.params
    parts.unet_config.params.update(model_channels=32, channel_mult=[1, 2], attention_resolutions=[2], context_dim=32)
    parts.first_stage_config.params.update(widths=[8, 16, 32], encoder_blocks=[0, 0, 0], decoder_blocks=[0, 0, 1])
    parts.cond_stage_config.params.update(n_embed=32, n_layer=1)
    tiny.training.first_stage.update(pictures=8, batch_size=4, steps=351, learning_rate=5e-3)
    stages = [
        {"size": 64, "pictures": 8, "batch_size": 4, "steps": 3},
        {"size": 128, "pictures": 4, "batch_size": 2, "steps": 3},
    ]
    tiny.training.diffusion.update(stages=stages)
    return tiny


def command(name: str, folder: Path, *arguments: str) -> None:
    train.main([name, "--config", str(folder / "tiny.yaml"), "--dir", str(folder), *arguments])


def losses(path: Path) -> list[tuple[str, ...]]:
    """Step and loss of each row."""
    with path.open(newline="") as file:
        return [tuple(row[1:3]) for row in csv.reader(file)][1:]


def test_first_stage_learns_and_standardises(folder):
    rows = losses(folder / "first_stage" / "loss.csv")
    assert float(rows[-1][1]) < 0.8 * float(rows[0][1])
    model = train.build(train.model_node(tiny_config(), folder / "words"), folder, with_first_stage=True)
    pictures = train.to_tensor(next(train.rendered(0, 8, 256)))
    with torch.inference_mode():
        z = model.encode_first_stage(pictures)
    assert z.shape == (8, 4, 32, 32)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(4), atol=0.01, rtol=0)


def test_roughness_tells_noise_from_what_varies_slowly():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 4, 16, 16, generator=generator)
    ramp = torch.linspace(-1, 1, 16).expand(2, 4, 16, 16)
    assert train.roughness(noise) > 0.6
    assert train.roughness(ramp) < 0.01


def test_the_first_stage_is_told_to_make_smooth_latents(folder):
    """The weight of the penalty counts, and what it weighs is the roughness of the encoder's means."""
    options = OmegaConf.to_container(tiny_config().training.first_stage)
    model = train.build(train.model_node(tiny_config(), folder / "words"), folder, with_first_stage=False)
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loss = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        settings = train.FirstStageOptions(**{**options, "roughness_weight": weight})
        loss[weight] = train.first_stage_loss(model.first_stage_model, x, settings)[0]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rough = train.roughness(model.first_stage_model.posterior(x)[0].float())
    assert (loss[1.0] - loss[0.0]).item() == pytest.approx(rough.item(), abs=1e-4)


def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(folder, monkeypatch, tmp_path):
    command("diffusion", folder)
    whole = torch.load(folder / "diffusion" / "checkpoint.pt", weights_only=True)
    assert whole["step"] == 6
    (folder / "diffusion").rename(tmp_path / "whole")
    update = train.PowerEMA.update

    def stop_at_4(self: train.PowerEMA, step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt
        update(self, step)

    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(train.PowerEMA, "update", stop_at_4)
    with pytest.raises(KeyboardInterrupt):
        command("diffusion", folder)
    monkeypatch.setattr(train.PowerEMA, "update", update)
    command("diffusion", folder)
    resumed = torch.load(folder / "diffusion" / "checkpoint.pt", weights_only=True)
    for part in ("unet", "text", "average_unet", "average_text"):
        for name, tensor in whole[part].items():
            torch.testing.assert_close(resumed[part][name], tensor, rtol=0, atol=0, msg=name)


def test_export_loads_and_paints(folder, tmp_path):
    if not (folder / "diffusion").exists():
        command("diffusion", folder)
    command("export", folder, "--out", str(tmp_path / "model"))
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1  # whoever may read the yaml may read the weights
    model = load_model(tmp_path / "model" / "model.safetensors", tmp_path / "model" / "model.yaml")
    train.save_samples(model, 8, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_moving_average_follows_and_forgets():
    live, average = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    ema = train.PowerEMA(live, average)
    ema.update(0)
    assert torch.equal(average.weight, live.weight)  # the first update takes all
    torch.nn.init.constant_(live.weight, 1.0)
    for step in range(1, 100):
        ema.update(step)
    assert abs(average.weight.item() - 1.0) < 1e-6


def test_loss_of_a_perfect_prediction_is_zero(folder):
    model = train.build(train.model_node(tiny_config(), folder / "words"), folder, with_first_stage=True)
    x_0, noise, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
    model.apply_model = lambda x, t, c: model.target(x_0, t, noise)
    assert train.diffusion_loss(model, (x_0, ["a", "", "red"], t, noise), 5.0).item() == 0.0


def test_shifted_times_keep_the_ends_and_lean_to_noise():
    u = torch.linspace(0, 1, 101)
    assert torch.equal(train.shifted(u, 1.0), u)
    t = train.shifted(u, 3.0)
    assert t[0] == 0 and t[-1] == 1 and (t.diff() > 0).all()
    assert t[50] == pytest.approx(0.75)  # half of all steps fall on the last quarter


@pytest.mark.parametrize("batch", [1, 3])
def test_orthogonal_start_loses_nothing_it_need_not(batch):
    """With as many channels as space-to-depth makes, decoder after encoder is nearly the identity at once."""
    torch.manual_seed(0)
    model = ShuffleAutoencoder([12], [1], [1], z_channels=12)
    x = torch.randn(batch, 3, 16, 16)
    mean = model.posterior(x)[0]
    assert mean.shape == (batch, 12, 8, 8)
    assert torch.linalg.matrix_rank(model.encoder[1].weight.squeeze()) == 12
