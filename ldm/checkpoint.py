"""Find, read, verify and convert the weights of latent diffusion models.

    python -m ldm.checkpoint FILE                             says what a file or a diffusers folder is
    python -m ldm.checkpoint FILE --to OUT.safetensors        converts it, so that later starts are fast

A model is a .safetensors or .ckpt file with a yaml beside it, or a folder as diffusers saves it.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli
from ldm.devices import PRECISIONS


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("weights", metavar="FILE", type=cli.existing_path, help="a .safetensors or .ckpt file, or a model's folder")
    add("--config", type=cli.existing_file, metavar="F", help="its yaml (default: the one beside it)")
    add(
        "--to", metavar="OUT.safetensors", type=cli.new_file(".safetensors"), help="convert it; never overwrites a file"
    )
    add("--dtype", choices=PRECISIONS, help="element type in OUT (default: as it is in FILE)")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with what one option forbids another."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.dtype and not args.to:
        parser.error("--dtype says what --to OUT.safetensors is written in, which is missing")
    return args


if __name__ == "__main__":
    parse()  # so that --help and a wrong flag answer before torch is imported

import torch  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from torch import Tensor  # noqa: E402

from ldm.diffusers_folder import is_diffusers_folder, read_diffusers_folder  # noqa: E402
from ldm.tensor_files import read_tensors, some  # noqa: E402
from ldm.util import instantiate_from_config  # noqa: E402

if TYPE_CHECKING:
    from ldm.models.diffusion.ddpm import LatentDiffusion

# What published checkpoints hold beside the weights: the noise schedule (it follows from the yaml), running averages,
# training losses, and the BERT's head for the words that it was not trained on.
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
    """The model with its weights and vocabulary, ready to sample from.

    Running averages (`model_ema.*`), where a file has them, are taken in place of the last training step's weights:
    the pictures that the papers show were made with them.

    Args:
        weights: a .safetensors or .ckpt file, or a diffusers folder.
        config: the model's yaml; a file's own one, `NAME.yaml` beside `NAME.safetensors`, by default.
        dtype: of all floating-point weights. Those that have it already, but for the kernels of convolutions, stay on
            disk, mapped into memory.
        device: where the weights go.

    Raises:
        ValueError: a yaml or weights that cannot be read, or that do not fit each other.
        OSError: a missing file, the vocabulary's included.
    """
    tensors, node, origin = read_model(weights, config)
    model = build_model(node, origin)
    _check_schedule(model, tensors, weights)
    _assign(model, tensors, weights, dtype, torch.device(device))
    model.cond_stage_model.load_vocabulary(vocabulary_folder(weights))
    return model.eval().requires_grad_(False)


def find_model(folder: Path) -> tuple[Path, Path | None]:
    """Weights and yaml in the folder of one model: what `load_model` takes.

    Either a diffusers folder, which needs no yaml, or `NAME.safetensors` or `NAME.ckpt` with `NAME.yaml` or the only
    yaml there is. Of a .ckpt and the .safetensors that was made of it, the latter. Without a yaml the second is None,
    and whoever knows what the weights are passes one.

    Raises:
        ValueError: no such folder, no weights in it, or several that cannot be told apart.
    """
    if not folder.is_dir():
        others = sorted(path.name for path in folder.parent.glob("*/") if _is_model(path))
        raise ValueError(f"there is no model folder {folder}; in {folder.parent} there are: {some(others)}")
    if is_diffusers_folder(folder):
        return folder, None
    by_stem = {path.stem: path for suffix in ("ckpt", "safetensors") for path in sorted(folder.glob(f"[!.]*.{suffix}"))}
    with_yaml = {stem: path for stem, path in by_stem.items() if path.with_suffix(".yaml").is_file()}
    weights = list((with_yaml or by_stem).values())
    if len(weights) != 1:
        names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
        raise ValueError(
            f"{folder} holds {'more than one set of' if weights else 'no'} weights ({some(names, 8)}); a model folder "
            "holds one .safetensors or .ckpt with a yaml of the same name, or unet/, vqvae/, bert/, tokenizer/ and "
            "scheduler/ as diffusers saves them"
        )
    if with_yaml:
        return weights[0], weights[0].with_suffix(".yaml")
    yamls = list(folder.glob("[!.]*.yaml"))
    return weights[0], yamls[0] if len(yamls) == 1 else None


def _is_model(folder: Path) -> bool:
    return is_diffusers_folder(folder) or any(folder.glob("*.ckpt")) or any(folder.glob("*.safetensors"))


def read_model(weights: Path, config: Path | None = None) -> tuple[dict[str, Tensor], Mapping[str, Any], str]:
    """Tensors by their CompVis names, the `model` node of the config, and where that node comes from.

    Raises:
        ValueError, OSError: as `load_model`.
    """
    if weights.is_dir():
        if not is_diffusers_folder(weights):
            raise ValueError(f"{weights} is a folder, but has no unet/ and no model_index.json as diffusers makes them")
        if config is not None:
            raise ValueError(f"{weights} is a diffusers folder, its json files say what it is; leave {config} out")
        tensors, node = read_diffusers_folder(weights)
        return tensors, node, str(weights)
    if config is None:
        config = weights.with_suffix(".yaml")
        if not config.is_file():
            raise ValueError(f"{weights} needs a yaml that says what model it is: there is no {config.name} beside it")
    return read_tensors(weights).tensors, read_config(config), str(config)


def read_config(path: Path) -> Mapping[str, Any]:
    """The `model` node of a yaml.

    Raises:
        ValueError: no yaml, or one without that node.
        OSError: the file cannot be read.
    """
    OmegaConf.clear_resolver("oc.env")  # what a yaml from outside says is no reason to look into the environment
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError:
        raise
    except Exception as error:  # of the yaml parser, of decoding, of OmegaConf's references
        raise ValueError(f"{path} cannot be read as a yaml: {' '.join(str(error).split())[:200]}") from error
    node = content.get("model") if isinstance(content, dict) else None
    if not isinstance(node, dict):
        raise ValueError(f"{path} describes no model: a yaml with a model: node of target: and params: is needed")
    return node


def build_model(node: Mapping[str, Any], origin: str) -> "LatentDiffusion":
    """The modules that the config `node` describes, on the meta device: shapes without memory.

    Raises:
        ValueError: the node does not describe a latent diffusion model.
    """
    from ldm.models.diffusion.ddpm import LatentDiffusion

    try:
        with torch.device("meta"):
            model = instantiate_from_config(node)
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{origin}: {reason}") from error
    if not isinstance(model, LatentDiffusion):
        raise ValueError(f"{origin} describes a {type(model).__name__}, a LatentDiffusion is needed")
    return model


def vocabulary_folder(weights: Path) -> Path:
    """Where the text encoder's vocabulary lies: `tokenizer/` in or beside `weights`, else right there."""
    folder = weights if weights.is_dir() else weights.parent
    inner = folder / "tokenizer"
    return inner if any((inner / name).is_file() for name in VOCABULARIES) else folder


