"""A pipeline of diffusers on disk: which family it is, whether it is whole and harmless, and its own defaults.

Only json files and headers are read here, and nothing heavy is imported, so that a command line is checked at once.
Such a folder may come from anywhere. What could run code is refused: pickles, classes that the folder brings along, and
settings that ask for such classes. So are names that lead out of the folder.
"""

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import config
from ldm.families import recognise
from painting.pipelines.families import Family, family_of
from painting.pipelines.schedulers import name_of

INDEX = "model_index.json"
OWN_LDM = "LDMTextToImagePipeline"  # which ldm/ reads itself
LIBRARIES = ("diffusers", "transformers")
WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(\.(?P<variant>\w+))?(-\d+-of-\d+)?\.safetensors")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack")
MAX_JSON = 64 << 20  # bytes; tokenizers take some 20 MB
MAX_HEADER = 64 << 20  # bytes of the header of a .safetensors file
ODE_OF = {"dpmpp_sde": "dpmpp", "lcm": "euler"}
# words in the name of a model or LoRA that was made for few steps: steps, scale, and the sampler of a LoRA
FEW_STEPS: tuple[tuple[str, int, str], ...] = (
    (r"lcm", 4, "lcm"), (r"hyper", 8, "ddim"), (r"lightning", 4, "euler"), (r"turbo", 4, "euler"),
    (r"schnell", 4, "euler"), (r"klein", 4, "euler"), (r"dmd", 4, "lcm"),
)  # fmt: skip
LAYOUTS = config.CONFIGS_DIR / "diffusers"  # configs of single files


@dataclass(frozen=True)
class PipelineFiles:
    """A pipeline that was found on disk, and not loaded yet.

    Attributes:
        path: a folder with `model_index.json`, or a single .safetensors file.
        family: the row of its class.
        files: everything that is read, sorted.
        size: bytes of its weights on disk.
        numbers: count of its weights.
        factor: pixels of a latent pixel and side; None: only the loaded pipeline tells.
        configs: of a single file the folder of its configs; of a folder None.
        variant: of the file names of its weights, such as "fp16"; None: there is none.
        defaults: fields of `ImageSpec` with the model's own defaults.
    """

    path: Path
    family: Family
    files: tuple[Path, ...]
    size: int
    numbers: int
    factor: int | None = None
    configs: Path | None = None
    variant: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def memory(self, precision: str) -> int:
        """Return the bytes that the weights take when they are loaded."""
        return self.numbers * (4 if precision == "fp32" else 2)


def find_pipeline(path: Path) -> PipelineFiles | None:
    """Return the pipeline of diffusers at `path`, or None if it is something else, for example a model for `ldm/`.

    Raises:
        ValueError: it is a pipeline, but of an unknown class, incomplete, or it would run code.
        OSError: a file cannot be read.
    """
    if path.is_dir():
        index = path / INDEX
        if not index.is_file() or not index.stat().st_size:
            _refuse_parts(path)
            return None
        content = read_json(index)
        return None if content.get("_class_name") == OWN_LDM else read_folder(path, content)
    if path.suffix.lower() == ".safetensors" and path.is_file():
        with path.open("rb") as file:
            if file.read(9)[8:] != b"{":
                return None  # ldm/ knows files by their content, and says what this one is
        kind = recognise(dict.fromkeys(read_header(path)))
        return read_single_file(path, kind.pipeline) if kind and kind.pipeline else None
    return None


def find_pipeline_in(folder: Path) -> PipelineFiles | None:
    """Return the pipeline of diffusers that is the folder of a model, or the only .safetensors file in it, or None.

    Raises:
        ValueError, OSError: as in `find_pipeline`.
    """
    if (folder / INDEX).is_file():
        return find_pipeline(folder)
    _refuse_parts(folder)
    single = sorted(folder.glob("[!.]*.safetensors"))
    return find_pipeline(single[0]) if len(single) == 1 and not any(folder.glob("*.yaml")) else None


def _refuse_parts(folder: Path) -> None:
    """Raise ValueError if a folder is a pipeline without its index, or a part of a pipeline."""
    whole = folder.parent / INDEX
    if (folder / "config.json").is_file() and whole.is_file() and read_json(whole).get("_class_name") != OWN_LDM:
        raise ValueError(f"{folder} is a part of the pipeline {folder.parent}: name that folder")
    if (folder / "text_encoder").is_dir() and any((folder / part).is_dir() for part in ("unet", "transformer")):
        raise ValueError(f"{folder} lacks {INDEX}, which says what kind of pipeline it is: get that file, too")


