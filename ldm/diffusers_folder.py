"""Read a latent diffusion model from a folder that diffusers' `LDMTextToImagePipeline.save_pretrained` wrote.

Its json files are translated to the config of a CompVis yaml; its tensors get their CompVis names by
`ldm.diffusers_names`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.diffusers_names import autoencoder_name, text_encoder_name, unet_name
from ldm.tensor_files import read_tensors

AUTOENCODER_FOLDERS = ("vqvae", "vae")  # the pipeline says vqvae for an AutoencoderKL too
READ_HERE = "LDMTextToImagePipeline, with the folders unet, vqvae or vae, bert, tokenizer and scheduler, is read here"


class UnsupportedError(ValueError):
    """A folder has settings that the modules here do not support; the message names all of them."""

    def __init__(self, folder: Path, problems: Sequence[str]) -> None:
        """Keep the problems, each a part of a sentence."""
        super().__init__(f"{folder} is not supported: {'; '.join(problems)}")
        self.problems = problems


def is_diffusers_folder(folder: Path) -> bool:
    """Tell whether `folder` is a diffusers folder, complete or not."""
    return (folder / "unet" / "config.json").is_file() or (folder / "model_index.json").is_file()


def read_diffusers_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of the model in `folder` by their CompVis names, and the `model` node of its config.

    Raises:
        ValueError: a part is missing or unreadable, or has an architecture that is not supported.
        OSError: a file cannot be read.
    """
    parts = _parts(folder)
    _, autoencoder, _, _ = parts
    configs = {name: _read_json(_config_path(path)) for name, path in parts.items()}
    try:
        node = _model_node(configs["unet"], configs[autoencoder], configs["bert"], configs["scheduler"], folder)
    except KeyError as error:
        raise ValueError(f"the json files in {folder} lack the key {error}") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"the json files in {folder} are not those of a text-to-image LDM: {error}") from error
    unet, vae = configs["unet"], configs[autoencoder]
    levels = len(vae["block_out_channels"])
    renamers: dict[str, Callable[[str], str]] = {
        "unet": lambda name: unet_name(name, unet["layers_per_block"], unet["up_block_types"]),
        autoencoder: lambda name: autoencoder_name(name, levels),
        "bert": text_encoder_name,
    }
    tensors: dict[str, Tensor] = {}
    for part, rename in renamers.items():
        for name, tensor in read_part(parts[part]).items():
            new = rename(name)
            # diffusers has linear layers where the attention of CompVis's autoencoder has 1×1 convolutions
            tensors[new] = tensor[:, :, None, None] if _ATTENTION_WEIGHT.fullmatch(new) and tensor.ndim == 2 else tensor
    return tensors, node


def files_of_folder(folder: Path) -> list[Path]:
    """List the files from which `read_diffusers_folder` reads a model.

    Raises:
        ValueError: a part is missing.
        OSError: the folder cannot be read.
    """
    *with_weights, scheduler = _parts(folder).values()
    weights = [path for part in with_weights for path in (_config_path(part), *_weights_files(part)[0])]
    return [*weights, _config_path(scheduler)]


def _parts(folder: Path) -> dict[str, Path]:
    """Return the folders of U-Net, autoencoder, text encoder and scheduler, in this order, by their names."""
    autoencoder = next((name for name in AUTOENCODER_FOLDERS if (folder / name).is_dir()), "vqvae")
    parts = {name: folder / name for name in ("unet", autoencoder, "bert", "scheduler")}
    if absent := [name for name, path in parts.items() if not path.is_dir()]:
        index = folder / "model_index.json"
        kind = _read_json(index).get("_class_name") if index.is_file() and index.stat().st_size else None
        if kind is None and (folder / "text_encoder").is_dir():
            kind = "pipeline with a text_encoder, as that of Stable Diffusion"
        if kind not in (None, "LDMTextToImagePipeline"):
            family = "Stable Diffusion, " if str(kind).startswith("StableDiffusion") else ""
            reader = "which the library diffusers reads (docs/models.md)"
            raise ValueError(f"{folder} is {family}a {kind}, {reader}; only {READ_HERE}")
        raise ValueError(f"{folder} has no {', '.join(absent)}: {READ_HERE}")
    return parts


def _model_node(
    unet: Mapping[str, Any], autoencoder: Mapping[str, Any], bert: Mapping[str, Any], scheduler: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    translations = (
        ("unet_config", unet_config, unet), ("first_stage_config", autoencoder_config, autoencoder),
        ("cond_stage_config", text_encoder_config, bert), ("schedule", _schedule_params, scheduler),
    )  # fmt: skip
    nodes: dict[str, Any] = {}
    problems: list[str] = []
    for name, translate, config in translations:
        try:
            nodes[name] = translate(config, folder)
        except UnsupportedError as error:
            problems += error.problems
    if problems:
        raise UnsupportedError(folder, problems)
    return {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            **nodes.pop("schedule"),
            "channels": unet["in_channels"],
            "image_size": unet.get("sample_size") or 32,
            # jsons of 2022 lack the scaling factor, which was always the same then
            "scale_factor": autoencoder.get("scaling_factor", 0.18215),
            **nodes,
        },
    }


