"""Load a pipeline of diffusers that `painting/pipelines/files.py` has checked. Nothing is ever fetched from a network.

diffusers, transformers and accelerate are optional packages, imported inside the functions; they take seconds.
"""

import contextlib
import functools
import gzip
import logging
import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ldm.checkpoint import DTYPES
from painting.painter import PaintingNote
from painting.pipelines.files import LAYOUTS, PipelineFiles, check_lora, check_vae, gigabytes
from painting.pipelines.painter import DiffusersPainter, is_out_of_memory

INSTALL = "make diffusers, or python -m pip install -r requirements-diffusers.txt"
MISSING = ("newly initialized", "| MISSING", "MISSING:")  # what transformers says of weights that a file lacks
MERGES = 49_152 - 256 - 2  # of CLIP's vocabulary, beside single bytes and two special words
LOGGERS = ("transformers.modeling_utils", "transformers.utils.loading_report", "diffusers.models.modeling_utils")


class MissingPackages(RuntimeError):
    """Optional packages are not installed."""


def load_diffusers_painter(
    found: PipelineFiles,
    precision: str,
    device: torch.device,
    loras: Sequence[tuple[Path, float]] = (),
    vae: Path | None = None,
    offload: str | None = None,
) -> DiffusersPainter:
    """Load a pipeline, and additions to it.

    Args:
        found: what `find_pipeline` returned.
        precision: "fp32", "bf16" or "fp16".
        device: where it computes.
        loras: files of LoRAs, and a weight for each.
        vae: an autoencoder in place of the pipeline's own.
        offload: "model" keeps on the device only the part that computes; "sequential" only the layer, which is slow.

    Raises:
        ValueError: files that do not fit together or are broken, or offloading without a GPU.
        RuntimeError: packages are missing, or there is not enough memory.
        OSError: a file cannot be read.
    """
    for path, _ in loras:
        check_lora(path)
    if vae is not None:
        check_vae(vae)
    if offload is not None and device.type == "cpu":
        raise ValueError("offloading moves parts of a model between a GPU and the main memory, and there is no GPU")

    def load(wanted: str) -> Any:
        return _load(found, wanted, device, loras, vae, offload)

    return DiffusersPainter(load, found.family, precision, found.defaults)


def what_is_loaded(found: PipelineFiles, precision: str) -> str:
    """Return one line about a pipeline before it is loaded: its family, the memory of its weights and its defaults."""
    defaults = found.defaults
    return (
        f"model: {found.path}, {found.family.text}, {gigabytes(found.memory(precision))} of weights in {precision}; by "
        f"default {defaults['steps']} steps of {defaults['sampler']}, scale {defaults['scale']:g}, "
        f"{defaults['width']}x{defaults['height']} pixels"
    )


def free_memory(device: torch.device) -> int:
    """Return how many bytes of memory are free on a GPU, or in the computer."""
    import psutil  # accelerate needs it

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _warn_of_memory(found: PipelineFiles, precision: str, device: torch.device) -> None:
    """Warn if the weights need more memory than is free: a system may end the program without a word."""
    needed, free = found.memory(precision), free_memory(device)
    if needed > free:
        remedy = "try a lower precision, offloading parts of the model, or a smaller model"
        note = f"the weights take {gigabytes(needed)} of memory, and {gigabytes(free)} are free; {remedy}"
        warnings.warn(note, PaintingNote, stacklevel=2)


def import_diffusers() -> Any:
    """Import diffusers without a network, and silence it.

    Raises:
        MissingPackages: it, or a package that it needs, is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import accelerate  # noqa: F401
        import diffusers
        import huggingface_hub
        import transformers
    except ImportError as error:
        raise MissingPackages(
            f"this model needs the package {error.name}, which is not installed: {INSTALL}"
        ) from error
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    return diffusers


def _load(
    found: PipelineFiles,
    precision: str,
    device: torch.device,
    loras: Sequence[tuple[Path, float]],
    vae: Path | None,
    offload: str | None,
) -> Any:
    """Load the pipeline with its additions, and move it to the device."""
    diffusers = import_diffusers()
    _warn_of_memory(found, precision, torch.device("cpu") if offload else device)
    try:
        with _complete(found.path):
            made = getattr(diffusers, found.family.pipeline)
            read = _read_single_file if found.configs else _read_folder
            pipeline = read(made, found, DTYPES[precision])
            if vae is not None:
                _replace_vae(pipeline, found, vae, DTYPES[precision])
            if loras:
                _add_loras(pipeline, found, loras)
        if offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        elif offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=device)
        else:
            pipeline.to(device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        needed = gigabytes(found.memory(precision))
        raise RuntimeError(
            f"out of memory: the weights take {needed} in {precision}; try a lower precision, offloading parts of the "
            "model, or a smaller model"
        ) from error
    return pipeline


def _read_folder(made: Any, found: PipelineFiles, dtype: torch.dtype) -> Any:
    if found.family.stage == "prior_pipe":
        _name_paella()
    return made.from_pretrained(
        found.path, dtype=dtype, variant=found.variant, use_safetensors=True, local_files_only=True,
        trust_remote_code=False,
    )  # fmt: skip


def _name_paella() -> None:
    """Let diffusers find the decoder of Stable Cascade by the names in folders: it has moved the module since."""
    import diffusers
    from diffusers.pipelines.deprecated import wuerstchen

    setattr(diffusers, "PaellaVQModel", wuerstchen.PaellaVQModel)  # noqa: B010, as diffusers saves it
    setattr(diffusers.pipelines, "wuerstchen", wuerstchen)  # noqa: B010, as it is published


@contextlib.contextmanager
def _complete(path: Path) -> Iterator[None]:
    """Turn errors of the libraries, and weights that a file lacks, into one line.

    Raises:
        ValueError: the model at `path` is incomplete or broken.
    """
    said: list[str] = []
    try:
        with _heard(said):
            yield
    except MissingPackages:
        raise
    except ImportError as error:
        raise MissingPackages(f"{path} needs a package that is not installed ({_line(error)}): {INSTALL}") from error
    except Exception as error:  # each part raises its own kinds
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{path} cannot be loaded: {_line(error)}") from error
    if lacking := next((text for text in said if any(mark in text for mark in MISSING)), None):
        raise ValueError(f"{path} lacks weights: {_line(lacking)}")


@contextlib.contextmanager
def _heard(said: list[str]) -> Iterator[None]:
    """Add what the libraries log while they load to `said`, instead of printing it."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def _line(text: object) -> str:
    return textwrap.shorten(str(text), 240, placeholder=" …")


