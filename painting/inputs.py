"""The files that images are made from: a model, latents of voices, and the calibration that whitens them.

From a voice to x_T: `Inputs.start_noise` → `audio.initial_noise.initial_noise` → `audio.whitening.Whitening.whiten`.
"""

import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

import cli
import config
from audio.description import places_of
from audio.initial_noise import Voices, initial_noise, is_gaussian
from audio.provenance import find_whitening, read_heard, read_names, read_note
from audio.qualities import UNHEARD
from files import sha256_of
from ldm.models.diffusion.sampling import seeded_noise
from painting.image_spec import ImageSpec
from painting.model_files import ModelFiles, model_sha256
from painting.png_text import Provenance, text_chunks

MAX_LATENT = 1e6  # z-scores of voices are below 100; a calibration made elsewhere may give more, damage gives 1e30


class Inputs:
    """A model, files of latents [N, C, h, w], and the calibrations that whiten them."""

    def __init__(
        self,
        model: ModelFiles,
        files: Sequence[tuple[Path, Tensor]],
        specs: Sequence[ImageSpec],
    ) -> None:
        """Find the whitening of each file of latents.

        A warning tells of latents that should be whitened and cannot be.

        Raises:
            ValueError: x_T must be whitened, and no calibration here made the latents; or their elements are absurd.
        """
        self.model = model
        self._paths = [path for path, _ in files]
        self._names = [read_names(path, len(latents)) for path, latents in files]
        self.whitened_by: dict[Path, list[Path]] = {}  # calibrations, and the files that each whitens
        self._model_sha256 = model_sha256(model)
        rows = [sorted({spec.parts[i][0] for spec in specs if spec.parts}) for i in range(len(files))]
        self.voices = [self._voices(*file, chosen, specs[0].x_T) for file, chosen in zip(files, rows, strict=True)]
        self._calibration_sha256 = "+".join(sorted(map(sha256_of, self.whitened_by))) or None

    def _voices(self, path: Path, latents: Tensor, rows: list[int], x_T: str) -> Voices:
        """Put the latents of one file, of which `rows` are used, and their whitening together."""
        array = latents.numpy()
        if (largest := latents.abs().max().item()) > MAX_LATENT:
            raise ValueError(f"{path} holds elements of {largest:.3g}, and latents of a voice stay below 100")
        chosen = array[rows]
        if x_T == "auto":
            chosen = chosen[~is_gaussian(chosen)]
        if x_T == "raw" or not len(chosen):
            return Voices(array, None)
        found, whitening = find_whitening(chosen, read_note(path), config.calibration_dirs())
        if found is None:
            problem = f"no calibration here made these latents ({path}), so they cannot be whitened"
            remedy = "make them again with process_live_audio.py, or use the calibration that made them"
            if x_T == "whitened":
                raise ValueError(f"{problem}: {remedy}")
            warnings.warn(f"{problem}, and raw ones make flat images; {remedy}", stacklevel=3)
        else:
            self.whitened_by.setdefault(found, []).append(path)
        return Voices(array, whitening, x_T == "auto", read_heard(path, len(array)))

    def check_shape(self, specs: Sequence[ImageSpec], shape: tuple[int, int, int]) -> None:
        """Raise ValueError if latents that are sampled from as they are have another shape than x_T, [C, h, w]."""
        for number, (voices, path) in enumerate(zip(self.voices, self._paths, strict=True)):
            rows = {spec.parts[number][0] for spec in specs if spec.parts}
            if voices.latents.shape[1:] != shape and not all(map(voices.whitened, rows)):
                held, needed = (", ".join(map(str, size)) for size in (voices.latents.shape[1:], shape))
                raise ValueError(
                    f"{path} holds latents [N, {held}] that are sampled from as they are, and an image of this size "
                    f"needs [N, {needed}]; only whitened voices fit every size"
                )

    def start_noise(self, specs: Sequence[ImageSpec], shape: tuple[int, int, int]) -> Tensor:
        """Make x_T [B, *shape] float32 from the seeds' Gaussian noise, from latents, or from both.

        Raises:
            ValueError: latents that are used as they are have another shape.
        """
        noise = seeded_noise([spec.seed for spec in specs], shape)
        for index, spec in enumerate(specs):
            if spec.parts:
                parts = [(voices, *part) for voices, part in zip(self.voices, spec.parts, strict=True)]
                x_T = initial_noise(parts, noise[index].numpy(), spec.voice_strength, spec.layout_strength)
                noise[index] = torch.from_numpy(x_T)
        return noise

    def latents_sha256(self, *specs: ImageSpec) -> str | None:
        """Hash the numbers that the specs start from, wherever the files lie and whatever else they hold."""
        used = sorted({(number, row) for spec in specs for number, (row, _) in enumerate(spec.parts)})
        digest = hashlib.sha256()
        for number, row in used:
            voices = self.voices[number]
            digest.update(voices.latents[row].tobytes())
            for heard in voices.heard[row : row + 1]:
                if heard != UNHEARD:  # latents without it keep the hash that they had before it was known
                    digest.update(np.array(dataclasses.astuple(heard), "<f8").tobytes())
        return digest.hexdigest() if used else None

    def identity(self, specs: Sequence[ImageSpec]) -> str:
        """Return a cheap key of these inputs: weights by size and date, because hashing gigabytes takes seconds."""
        read = [*self.model.files, *self.model.added]
        weights = [n for path in read for n in (path.stat().st_size, path.stat().st_mtime_ns)]
        shares = [weight for _, weight in self.model.loras]
        parts = (self.model.weights, *weights, *shares, self.model.yaml, self._calibration_sha256)
        return " ".join(map(str, (*parts, self.latents_sha256(*specs))))

    def check_replay(self, made_from: Provenance, spec: ImageSpec) -> None:
        """Raise ValueError if an image that was made from other files would come out differently."""
        now = self.provenance(spec)
        if self.model.weights.is_dir() and made_from.model_sha256 != now.model_sha256:
            # before the files of a folder were chosen, the hash was that of all of them
            now = dataclasses.replace(now, model_sha256=sha256_of(self.model.weights))
        made_from.check(now)

    def provenance(self, spec: ImageSpec) -> Provenance:
        """Return the hashes of everything that the image of `spec` is made from."""
        return Provenance(
            model=self.model.name,
            model_sha256=self._model_sha256.result(),
            latents_sha256=self.latents_sha256(spec),
            calibration_sha256=self._calibration_sha256,
            recipe=config.RECIPE.to_json(),
            version=cli.VERSION,
            recordings=self.recordings(spec),
            additions=self.model.additions(),
        )

    def recordings(self, spec: ImageSpec) -> tuple[str, ...]:
        """Return the names of the recordings that an image is of, as far as they are known."""
        named = ((names[row], weight) for names, (row, weight) in zip(self._names, spec.parts, strict=False))
        return tuple(name for name, weight in named if name and weight)

    def places(self, spec: ImageSpec) -> dict[str, float]:
        """Find the places of an image's voice among others (`audio.description.places_of`).

        There are none if the image is of no voice, of several, or of latents that are used as they are.
        """
        used = [(voices, row) for voices, (row, weight) in zip(self.voices, spec.parts, strict=False) if weight]
        if len(used) != 1:
            return {}
        voices, row = used[0]
        if not voices.whitening or not voices.whitened(row):
            return {}
        return places_of(voices.whitening, voices.latents[row : row + 1], voices.heard[row : row + 1])[0]

    def text_of(self, spec: ImageSpec) -> PngInfo:
        """Return the PNG text of an image."""
        return text_chunks(spec, self.provenance(spec))
