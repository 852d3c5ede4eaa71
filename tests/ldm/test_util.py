"""Test which targets and parameters a yaml may name."""

import copy
from typing import Any

import pytest
import torch

from ldm.checkpoint import build_model
from ldm.util import instantiate_from_config

# txt2img-1p4B-eval.yaml as CompVis publishes it, with the keys of its training, at a small size
PUBLISHED: dict[str, Any] = {
    "base_learning_rate": 5.0e-05,
    "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
    "params": {
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": 1000,
        "first_stage_key": "image",
        "cond_stage_key": "caption",
        "image_size": 32,
        "channels": 4,
        "cond_stage_trainable": True,
        "conditioning_key": "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": 0.18215,
        "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": {
                "image_size": 32,
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": 32,
                "attention_resolutions": [2, 1],
                "num_res_blocks": 1,
                "channel_mult": [1, 2],
                "num_heads": 8,
                "use_spatial_transformer": True,
                "transformer_depth": 1,
                "context_dim": 64,
                "use_checkpoint": True,
                "legacy": False,
            },
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": 4,
                "monitor": "val/rec_loss",
                "ckpt_path": "models/first_stage_models/kl-f8/model.ckpt",
                "ddconfig": {
                    "double_z": True,
                    "z_channels": 4,
                    "resolution": 256,
                    "in_channels": 3,
                    "out_ch": 3,
                    "ch": 32,
                    "ch_mult": [1, 2, 4, 4],
                    "num_res_blocks": 1,
                    "attn_resolutions": [],
                    "dropout": 0.0,
                },
                "lossconfig": {
                    "target": "ldm.modules.losses.LPIPSWithDiscriminator",
                    "params": {"disc_start": 50001, "kl_weight": 1e-6, "disc_weight": 0.5},
                },
            },
        },
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.BERTEmbedder",
            "params": {"n_embed": 64, "n_layer": 2, "device": "cuda", "use_tokenizer": True},
        },
    },
}


def published(path: str = "", **changes) -> dict:
    """Copy PUBLISHED with changed params of the node at `path`; None removes one."""
    config = copy.deepcopy(PUBLISHED)
    params = config["params"]
    for part in filter(None, path.split(".")):
        params = params[part]["params"] if "target" in params[part] else params[part]
    for key, value in changes.items():
        params.pop(key, None)
        if value is not None:
            params[key] = value
    return config


def test_published_yaml_is_taken_as_it_is():
    model = build_model(PUBLISHED, "yaml")
    assert model.scale_factor == 0.18215
    assert model.latent_shape == (4, 32, 32)


def test_config_is_not_changed():
    before = copy.deepcopy(PUBLISHED)
    build_model(PUBLISHED, "yaml")
    assert before == PUBLISHED


def test_schedule_is_real_where_modules_are_meta():
    model = build_model(PUBLISHED, "yaml")
    assert model.alphas_cumprod.device.type == "cpu" and model.alphas_cumprod.dtype == torch.float64
    assert model.alphas_cumprod[-1].item() == pytest.approx(0.0046599, rel=1e-4)


@pytest.mark.parametrize("key, value", [("learn_logvar", False), ("scheduler_config", {"target": "ldm.lr.Lambda"})])
def test_more_keys_of_training_are_taken(key, value):
    build_model(published(**{key: value}), "yaml")


@pytest.mark.parametrize(
    "path, changes, words",
    [
        ("", {"linear_strat": 0.1}, ["LatentDiffusion", "linear_strat", "linear_start"]),
        ("unet_config", {"chanel_mult": [1, 2]}, ["UNetModel", "chanel_mult", "channel_mult"]),
        ("unet_config", {"context_dim": None}, ["UNetModel", "needs", "context_dim"]),
        ("unet_config", {"num_head_channels": 32}, ["num_heads", "num_head_channels"]),
        ("unet_config", {"use_spatial_transformer": False}, ["use_spatial_transformer"]),
        ("unet_config", {"channel_mult": "wide"}, ["yaml"]),
        ("first_stage_config", {"embed_dim": None}, ["AutoencoderKL", "embed_dim"]),
        ("first_stage_config.ddconfig", {"ch_mul": [1]}, ["ddconfig", "ch_mul"]),
        ("first_stage_config.ddconfig", {"ch": None}, ["ddconfig", "lacks", "'ch'"]),
        ("first_stage_config.ddconfig", {"attn_resolutions": [32]}, ["attn_resolutions"]),
        ("cond_stage_config", {"n_layers": 3}, ["BERTEmbedder", "n_layers", "n_layer"]),
        ("", {"parameterization": "x0"}, ["x0", "eps", "v"]),
        ("", {"conditioning_key": "concat"}, ["concat", "crossattn"]),
        ("", {"beta_schedule": "quadratic"}, ["quadratic", "linear", "cosine"]),
        ("", {"unet_config": None}, ["unet_config"]),
    ],
)
def test_wrong_params_are_refused_by_name(path, changes, words):
    with pytest.raises(ValueError) as caught:
        build_model(published(path, **changes), "yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "builtins.eval", "torch.hub.load", "ldmx.models.Model", "sys.exit", ""]
)
def test_foreign_targets_are_refused(target):
    with pytest.raises(ValueError, match="is refused: only classes of ldm. and torch.nn. are allowed"):
        instantiate_from_config({"target": target, "params": {}})


@pytest.mark.parametrize(
    "target", ["ldm.models.autoencoder.VQModelInterface", "ldm.nothing.Model", "ldm.models.autoencoder", "ldm."]
)
def test_targets_that_are_not_there_are_refused(target):
    with pytest.raises(ValueError, match="does not exist|not a torch module"):
        instantiate_from_config({"target": target})


@pytest.mark.parametrize("target", ["ldm.util.instantiate_from_config", "torch.nn.functional.relu", "torch.nn.init.os"])
def test_targets_that_are_no_modules_are_refused(target):
    with pytest.raises(ValueError, match="not a torch module|does not exist"):
        instantiate_from_config({"target": target})


def test_a_config_without_target_is_refused():
    with pytest.raises(ValueError, match="needs a target; this one has only: params"):
        instantiate_from_config({"params": {}})


def test_torch_modules_are_built():
    assert instantiate_from_config({"target": "torch.nn.Linear", "params": {"in_features": 2, "out_features": 3}})
    assert isinstance(instantiate_from_config({"target": "torch.nn.Identity"}), torch.nn.Identity)


def test_another_module_than_a_latent_diffusion_model_is_refused():
    with pytest.raises(ValueError, match="describes a Identity; a LatentDiffusion is needed"):
        build_model({"target": "torch.nn.Identity"}, "yaml")
