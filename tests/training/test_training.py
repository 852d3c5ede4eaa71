"""The training of the built-in model in miniature: it learns, resumes, and exports a model that loads."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

import config
from ldm.checkpoint import load_model
from ldm.models.autoencoder import ShuffleAutoencoder
from ldm.modules.grids import warp
from ldm.tensor_files import read_tensors
from training import diffusion, first_stage, parts, prior, run
from training.__main__ import main
from training.compute import to_tensor
from training.optimizer import MuonAdamW, PowerEMA, inner_and_outer
from training.scenes.augment import colour_mask, random_grid
from training.scenes.captions import COLOUR_WORDS, vocabulary
from training.scenes.render_cache import render_chunks
from training.scenes.scenes import attribute_values, recoloured, sample_scene
from training.settings import DiffusionOptions, FirstStageOptions

UNET = "model.diffusion_model."
COLOUR_NAMES = {name for names in COLOUR_WORDS.values() for name in names}


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
    command("first_stage", folder)
    command("prior", folder)
    return folder


def tiny_config() -> OmegaConf:
    """Shrink the yaml of the built-in model."""
    tiny = OmegaConf.load(config.CONFIGS_DIR / "latent-diffusion" / "chladni.yaml")
    parts = tiny.model.params
    parts.unet_config.params.update(
        model_channels=32, channel_mult=[1, 2], num_res_blocks=[1, 1], attention_resolutions=[2], context_dim=32
    )
    parts.first_stage_config.params.update(widths=[8, 16, 32], encoder_blocks=[0, 0, 0], decoder_blocks=[0, 0, 1])
    parts.cond_stage_config.params.update(n_embed=32, n_layer=1)
    tiny.training.first_stage.update(renders=8, crop=64, batch_size=4, steps=351, decoder_steps=50, learning_rate=5e-3)
    parts.unet_config.params.layout.update(width=32, cell_width=8, extent=16, fields=1, maps=3)
    tiny.training.prior.update(
        renders=64, reading_batch_size=16, reading_steps=40, drawing_batch_size=16, drawing_steps=60
    )
    stages = [
        {"size": 64, "renders": 8, "drifting": 4, "batch_size": 4, "steps": 3},
        {"size": 128, "renders": 4, "drifting": 0, "batch_size": 2, "steps": 3},
    ]
    tiny.training.diffusion.update(stages=stages)
    return tiny


def command(name: str, folder: Path, *arguments: str) -> None:
    main([name, "--config", str(folder / "tiny.yaml"), "--dir", str(folder), *arguments])


def losses(path: Path) -> list[tuple[str, ...]]:
    """Step and loss of each row."""
    with path.open(newline="") as file:
        return [tuple(row[1:3]) for row in csv.reader(file)][1:]


def test_first_stage_learns_and_standardises(folder):
    rows = losses(folder / "first_stage" / "loss.csv")
    assert float(rows[-1][1]) < 0.8 * float(rows[0][1])
    model = parts.build(parts.model_node(tiny_config(), folder / "words"), folder, trained=["first_stage"])
    images = to_tensor(next(render_chunks(0, 8, 256)))
    with torch.inference_mode():
        z = model.encode_first_stage(images)
    assert z.shape == (8, 4, 32, 32)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(4), atol=0.01, rtol=0)


def test_roughness_tells_noise_from_what_varies_slowly():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 4, 16, 16, generator=generator)
    ramp = torch.linspace(-1, 1, 16).expand(2, 4, 16, 16)
    assert first_stage.roughness(noise) > 0.6
    assert first_stage.roughness(ramp) < 0.01


def test_the_first_stage_is_told_to_make_smooth_latents(folder):
    """The weight of the penalty counts, and what it weighs is the roughness of the encoder's means."""
    options = OmegaConf.to_container(tiny_config().training.first_stage)
    model = parts.build(parts.model_node(tiny_config(), folder / "words"), folder, trained=())
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loss = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        settings = FirstStageOptions(**{**options, "roughness_weight": weight})
        loss[weight] = first_stage.autoencoder_loss(model.first_stage_model, x, settings)[0]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rough = first_stage.roughness(model.first_stage_model.posterior(x)[0].float())
    assert (loss[1.0] - loss[0.0]).item() == pytest.approx(rough.item(), abs=1e-4)


def test_the_prior_learns_to_read_and_to_draw(folder):
    rows = [float(loss) for step, loss in losses(folder / "prior" / "loss.csv")]
    assert rows[1] < 0.9 * rows[0]  # steps 0 and 25 of reading
    assert rows[3] < 0.95 * rows[2]  # steps 50 and 75, of drawing


