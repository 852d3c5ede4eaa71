"""The latent diffusion models of `ldm/` behind the `Painter` protocol."""

import math
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

import config
from ldm.broken_weights import broken_weights
from ldm.checkpoint import DTYPES, load_model
from ldm.devices import UnavailableError, choose_device, choose_precision
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.sampling import SamplingSettings
from ldm.tensor_files import some
from painting.image_spec import SAMPLERS, ImageSpec, sampled_size
from painting.images import to_uint8
from painting.painter import OnStep, PaintingNote, Step, Transition
from painting.preview import LinearDecoder
from painting.prompts import Lexicon, PromptInterpreter, Reading

FACTOR = 8  # pixels of the image a latent pixel and side
NAMED = 24  # words of a prompt that a warning names
WIDEST = 2  # times the shorter side, up to which an image has the quality of a square one
MAX_NOISE = 1e4  # Gaussian noise stays below 6, and raw latents below 100
# Decoded images lie in about −1…1. White or black that a prompt asks for overshoots less than this:
OVERSHOOT = 10.0
# and even the most extreme settings stay far below this.
ABSURD = 1e5


class LatentDiffusionPainter:
    """A latent diffusion model that is loaded and ready to sample."""

    def __init__(
        self,
        weights: Path = config.BUILTIN_MODEL_WEIGHTS,
        yaml: Path | None = None,
        precision: str = "auto",
        device: str | torch.device = "auto",
    ) -> None:
        """Load a model.

        Args:
            weights: a .safetensors or .ckpt file, or a folder as diffusers saves it.
            yaml: how the model is built; None: the yaml beside the weights.
            precision: "fp32", "bf16" or "fp16"; "auto" is the fastest that the device computes in.
            device: "cpu", "cuda" or "mps"; "auto" is a GPU if there is one.

        Raises:
            ValueError: the weights are broken or of another model than the yaml describes, or the device is missing.
            OSError: a file cannot be read.
        """
        self.device = choose_device(device) if isinstance(device, str) else device
        self.weights, self.yaml = weights, yaml
        self.precision = choose_precision(precision, self.device)
        self.defaults: dict[str, Any] = {}
        self.is_builtin = config.is_builtin_model(weights)
        if self.is_builtin:
            self.defaults |= {**config.BUILTIN_SAMPLING, "guidance_rescale": config.BUILTIN_RESCALE}
        self.lexicon = None if weights.is_dir() else Lexicon.read(yaml or weights.with_suffix(".yaml"))
        if self.lexicon is not None:
            self.defaults["reading"] = "near"
        self._warned: set[str] = set()  # unknown words, prompts without any known word, and sizes
        self._told: set[tuple[str, str]] = set()  # prompts, with their negative prompts, that were described
        self._cut: set[str] = set()  # prompts whose end the model does not read, and the user knows
        self._load()

    def _load(self) -> None:
        self._embeddings: dict[str, Tensor] = {}  # [1, M, D] of the prompts of the last images
        self._linear_decoder: LinearDecoder | None = None
        self._interpreter: PromptInterpreter | None = None  # of the lexicon; made when it is first needed
        self.model = load_model(self.weights, self.yaml, dtype=DTYPES[self.precision], device=self.device)

    def _load_again(self, precision: str) -> None:
        """Load the model in another precision; if that fails, in its own again, so that the painter stays usable."""
        before, self.precision = self.precision, precision
        del self.model  # both models together might not fit into memory
        try:
            self._load()
        except Exception:
            self.precision = before
            self._load()
            raise

    def readings(self, spec: ImageSpec) -> tuple[Reading, Reading] | None:
        """Return what is read in prompt and negative prompt of `spec`; None if the model reads them word by word.

        Raises:
            ValueError: the lexicon is that of another model.
        """
        if self.lexicon is None or spec.reading != "near":
            return None
        if self._interpreter is None:
            self._interpreter = PromptInterpreter(self.model, self.lexicon)
        return self._interpreter.read(spec.prompt), self._interpreter.read(spec.negative_prompt)

    def describe(self, spec: ImageSpec) -> list[str]:
        """Say what is drawn for the prompts of `spec`, and which words have no effect; `paint` then does not warn."""
        readings = self.readings(spec)
        if readings is None:
            return []
        self._told.add((spec.prompt, spec.negative_prompt))
        lines = [readings[0].describe("the voice" if spec.parts else "the seed")]
        if readings[1].no_effect:
            lines.append(f"no effect in the negative prompt: {some(readings[1].no_effect, NAMED)}")
        return lines

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape [C, h / 8, w / 8] of x_T for the size h × w that the model samples.

        The built-in model samples what it has learnt, and its images are then enlarged (`painting.enlarging`).

        Raises:
            UnavailableError: the model's U-Net halves its input too often for this size.
        """
        if self.is_builtin:
            height, width = sampled_size(height, width)
        multiple = FACTOR * self.model.model.diffusion_model.multiple
        for name, side in (("height", height), ("width", width)):
            if side % multiple:
                below = side - side % multiple
                nearest = f"{below} or {below + multiple}" if below else str(multiple)
                raise UnavailableError(
                    f"{name} {side}: this model needs multiples of {multiple}, for instance {nearest}"
                )
        return (self.model.latent_shape[0], height // FACTOR, width // FACTOR)

    def paint(self, specs: Sequence[ImageSpec], x_T: Tensor, on_step: OnStep | None = None) -> np.ndarray:
        """Sample images [B, H, W, 3] uint8 from start noise `x_T` [B, C, h, w]; see `Painter.paint`.

        A single spec that was sampled in a batch is sampled in a batch of copies of itself, because the size of a batch
        changes how sums are rounded. If low precision spoils an image (NaN, or one single colour), the model is loaded
        again in float32, and stays so.

        Raises:
            ValueError: start noise, weights or settings give no image even in float32; the message says which.
        """
        check_start_noise(x_T)
        if specs[0].sampler not in SAMPLERS:
            raise ValueError(f"sampler {specs[0].sampler!r}: this model has {', '.join(SAMPLERS)}")
        if len(specs) == 1 and specs[0].batch_size > 1:
            size, index = specs[0].batch_size, specs[0].batch_index
            return self.paint([*specs] * size, x_T.expand(size, -1, -1, -1), on_step)[index : index + 1]
        return self.paint_transitions([Transition((spec,), (1.0,)) for spec in specs], x_T, on_step)

    @torch.inference_mode()
    def shape_scores(self, x_T: Tensor) -> np.ndarray:
        """Score the candidates of the prior; see `TransitionPainter.shape_scores`."""
        prompt_prior = self.model.model.diffusion_model.layout
        if prompt_prior is None:
            return np.zeros((len(x_T), 0), np.float32)
        return prompt_prior.scores(x_T.to(self.device)).cpu().numpy()

    @torch.inference_mode()
    def outlines(self, transitions: Sequence[Transition], x_T: Tensor) -> np.ndarray:
        """Return the priors of images; see `TransitionPainter.outlines`."""
        embeddings = [self._embed(self._texts(spec)[0] for spec in one.specs) for one in transitions]
        priors = self._priors(transitions, embeddings, x_T)
        return (x_T if priors is None else priors).cpu().numpy()

    def paint_transitions(
        self, transitions: Sequence[Transition], x_T: Tensor, on_step: OnStep | None = None
    ) -> np.ndarray:
        """Sample images [B, H, W, 3] uint8 between prompts and shapes; see `TransitionPainter.paint_transitions`.

        Raises:
            ValueError: as `paint`.
        """
        check_start_noise(x_T)
        self._warn_of_prompts([spec for one in transitions for spec in one.specs])
        self._warn_of_size(transitions[0].specs[0], x_T)
        images = self._sample(transitions, x_T, on_step)
        if self.precision != "fp32" and any(is_spoiled(image) for image in images):
            self._refuse_broken_weights()
            warnings.warn(f"{self.precision} gave no image; again in fp32", stacklevel=2)
            self._load_again("fp32")
            images = self._sample(transitions, x_T, on_step)
        for image in images:
            self._check(image)
        spec = transitions[0].specs[0]
        if images.shape[2:] != (spec.height, spec.width):
            from painting.enlarging import fitted  # OpenCV takes half a second to import

            images = fitted(images, spec.height, spec.width)
        return to_uint8(images)

    def _check(self, image: Tensor) -> None:
        """Raise ValueError if an image [3, H, W] in −1…1 is spoiled; warn of one with a single colour that is not."""
        if not is_spoiled(image):
            return
        if image.abs().amax() < OVERSHOOT and not repeats(image):
            warnings.warn("the image has one single colour", PaintingNote, stacklevel=3)
            return
        self._refuse_broken_weights()
        what = "one single colour" if image.abs().amax() < ABSURD else "NaN or absurdly large numbers"
        raise ValueError(
            f"no image came out, only {what}: no weight in {self.weights} is NaN or absurd, so either its yaml is that "
            "of another model, or the start noise or the settings are too extreme; try a lower scale"
        )

    def _refuse_broken_weights(self) -> None:
        """Raise ValueError if weights are to blame for an image that is none. All of them are read."""
        if broken := broken_weights(self.model.state_dict()):
            raise ValueError(f"{self.weights} is broken and gives no images: {broken}")

    def _warn_of_prompts(self, specs: Sequence[ImageSpec]) -> None:
        """Warn once about words without effect, and once about a prompt whose end the model does not read."""
        if self.readings(specs[0]) is None:
            self._warn_of_unknown_words(specs)
        else:
            new = {(s.prompt, s.negative_prompt): s for s in specs if (s.prompt, s.negative_prompt) not in self._told}
            for spec in new.values():
                for line in self.describe(spec):
                    if "no effect" in line:
                        warnings.warn(line, PaintingNote, stacklevel=3)
        fallback = self.model.cond_stage_model.fallback_prompt
        if fallback and "" not in self._warned and any(not s.prompt.strip() for s in specs):
            warnings.warn(f"the prompt is empty: {fallback!r} is used", PaintingNote, stacklevel=3)
            self._warned.add("")
        texts = {text for s in specs for text in self._texts(s)}
        for text in sorted(texts - self._cut):
            if rest := self.model.cond_stage_model.left_out(text):
                words = some(list(dict.fromkeys(rest)), NAMED)  # each once
                note = f"this prompt is too long for the model, which leaves out its end: {words}"
                warnings.warn(note, PaintingNote, stacklevel=3)
        self._cut |= texts

    def _warn_of_unknown_words(self, specs: Sequence[ImageSpec]) -> None:
        """Warn once about each unknown word, and once about each prompt without any known word."""
        text = self.model.cond_stage_model
        effects = {s.negative_prompt: f"negative prompt {s.negative_prompt!r}: it has no effect" for s in specs}
        effects |= {s.prompt: f"prompt {s.prompt!r}: {text.fallback_prompt!r} is used instead" for s in specs}
        unknown = {word for prompt in effects for word in text.out_of_vocabulary(prompt)}
        if new := sorted(unknown - self._warned):
            note = f"this model does not know these words and leaves them out: {', '.join(new)}"
            warnings.warn(note, PaintingNote, stacklevel=4)
        void = {prompt for prompt in effects if prompt.strip() and not text.has_known_words(prompt)}
        for prompt in sorted(void - self._warned):
            warnings.warn(f"no known word is left in the {effects[prompt]}", stacklevel=4)
        self._warned |= unknown | void

    def _warn_of_size(self, spec: ImageSpec, x_T: Tensor) -> None:
        """Warn once about a size at which the model paints worse than at the one that it has learnt."""
        sides, size = sorted(FACTOR * side for side in x_T.shape[2:]), f"{spec.width}x{spec.height}"
        learnt = FACTOR * self.model.latent_shape[1]
        if size not in self._warned and (sides[0] > learnt or sides[1] > WIDEST * sides[0]):
            self._warned.add(size)
            note = (
                f"this model was trained at {learnt}x{learnt}: at {size} details may be soft or out of order; best are "
                f"{learnt} pixels for the shorter side, and up to {WIDEST * learnt} for the longer one"
            )
            warnings.warn(note, PaintingNote, stacklevel=4)

    def _texts(self, spec: ImageSpec) -> tuple[str, str]:
        """Return what the text encoder gets for prompt and negative prompt of `spec`."""
        readings, text = self.readings(spec), self.model.cond_stage_model
        prompt, negative = (r.text for r in readings) if readings else (spec.prompt, spec.negative_prompt)
        return prompt if text.has_known_words(prompt) else text.fallback_prompt, negative

    def _embed(self, prompts: Iterable[str]) -> Tensor:
        """Encode `prompts` to [B, M, D], each alone, and only once while consecutive batches use it."""
        rows = []
        for prompt in prompts:
            if prompt not in self._embeddings:
                self._embeddings[prompt] = self.model.get_learned_conditioning([prompt])
            rows.append(self._embeddings[prompt])
        return torch.cat(rows)

    @torch.inference_mode()
    def _sample(self, transitions: Sequence[Transition], x_T: Tensor, on_step: OnStep | None) -> Tensor:
        """Sample and decode: images [B, 3, 8h, 8w] in −1…1 for start noise `x_T` [B, C, h, w].

        All elements are NaN if the first step gives NaN.
        """
        spec, seeds = transitions[0].specs[0], [one.specs[0].seed for one in transitions]
        size = tuple(FACTOR * side for side in x_T.shape[2:])
        texts = [[self._texts(each) for each in one.specs] for one in transitions]
        in_use = {text for one in texts for pair in one for text in pair}
        self._embeddings = {prompt: row for prompt, row in self._embeddings.items() if prompt in in_use}
        negative = [pairs[0][1] for pairs in texts]
        embeddings = [self._embed(prompt for prompt, _ in pairs) for pairs in texts]  # of each image, [prompts, M, D]
        conditioning = torch.cat([mean(each, one.weights) for each, one in zip(embeddings, transitions, strict=True)])

        def after_step(i: int, x: Tensor, pred_x0: Tensor) -> None:
            # NaN stays NaN; the first step alone, because reading a result makes the CPU wait for a GPU
            if i == 0 and not pred_x0.isfinite().all():
                raise FloatingPointError
            if on_step is not None:
                on_step(Step(i + 1, spec.steps, lambda: self._preview(pred_x0)))

        def before_first(prior: Tensor) -> None:
            if on_step is not None and prior.isfinite().all():
                on_step(Step(0, spec.steps, lambda: self._preview(prior), sampled=False))

        sampler = pkgutil.resolve_name(SAMPLERS[spec.sampler].target)
        settings = SamplingSettings(spec.steps, spec.scale, spec.eta, spec.guidance_interval, spec.guidance_rescale)
        try:
            samples = sampler(self._model_of(transitions, embeddings, x_T, before_first)).run(
                x_T,
                settings,
                conditioning=conditioning,
                unconditional=self._embed(negative) if spec.scale != 1 else None,
                seeds=seeds,
                on_step=after_step,
            )
        except FloatingPointError:
            return torch.full((len(transitions), 3, *size), math.nan)
        if transitions[0].rough:
            return F.interpolate(self._roughly(samples), size, mode="bicubic").clamp(-1.0, 1.0)
        # one image at a time: at 256×256 the decoder needs more memory than all of the sampling
        return torch.cat([self.model.decode_first_stage(z) for z in samples.split(1)])

    def _model_of(
        self,
        transitions: Sequence[Transition],
        embeddings: Sequence[Tensor],
        x_T: Tensor,
        on_prior: Callable[[Tensor], None],
    ) -> "BatchModel":
        """Return the model; where images lie between prompts or shapes, with their priors [B, C, h, w]."""
        alone = all(len(one.specs) == 1 and one.shares is None for one in transitions)
        given = None if alone else self._priors(transitions, embeddings, x_T)
        return BatchModel(self.model, len(transitions), given, on_prior)

    def _priors(self, transitions: Sequence[Transition], embeddings: Sequence[Tensor], x_T: Tensor) -> Tensor | None:
        """Predict priors [B, C, h, w], averaged over the prompts of each image; None if the model has none."""
        priors = []
        for one, each, noise in zip(transitions, embeddings, x_T.to(self.device).split(1), strict=True):
            count = len(each)
            shares = None if one.shares is None else torch.from_numpy(one.shares).to(self.device).expand(count, -1)
            prior = self.model.prior(each, noise.expand(count, -1, -1, -1), shares)
            if prior is None:
                return None
            priors.append(mean(prior, one.weights))
        return torch.cat(priors)

    def _preview(self, pred_x0: Tensor) -> np.ndarray:
        return to_uint8(self._roughly(pred_x0))

    def _roughly(self, latents: Tensor) -> Tensor:
        """Map latents [B, C, h, w] to small images [B, 3, h, w] in −1…1, without the decoder."""
        if self._linear_decoder is None:
            self._linear_decoder = LinearDecoder.fit(self._encode)
        return self._linear_decoder(latents)

    def _encode(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] in −1…1 to latents [B, C, h, w]."""
        first = next(self.model.first_stage_model.parameters())
        return self.model.encode_first_stage(images.to(first.device, first.dtype))


