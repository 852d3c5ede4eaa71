"""The pipelines of diffusers behind the `Painter` protocol: x_T becomes `latents=`, and decides all later noise.

`painting/pipelines/families.py` says what each class of pipelines needs; `painting/pipelines/loading.py` loads them.
"""

import bisect
import contextlib
import functools
import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.checkpoint import DTYPES
from ldm.devices import UnavailableError
from painting.image_spec import ImageSpec
from painting.images import to_uint8
from painting.ldm_painter import NAMED, check_start_noise
from painting.painter import OnStep, PaintingNote, Step, counted
from painting.pipelines.families import Family, Shape
from painting.pipelines.schedulers import SCHEDULERS, name_of
from painting.preview import LinearDecoder

FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
TILED_FROM = 1536 * 1536  # pixels
CLEAN_HISTORY = ("dpmsolver++", "sde-dpmsolver++")  # algorithms whose `model_outputs` are clean latents
NO_MEMORY = (
    "out of memory: try a smaller image, fewer images at once, a lower precision, or offloading parts of the model"
)


class DiffusersPainter:
    """A pipeline of diffusers that is loaded and ready to sample."""

    def __init__(
        self,
        load: Callable[[str], Any],
        family: Family,
        precision: str = "fp32",
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Load the pipeline.

        Args:
            load: returns the pipeline with weights of a precision.
            family: the row of its class.
            precision: "fp32", "bf16" or "fp16".
            defaults: see `Painter.defaults`.
        """
        self.family, self.precision, self.defaults = family, precision, dict(defaults or {})
        self._load = load
        self._cut: set[str] = set()  # prompts whose end the model does not read, and the user knows
        self._told: set[str] = set()  # samplers of which the user knows that they forget the voice
        self._set_up()

    def _set_up(self) -> None:
        self.pipeline = self._load(self.precision)
        for pipeline in {self.pipeline, self._stage}:
            pipeline.set_progress_bar_config(disable=True)
        self._own = self._stage.scheduler
        self._linear_decoder: LinearDecoder | None = None

    @property
    def _stage(self) -> Any:
        """Return the pipeline that starts from x_T: the decoder of Kandinsky 2.2, the prior of Stable Cascade."""
        return getattr(self.pipeline, self.family.stage) if self.family.stage else self.pipeline

    def describe(self, spec: ImageSpec) -> list[str]:
        """Return nothing: what such a model draws for a word is not known."""
        return []

    def latent_shape(self, height: int, width: int) -> Shape:
        """Return the shape [C, h, w] of x_T.

        Raises:
            UnavailableError: the family has no images of this size.
        """
        family, factor = self.family, int(self._value(self.family.factor))
        if problem := family.size_problem(factor, height, width) or self._area_problem(height, width):
            raise UnavailableError(problem)
        channels = int(self._value(family.channels)) // family.packed
        return family.layout.shape(channels, factor, height, width)

    def _area_problem(self, height: int, width: int) -> str:
        """Say if the pipeline would paint an image of another size, because all have the same area; else return ""."""
        if not self.family.same_area:
            return ""
        factor = self.pipeline.vae_scale_factor
        multiple = self.family.layout.multiple(factor)
        scale = self.pipeline.default_sample_size * factor / math.sqrt(height * width)
        painted = tuple(int(length * scale // multiple * multiple) for length in (height, width))
        if painted == (height, width):
            return ""
        return f"{height}×{width}: {self.family.text} has images of one area only, here {painted[0]}×{painted[1]}"

    def _value(self, place: str) -> Any:
        """Return the number `place`, or the value of an attribute of the pipeline, or of a part's config."""
        if place.isdigit():
            return place
        first, _, second = place.partition(".")
        found = getattr(self.pipeline, first)
        return getattr(found.config if hasattr(found, "config") and second in found.config else found, second or "real")

    def paint(self, specs: Sequence[ImageSpec], x_T: Tensor, on_step: OnStep | None = None) -> np.ndarray:
        """Sample images [B, H, W, 3] uint8 from start noise `x_T` [B, C, h, w]; see `Painter.paint`.

        An image that was sampled in a batch is sampled in a batch of copies of itself, because the size of a batch
        changes how sums are rounded. If low precision gives NaN, the pipeline is loaded again in float32.

        Raises:
            ValueError: a setting that the family does not have, or no image comes out.
            RuntimeError: there is not enough memory.
        """
        check_start_noise(x_T)
        for spec in specs:
            self._check_settings(spec)
        if len(specs) == 1 and specs[0].batch_size > 1 and not self._one_by_one(specs[0]):
            size, index = specs[0].batch_size, specs[0].batch_index
            return self.paint([*specs] * size, x_T.expand(size, -1, -1, -1), on_step)[index : index + 1]
        self._warn_of_cut_prompts(specs)
        self._warn_of_forgotten_voice(specs[0])
        images = self._sample_all(specs, x_T, on_step)
        if self.precision != "fp32" and not np.isfinite(images).all():
            warnings.warn(f"{self.precision} gave no image; again in fp32", stacklevel=2)
            self._load_again("fp32")
            images = self._sample_all(specs, x_T, on_step)
        if not np.isfinite(images).all():
            raise ValueError(
                "no image came out, only NaN: either weights are broken, or the settings are too extreme; try a lower "
                "scale"
            )
        return (images * 255).round().astype(np.uint8)

    def _load_again(self, precision: str) -> None:
        """Load the pipeline in another precision; if that fails, in its own again, so that the painter stays usable."""
        before, self.precision = self.precision, precision
        del self.pipeline, self._own  # both together might not fit into memory
        try:
            self._set_up()
        except Exception:
            self.precision = before
            self._set_up()
            raise

    def _check_settings(self, spec: ImageSpec) -> None:
        """Raise ValueError if the family does not have a setting."""
        family = self.family
        if spec.steps < family.least_steps:
            raise ValueError(f"{family.text} needs {family.least_steps} steps or more, not {spec.steps}")
        asked = {
            "negative_prompt": bool(spec.negative_prompt) and not family.negative,
            "eta": spec.eta and "eta" not in family.takes,
            "guidance_rescale": spec.guidance_rescale and "guidance_rescale" not in family.takes,
            "guidance_interval": spec.guidance_interval != (0.0, 1.0),
            "sampler": spec.sampler not in (*family.samplers, self._own_name),
        }
        for name, wrong in asked.items():
            if wrong:
                raise ValueError(f"{family.text} has no {name} {getattr(spec, name)!r}")

    def _warn_of_forgotten_voice(self, spec: ImageSpec) -> None:
        """Warn once of a sampler with which nothing of x_T is left after the first step."""
        if self.family.flow and SCHEDULERS[spec.sampler].stochastic and spec.sampler not in self._told:
            note = (
                f"with the sampler {spec.sampler} this kind of model forgets x_T in its first step; the voice decides "
                "only the noise that is added later"
            )
            warnings.warn(note, PaintingNote, stacklevel=3)
            self._told.add(spec.sampler)

    # --- samplers -----------------------------------------------------------------------------------------------------
    @property
    def _own_name(self) -> str | None:
        return name_of(type(self._own).__name__, self._own.config, self.family.flow)

    def _scheduler(self, spec: ImageSpec) -> Any:
        """Return the scheduler of a sampler: the pipeline's own, or one with its betas or shift; for flow an ODE.

        One step must start from pure noise, which only trailing timesteps do for every scheduler. (Lin et al., "Common
        diffusion noise schedules and sample steps are flawed", WACV 2024, section 3.3.)
        """
        import diffusers

        own, flow = self._own.config, self.family.flow
        trailing = {"timestep_spacing": "trailing"} if not flow and "timestep_spacing" in own else {}
        if spec.sampler == self._own_name:
            if own.get("stochastic_sampling"):
                return type(self._own).from_config(own, stochastic_sampling=False)
            if spec.steps > 1 or not trailing or own["timestep_spacing"] == "trailing":
                return self._own
            return type(self._own).from_config(own, **trailing)
        entry = SCHEDULERS[spec.sampler]
        made = getattr(diffusers, entry.flow if flow else entry.diffusion)
        shift = own.get("shift", own.get("flow_shift", 1.0))
        how = {**FLOW_SIGMAS, "flow_shift": shift} if flow else trailing or {"timestep_spacing": "trailing"}
        if made.__name__.startswith("FlowMatch"):
            how = {"shift": shift}
        return made.from_config(own, **{**how, **entry.config})

    def _one_by_one(self, spec: ImageSpec) -> bool:
        """Tell whether a batch must be painted image by image, because noise or guidance of a batch is shared."""
        entry = SCHEDULERS[spec.sampler]
        stochastic = entry.stochastic or spec.eta > 0
        guided = self.family.one_guided and spec.scale != self.family.unguided
        return guided or (stochastic and not self.family.seeds)

    # --- sampling -----------------------------------------------------------------------------------------------------
    def _sample_all(self, specs: Sequence[ImageSpec], x_T: Tensor, on_step: OnStep | None) -> np.ndarray:
        """Return images [B, H, W, 3] float in 0…1, or with NaN."""
        try:
            if len(specs) == 1 or not self._one_by_one(specs[0]):
                return self._sample(specs, x_T, on_step)
            images = []
            for place, spec in enumerate(specs):
                told = counted(on_step, place, len(specs)) if on_step else None
                images.append(self._sample([spec], x_T[place : place + 1], told))
            return np.concatenate(images)
        except Exception as error:
            if is_out_of_memory(error):
                raise RuntimeError(NO_MEMORY) from error
            raise

    def _sample(self, specs: Sequence[ImageSpec], x_T: Tensor, on_step: OnStep | None) -> np.ndarray:
        """Run the pipeline once: images [B, H, W, 3] float in 0…1."""
        spec, stage = specs[0], self._stage
        self._spare_memory(spec)
        shape = (x_T.shape[1], x_T.shape[2], x_T.shape[3])
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.callback(setattr, stage, "scheduler", self._own)
            stage.scheduler = self._scheduler(spec)
            stack.enter_context(global_generator(seed_of(x_T[0])))
            if on_step is not None:
                stack.enter_context(self._watched(stage, spec.steps, shape, on_step))
            output = self._run(specs, self._laid_out(x_T), [later_noise(x) for x in x_T])
        if any(getattr(output, "nsfw_content_detected", None) or ()):
            warnings.warn("the safety checker of this model blackened an image", PaintingNote, stacklevel=5)
        return np.asarray(output[0], dtype=np.float32)

    def _spare_memory(self, spec: ImageSpec) -> None:
        """Let the autoencoder work in tiles on large images, and on images one by one, where it can.

        Tiles change an image a little at their edges, so the size of the image alone decides.
        """
        vae: Any = getattr(self.pipeline, "vae", None)
        for name, wanted in (("slicing", True), ("tiling", spec.height * spec.width >= TILED_FROM)):
            if hasattr(vae, f"enable_{name}"):
                getattr(vae, f"{'enable' if wanted else 'disable'}_{name}")()

    def _laid_out(self, x_T: Tensor) -> Tensor:
        """Return `latents=` of the pipeline, on its device."""
        latents = self.family.layout.latents(x_T.float() * self.family.loudness)
        dtype = torch.float32 if self.family.keeps_float32 else DTYPES[self.precision]
        return latents.to(self._stage._execution_device, dtype)

    def _run(self, specs: Sequence[ImageSpec], latents: Tensor, generators: list[torch.Generator]) -> Any:
        """Call the pipeline, and its prior or decoder."""
        spec, family = specs[0], self.family
        prompts, negative = [s.prompt for s in specs], self._negative_prompts(specs)
        sampling = {"num_inference_steps": spec.steps, "latents": latents, "generator": generators}
        if family.guidance:
            sampling[family.guidance] = spec.scale
        size = {"height": spec.height, "width": spec.width}
        if family.stage == "decoder_pipe":
            before = self.pipeline.prior_pipe(prompts, **negative, generator=generators)
            embeddings = (before.image_embeds, before.negative_image_embeds)
            return self._stage(*embeddings, **size, **sampling, output_type="np")
        if family.stage == "prior_pipe":
            before = self._stage(prompts, **negative, **size, **sampling)
            return self.pipeline.decoder_pipe(**before, generator=generators, output_type="np")
        arguments = {**family.arguments, **{name: getattr(spec, name) for name in family.takes}}
        if spec.steps != family.steps:
            arguments |= family.other_steps
        return self.pipeline(prompt=prompts, **negative, **size, **sampling, **arguments, output_type="np")

    def _negative_prompts(self, specs: Sequence[ImageSpec]) -> dict[str, list[str]]:
        """Return the argument for negative prompts; none if all are empty, which is the pipeline's own default."""
        none = self.family.no_negative
        if not any(s.negative_prompt for s in specs) and none is None:
            return {}
        return {"negative_prompt": [s.negative_prompt or none or "" for s in specs]}

    # --- progress and previews ----------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _watched(self, stage: Any, steps: int, shape: Shape, on_step: OnStep) -> Iterator[None]:
        """Call `on_step` after each step of the pipeline `stage`."""
        scheduler = stage.scheduler
        last: dict[str, Callable[[], Tensor]] = {}  # computes only what is shown

        @functools.wraps(scheduler.step)  # pipelines look at its signature
        def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            output = original(model_output, timestep, sample, *args, **kwargs)
            last["clean"] = functools.partial(clean_estimate, scheduler, model_output, sample, output)
            return output

        def bar(iterable: Iterable[Any] | None = None, total: int | None = None) -> StepCounter:
            return StepCounter(iterable, lambda done: on_step(Step(done, steps, preview)), steps)

        def preview() -> np.ndarray:
            return self._preview(self.family.layout.x_T(last["clean"]().detach(), shape))

        original = scheduler.step
        scheduler.step, stage.progress_bar = step, bar
        try:
            yield
        finally:
            del scheduler.step, stage.progress_bar

    def _preview(self, x_0: Tensor) -> np.ndarray:
        """Return rough images [B, h, w, 3] of clean latents [B, C, h, w].

        Nothing maps the latents of a prior to colours: of these the first three channels are shown.
        """
        if self.family.stage == "prior_pipe":
            return to_uint8(x_0[:, :3] / 3)
        if self._linear_decoder is None:
            self._linear_decoder = LinearDecoder.fit(self._encode)
        return to_uint8(self._linear_decoder(x_0))

    def _encode(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] in −1…1 to latents as the network has them."""
        parts = self.pipeline.components
        vae = next((parts[name] for name in ("vae", "movq", "vqgan") if parts.get(name) is not None), None)
        return images if vae is None else encode(vae, images)

    # --- prompts ------------------------------------------------------------------------------------------------------
    def _warn_of_cut_prompts(self, specs: Sequence[ImageSpec]) -> None:
        """Warn once about each prompt that is longer than what the text encoder reads."""
        prompts = {prompt for s in specs for prompt in (s.prompt, s.negative_prompt)}
        for prompt in sorted(prompts - self._cut):
            if rest := self._left_out(prompt):
                shown = " ".join(rest[:NAMED]) + " …" * (len(rest) > NAMED)
                note = f'this prompt is too long for the model, which leaves out its end: "{shown}"'
                warnings.warn(note, PaintingNote, stacklevel=4)
        self._cut |= prompts

    def _left_out(self, prompt: str) -> list[str]:
        """Return the words at the end of a prompt that no text encoder reads to their end."""
        reading = {}
        for name, part in self.pipeline.components.items():
            tokenizer = getattr(part, "tokenizer", part)  # of a processor
            if "tokenizer" in name and tokenizer is not None:
                reading[min(self.family.tokens or 1 << 20, getattr(tokenizer, "model_max_length", 1 << 20))] = tokenizer
        if not reading:
            return []
        limit = max(reading)
        tokenizer = reading[limit]
        room = limit - len(tokenizer("", verbose=False).input_ids)

        def tokens(text: str) -> int:
            return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

        if tokens(prompt) <= room:
            return []
        words = prompt.split()
        read = bisect.bisect_right(range(1, len(words) + 1), room, key=lambda count: tokens(" ".join(words[:count])))
        return words[read:]


class StepCounter:
    """A progress bar of a pipeline that shows nothing and reports finished steps."""

    def __init__(self, iterable: Iterable[Any] | None, report: Callable[[int], None], steps: int) -> None:
        """Report each finished step by its number, at most `steps`."""
        self._iterable, self._report, self._steps, self._done = iterable, report, steps, 0

    def __enter__(self) -> "StepCounter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        for item in () if self._iterable is None else self._iterable:
            yield item
            self.update()

    def update(self, count: int = 1) -> None:
        """Report one more step."""
        if self._done < self._steps:
            self._done += 1
            self._report(self._done)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that there is not enough memory, of a GPU or of the computer."""
    said = ("not enough memory", "can't allocate memory", "Cannot allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in said)


def seed_of(x_T: Tensor) -> int:
    """Hash the bits of start noise [C, h, w] to a seed, so that the voice decides the noise that samplers add, too."""
    bits = x_T.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(bits).digest()[:8], "little") >> 1


def later_noise(x_T: Tensor) -> torch.Generator:
    """Return the generator of the noise that a sampler adds to one image."""
    return torch.Generator().manual_seed(seed_of(x_T))


@contextlib.contextmanager
def global_generator(seed: int) -> Iterator[None]:
    """Seed PyTorch's global generators inside the block, for pipelines that draw from them; then give them back."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    of_apple = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            if of_apple is not None:
                torch.mps.set_rng_state(of_apple)


def clean_estimate(scheduler: Any, model_output: Tensor, sample: Tensor, output: Any) -> Tensor:
    """Return the clean latents that a step expects; where the scheduler does not say, the noisy ones after it."""
    after: Tensor = output[0]
    if len(output) > 1 and getattr(output[1], "shape", None) == after.shape:
        return output[1]  # pred_original_sample
    name = type(scheduler).__name__
    if name == "FlowMatchEulerDiscreteScheduler" and scheduler.step_index:
        return sample.float() - scheduler.sigmas[scheduler.step_index - 1] * model_output.float()
    history = getattr(scheduler, "model_outputs", None)
    predicts_clean = scheduler.config.get("algorithm_type") in CLEAN_HISTORY or scheduler.config.get("predict_x0")
    return history[-1] if history and history[-1] is not None and predicts_clean else after


@torch.inference_mode()
def encode(vae: Any, images: Tensor) -> Tensor:
    """Encode images [B, 3, H, W] in −1…1 with an autoencoder of diffusers, scaled as its networks expect: [B, C, h, w].

    Raises:
        ValueError: it is of a kind that is not known here.
    """
    first = next(vae.parameters())
    images = images.to(first.device, first.dtype)
    of_video = any(parameter.ndim == 5 for parameter in vae.parameters())
    encoded = vae.encode(images[:, :, None] if of_video else images)
    z = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded[0]
    z = z[:, :, 0] if of_video else z
    if hasattr(vae, "bn"):  # FLUX 2: 2×2 pixels are one, and normalised
        b, c, h, w = z.shape
        z = z.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)
        mean, variance = (part.view(1, -1, 1, 1) for part in (vae.bn.running_mean, vae.bn.running_var))
        return (z - mean) / (variance + vae.config.batch_norm_eps).sqrt()
    if vae.config.get("latents_mean"):
        mean, std = (torch.tensor(vae.config[key]).view(1, -1, 1, 1).to(z) for key in ("latents_mean", "latents_std"))
        return (z - mean) / std
    shift, scale = vae.config.get("shift_factor") or 0.0, vae.config.get("scaling_factor") or 1.0
    return (z - shift) * scale