_ATTENTION_WEIGHT = re.compile(r"first_stage_model\..*\.attn_1\.(q|k|v|proj_out)\.weight")


# --- files -----------------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as json: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold a json object")
    return content


def _config_path(folder: Path) -> Path:
    for name in ("config.json", "scheduler_config.json"):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} has no config.json")


# diffusion_pytorch_model.fp16.safetensors, model.safetensors, pytorch_model.bin.index.json; no shard, no optimiser
_WEIGHTS = re.compile(r"(diffusion_)?(pytorch_)?model(\.\w+)?\.(safetensors|bin)(\.index(\.\w+)?\.json)?")


def read_part(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of one part of a pipeline by their diffusers names, from one file or from shards.

    Full precision is preferred to a variant such as fp16, and .safetensors to .bin.

    Raises:
        ValueError: there are no weights, or a shard is missing or outside the folder.
    """
    files, sharded = _weights_files(folder)
    tensors: dict[str, Tensor] = {}
    for path in files[1:] if sharded else files:  # the first is the index
        tensors.update(read_tensors(path).tensors)
    return tensors


def _weights_files(folder: Path) -> tuple[list[Path], bool]:
    """Return the one file of weights, or an index and its shards; and whether it is the latter.

    Raises:
        ValueError: there are no weights, or a shard is missing or outside the folder.
    """
    candidates = [path for path in folder.iterdir() if _WEIGHTS.fullmatch(path.name)]
    if not candidates:
        raise ValueError(f"{folder} holds no weights: it needs a .safetensors or .bin file, or several with an index")
    chosen = min(candidates, key=_preference)
    if chosen.suffix != ".json":
        return [chosen], False
    weight_map = _read_json(chosen).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{chosen} has no weight_map")
    shards = sorted(set(map(str, weight_map.values())))
    for shard in shards:  # a shard's name comes from outside: no path is allowed
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise ValueError(f"{chosen} names the shard {shard!r}, which is not in {folder}")
    return [chosen, *(folder / shard for shard in shards)], True


def _preference(path: Path) -> tuple[bool, bool, bool, str]:
    """Return the sort key of a weight file: `model.safetensors`, then `model.bin`, then `model.fp16.safetensors`."""
    is_variant = re.search(r"model\.\w+\.(safetensors|bin)|\.index\.\w+\.json", path.name) is not None
    return is_variant, ".safetensors" not in path.name, path.suffix == ".json", path.name


# --- configs ---------------------------------------------------------------------------------------------------------


def _unsupported(config: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], what: str) -> list[str]:
    """Name the keys of a json whose values the modules here do not support; missing keys are fine."""
    return [
        f"the {what} has {key} {config[key]!r} (it can be {' or '.join(map(repr, values))})"
        for key, values in allowed.items()
        if key in config and config[key] not in values
    ]


def _uneven(widths: Sequence[int], what: str) -> list[str]:
    if widths and 0 not in widths and not any(width % widths[0] for width in widths):
        return []
    return [f"the {what} has block_out_channels {widths} (they can be multiples of the first)"]


_UNET_ALLOWED: dict[str, tuple[Any, ...]] = {
    "_class_name": ("UNet2DConditionModel",),
    "act_fn": ("silu", "swish"),
    "norm_num_groups": (32,),
    "norm_eps": (1e-5,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
    "attention_type": ("default",),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "resnet_out_scale_factor": (1,),
    "dropout": (0,),
    **dict.fromkeys(
        ("center_input_sample", "dual_cross_attention", "use_linear_projection", "only_cross_attention",
         "class_embed_type", "addition_embed_type", "resnet_skip_time_act", "class_embeddings_concat",
         "cross_attention_norm"), (None, False),
    ),
    **dict.fromkeys(
        ("num_attention_heads", "time_embedding_dim", "time_embedding_act_fn", "timestep_post_act",
         "time_cond_proj_dim", "encoder_hid_dim", "num_class_embeds"), (None,),
    ),
}  # fmt: skip
_HAS_ATTENTION = {"CrossAttnDownBlock2D": True, "DownBlock2D": False, "CrossAttnUpBlock2D": True, "UpBlock2D": False}


def unet_config(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Translate the config of diffusers' `UNet2DConditionModel` to a yaml node.

    Raises:
        UnsupportedError: `UNetModel` does not support this architecture.
    """
    widths, down, up = config["block_out_channels"], config["down_block_types"], config["up_block_types"]
    problems = _unsupported(config, _UNET_ALLOWED, "unet") + _uneven(widths, "unet")
    if [_HAS_ATTENTION.get(kind) for kind in down] != [_HAS_ATTENTION.get(kind, "") for kind in reversed(up)]:
        problems.append(f"the unet has blocks {down}, {up} (they can be {', '.join(_HAS_ATTENTION)}, in pairs)")
    heads = config.get("attention_head_dim", 8)  # diffusers uses this name for the number of heads
    attention = {"num_heads": heads}
    if isinstance(heads, list):
        head_widths = {width // head for width, head in zip(widths, heads, strict=True)}
        if len(head_widths) > 1:
            problems.append(f"the unet has heads of several widths, {heads} of {widths} (they can have one)")
        attention = {"num_head_channels": head_widths.pop()}
    if problems:
        raise UnsupportedError(folder, problems)
    return {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "params": {
            "in_channels": config["in_channels"],
            "out_channels": config["out_channels"],
            "model_channels": widths[0],
            "channel_mult": [width // widths[0] for width in widths],
            "num_res_blocks": config["layers_per_block"],
            "attention_resolutions": [2**level for level, kind in enumerate(down) if _HAS_ATTENTION[kind]],
            "transformer_depth": config.get("transformer_layers_per_block", 1),
            "context_dim": config["cross_attention_dim"],
            **attention,
        },
    }


def autoencoder_config(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Translate the config of diffusers' `AutoencoderKL` to a yaml node.

    Raises:
        UnsupportedError: it is another autoencoder, for example VQModel.
    """
    latent_channels, widths = config["latent_channels"], config["block_out_channels"]
    allowed = {
        "_class_name": ("AutoencoderKL",), "act_fn": ("silu", "swish"), "norm_num_groups": (32,),
        "use_quant_conv": (True,), "use_post_quant_conv": (True,), "mid_block_add_attention": (True,),
        "shift_factor": (None,), "latents_mean": (None,), "latents_std": (None,),
        "down_block_types": (["DownEncoderBlock2D"] * len(widths),),
    }  # fmt: skip
    if problems := _unsupported(config, allowed, "autoencoder") + _uneven(widths, "autoencoder"):
        raise UnsupportedError(folder, problems)
    return {
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {
            "embed_dim": latent_channels,
            "ddconfig": {
                "double_z": True,
                "z_channels": latent_channels,
                "in_channels": config["in_channels"],
                "out_ch": config["out_channels"],
                "ch": widths[0],
                "ch_mult": [width // widths[0] for width in widths],
                "num_res_blocks": config["layers_per_block"],
                "attn_resolutions": [],
            },
        },
    }


def text_encoder_config(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Translate the config of diffusers' `LDMBertModel` to a yaml node.

    Raises:
        UnsupportedError: it is another text encoder, or has widths that `BERTEmbedder` does not support.
    """
    width = config.get("d_model", 1280)
    allowed = {
        "model_type": ("ldmbert",), "encoder_attention_heads": (8,), "head_dim": (64,),
        "encoder_ffn_dim": (4 * width,), "activation_function": ("gelu",), "scale_embedding": (False,),
    }  # fmt: skip
    if problems := _unsupported(config, allowed, "text encoder"):
        raise UnsupportedError(folder, problems)
    return {
        "target": "ldm.modules.encoders.modules.BERTEmbedder",
        "params": {
            "n_embed": width,
            "n_layer": config.get("encoder_layers", 32),
            "vocab_size": config.get("vocab_size", 30_522),
            "max_seq_len": config.get("max_position_embeddings", 77),
        },
    }


def _schedule_params(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Translate the config of a scheduler to parameters of `LatentDiffusion`."""
    schedules = {"scaled_linear": "linear", "squaredcos_cap_v2": "cosine"}  # diffusers' name: CompVis's name
    predictions = {"epsilon": "eps", "v_prediction": "v"}
    allowed = {
        "beta_schedule": tuple(schedules), "prediction_type": tuple(predictions), "trained_betas": (None,),
        "rescale_betas_zero_snr": (False,),
    }  # fmt: skip
    if problems := _unsupported(config, allowed, "scheduler"):
        raise UnsupportedError(folder, problems)
    return {
        "timesteps": config.get("num_train_timesteps", 1000),
        "beta_schedule": schedules[config.get("beta_schedule", "scaled_linear")],
        "linear_start": config["beta_start"],
        "linear_end": config["beta_end"],
        "parameterization": predictions[config.get("prediction_type", "epsilon")],
    }
