"""What pictures are made from: a model, latents of voices, and the calibration that whitens them."""

import argparse
import functools
import hashlib
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

import cli
import config
from audio.initial_noise import Voices, initial_noise, is_gaussian
from audio.provenance import find_whitening, read_note
from files import sha256_of
from ldm.checkpoint import find_model
from ldm.models.diffusion.sampling import seeded_noise
from painting.image_spec import ImageSpec, Provenance, text_chunks


def model_files(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """Weights and yaml (None: as the weights say).

    Raises:
        ValueError: the folder of --model holds no model.
    """
    weights: Path = args.ckpt or config.BUILTIN_MODEL_WEIGHTS
    yaml: Path | None = None
    if args.model:
        weights, yaml = find_model(config.MODELS_DIR / args.model)
    return weights, args.config or yaml


@functools.cache
def model_sha256(weights: Path) -> Future[str]:
    """Of the weights, which are loaded meanwhile: hashing gigabytes takes seconds, which Ctrl-C does not wait for."""
    sha256: Future[str] = Future()

    def hash_file() -> None:
        try:
            sha256.set_result(sha256_of(weights))
        except OSError as error:
            sha256.set_exception(error)

    threading.Thread(target=hash_file, daemon=True).start()
    return sha256


class Inputs:
    """What pictures are made from beside their specs: a model, files of latents [N, C, h, w], calibrations."""

    def __init__(
        self,
        weights: Path,
        yaml: Path | None,
        files: Sequence[tuple[Path, Tensor]],
        specs: Sequence[ImageSpec],
    ) -> None:
        """Decide, and say, what latents are made into.

        Raises:
            ValueError: x_T is to be whitened, and no calibration here is the one that the latents were made with.
        """
        self.weights, self.yaml = weights, yaml
        self._whitened_by: dict[Path, list[Path]] = {}  # calibrations, and the files that each whitens
        self._model_sha256 = model_sha256(weights)
        rows = [sorted({spec.parts[i][0] for spec in specs if spec.parts}) for i in range(len(files))]
        self.voices = [self._voices(*file, chosen, specs[0].x_T) for file, chosen in zip(files, rows, strict=True)]
        for found, paths in self._whitened_by.items():
            whose = "the built-in" if found.parent == config.BUILTIN_CALIBRATION_DIR else "your"
            names = ", ".join(dict.fromkeys(map(str, paths)))
            print(f"start noise: {names}, whitened by {whose} calibration (--x_T raw leaves that out)")
        self._calibration_sha256 = "+".join(sorted(map(sha256_of, self._whitened_by))) or None

    def _voices(self, path: Path, latents: Tensor, rows: list[int], x_T: str) -> Voices:
        """The latents of one file, of which `rows` are used, with their whitening if they are to be whitened."""
        array = latents.numpy()
        chosen = array[rows]
        if x_T == "auto":
            chosen = chosen[~is_gaussian(chosen)]
        if x_T == "raw" or not len(chosen):
            return Voices(array, None)
        found, whitening = find_whitening(chosen, read_note(path), config.calibration_dirs())
        if found is None:
            problem = f"no calibration here made these latents ({path}), so they cannot be whitened"
            remedy = "make them again with process_live_audio.py, or run phase 1"
            if x_T == "whitened":
                raise ValueError(f"{problem}: {remedy}")
            print(f"warning: {problem}, and raw ones make flat pictures; {remedy}", file=sys.stderr)
        else:
            self._whitened_by.setdefault(found, []).append(path)
        return Voices(array, whitening, keep_noise=x_T == "auto")

    def start_noise(self, specs: Sequence[ImageSpec]) -> Tensor:
        """x_T [B, C, h, w] float32: of the seeds' Gaussian noise, of latents, or of both."""
        shape = (config.LATENT_CHANNELS, specs[0].height // 8, specs[0].width // 8)
        noise = seeded_noise([spec.seed for spec in specs], shape)
        for index, spec in enumerate(specs):
            if spec.parts:
                parts = [(voices, *part) for voices, part in zip(self.voices, spec.parts, strict=True)]
                x_T = initial_noise(parts, noise[index].numpy(), spec.voice_strength, spec.layout_strength)
                noise[index] = torch.from_numpy(x_T)
        return noise

    def latents_sha256(self, *specs: ImageSpec) -> str | None:
        """Of the numbers these start from: the same wherever the files lie, and whatever else is in them."""
        used = sorted({(file, row) for spec in specs for file, (row, _) in enumerate(spec.parts)})
        digest = hashlib.sha256()
        for file, row in used:
            digest.update(self.voices[file].latents[row].tobytes())
        return digest.hexdigest() if used else None

    def identity(self, specs: Sequence[ImageSpec]) -> str:
        """What tells a job from others with the same specs, at once: of gigabytes of weights their size and date."""
        weights = self.weights.stat()
        parts = (self.weights, weights.st_size, weights.st_mtime_ns, self.yaml, self._calibration_sha256)
        return " ".join(map(str, (*parts, self.latents_sha256(*specs))))

    def provenance(self, spec: ImageSpec) -> Provenance:
        return Provenance(
            model=self.weights.resolve().parent.name if self.weights.is_file() else self.weights.name,
            model_sha256=self._model_sha256.result(),
            latents_sha256=self.latents_sha256(spec),
            calibration_sha256=self._calibration_sha256,
            recipe=config.RECIPE,
            version=cli.VERSION,
        )

    def text_of(self, spec: ImageSpec) -> PngInfo:
        return text_chunks(spec, self.provenance(spec))