# --- single files -----------------------------------------------------------------------------------------------------
def _read_single_file(made: Any, found: PipelineFiles, dtype: torch.dtype) -> Any:
    """Load a single file by the configs of its layout, which ship with this program or lie beside the file."""
    configs = found.configs
    assert configs is not None
    parts: dict[str, Any] = {}
    if configs.parent == LAYOUTS:
        parts["tokenizer"] = clip_tokenizer("!" if configs.name.startswith("sd2") else "<|endoftext|>")
        if configs.name == "sdxl":
            parts["tokenizer_2"] = clip_tokenizer("!")
    return made.from_single_file(str(found.path), config=str(configs), dtype=dtype, local_files_only=True, **parts)


@functools.cache
def clip_vocabulary() -> tuple[dict[str, int], list[Any]]:
    """Return the words of CLIP's tokenizer with their numbers, and its merges.

    The order is that of OpenAI's `simple_tokenizer.py`: bytes, bytes that end a word, merges, two special words.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    with gzip.open(LAYOUTS / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = [chr(code) for code in printable]
    symbols += [chr(0x100 + number) for number in range(256 - len(symbols))]
    assert set(symbols) == set(ByteLevel.alphabet())
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), *(left + right for left, right in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}, merges


def clip_tokenizer(pad: str) -> Any:
    """Make the tokenizer of CLIP, which pads with the word `pad`."""
    from transformers import CLIPTokenizer

    words, merges = clip_vocabulary()
    return CLIPTokenizer(vocab=dict(words), merges=list(merges), pad_token=pad, model_max_length=77)


# --- additions --------------------------------------------------------------------------------------------------------
def _replace_vae(pipeline: Any, found: PipelineFiles, path: Path, dtype: torch.dtype) -> None:
    """Put another autoencoder into the pipeline.

    Raises:
        ValueError: the pipeline has none, or the file is of another kind.
    """
    if getattr(pipeline, "vae", None) is None:
        raise ValueError(f"{found.family.text} has no autoencoder that could be replaced")
    kind = type(pipeline.vae)
    if path.is_dir():
        vae = kind.from_pretrained(path, dtype=dtype, use_safetensors=True, local_files_only=True)
    else:
        configs = found.configs or found.path
        vae = kind.from_single_file(str(path), config=str(configs), subfolder="vae", dtype=dtype, local_files_only=True)
    if vae.config.latent_channels != pipeline.vae.config.latent_channels:
        raise ValueError(
            f"{path} has latents of {vae.config.latent_channels} channels, and {found.family.text} of "
            f"{pipeline.vae.config.latent_channels}"
        )
    pipeline.vae = vae


def _add_loras(pipeline: Any, found: PipelineFiles, loras: Sequence[tuple[Path, float]]) -> None:
    """Merge LoRAs into the weights.

    Raises:
        ValueError: the family takes none, or one fits no layer.
    """
    if not hasattr(pipeline, "load_lora_weights"):
        raise ValueError(f"{found.family.text} takes no LoRA")
    names = [f"lora{number}" for number in range(len(loras))]
    for name, (path, _) in zip(names, loras, strict=True):
        pipeline.load_lora_weights(
            str(path.parent), weight_name=path.name, adapter_name=name, local_files_only=True, use_safetensors=True
        )
        if name not in {adapter for adapters in pipeline.get_list_adapters().values() for adapter in adapters}:
            raise ValueError(f"the LoRA {path} fits no layer of this model; it was made for another kind")
    pipeline.set_adapters(names, [weight for _, weight in loras])
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