# --- folders ----------------------------------------------------------------------------------------------------------
def read_folder(folder: Path, index: Mapping[str, Any]) -> PipelineFiles:
    """Check a folder whose `model_index.json` holds `index`.

    Raises:
        ValueError: an unknown class of pipelines, a missing part, or anything that would run code.
        OSError: a file cannot be read.
    """
    name = index.get("_class_name")
    if isinstance(name, list) or index.get("_module"):
        raise ValueError(f"{folder} brings a pipeline of its own as Python code, which is never run")
    family = family_of(name, folder)
    network = index.get(family.network)
    if not isinstance(network, list) or not _is_component(network):
        raise ValueError(f"{folder / INDEX} names no {family.network}, which {family.text} needs: is the file whole?")
    files, variants = [folder / INDEX], []
    weights: list[Path] = []
    for part, value in index.items():
        if part.startswith("_") or not isinstance(value, list) or not _is_component(value):
            continue
        _check_class(folder, part, value, family)
        of_part, variant = _weights_of(folder / part)
        files += _small_files(folder / part)
        weights += of_part
        variants += [variant] if of_part else []
    for path in (*files, *weights):
        _check_plain(path)
        if path.suffix == ".json":
            _check_json(path)
    named = {variant for variant in variants if variant}
    if len(named) > 1:
        raise ValueError(f"{folder} mixes weights named {', '.join(sorted(named))}; keep those of one kind")
    return PipelineFiles(
        folder,
        family,
        tuple(sorted((*files, *weights))),
        size=sum(path.stat().st_size for path in weights),
        numbers=sum(map(_numbers, weights)),
        factor=_factor(folder, family),
        variant=named.pop() if named else None,
        defaults=_defaults(folder, family, index),
    )


def _is_component(value: list[Any]) -> bool:
    """Tell whether an entry of `model_index.json` names a library and a class, or is a plain list of settings."""
    return len(value) == 2 and all(isinstance(word, str) for word in value)


def _check_class(folder: Path, part: str, value: list[str], family: Family) -> None:
    """Raise ValueError unless a part is in the folder and its class comes from diffusers or transformers."""
    library, name = value
    if not re.fullmatch(r"[a-z0-9_]+", part):
        raise ValueError(f"{folder / INDEX} names a part {part!r}, which is no name of a folder")
    if library not in (*LIBRARIES, *family.modules) or not re.fullmatch(r"[A-Za-z]\w*", name):
        raise ValueError(
            f"{folder} asks for the class {name} of {library} for its part {part}; code of a model is never run, and "
            f"{family.text} needs classes of {', '.join((*LIBRARIES, *family.modules))} only"
        )
    if not (folder / part).is_dir() and not (folder.parent == LAYOUTS and part.startswith("tokenizer")):
        raise ValueError(f"{folder} lacks its part {part}: was the download complete?")


def _small_files(folder: Path) -> list[Path]:
    """Return the files of a part that are no weights.

    Raises:
        ValueError: one of them is Python code.
    """
    if code := next(folder.glob("*.py"), None):
        raise ValueError(f"{code} is Python code, which is never run: this model cannot be used")
    kinds = ("*.json", "*.txt", "*.model", "*.jinja")
    return [path for kind in kinds for path in sorted(folder.glob(kind)) if not path.name.startswith(".")]


