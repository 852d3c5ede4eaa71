"""The Python API: a recording to x_T, and x_T to an image, with the same bits as the scripts.

import painting

voice = painting.load_voice("examples/voice_it.wav")      # latents [1, 4, 32, 32], and how to whiten them
x_T = painting.initial_noise(voice, seed=42)              # torch float32 [1, 4, 32, 32], N(0, I)
image = painting.paint("a golden spiral on purple", x_T)  # PIL image
image.save("voice.png")
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import audio.initial_noise
import config
from audio.calibration import voice_latents
from audio.description import describe, places_of
from audio.initial_noise import Voices, normalised_weights
from audio.provenance import load_whitening
from audio.qualities import UNHEARD, Heard
from audio.whitening import WHITENING_NAME, Whitening
from ldm.devices import choose_device, choose_precision
from ldm.models.diffusion.sampling import seeded_noise
from painting.image_spec import ImageSpec, sampled_size
from painting.ldm_painter import FACTOR
from painting.model_files import ModelFiles, find_model_files, find_named_model
from painting.painter import Painter, spec_for

DECIDED_BY_NOISE = frozenset({"subject", "blend", "x_T", "voice_strength", "layout_strength"})  # fields of ImageSpec


@dataclass(frozen=True, eq=False)
class Voice:
    """One recording as latents, with the whitening of the calibration that they were made with."""

    latents: Tensor  # [1, 4, 32, 32] float32: plain z-scores, as process_live_audio.py writes them
    whitening: Whitening
    seconds: float  # length of the sound
    note: str = ""  # which stream or channels are used, and what was taken off; "" if nothing was done
    heard: Heard = UNHEARD  # what the latents do not hold of it

    @functools.cached_property
    def qualities(self) -> dict[str, float]:
        """Place of each named quality, such as "pitch", among voices of similar length in the calibration: 0 to 100.

        Qualities that are not known, as the pitch of a whisper, are left out.
        """
        return places_of(self.whitening, self.latents.numpy(), [self.heard])[0]

    @property
    def description(self) -> str:
        """The qualities that are clearly not as usual, in a line: "lively (92 of 100), dark (13) and thin (13)"."""
        return describe(self.qualities)


def load_voice(
    source: str | Path | np.ndarray,
    sample_rate: int | None = None,
    calibration: str | Path | None = None,
    channel: int | None = None,
    trim: bool = True,
) -> Voice:
    """Turn a recording into latents.

    Args:
        source: a sound file, or samples [T] or [T, channels]: floats in −1…1, or integers over their whole range.
        sample_rate: of the samples, in Hz; None for a file.
        calibration: a folder with mean.npy, std.npy and whitening.npz; None: your own if phase 1 has been run, else
            the built-in one.
        channel: the one to use, from 1; None: the average of all, or of those that have sound.
        trim: whether silence at both ends is left out.

    Raises:
        ValueError: no usable sound, no such channel, or a broken calibration.
        OSError: a file cannot be read.
    """
    folder = config.calibration_dirs()[0] if calibration is None else Path(calibration)
    made = voice_latents(source, folder, config.RECIPE, sample_rate, channel, trim)
    latents = torch.from_numpy(made.latents)
    whitening = load_whitening(folder / WHITENING_NAME, made.statistics)
    return Voice(latents, whitening, made.info.seconds, made.info.note, made.heard)


def initial_noise(
    voices: Voice | Sequence[Voice],
    *,
    seed: int = ImageSpec.seed,
    weights: Sequence[float] | None = None,
    voice_strength: float = ImageSpec.voice_strength,
    layout_strength: float = ImageSpec.layout_strength,
    height: int | None = None,
    width: int | None = None,
    painter: Painter | None = None,
) -> Tensor:
    """Make x_T, float32 [1, C, h, w] from N(0, I), that voices decide.

    Args:
        voices: one, or several that are blended by `weights` (all the same if None).
        seed: of the noise that is mixed in.
        voice_strength: share of the variance that the voices have, 0 to 1.
        layout_strength: share of the shape of the sound in the lowest frequencies, 0 to 1.
        height, width: pixels of the image; None: the model's own.
        painter: the model; None: the built-in one, whose latents are [4, 32, 32] for squares from 256 pixels on.

    Raises:
        ValueError: a value out of its range, or a size that the model does not have.
    """
    own = painter.defaults if painter else {}
    height = own.get("height", ImageSpec.height) if height is None else height
    width = own.get("width", ImageSpec.width) if width is None else width
    ImageSpec(height=height, width=width)  # raises ValueError
    chosen = [voices] if isinstance(voices, Voice) else list(voices)
    if weights is not None and len(weights) != len(chosen):
        raise ValueError(f"{len(weights)} weights came for {len(chosen)} voices; one for each is needed")
    shares = normalised_weights([1.0] * len(chosen) if weights is None else weights)
    parts = [
        (Voices(voice.latents.numpy(), voice.whitening, heard=[voice.heard]), 0, share)
        for voice, share in zip(chosen, shares, strict=True)
    ]
    if painter is not None:
        shape = painter.latent_shape(height, width)
    else:
        sampled_height, sampled_width = sampled_size(height, width)
        shape = (config.LATENT_CHANNELS, sampled_height // FACTOR, sampled_width // FACTOR)
    noise = seeded_noise([seed], shape)
    x_T = audio.initial_noise.initial_noise(parts, noise[0].numpy(), voice_strength, layout_strength)
    return torch.from_numpy(x_T)[None]


def load_painter(
    model: str | Path | None = None,
    precision: str = "auto",
    device: str = "auto",
    *,
    loras: Sequence[tuple[str | Path, float]] = (),
    vae: str | Path | None = None,
    offload: str | None = None,
) -> Painter:
    """Load a model.

    Args:
        model: the name of a folder in models/, or the path of weights or of a folder; None: the built-in model.
        precision: "fp32", "bf16" or "fp16"; "auto" is the fastest that the device computes in.
        device: "cpu", "cuda" or "mps"; "auto" is a GPU if there is one.
        loras: for a model of diffusers, files of LoRAs, and a weight for each.
        vae: for a model of diffusers, another autoencoder.
        offload: for a model of diffusers on a GPU, "model" or "sequential".

    Raises:
        ValueError: no such model, broken weights, no such device, or an addition that the model cannot have.
        RuntimeError: packages are missing, or there is not enough memory.
        OSError: a file cannot be read.
    """
    found = _model_of(model)
    if (loras or vae or offload) and not found.pipeline:
        raise ValueError(f"{found.weights} is no model of diffusers, so it takes neither LoRA nor another autoencoder")
    found = dataclasses.replace(
        found,
        loras=tuple((Path(path), weight) for path, weight in loras),
        vae=Path(vae) if vae else None,
        offload=offload,
    )
    chosen = choose_device(device)
    return found.load(choose_precision(precision, chosen), chosen)


def _model_of(model: str | Path | None) -> ModelFiles:
    if model is None:
        return ModelFiles(config.BUILTIN_MODEL_WEIGHTS)
    path = Path(model)
    if path.exists() and path.parent != Path("."):
        return find_model_files(path)
    return find_named_model(str(path))


@functools.cache
def _builtin_painter() -> Painter:
    return load_painter()


def paint(prompt: str, x_T: Tensor, *, painter: Painter | None = None, **settings: Any) -> Image.Image:
    """Sample one image.

    Args:
        prompt: what the image shows.
        x_T: start noise [1, C, h, w] or [C, h, w].
        painter: a model from `load_painter`; None: the built-in one, which is loaded once.
        settings: other fields of `ImageSpec`: steps, scale, sampler, negative_prompt, height, width …; `seed` is for
            the noise that a sampler adds with eta > 0. What x_T is made of is decided by `initial_noise`.

    Raises:
        TypeError: an unknown setting, or one of `initial_noise`.
        ValueError: a value out of its range, or x_T of another shape than the image needs.
    """
    if wrong := sorted(DECIDED_BY_NOISE & settings.keys()):
        raise TypeError(f"paint() takes x_T as it is; give {', '.join(wrong)} to initial_noise()")
    painter = painter or _builtin_painter()
    spec = spec_for(painter, prompt, **settings)
    shape = painter.latent_shape(spec.height, spec.width)
    x_T = x_T[None] if x_T.ndim == 3 else x_T
    if tuple(x_T.shape) != (1, *shape):
        raise ValueError(
            f"x_T is {list(x_T.shape)}, but an image of {spec.height} × {spec.width} pixels needs {[1, *shape]}; set "
            "height and width, here and for the noise"
        )
    (pixels,) = painter.paint([spec], x_T.float())
    return Image.fromarray(pixels)