def _check_schedule(model: "LatentDiffusion", tensors: Mapping[str, Tensor], weights: Path) -> None:
    """Compare the noise schedule that a checkpoint remembers with that of the config; take over its scale factor.

    Raises:
        ValueError: they differ.
    """
    ours, theirs = model.alphas_cumprod, tensors.get("alphas_cumprod")
    if theirs is not None:
        if theirs.ndim != 1 or not len(theirs):
            raise ValueError(f"{weights} has an alphas_cumprod of shape {list(theirs.shape)}: the file is damaged")
        tolerance = 1e-5 if theirs.dtype in (torch.float32, torch.float64) else 5e-3
        if ours.shape != theirs.shape or (ours - theirs.double().cpu()).abs().max() > tolerance:
            raise ValueError(
                f"{weights} was trained with another noise schedule than its yaml gives: alphas_cumprod has "
                f"{theirs.numel()} steps down to {theirs[-1].item():.3g}, the yaml's {len(ours)} down to "
                f"{ours[-1].item():.3g}; look at timesteps, beta_schedule, linear_start and linear_end"
            )
    if "scale_factor" in tensors:  # there if it was measured (scale_by_std), which the yaml cannot know
        model.scale_factor = float(tensors["scale_factor"])


def source_names(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """For each of the model's names the name in the file that its tensor is taken from, itself if there is one.

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
    """What keeps `tensors` from being the weights of a model with the state dict `expected`, in words."""
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
    """Give the model its weights, converted one by one, so that both precisions are never there at once.

    Kernels of convolutions get the order of memory in which CPUs and CUDA compute fastest; maps follow their kernels.

    Raises:
        ValueError: a name or a shape that does not fit.
    """
    expected = model.state_dict()
    if wrong := mismatches(expected, tensors):
        raise ValueError(
            f"{weights} does not fit its config, which describes {len(expected)} tensors: {'; '.join(wrong)}"
        )
    state = {}
    for name, source in source_names(expected, tensors).items():
        tensor = tensors.pop(source)
        channels_last = tensor.ndim == 4 and device.type != "mps"
        state[name] = tensor.to(
            device,
            dtype if tensor.is_floating_point() else None,
            memory_format=torch.channels_last if channels_last else torch.preserve_format,
        )
    model.load_state_dict(state, assign=True)


# --- command line ----------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from ldm.conversion import convert, describe

    weights, config = args.weights, args.config
    if weights.is_dir() and not is_diffusers_folder(weights):
        weights, found = find_model(weights)
        config = config or found
    if args.to is None:
        print("\n".join(describe(weights, config)))
        return 0
    for path in convert(weights, args.to, DTYPES.get(args.dtype), config):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    cli.run(main)
