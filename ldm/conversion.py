"""Describe a file of weights, and convert it to .safetensors; the program is `python -m ldm`."""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from files import atomic_path
from ldm.broken_weights import broken_weights
from ldm.checkpoint import (
    LEFTOVERS,
    VOCABULARIES,
    build_model,
    mismatches,
    read_config,
    read_model,
    source_names,
    vocabulary_folder,
)
from ldm.diffusers_folder import is_diffusers_folder, read_diffusers_folder
from ldm.families import recognise
from ldm.tensor_files import read_tensors, some, write_safetensors

PARTS = {
    "U-Net": "model.diffusion_model.",
    "first stage": "first_stage_model.",
    "text encoder": "cond_stage_model.",
}
SCHEDULE = ("alphas_cumprod", "scale_factor")  # leftovers that conversion keeps, because loading checks them


def describe(weights: Path, config: Path | None = None) -> list[str]:
    """Describe `weights` in lines: format, family, precision, parameters of each part, and what is broken or missing.

    All tensors are read, to find NaN in them.

    Raises:
        ValueError: there are no weights in it.
        OSError: it cannot be read.
    """
    foreign: tuple[str, ...] = ()
    node: Mapping[str, Any] | None
    if is_diffusers_folder(weights):
        kind, (tensors, node) = "diffusers folder", read_diffusers_folder(weights)
    else:
        file = read_tensors(weights)
        kind, tensors, foreign = file.format, file.tensors, file.foreign
        node = None
    used = {name: tensor for name, tensor in tensors.items() if not LEFTOVERS.fullmatch(name)}
    family = recognise(used)
    lines = [
        f"format: {kind}",
        f"family: {family.text if family else f'unknown, with names such as {some(list(used), 3)}'}",
        f"precision: {_precision(used)}",
    ]
    if family and family.foreign:
        return [*lines, f"size: {_size(used, '')}", "this program cannot use it; models/README.md names models it can"]
    lines += [f"{part}: {_size(used, prefix)}" for part, prefix in PARTS.items()]
    if averages := [name for name in tensors if name.startswith("model_ema.")]:
        lines.append(f"running averages: {len(averages)} tensors, which replace the U-Net's own weights")
    if leftovers := [name for name in tensors if name not in used and name not in averages]:
        lines.append(f"unused: {len(leftovers)} tensors ({some(leftovers)})")
    if foreign:
        lines.append(f"objects not loaded: {some(list(foreign))}")
    if broken := broken_weights(used):
        lines.append(f"broken: {broken}")
    if not weights.is_dir() and (config := config or _yaml_beside(weights)):
        node = read_config(config)
    missing = [f"the {part}" for part, prefix in PARTS.items() if not any(name.startswith(prefix) for name in used)]
    if node is None:
        missing.append(f"a yaml ({weights.with_suffix('.yaml').name} beside it, or one that you name)")
    else:
        missing += mismatches(build_model(node, str(config or weights)).state_dict(), tensors)
    if not any((vocabulary_folder(weights) / name).is_file() for name in VOCABULARIES):
        missing.append(f"a vocabulary ({' or '.join(VOCABULARIES)})")
    return [*lines, f"missing: {'; '.join(missing) or 'nothing'}"]


def _yaml_beside(weights: Path) -> Path | None:
    path = weights.with_suffix(".yaml")
    return path if path.is_file() else None


def _precision(tensors: Mapping[str, Tensor]) -> str:
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{dtype} ({count / 1e6:.1f} M elements)" for dtype, count in counts.most_common())


def _size(tensors: Mapping[str, Tensor], prefix: str) -> str:
    part = [tensor.numel() for name, tensor in tensors.items() if name.startswith(prefix)]
    return f"{sum(part) / 1e6:.1f} M parameters in {len(part)} tensors" if part else "none"


def convert(weights: Path, out: Path, dtype: torch.dtype | None = None, config: Path | None = None) -> list[Path]:
    """Write the tensors that sampling needs from `weights` to `out`: CompVis names, running averages, no leftovers.

    The yaml and the vocabulary are written beside `out`, unless they are unknown or exist already.

    Args:
        weights: a .safetensors or .ckpt file, or a diffusers folder.
        out: the new .safetensors file.
        dtype: element type of all floating-point weights; None keeps theirs.
        config: the yaml; by default `NAME.yaml` beside `NAME.ckpt`. Without a yaml nothing is verified.

    Returns:
        The files that were written.

    Raises:
        ValueError: the weights cannot be read, or do not fit their config.
        FileExistsError: `out` exists already.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already and is not overwritten: remove it or choose another name")
    config = config or (None if weights.is_dir() else _yaml_beside(weights))
    node = None
    if weights.is_dir() or config is not None:
        tensors, node, origin = read_model(weights, config)
        if wrong := mismatches(build_model(node, origin).state_dict(), tensors):
            raise ValueError(f"{weights} does not fit {origin}: {'; '.join(wrong)}")
    else:
        tensors = read_tensors(weights).tensors
    kept = {name: tensor for name, tensor in tensors.items() if not LEFTOVERS.fullmatch(name)}
    state = {name: tensors[source] for name, source in source_names(kept, tensors).items()}
    dtypes = {name: dtype if dtype and tensor.is_floating_point() else tensor.dtype for name, tensor in state.items()}
    for name in SCHEDULE:
        if name in tensors:
            state[name], dtypes[name] = tensors[name], tensors[name].dtype
    with atomic_path(out) as temporary:
        write_safetensors(temporary, state, dtypes)
    return [out, *_write_companions(weights, out, node)]


def _write_companions(weights: Path, out: Path, node: Mapping[str, object] | None) -> list[Path]:
    """Write the yaml and the vocabulary of `weights` beside `out`, unless they exist; return the new files."""
    written = []
    yaml = out.with_suffix(".yaml")
    if node is not None and not yaml.exists():
        with atomic_path(yaml) as temporary:
            OmegaConf.save(OmegaConf.create({"model": dict(node)}), temporary)
        written.append(yaml)
    source, target = vocabulary_folder(weights), vocabulary_folder(out)
    if not any((target / name).exists() for name in VOCABULARIES):
        for name in VOCABULARIES:
            if (source / name).is_file():
                with atomic_path(target / name) as temporary:
                    shutil.copyfile(source / name, temporary)
                written.append(target / name)
                break
    return written
