"""The training of the built-in model in miniature: it learns, resumes, and exports a model that loads."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

import config
from ldm.checkpoint import load_model
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.grids import warp
from ldm.tensor_files import read_tensors
from tests.training.miniature import command, tiny_config
from training import diffusion, first_stage, parts, prior, run
from training.compute import to_tensor
from training.optimizer import PowerEMA, inner_and_outer
from training.scenes.augment import random_grid
from training.scenes.captions import vocabulary
from training.scenes.render_cache import cached_renders, render_chunks
from training.scenes.scenes import attribute_values, recoloured, sample_scene
from training.scenes.taste import taste_node
from training.settings import options_of

UNET = "model.diffusion_model."
pytestmark = pytest.mark.slow  # every test needs the trained miniature


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    """Draw the few renders here, which takes less time than starting processes."""
    with joblib.parallel_config(backend="sequential"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A training folder with word vectors, a tiny trained first stage, and a tiny trained prior."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "words").mkdir()
    words = vocabulary()
    (folder / "words" / "vocab.txt").write_text("\n".join(words))
    np.save(
        folder / "words" / "word_vectors.npy", np.random.default_rng(0).standard_normal((len(words), 8), np.float32)
    )
    OmegaConf.save(tiny_config(), folder / "tiny.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_stage, "MEASURE_EVERY", 100)  # so that its few steps have a second measurement
        command("first_stage", folder)
    command("prior", folder)
    return folder


def built(folder: Path, trained: Sequence[str] = ("first_stage", "prior")) -> LatentDiffusion:
    """Build the miniature with the trained parts."""
    return parts.build(parts.model_node(tiny_config(), folder / "words"), folder, trained)


def losses(path: Path) -> list[tuple[str, ...]]:
    """Step and loss of each row."""
    with path.open(newline="") as file:
        return [tuple(row[1:3]) for row in csv.reader(file)][1:]


def test_first_stage_learns_and_standardises(folder):
    rows = losses(folder / "first_stage" / "loss.csv")
    assert float(rows[-1][1]) < 0.8 * float(rows[0][1])
    model = built(folder, trained=["first_stage"])
    images = to_tensor(next(render_chunks(0, 8, 256)))
    with torch.inference_mode():
        z = model.encode_first_stage(images)
    assert z.shape == (8, 4, 32, 32)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(4), atol=0.01, rtol=0)


def test_rough_latents_are_penalised(folder):
    """The weight of the penalty counts, and it weighs the roughness of the encoder's means."""
    options = options_of(tiny_config()).first_stage
    autoencoder = parts.first_stage_of(built(folder, trained=()))
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loss = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        loss[weight] = first_stage.autoencoder_loss(autoencoder, x, replace(options, roughness_weight=weight))[0]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rough = first_stage.roughness(autoencoder.posterior(x)[0].float())
    assert (loss[1.0] - loss[0.0]).item() == pytest.approx(rough.item(), abs=1e-3)


def test_the_prior_learns_to_read_and_to_draw(folder):
    rows = [float(loss) for step, loss in losses(folder / "prior" / "loss.csv")]
    assert rows[1] < 0.9 * rows[0]  # steps 0 and 25 of reading
    assert rows[3] < 0.95 * rows[2]  # steps 50 and 75, of drawing


def test_thumbnails_are_about_the_latents(folder):
    model = built(folder, trained=["first_stage"])
    thumbnails = prior.Thumbnails(model, next(render_chunks(0, 16, 32, "canonical")), 0)
    images = to_tensor(next(render_chunks(0, 16, 256, "canonical")))
    with torch.inference_mode():
        z = model.encode_first_stage(images)
    assert thumbnails.pixels.shape == (16, 32, 32, 3)
    assert thumbnails.values.tolist() == [attribute_values(sample_scene(seed)) for seed in range(16)]
    assert thumbnails.variants.tolist() == [sample_scene(seed).variant for seed in range(16)]
    error = (thumbnails.latents(torch.arange(16)) - z).square().mean() / z.var()
    assert error < 0.5


def test_renders_that_differ_late_have_latents_of_their_own(folder, tmp_path):
    """Latents are kept for each file of renders, not for what its first renders look like."""
    model = built(folder, trained=["first_stage"])
    renders = cached_renders(tmp_path, 0, 6, 64)
    black = np.array(renders)
    black[5] = 0
    np.save(tmp_path / "other.npy", black)
    other = np.load(tmp_path / "other.npy", mmap_mode="r")
    first, second, again = (diffusion.encode_renders(model, part, tmp_path) for part in (renders, other, renders))
    assert np.array_equal(first, again) and np.array_equal(first[:5], second[:5])
    assert not np.array_equal(first[5], second[5]) and len(list(tmp_path.glob("latents-*.npy"))) == 2


