"""From start noise and prompts to pictures: a loaded model, a sampler, the decoder."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cli import WrongOption
from ldm.checkpoint import DTYPES, load_model
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.dpm_solver import DPMSolverSampler
from ldm.models.diffusion.plms import PLMSSampler
from ldm.models.diffusion.sampling import Sampler, StepCallback
from painting.image_spec import ImageSpec
from painting.images import to_uint8

SAMPLERS: dict[str, type[Sampler]] = {"ddim": DDIMSampler, "plms": PLMSSampler, "dpmpp": DPMSolverSampler}


class Painter:
    """A latent diffusion model, ready to paint."""

    def __init__(self, weights: Path, config: Path | None, precision: str, device: torch.device) -> None:
        """Load `weights` by the yaml `config` (None: the weights' own).

        Raises:
            ValueError: the weights are broken or of another model than the yaml describes.
            OSError: a file cannot be read.
        """
        self.weights, self.config, self.precision, self.device = weights, config, precision, device
        self._named: set[str] = set()  # unknown words, and prompts of nothing else
        self._load()

    def _load(self) -> None:
        self._embeddings: dict[str, Tensor] = {}  # [1, M, D] of the prompts of the last pictures
        self.model = load_model(self.weights, self.config, dtype=DTYPES[self.precision], device=self.device)

    def paint(self, specs: Sequence[ImageSpec], x_T: Tensor, callback: StepCallback | None = None) -> np.ndarray:
        """Pictures [B, H, W, 3] uint8 from start noise `x_T` [B, C, H / 8, W / 8].

        The specs may differ in prompts and seeds, and must not in anything else. A single one that says that it was
        painted in a batch is painted in such a batch of itself, so that it comes out the same to the last bit. What
        low precision spoils (NaN, or nothing but black) is done again in float32, and so is all that comes after it.

        Args:
            callback: called as callback(i, x, pred_x0) after each step i; without it there is a progress bar.
        """
        if len(specs) == 1 and specs[0].batch_size > 1:
            size, index = specs[0].batch_size, specs[0].batch_index
            return self.paint([*specs] * size, x_T.expand(size, -1, -1, -1), callback)[index : index + 1]
        self._name_unknown_words(specs)
        pictures = self._paint(specs, x_T, callback)
        if self.precision != "fp32" and any(is_spoiled(picture) for picture in pictures):
            tqdm.write(f"warning: {self.precision} gave no picture; again in fp32", file=sys.stderr)
            self.precision = "fp32"
            del self.model  # before the other one comes: together they might not fit
            self._load()
            pictures = self._paint(specs, x_T, callback)
        return to_uint8(pictures.nan_to_num(nan=-1.0))

    def check_size(self, height: int, width: int) -> None:
        """Raises WrongOption if the model cannot paint pictures of `height`×`width` pixels."""
        multiple = 8 * self.model.model.diffusion_model.multiple
        for name, side in (("--H", height), ("--W", width)):
            if side % multiple:
                below = side - side % multiple
                nearest = f"{below} or {below + multiple}" if below else str(multiple)
                raise WrongOption(f"{name} {side}: this model needs multiples of {multiple}, for instance {nearest}")

    def _name_unknown_words(self, specs: Sequence[ImageSpec]) -> None:
        """Say once of each word that has no effect that it has none, and of each prompt of which nothing is left."""
        text = self.model.cond_stage_model
        void = {s.negative_prompt: f"negative prompt {s.negative_prompt!r}: it has no effect" for s in specs}
        void |= {s.prompt: f"prompt {s.prompt!r}: painted as {text.fallback_prompt!r}" for s in specs}
        unknown = {word for prompt in void for word in text.out_of_vocabulary(prompt)}
        # above the progress bar, if there is one
        if new := sorted(unknown - self._named):
            tqdm.write(f"note: this model does not know, and leaves out: {', '.join(new)}", file=sys.stderr)
        void = {prompt: how for prompt, how in void.items() if prompt.strip() and not text.has_known_words(prompt)}
        for prompt in sorted(void.keys() - self._named):
            tqdm.write(f"warning: nothing is left of the {void[prompt]}", file=sys.stderr)
        self._named |= unknown | void.keys()

    def _embed(self, prompts: Iterable[str]) -> Tensor:
        """Embeddings [B, M, D] of `prompts`; each is encoded alone, and once for all batches in a row that have it."""
        rows = []
        for prompt in prompts:
            if prompt not in self._embeddings:
                self._embeddings[prompt] = self.model.get_learned_conditioning([prompt])
            rows.append(self._embeddings[prompt])
        return torch.cat(rows)

    @torch.inference_mode()
    def _paint(self, specs: Sequence[ImageSpec], x_T: Tensor, callback: StepCallback | None) -> Tensor:
        spec, text = specs[0], self.model.cond_stage_model
        prompts = [spec.prompt if text.has_known_words(spec.prompt) else text.fallback_prompt for spec in specs]
        wanted = {*prompts, *(spec.negative_prompt for spec in specs)}
        self._embeddings = {prompt: row for prompt, row in self._embeddings.items() if prompt in wanted}
        samples, _ = SAMPLERS[spec.sampler](self.model).sample(
            S=spec.steps,
            batch_size=len(x_T),
            shape=tuple(x_T.shape[1:]),
            conditioning=self._embed(prompts),
            unconditional_conditioning=(
                self._embed(spec.negative_prompt for spec in specs) if spec.scale != 1 else None
            ),
            unconditional_guidance_scale=spec.scale,
            guidance_interval=spec.guidance_interval,
            guidance_rescale=spec.guidance_rescale,
            eta=spec.eta,
            x_T=x_T,
            seeds=[spec.seed for spec in specs],
            callback=callback,
            verbose=callback is None,
            desc="sampling",
        )
        # one at a time: at 256×256 the decoder needs more memory than the whole of the sampling
        return torch.cat([self.model.decode_first_stage(z) for z in samples.split(1)])


def is_spoiled(picture: Tensor) -> bool:
    """Whether a picture [3, H, W] in −1…1 is what remains of an overflow: NaN somewhere, or black all over."""
    return not picture.isfinite().all() or bool((picture <= -1.0).all())
