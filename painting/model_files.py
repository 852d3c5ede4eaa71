"""The files that a painter is loaded from: a model for `ldm/`, or a pipeline of diffusers with its additions."""

import argparse
import functools
import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config
from files import sha256_of
from ldm.checkpoint import files_read, find_model
from painting.pipelines.files import PipelineFiles, find_pipeline, find_pipeline_in

if TYPE_CHECKING:
    import torch

    from painting.painter import Painter


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk.

    Attributes:
        weights: a file of weights, or a folder as diffusers saves it.
        yaml: how a model for `ldm/` is built; None: the yaml beside the weights.
        pipeline: a pipeline of diffusers; None: a model for `ldm/`.
        loras: files of LoRAs, and a weight for each.
        vae: an autoencoder in place of the pipeline's own.
        offload: see `load_diffusers_painter`.
    """

    weights: Path
    yaml: Path | None = None
    pipeline: PipelineFiles | None = None
    loras: tuple[tuple[Path, float], ...] = ()
    vae: Path | None = None
    offload: str | None = None

    @property
    def files(self) -> list[Path]:
        """List the files that are read of the model itself, sorted by path; a yaml is not among them.

        Raises:
            ValueError: a folder lacks a part.
            OSError: it cannot be read.
        """
        return list(self.pipeline.files) if self.pipeline else files_read(self.weights)

    @property
    def added(self) -> list[Path]:
        """List the files of LoRAs and of another autoencoder."""
        vae = self.vae
        of_vae = [] if vae is None else sorted(vae.glob("*.*")) if vae.is_dir() else [vae]
        return [*(path for path, _ in self.loras), *of_vae]

    @property
    def name(self) -> str:
        """Name the model: its folder; or its file, if that is all there is of it."""
        if self.pipeline and self.weights.is_file():
            return self.weights.stem
        return (
            self.weights.resolve().parent.name
            if self.weights.is_file()
            else self.weights.name or self.weights.resolve().name
        )

    def load(self, precision: str, device: "torch.device") -> "Painter":
        """Load the painter.

        Raises:
            ValueError: the files are broken or do not fit together.
            RuntimeError: packages are missing, or there is not enough memory.
            OSError: a file cannot be read.
        """
        if self.pipeline:
            from painting.pipelines.loading import load_diffusers_painter

            return load_diffusers_painter(self.pipeline, precision, device, self.loras, self.vae, self.offload)
        from painting.ldm_painter import LatentDiffusionPainter

        return LatentDiffusionPainter(self.weights, self.yaml, precision, device)

    def additions(self) -> Mapping[str, Any]:
        """Describe LoRAs and another autoencoder for the record in an image; empty if there are none."""
        loras = [{"name": path.stem, "sha256": _addition_sha256(path), "weight": weight} for path, weight in self.loras]
        vae = {"name": self.vae.stem, "sha256": _addition_sha256(self.vae)} if self.vae else None
        return {name: value for name, value in (("loras", loras), ("vae", vae)) if value}


def find_model_files(weights: Path, yaml: Path | None = None) -> ModelFiles:
    """Return the model in a file, or in a folder as diffusers saves it.

    Raises:
        ValueError: a pipeline of diffusers that is unknown, incomplete or would run code.
        OSError: a file cannot be read.
    """
    return ModelFiles(weights, yaml, None if yaml else find_pipeline(weights))


def find_named_model(name: str) -> ModelFiles:
    """Return the model in the folder `name` of models/.

    Raises:
        ValueError: there is no such folder, or no model in it.
        OSError: a file cannot be read.
    """
    folder = config.MODELS_DIR / name
    if pipeline := find_pipeline_in(folder):
        return ModelFiles(pipeline.path, None, pipeline)
    return ModelFiles(*find_model(folder))


def model_files(args: argparse.Namespace) -> ModelFiles:
    """Return the model that a command line asks for.

    Raises:
        ValueError: there is none, or it is a pipeline that cannot be used.
        OSError: a file cannot be read.
    """
    if args.model:
        found = find_named_model(args.model)
    elif args.ckpt:
        found = find_model_files(args.ckpt, args.config)
    else:
        found = ModelFiles(config.BUILTIN_MODEL_WEIGHTS)
    return ModelFiles(
        found.weights, args.config or found.yaml, found.pipeline, tuple(args.lora), args.vae, args.offload
    )


def model_sha256(model: ModelFiles) -> Future[str]:
    """Compute the SHA-256 of the weights in a daemon thread while they load, so that Ctrl-C does not wait for it.

    Of a folder it is the hash of the hashes of the files that the model is read from, so a README or what a desktop
    leaves there changes nothing.
    """
    return weights_sha256(model.weights, model.pipeline.files if model.pipeline else None)


@functools.cache
def weights_sha256(weights: Path, files: tuple[Path, ...] | None) -> Future[str]:
    """See `model_sha256`; `files` are those of a folder, None: those that `ldm/` reads."""
    sha256: Future[str] = Future()

    def hash_files() -> None:
        try:
            if weights.is_dir():
                together = "".join(map(sha256_of, files_read(weights) if files is None else files))
                sha256.set_result(hashlib.sha256(together.encode()).hexdigest())
            else:
                sha256.set_result(sha256_of(weights))
        except (OSError, ValueError) as error:
            sha256.set_exception(error)

    threading.Thread(target=hash_files, daemon=True).start()
    return sha256


@functools.cache
def _addition_sha256(path: Path) -> str:
    return sha256_of(path)