class BatchModel:
    """The model for one batch of images (`DiffusionModel`); it tells their priors [B, C, h, w] before step 1."""

    def __init__(
        self, model: LatentDiffusion, images: int, given: Tensor | None, on_prior: Callable[[Tensor], None]
    ) -> None:
        """Wrap a model.

        Args:
            images: B.
            given: their priors; None: the model predicts them, if it can.
            on_prior: called once with the priors, if there are any.
        """
        self.model, self.images, self.given, self.on_prior = model, images, given, on_prior
        self.alphas_cumprod, self.parameterization, self.start = (
            model.alphas_cumprod,
            model.parameterization,
            model.start,
        )
        self._told = False

    def conditioned(self, c: Tensor | None, x_T: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the model as a function; before the images of the batch may stand unconditioned ones."""
        prior = self._prior(c, x_T)
        if prior is not None and not self._told:
            self._told = True
            self.on_prior(prior[-self.images :])
        return partial(self.model.apply_model, c=c, prior=prior)

    def _prior(self, c: Tensor | None, x_T: Tensor) -> Tensor | None:
        """Return the priors of conditioned images, and of those before them."""
        before = len(x_T) - self.images
        if self.given is None:  # predicted once, for steps with guidance and without
            self.given = self.model.prior(None if c is None else c[before:], x_T[before:])
        own = self.model.prior(c[:before], x_T[:before]) if before and c is not None else None
        return self.given if own is None or self.given is None else torch.cat([own, self.given])


def mean(rows: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weighted mean [1, ...] of rows [N, ...]; a single row as it is."""
    return rows if len(rows) == 1 else torch.einsum("n, n ... -> ...", torch.tensor(weights).to(rows), rows)[None]


def is_spoiled(image: Tensor) -> bool:
    """Tell whether an image [3, H, W] in −1…1 shows an overflow: NaN or absurd values, or one single colour."""
    if not image.abs().amax() < ABSURD:  # true of NaN, too
        return True
    return repeats(torch.from_numpy(to_uint8(image[None])[0]).permute(2, 0, 1))


def repeats(image: Tensor) -> bool:
    """Tell whether an image [3, H, W] is the same wherever a latent pixel is decoded: a colour, or a tile of 8×8."""
    tiles = rearrange(image, "c (h y) (w x) -> h w c y x", y=FACTOR, x=FACTOR)
    return bool((tiles == tiles[0, 0]).all())


def check_start_noise(x_T: Tensor) -> None:
    """Raise ValueError if start noise [B, C, h, w] holds NaN, or numbers that no latents reach."""
    largest = x_T.abs().max().item()
    if not largest <= MAX_NOISE:  # NaN included
        raise ValueError(f"the start noise has elements of {largest:.3g}; Gaussian noise stays below 6")
