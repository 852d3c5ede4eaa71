"""Find, read and verify the weights of a latent diffusion model, and build the model with them.

A model is a .safetensors or .ckpt file with a yaml beside it, or a folder as diffusers saves it. Loading accounts for
every tensor: a name or shape that does not fit is an error, and names that may be left over are listed here.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from files import read_yaml
from ldm.broken_weights import broken_weights, vectors_are_sound
from ldm.devices import PRECISIONS
from ldm.diffusers_folder import files_of_folder, is_diffusers_folder, read_diffusers_folder
from ldm.families import OWN, OtherFileError, refuse_foreign
from ldm.tensor_files import read_tensors, some
from ldm.util import instantiate_from_config

if TYPE_CHECKING:
    from ldm.models.diffusion.ddpm import LatentDiffusion

# Tensors that published checkpoints hold beside the weights: the noise schedule (it follows from the yaml), running
# averages, training losses, and a head of the BERT that sampling does not use.
LEFTOVERS = re.compile(
    r"(log_one_minus_|sqrt_|sqrt_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod(_prev)?|betas|lvlb_weights"
    r"|posterior_(variance|log_variance_clipped|mean_coef1|mean_coef2)|logvar|scale_factor|cond_ids"
    r"|(first_stage_model\.)?model_ema\..*|first_stage_model\.(loss\..*|colorize)"
    r"|cond_stage_model\.transformer\.to_logits\..*"
)
DTYPES = dict(zip(PRECISIONS, (torch.float32, torch.bfloat16, torch.float16), strict=True))
VOCABULARIES = ("tokenizer.json", "vocab.txt")


def load_model(
    weights: Path, config: Path | None = None, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> "LatentDiffusion":
    """Load a model with its weights and vocabulary, ready to sample from.

    If the file has running averages (`model_ema.*`), they replace the weights of the last training step: the images in
    the papers were made with them.

    Args:
        weights: a .safetensors or .ckpt file, or a diffusers folder.
        config: yaml of the model; by default `NAME.yaml` beside `NAME.safetensors`.
        dtype: element type of all floating-point weights. Weights that have it already stay on disk, mapped into
            memory, except the kernels of convolutions.
        device: device of the weights.

    Raises:
        ValueError: the yaml or the weights cannot be read, do not fit each other, or hold NaN or infinite numbers.
        OSError: a file is missing, the vocabulary included.
    """
    tensors, node, origin = read_model(weights, config)
    model = build_model(node, origin)
    _check_schedule(model, tensors, weights)
    _assign(model, tensors, weights, dtype, torch.device(device))
    model.cond_stage_model.load_vocabulary(vocabulary_folder(weights))
    return model.eval().requires_grad_(False)


def find_model(folder: Path) -> tuple[Path, Path | None]:
    """Find weights and yaml in the folder of one model: the arguments of `load_model`.

    The folder is a diffusers folder, which needs no yaml, or holds `NAME.safetensors` or `NAME.ckpt` with `NAME.yaml`
    or with the only yaml there is. A .safetensors is preferred to the .ckpt that it was converted from. The second
    result is None if there is no yaml; the caller must then supply one.

    Raises:
        ValueError: the folder does not exist, or holds no weights, or several different ones.
    """
    if not folder.is_dir():
        others = sorted(path.name for path in folder.parent.glob("*/") if _is_model(path))
        raise ValueError(f"there is no model folder {folder}; models in {folder.parent}: {some(others)}")
    if is_diffusers_folder(folder):
        return folder, None
    by_stem = {path.stem: path for suffix in ("ckpt", "safetensors") for path in sorted(folder.glob(f"[!.]*.{suffix}"))}
    with_yaml = {stem: path for stem, path in by_stem.items() if path.with_suffix(".yaml").is_file()}
    weights = list((with_yaml or by_stem).values())
    if len(weights) != 1:
        names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
        raise ValueError(
            f"{folder} holds {'more than one set of' if weights else 'no'} weights ({some(names, 8)}); a model folder "
            "needs one .safetensors or .ckpt with a yaml of the same name, or unet/, vqvae/, bert/, tokenizer/ and "
            "scheduler/ as diffusers saves them"
        )
    if with_yaml:
        return weights[0], weights[0].with_suffix(".yaml")
    yamls = list(folder.glob("[!.]*.yaml"))
    return weights[0], yamls[0] if len(yamls) == 1 else None


def _is_model(folder: Path) -> bool:
    return is_diffusers_folder(folder) or any(folder.glob("[!.]*.ckpt")) or any(folder.glob("[!.]*.safetensors"))


def read_model(weights: Path, config: Path | None = None) -> tuple[dict[str, Tensor], Mapping[str, Any], str]:
    """Read tensors by their CompVis names, the `model` node of the config, and the name of that node's source.

    Raises:
        ValueError: the yaml or the weights cannot be read, or the weights are of another kind, for example a LoRA.
        OSError: a file is missing.
    """
    if weights.is_dir():
        if not is_diffusers_folder(weights):
            raise ValueError(f"{weights} is a folder without the unet/ or model_index.json of a diffusers model")
        if config is not None:
            raise ValueError(f"{weights} is a diffusers folder, whose json files describe it; leave {config} out")
        tensors, node = read_diffusers_folder(weights)
        return tensors, node, str(weights)
    config = config or weights.with_suffix(".yaml")
    without_yaml = f"{weights} needs a yaml that describes its model: there is no {config.name} beside it"
    try:
        tensors = read_tensors(weights).tensors
    except OtherFileError:
        raise
    except ValueError as error:
        raise error if config.is_file() else ValueError(without_yaml) from None
    if not any(name in tensors for name in OWN):
        refuse_foreign(weights, tensors)  # before the yaml is asked for, which would help nothing
    if not config.is_file():
        raise ValueError(without_yaml)
    return tensors, read_config(config), str(config)


def read_config(path: Path) -> Mapping[str, Any]:
    """Read the `model` node of a yaml.

    Raises:
        ValueError: the file is not a yaml, or has no such node.
        OSError: the file cannot be read.
    """
    try:
        content = read_yaml(path)
    except OSError:
        raise
    except Exception as error:  # the yaml parser, the decoder and OmegaConf each raise their own
        raise ValueError(f"{path} cannot be read as a yaml: {' '.join(str(error).split())[:200]}") from error
    node = content.get("model") if isinstance(content, dict) else None
    if not isinstance(node, dict):
        raise ValueError(f"{path} describes no model: it needs a model: node with target: and params:")
    return node


def build_model(node: Mapping[str, Any], origin: str) -> "LatentDiffusion":
    """Build the modules that the config `node` describes on the meta device: shapes without memory.

    Raises:
        ValueError: the node does not describe a latent diffusion model. The message begins with `origin`.
    """
    from ldm.models.diffusion.ddpm import LatentDiffusion

    try:
        with torch.device("meta"):
            model = instantiate_from_config(node)
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{origin}: {reason}") from error
    if not isinstance(model, LatentDiffusion):
        raise ValueError(f"{origin} describes a {type(model).__name__}; a LatentDiffusion is needed")
    return model


def vocabulary_folder(weights: Path) -> Path:
    """Find the folder of the text encoder's vocabulary: `tokenizer/` in or beside `weights`, else the folder itself."""
    folder = weights if weights.is_dir() else weights.parent
    inner = folder / "tokenizer"
    return inner if any((inner / name).is_file() for name in VOCABULARIES) else folder