def _weights_of(folder: Path) -> tuple[list[Path], str | None]:
    """Return the files of weights of a part, and the variant in their names.

    Plain names are preferred to variants.

    Raises:
        ValueError: there are pickles alone, or an index names a shard that is not there.
    """
    for index in sorted(folder.glob("*.index*.json")):
        _check_shards(index)
    found: dict[str | None, list[Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if match := WEIGHTS.fullmatch(path.name):
            found.setdefault(match["variant"], []).append(path)
    if found:
        variant = min(found, key=lambda name: (name is not None, name != "fp16", name or ""))
        for path in found[variant]:
            read_header(path)
        return found[variant], variant
    if pickled := next((path for kind in PICKLES for path in folder.glob(kind)), None):
        raise ValueError(
            f"{pickled} is a pickle, which can run code when it is loaded, and {folder} has no .safetensors: get the "
            "model in that format"
        )
    config = folder / "config.json"
    if config.is_file() and not (folder / "preprocessor_config.json").is_file() and folder.name != "scheduler":
        kind = read_json(config)
        if kind.get("_class_name") or kind.get("architectures"):
            raise ValueError(f"{folder} holds no weights: it needs a .safetensors file")
    return [], None


def _check_shards(index: Path) -> None:
    """Raise ValueError if an index of shards names anything but files beside it."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise ValueError(f"{index} has no weight_map")
    for shard in sorted({str(name) for name in shards.values()}):
        if Path(shard).name != shard or "\\" in shard or not (index.parent / shard).is_file():
            raise ValueError(f"{index} names the shard {shard!r}, which is not in {index.parent}")
        if not shard.endswith(".safetensors") and ".safetensors" in index.name:
            raise ValueError(f"{index} names the shard {shard!r}, which is no .safetensors file")


def _check_json(path: Path) -> None:
    """Raise ValueError if a json file asks for code, or for an adapter that lies elsewhere."""
    if path.name in ("tokenizer.json", "vocab.json"):
        return
    for key in _keys(read_json(path) if path.name != "added_tokens.json" else {}):
        if key in ("auto_map", "custom_pipelines"):
            raise ValueError(f"{path} asks for Python code of its own ({key}), which is never run")
    if path.name == "adapter_config.json":
        raise ValueError(f"{path} names another model that this one would be added to: merge them first")


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)


def _check_plain(path: Path) -> None:
    """Raise ValueError if something is there that is no file: opening a named pipe would wait for ever."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a plain file")


def read_json(path: Path) -> dict[str, Any]:
    """Read a json object.

    Raises:
        ValueError: it is none, or far too large.
        OSError: the file cannot be read.
    """
    _check_plain(path)
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path} is too large for a json file of a model")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as json: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold a json object")
    return content


def read_header(path: Path) -> dict[str, Any]:
    """Read the header of a .safetensors file: kind, shape and place of each tensor.

    Raises:
        ValueError: it is no such file, or cut short.
        OSError: the file cannot be read.
    """
    _check_plain(path)
    total = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, total - 8):
            raise ValueError(f"{path} is not a .safetensors file, or it is cut short")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        places = [(int(begin), int(end)) for begin, end in (entry["data_offsets"] for entry in tensors.values())]
        if any(not 0 <= begin <= end for begin, end in places):
            raise ValueError("a tensor ends before it begins")
        end = 8 + length + max((end for _, end in places), default=0)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its header cannot be read ({error})") from error
    if end > total:
        raise ValueError(f"{path} is cut short: {total} of {end} bytes are here; download it again")
    return tensors


def _numbers(path: Path) -> int:
    """Count the numbers in a .safetensors file; the name of their format ends in its bits, such as BF16."""
    count = 0
    for entry in read_header(path).values():
        bits = re.search(r"\d+", str(entry.get("dtype")))
        begin, end = map(int, entry["data_offsets"])
        count += 8 * (end - begin) // (int(bits[0]) if bits else 8)
    return count


# --- single files -----------------------------------------------------------------------------------------------------
def read_single_file(path: Path, layout: str) -> PipelineFiles:
    """Describe a single .safetensors file of a known layout: "sd1", "sd2" or "sdxl".

    Its configs ship with this program. Those in a folder beside it, with the name of the file, go before them.

    Raises:
        ValueError: the configs beside it are broken, or of a pipeline that is not known.
        OSError: they cannot be read.
    """
    configs = path.with_suffix("")
    if (configs / INDEX).is_file():
        for small in sorted(configs.glob("*/*.json")):
            _check_json(small)
    elif layout == "sd2" and re.search(r"512|base", path.stem):  # its weights do not tell what it predicts
        configs = LAYOUTS / "sd2-base"
    else:
        configs = LAYOUTS / layout
    index = read_json(configs / INDEX)
    family = family_of(index.get("_class_name"), configs)
    for part, value in index.items():
        if not part.startswith("_") and isinstance(value, list) and _is_component(value):
            _check_class(configs, part, value, family)
    defaults = _defaults(configs, family, index)
    if few := few_steps(path.stem):
        defaults |= {"steps": few[0], "scale": family.unguided, "sampler": few[1]}
    return PipelineFiles(
        path,
        family,
        (path,),
        size=path.stat().st_size,
        numbers=_numbers(path),
        factor=_factor(configs, family),
        configs=configs,
        defaults=defaults,
    )