@pytest.fixture
def interrupted_and_resumed(folder, monkeypatch, tmp_path):
    """A function that trains anew in `folder`, is interrupted once, goes on, and returns both checkpoints.

    The interruption comes as `method`, whose first argument is the step, is called for step `stop`.
    """

    def train_twice(name: str, owner: type, method: str, stop: int) -> tuple[dict, dict]:
        whole = torch.load(folder / name / "checkpoint.pt", weights_only=True)
        (folder / name).rename(tmp_path / "canonical")
        uninterrupted = getattr(owner, method)

        def interrupted(self: object, step: int, **values: float) -> None:
            if step == stop:
                raise KeyboardInterrupt
            if step >= stop - 25:  # saving takes longer than a step
                patch.setattr(run, "SAVE_EVERY", 0.0)
            uninterrupted(self, step, **values)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, method, interrupted)
            command(name, folder)
        command(name, folder)
        return whole, torch.load(folder / name / "checkpoint.pt", weights_only=True)

    return train_twice


def assert_same_parts(resumed: dict, whole: dict, names: tuple[str, ...]) -> None:
    for part in names:
        for name, tensor in whole[part].items():
            torch.testing.assert_close(resumed[part][name], tensor, rtol=0, atol=0, msg=name)


def test_training_of_the_prior_resumes_where_it_was(interrupted_and_resumed):
    whole, resumed = interrupted_and_resumed("prior", run.TrainingRun, "log", 50)
    assert_same_parts(resumed, whole, ("text_encoder", "prior"))


def test_a_run_that_was_interrupted_gives_the_same_weights(folder, interrupted_and_resumed):
    command("diffusion", folder)
    whole, resumed = interrupted_and_resumed("diffusion", PowerEMA, "update", 3)
    assert whole["step"] == 4
    assert_same_parts(resumed, whole, ("unet", "average_unet"))