def test_thumbnails_are_about_the_latents(folder):
    model = parts.build(parts.model_node(tiny_config(), folder / "words"), folder, trained=["first_stage"])
    thumbnails = prior.Thumbnails(model, next(render_chunks(0, 16, 32, "canonical")), 0)
    images = to_tensor(next(render_chunks(0, 16, 256, "canonical")))
    with torch.inference_mode():
        z = model.encode_first_stage(images)
    assert thumbnails.pixels.shape == (16, 32, 32, 3)
    assert thumbnails.values.tolist() == [attribute_values(sample_scene(seed)) for seed in range(16)]
    assert thumbnails.variants.tolist() == [sample_scene(seed).variant for seed in range(16)]
    error = (thumbnails.latents(torch.arange(16)) - z).square().mean() / z.var()
    assert error < 0.5


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
            uninterrupted(self, step, **values)

        monkeypatch.setattr(run, "SAVE_EVERY", 0.0)
        monkeypatch.setattr(owner, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            command(name, folder)
        monkeypatch.setattr(owner, method, uninterrupted)
        command(name, folder)
        return whole, torch.load(folder / name / "checkpoint.pt", weights_only=True)

    return train_twice


def assert_same_parts(resumed: dict, whole: dict, names: tuple[str, ...]) -> None:
    for part in names:
        for name, tensor in whole[part].items():
            torch.testing.assert_close(resumed[part][name], tensor, rtol=0, atol=0, msg=name)


def test_training_of_the_prior_resumes_where_it_was(interrupted_and_resumed):
    whole, resumed = interrupted_and_resumed("prior", run.TrainingRun, "log", 75)
    assert_same_parts(resumed, whole, ("text_encoder", "prior"))


def test_a_run_that_was_interrupted_gives_the_same_weights(folder, interrupted_and_resumed):
    command("diffusion", folder)
    whole, resumed = interrupted_and_resumed("diffusion", PowerEMA, "update", 4)
    assert whole["step"] == 6
    assert_same_parts(resumed, whole, ("unet", "average_unet"))


def test_export_loads_and_paints(folder, tmp_path):
    if not (folder / "diffusion").exists():
        command("diffusion", folder)
    command("export", folder, "--out", str(tmp_path / "model"))
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1  # whoever may read the yaml may read the weights
    model = load_model(tmp_path / "model" / "model.safetensors", tmp_path / "model" / "model.yaml")
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
    assert changed <= unet and len(changed) > len(unet) / 2
    for name in changed:  # six steps from there
        assert (exported[name].float() - trained[name].float()).abs().max() < 0.05


def test_training_does_not_start_from_a_model_of_another_shape(folder, tmp_path):
    node = parts.model_node(tiny_config(), folder / "words")
    with pytest.raises(ValueError, match="chladni does not fit the yaml"):
        parts.build(node, folder, start=config.BUILTIN_MODEL_WEIGHTS.parent)


def test_moving_average_follows_and_forgets():
    live, average = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    ema = PowerEMA(live, average)
    ema.update(0)
    assert torch.equal(average.weight, live.weight)  # the first update takes all
    torch.nn.init.constant_(live.weight, 1.0)
    for step in range(1, 100):
        ema.update(step)
    assert abs(average.weight.item() - 1.0) < 1e-6


def test_muon_steps_are_as_long_in_all_directions():
    torch.manual_seed(0)
    kernel = torch.nn.Conv2d(12, 8, 3).to(memory_format=torch.channels_last)
    before = [p.detach().clone() for p in kernel.parameters()]
    optimizer = MuonAdamW([kernel.weight], [kernel.bias], learning_rate=0.01)
    kernel.weight.grad = torch.randn_like(kernel.weight) * torch.logspace(0, 2, 8)[:, None, None, None]
    kernel.bias.grad = torch.logspace(0, 2, 8)
    optimizer.step()
    # coarse: Muon's iteration leaves singular values between 0.7 and 1.2; the gradient's are a hundred times apart
    lengths = torch.linalg.svdvals((kernel.weight - (1 - 1e-4) * before[0]).permute(0, 2, 3, 1).flatten(1))
    assert lengths.max() < 2 * lengths.min()
    assert torch.allclose((kernel.bias - (1 - 1e-4) * before[1]).abs(), torch.tensor(0.01), rtol=1e-3)


def test_a_training_of_another_optimizer_is_not_gone_on_with():
    kernel = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = MuonAdamW([kernel.weight], [kernel.bias], learning_rate=0.01)
    with pytest.raises(ValueError, match="another optimizer"):
        optimizer.load_state_dict(torch.optim.AdamW(kernel.parameters()).state_dict())
    optimizer.load_state_dict(optimizer.state_dict())


def test_a_checkpoint_of_another_shape_is_named(tmp_path):
    kept, other = (
        run.TrainingRun(tmp_path, {"part": (part := torch.nn.Linear(n, 1))}, torch.optim.Adam(part.parameters()))
        for n in (2, 3)
    )
    kept.save(7)
    assert kept.resume() == 7
    with pytest.raises(ValueError, match="checkpoint.pt was written by another version, or with another yaml"):
        other.resume()


def test_muon_has_the_inner_matrices_of_the_u_net_and_adamw_the_rest(folder):
    model = parts.build(parts.model_node(tiny_config(), folder / "words"), folder)
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


def test_loss_of_a_perfect_prediction_is_zero(folder):
    model = parts.build(parts.model_node(tiny_config(), folder / "words"), folder)
    batch = batch_of(torch.randn(3, 4, 8, 8), ["a", "", "red"])
    model.model.diffusion_model.forward = lambda x, t, c, prior: model.target(batch.x_0, t, batch.noise)
    assert diffusion.diffusion_loss(model, batch, 5.0).item() == 0.0


@pytest.mark.parametrize(("t", "cut"), [(5, True), (990, False)])
def test_the_loss_weighs_the_error_of_v_by_noise_cut_at_little(folder, t, cut):
    model = parts.build(parts.model_node(tiny_config(), folder / "words"), folder)
    batch = batch_of(torch.randn(1, 4, 8, 8), ["red"])._replace(t=torch.tensor([t]))
    off_by_one = model.target(batch.x_0, batch.t, batch.noise) + 1
    model.model.diffusion_model.forward = lambda x, t, c, prior: off_by_one
    snr_plus_1 = 1 / (1 - model.alphas_cumprod[t].item())
    assert (snr_plus_1 > 5) == cut
    expected = min(snr_plus_1, 5.0) / snr_plus_1
    assert diffusion.diffusion_loss(model, batch, 5.0).item() == pytest.approx(expected, rel=1e-4)


def test_a_prior_that_was_trained_anew_is_not_lost(folder, tmp_path):
    """Neither training nor export accepts a U-Net that was trained with another prior."""
    model = parts.build(parts.model_node(tiny_config(), folder / "words"), folder)
    with parts.unchanged_prior(model, folder):
        pass
    with pytest.raises(ValueError, match="was trained with another prior"), parts.unchanged_prior(model, folder):
        parts.prior_of(model).draws += 1


def test_the_u_net_is_trained_with_the_prior_of_the_true_scene(folder):
    """As it is seen there, if there is a prompt. Each picture of the batch has its own."""
    model = parts.build(parts.model_node(tiny_config(), folder / "words"), folder)
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
    model = parts.build(parts.model_node(tiny_config(), folder / "words"), folder)
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


def test_batches_tell_of_the_scenes_that_their_latents_are_of():
    latents = np.arange(50, dtype=np.float16)[:, None, None, None] * np.ones((1, 4, 2, 2), np.float16)
    options = DiffusionOptions(1e-3, 1, 0.5, 5.0, ())
    batch = diffusion.DiffusionBatches(latents, 30, 1000, 40, options, 0)[7]
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
    assert batch.t.min() >= 0 and batch.t.max() <= 999 and (batch.t.diff() > 0).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_orthogonal_start_loses_nothing_it_need_not(batch):
    """With as many channels as space-to-depth makes, decoder after encoder is nearly the identity at once."""
    torch.manual_seed(0)
    model = ShuffleAutoencoder([12], [1], [1], z_channels=12)
    x = torch.randn(batch, 3, 16, 16)
    mean = model.posterior(x)[0]
    assert mean.shape == (batch, 12, 8, 8)
    assert torch.linalg.matrix_rank(model.encoder[1].weight.squeeze()) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda yaml: yaml.training.first_stage.pop("kl_weight"), "missing .*kl_weight"),
        (lambda yaml: yaml.training.diffusion.update(momentum=0.9), "momentum"),
        (lambda yaml: yaml.pop("training"), "the training: node must have the entries"),
        (lambda yaml: yaml.pop("model"), "describes no model"),
    ],
)
def test_a_yaml_that_says_too_little_or_too_much_is_told_so(change, message, tmp_path):
    yaml = tiny_config()
    change(yaml)
    OmegaConf.save(yaml, tmp_path / "tiny.yaml")
    with pytest.raises(ValueError, match=message):
        command("first_stage", tmp_path)


def test_words_come_first(tmp_path):
    OmegaConf.save(tiny_config(), tmp_path / "tiny.yaml")
    with pytest.raises(OSError, match=f"run python -m training words --dir {tmp_path} first"):
        command("first_stage", tmp_path)


def test_existing_word_vectors_are_kept(tmp_path, capsys):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("a\n")
    assert main(["words", "--dir", str(tmp_path)]) == 0
    assert "move the folder away" in capsys.readouterr().out
    assert (tmp_path / "words" / "vocab.txt").read_text() == "a\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["layers"], ["prior", "--out", "model"], ["words", "--config", "/x"]]
)
def test_the_command_line_answers_before_torch_is_imported(arguments):
    code = "import sys; from training.__main__ import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=config.REPO_DIR, capture_output=True, text=True)
    assert done.returncode == (0 if arguments == ["--help"] else 2), done.stderr
    assert "Traceback" not in done.stderr