def files_read(weights: Path) -> list[Path]:
    """List the files of a diffusers folder that are read, sorted by path; of a weights file, the file alone.

    Raises:
        ValueError: the folder lacks a part.
        OSError: it cannot be read.
    """
    if not weights.is_dir():
        return [weights]
    vocabulary = (vocabulary_folder(weights) / name for name in VOCABULARIES)
    return sorted([*files_of_folder(weights), *[path for path in vocabulary if path.is_file()][:1]])


def _check_schedule(model: "LatentDiffusion", tensors: Mapping[str, Tensor], weights: Path) -> None:
    """Compare the noise schedule stored in a checkpoint with that of the config; adopt its scale factor.

    Raises:
        ValueError: the schedules differ, or the scale factor is not a positive number.
    """
    ours, theirs = model.alphas_cumprod, tensors.get("alphas_cumprod")
    if theirs is not None:
        if theirs.ndim != 1 or not len(theirs):
            raise ValueError(f"{weights} has an alphas_cumprod of shape {list(theirs.shape)}: the file is damaged")
        tolerance = 1e-5 if theirs.dtype in (torch.float32, torch.float64) else 5e-3
        # written so that NaN, which compares false with anything, is found too
        if ours.shape != theirs.shape or not (ours - theirs.double().cpu()).abs().max() <= tolerance:
            raise ValueError(
                f"{weights} was trained with another noise schedule than its yaml describes: alphas_cumprod has "
                f"{theirs.numel()} steps down to {theirs[-1].item():.3g}, the yaml's {len(ours)} down to "
                f"{ours[-1].item():.3g}; check timesteps, beta_schedule, linear_start and linear_end"
            )
    if "scale_factor" in tensors:  # measured in training (scale_by_std), so the yaml cannot contain it
        model.scale_factor = float(tensors["scale_factor"])
    if not 0 < model.scale_factor < math.inf:
        raise ValueError(f"{weights} has a scale_factor of {model.scale_factor}: a positive number is needed")