# --- defaults ---------------------------------------------------------------------------------------------------------
def _defaults(folder: Path, family: Family, index: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's own steps, guidance, size and sampler, read from its configs and its name."""
    stage = "prior_" if family.stage == "prior_pipe" else ""
    scheduler = _config(folder / f"{stage}scheduler", "scheduler_config.json")
    entry = index.get(f"{stage}scheduler")
    named = entry[1] if isinstance(entry, list) and _is_component(entry) else ""
    class_name = str(scheduler.get("_class_name") or named)
    own = name_of(class_name, scheduler, family.flow)
    if own is None:
        raise ValueError(f"{folder} uses the sampler {class_name!r}, which this program does not know")
    if family.flow and own in ODE_OF:  # else the voice would be forgotten in the first step
        own = ODE_OF[own]
    side = _side(folder, family, index)
    height, width = family.sizes[0] if family.sizes else (side, side)
    made = {"steps": family.steps, "scale": family.scale, "sampler": own, "height": height, "width": width}
    network = _config(folder / "transformer", "config.json")
    trailing = scheduler.get("timestep_spacing") == "trailing" and class_name.startswith("Euler")
    few = few_steps(folder.resolve().name) or ((4, own) if trailing or own in ("lcm", "tcd") else None)
    if few and family.pipeline != "LatentConsistencyModelPipeline":
        made |= {"steps": max(family.least_steps, min(family.steps, few[0])), "scale": family.unguided}
    if family.pipeline == "FluxPipeline" and network.get("guidance_embeds") is False:
        made |= {"steps": 4, "scale": family.unguided}
    return made


def few_steps(name: str) -> tuple[int, str] | None:
    """Return steps and sampler of a model or LoRA that was made for few steps, by its name; None for others.

    A name such as Lightning-8step says how many.
    """
    lower = name.lower()
    found = next(((steps, sampler) for word, steps, sampler in FEW_STEPS if re.search(word, lower)), None)
    if found and (match := re.search(r"(\d{1,2})[-_ ]?steps?", lower)):
        return max(1, int(match[1])), found[1]
    return found


def _side(folder: Path, family: Family, index: Mapping[str, Any]) -> int:
    """Return the default side of images in pixels: that of the row, or what the network and the autoencoder say."""
    if family.side:
        return family.side
    network = _config(folder / family.channels.partition(".")[0], "config.json")
    autoencoder = _config(folder / "vae", "config.json")
    cells, levels = network.get("sample_size") or 64, autoencoder.get("block_out_channels") or [0] * 4
    if not isinstance(cells, int) or not isinstance(levels, list):
        return 512
    return min(2048, max(64, cells << (len(levels) - 1)))


def _factor(folder: Path, family: Family) -> int | None:
    """Return the pixels of a latent pixel and side, as far as the configs tell."""
    if family.factor.isdigit():
        return int(family.factor)
    part = "movq" if "movq" in family.factor else "vae"
    found = factor_of(_config(folder / part, "config.json"))
    return 2 * found if found and family.of_tokens else found


def factor_of(autoencoder: Mapping[str, Any]) -> int | None:
    """Return the pixels of a latent pixel and side, by the config of an autoencoder; None if it does not tell."""
    ratio = autoencoder.get("spatial_compression_ratio")
    if isinstance(ratio, int):
        return ratio
    halvings = autoencoder.get("temperal_downsample")
    if isinstance(halvings, list):
        return 1 << len(halvings)
    levels = autoencoder.get("encoder_block_out_channels", autoencoder.get("block_out_channels"))
    return 1 << len(levels) - 1 if isinstance(levels, list | tuple) and levels else None


def _config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    return read_json(path) if path.is_file() else {}


# --- parts from elsewhere ---------------------------------------------------------------------------------------------
def check_lora(path: Path) -> None:
    """Raise ValueError unless a file is a LoRA in .safetensors."""
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"{path}: a LoRA must be a .safetensors file, because others can run code")
    kind = recognise(dict.fromkeys(read_header(path)))
    if kind is None or "LoRA" not in kind.text:
        raise ValueError(f"{path} is no LoRA{f': it is {kind.text}' if kind else ''}")


def check_vae(path: Path) -> None:
    """Raise ValueError unless a path is an autoencoder: a .safetensors file, or a folder with one and its config."""
    if path.is_dir():
        weights, _ = _weights_of(path)
        if not weights or not (path / "config.json").is_file():
            raise ValueError(f"{path} is no autoencoder: it needs config.json and a .safetensors file")
        name = str(read_json(path / "config.json").get("_class_name"))
        if not name.startswith(("Autoencoder", "AsymmetricAutoencoder", "ConsistencyDecoder")):
            raise ValueError(f"{path} is no autoencoder: its config.json is that of a {name}")
        for small in _small_files(path):
            _check_json(small)
        return
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"{path}: an autoencoder must be a .safetensors file or a folder, because others can run code")
    kind = recognise(dict.fromkeys(read_header(path)))
    if kind is None or "autoencoder" not in kind.text:
        raise ValueError(f"{path} is no autoencoder{f': it is {kind.text}' if kind else ''}")


def gigabytes(size: float) -> str:
    """Format a number of bytes, such as 3.4 GB or 12 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"