def test_export_loads_and_paints(folder, tmp_path):
    if not (folder / "diffusion").exists():
        command("diffusion", folder)
    command("export", folder, "--out", str(tmp_path / "model"))
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1  # whoever may read the yaml may read the weights
    model = load_model(tmp_path / "model" / "model.safetensors", tmp_path / "model" / "model.yaml")
    prior = model.model.diffusion_model.layout
    assert prior is not None and prior.wash is not None and prior.taste == taste_node()  # training does without
    diffusion.save_samples(model, 8, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_training_may_start_from_an_existing_model(folder, tmp_path):
    """Its words, first stage and prior replace those that the folder lacks, and its U-Net is trained further."""
    if not (folder / "diffusion").exists():
        command("diffusion", folder)
    command("export", folder, "--out", str(tmp_path / "model"))
    exported = read_tensors(tmp_path / "model" / "model.safetensors").tensors
    further = tmp_path / "further"
    further.mkdir()
    (further / "tiny.yaml").write_bytes((folder / "tiny.yaml").read_bytes())
    command("diffusion", further, "--from", str(tmp_path / "model"))
    command("export", further, "--from", str(tmp_path / "model"), "--out", str(tmp_path / "again"))
    trained = read_tensors(tmp_path / "again" / "model.safetensors").tensors
    assert exported.keys() == trained.keys()
    changed = {name for name in exported if not torch.equal(exported[name], trained[name])}
    unet = {name for name in exported if name.startswith(UNET) and ".layout." not in name}
    assert changed <= unet and len(changed) > len(unet) / 3
    for name in changed:  # four steps from there
        assert (exported[name].float() - trained[name].float()).abs().max() < 0.05


def test_training_does_not_start_from_a_model_of_another_shape(folder, tmp_path):
    node = parts.model_node(tiny_config(), folder / "words")
    with pytest.raises(ValueError, match="chladni does not fit the yaml"):
        parts.build(node, folder, start=config.BUILTIN_MODEL_WEIGHTS.parent)


def test_muon_has_the_inner_matrices_of_the_u_net_and_adamw_the_rest(folder):
    model = built(folder)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    inner, others = ({names[id(p)].removeprefix(UNET) for p in part} for part in inner_and_outer(model))
    trained = {name.removeprefix(UNET) for name, p in model.named_parameters() if p.requires_grad}
    assert inner | others == trained and not inner & others
    assert {"input_blocks.0.0.weight", "out.2.weight", "bypass.weight", "time_embed.0.bias"} <= others
    assert {"time_embed.0.weight", "middle_block.0.in_layers.2.weight"} <= inner


def batch_of(x_0: torch.Tensor, prompts: list[str]) -> diffusion.Batch:
    """Clean latents with prompts, of the scenes 0, 1, 2, …, at times all over the schedule."""
    scenes = [sample_scene(seed) for seed in range(len(x_0))]
    values = torch.tensor([attribute_values(scene) for scene in scenes])
    variants = torch.tensor([scene.variant for scene in scenes])
    t = torch.linspace(0, 999, len(x_0)).long()
    grids = torch.from_numpy(np.stack([random_grid(seed, x_0.shape[2]) for seed in range(len(x_0))]))
    masks = torch.zeros_like(x_0[:, 0])
    return diffusion.Batch(x_0, prompts, values, variants, values, masks, grids, t, torch.randn_like(x_0))


def test_loss_of_a_perfect_prediction_is_zero(folder, monkeypatch):
    model = built(folder)
    batch = batch_of(torch.randn(3, 4, 8, 8), ["a", "", "red"])
    v = model.target(batch.x_0, batch.t, batch.noise)
    monkeypatch.setattr(model.model.diffusion_model, "forward", lambda x, t, c, prior: v)
    assert diffusion.diffusion_loss(model, batch, 5.0).item() == 0.0


@pytest.mark.parametrize(("t", "cut"), [(5, True), (990, False)])
def test_the_weight_of_a_timestep_is_limited(folder, monkeypatch, t, cut):
    model = built(folder)
    batch = batch_of(torch.randn(1, 4, 8, 8), ["red"])._replace(t=torch.tensor([t]))
    off_by_one = model.target(batch.x_0, batch.t, batch.noise) + 1
    monkeypatch.setattr(model.model.diffusion_model, "forward", lambda x, t, c, prior: off_by_one)
    snr_plus_1 = 1 / (1 - model.alphas_cumprod[t].item())
    assert (snr_plus_1 > 5) == cut
    expected = min(snr_plus_1, 5.0) / snr_plus_1
    assert diffusion.diffusion_loss(model, batch, 5.0).item() == pytest.approx(expected, rel=1e-4)


def test_a_prior_that_was_trained_anew_is_not_lost(folder, tmp_path):
    """Neither training nor export accepts a U-Net that was trained with another prior."""
    model = built(folder)
    with parts.unchanged_prior(model, folder):
        pass
    with pytest.raises(ValueError, match="was trained with another prior"), parts.unchanged_prior(model, folder):
        parts.prior_of(model).draws += 1


def test_the_u_net_is_trained_with_the_prior_of_the_true_scene(folder):
    """Each image of the batch has its own, cropped and bent as the image; 0 without a prompt."""
    model = built(folder)
    module = parts.prior_of(model)
    batch = batch_of(torch.zeros(3, 4, 32, 32), ["a", "", "red"])
    latents = diffusion.true_prior(module, batch)
    assert latents.shape == batch.x_0.shape
    assert latents[1].abs().max() == 0
    for row in (0, 2):
        whole = prior.scene_prior(module, batch.values[[row]], batch.variants[[row]]).detach()
        torch.testing.assert_close(latents[[row]], warp(whole, torch.from_numpy(random_grid(row, 32)[None])))
    assert not torch.allclose(latents[0], latents[2], atol=1e-2)
    half = batch_of(torch.zeros(3, 4, 16, 16), ["a", "", "red"])
    assert diffusion.true_prior(module, half).shape == (3, 4, 16, 16)


def test_the_prior_drifts_where_colours_do(folder):
    model = built(folder)
    module = parts.prior_of(model)
    batch = batch_of(torch.zeros(1, 4, 32, 32), ["a"])
    other = batch._replace(values=torch.tensor([attribute_values(recoloured(sample_scene(0)))]))
    right = torch.zeros(1, 32, 32)
    right[:, :, 16:] = 1
    drifting = batch._replace(other_values=other.values, masks=right, grids=straight(32))
    ours, others = (diffusion.true_prior(module, b._replace(grids=straight(32))) for b in (batch, other))
    assert not torch.allclose(ours, others, atol=1e-2)
    torch.testing.assert_close(diffusion.true_prior(module, drifting), torch.where(right.bool()[:, None], others, ours))


def straight(size: int) -> torch.Tensor:
    """All of a picture, straight on: coordinates [1, size, size, 2]."""
    return F.affine_grid(torch.eye(2, 3)[None], [1, 1, size, size], align_corners=False)