def source_names(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Map each tensor name of the model to the name of its source in the file: a running average, else itself.

    CompVis keeps the running average of `model.a.b.weight` as `model_ema.abweight`.
    """
    names = {name: name for name in expected}
    averages = {
        name: "model_ema." + name.removeprefix("model.").replace(".", "")
        for name in expected
        if name.startswith("model.")
    }
    if averages and all(average in tensors for average in averages.values()):
        names.update(averages)
    return names


def mismatches(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """List in words why `tensors` are not the weights of a model with the state dict `expected`; empty if they are."""
    names = source_names(expected, tensors)
    missing = [name for name, source in names.items() if source not in tensors]
    unknown = [name for name in tensors if name not in expected and not LEFTOVERS.fullmatch(name)]
    shapes = [
        f"{name} is {list(tensors[source].shape)} and not {list(expected[name].shape)}"
        for name, source in names.items()
        if source in tensors and tensors[source].shape != expected[name].shape
    ]
    kinds = (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
    return [f"{len(found)} {kind} ({some(found, 3)})" for kind, found in kinds if found]


def _assign(
    model: "LatentDiffusion", tensors: dict[str, Tensor], weights: Path, dtype: torch.dtype, device: torch.device
) -> None:
    """Give the model its weights, converted one by one, so that memory never holds all of them twice.

    Kernels of convolutions become channels-last, the memory format in which CPUs and CUDA compute fastest; feature maps
    follow their kernels.

    Raises:
        ValueError: a name or a shape does not fit, or biases or norms are not finite.
    """
    expected = model.state_dict()
    if wrong := mismatches(expected, tensors):
        refuse_foreign(weights, tensors)
        raise ValueError(
            f"{weights} does not fit its config, which describes {len(expected)} tensors: {'; '.join(wrong)}"
        )
    sources = source_names(expected, tensors)
    if not vectors_are_sound(tensors[source] for source in sources.values()):
        broken = broken_weights({source: tensors[source] for source in sources.values()})
        raise ValueError(f"{weights} is broken: {broken}; download it again, or choose an earlier checkpoint")
    state = {}
    for name, source in sources.items():
        tensor = tensors.pop(source)  # pop, so that the original is freed once it is converted
        channels_last = tensor.ndim == 4 and device.type != "mps"
        state[name] = tensor.to(
            device,
            dtype if tensor.is_floating_point() else None,
            memory_format=torch.channels_last if channels_last else torch.preserve_format,
        )
    model.load_state_dict(state, assign=True)
