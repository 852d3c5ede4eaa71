"""All that decides one image, as one frozen value, with the default, range or choices, and help text of each field.

`ImageSpec` is read by the command line (`painting/options.py`), by requests in standby, by `--replay` and by the Python
API. A new sampler is one entry of `SAMPLERS`. A model may have defaults of its own (`Painter.defaults`). This module
imports nothing heavy.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_origin

import config
from painting.pipelines.schedulers import SCHEDULERS

PRECISIONS = ("fp32", "bf16", "fp16")
X_T_TREATMENTS = ("auto", "whitened", "raw")
READINGS = ("all", "near")
SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class SamplerEntry:
    """One sampler: the class that does it, and its name in common web interfaces."""

    target: str  # module:class
    web_name: str
    stochastic: bool = False  # it can add noise at each step, as eta says


SAMPLERS = {
    "ddim": SamplerEntry("ldm.models.diffusion.ddim:DDIMSampler", "DDIM", stochastic=True),
    "plms": SamplerEntry("ldm.models.diffusion.plms:PLMSSampler", "PLMS"),
    "dpmpp": SamplerEntry("ldm.models.diffusion.dpm_solver:DPMSolverSampler", "DPM++ 2M"),
    "few": SamplerEntry("ldm.models.diffusion.dpm_solver:FewStepSampler", "DPM++ 2M"),
}
FEW_STEPS = 12  # up to them `few` is the default of the built-in model; a model made for few steps takes no more
OF_FEW = ("sampler", "steps", "guidance_interval")  # settings that belong together

STOCHASTIC = " and ".join(name for name, entry in SAMPLERS.items() if entry.stochastic)

# Fields that images of early versions lack. The defaults are what those versions did.
ADDED_LATER = frozenset({"batch_size", "batch_index", "layout_strength", "blend", "guidance_rescale", "reading"})
# types that JSON does not keep apart
JSON_TYPES: dict[Any, Any] = {float: int | float, Mapping[str, float]: dict, Mapping[str, Any]: dict}
ALL_SAMPLERS = tuple(dict.fromkeys((*SAMPLERS, *SCHEDULERS)))


def web_name(sampler: str) -> str:
    """Return the name of a sampler in common web interfaces."""
    return SAMPLERS[sampler].web_name if sampler in SAMPLERS else SCHEDULERS[sampler].web_name


def _setting(
    default: Any, text: str, allowed: tuple[float, float] | tuple[str, ...] | None = None, metavar: str | None = None
) -> Any:
    """Declare a field with its help text and what is allowed: a range (two numbers), or choices (words)."""
    return dataclasses.field(default=default, metadata={"help": text, "allowed": allowed, "metavar": metavar})


@dataclass(frozen=True)
class ImageSpec:
    """All that decides an image but the weights and the latents themselves.

    The order of the fields is that of the JSON in an image's file.

    Raises:
        ValueError: a value outside its range or choices.
    """

    prompt: str = _setting("a psychedelic visualization of a voice", "what the image shows", metavar="TEXT")
    negative_prompt: str = _setting("", "what the image should not show", metavar="TEXT")
    seed: int = _setting(42, "seed of all noise", (0, 2**63 - 1), "K")
    subject: int | None = None  # row of the latents file; None: start from Gaussian noise
    sampler: str = _setting(
        "dpmpp",
        "DDIM, PLMS, DPM-Solver++(2M), or the last with timesteps for few steps; other models have others",
        ALL_SAMPLERS,
        "NAME",
    )
    steps: int = _setting(20, "sampling steps: more take longer", (1, 1000), "N")
    scale: float = _setting(
        2.5, "scale of classifier-free guidance; 1 is no guidance, and twice as fast", (0, 100), "S"
    )
    eta: float = _setting(0.0, f"noise that a sampler adds at each step; only {STOCHASTIC} can", SHARE, "E")
    guidance_interval: tuple[float, float] = _setting(
        (0.0, 1.0), "guide only in this part of the noise schedule; 1 is pure noise", SHARE
    )
    height: int = _setting(256, "height in pixels", (64, 2048), "N")
    width: int = _setting(256, "width in pixels", (64, 2048), "N")
    x_T: str = _setting(
        "auto",
        "whitened: latents become noise that the voice decides; raw: sampling starts from the latents themselves; "
        "auto: whitened, unless they are Gaussian noise already",
        X_T_TREATMENTS,
    )
    voice_strength: float = _setting(
        0.9, "share of the voice in whitened latents; the rest is the seed's noise", SHARE, "V"
    )
    precision: str = _setting("fp32", "number format of the weights", PRECISIONS)
    batch_size: int = _setting(1, "images sampled together, which may change how sums are rounded", (1, 256), "N")
    batch_index: int = 0  # place of this image in its batch
    layout_strength: float = _setting(
        0.0,
        "share of the sound's shape in the lowest frequencies of whitened latents; time runs to the right, pitch "
        "upwards",
        SHARE,
        "V",
    )
    blend: tuple[tuple[int, float], ...] = ()  # several voices in place of `subject`: row in each file, and weight
    guidance_rescale: float = _setting(0.0, "share of the contrast added by guidance that is taken back", SHARE, "PHI")
    reading: str = _setting(
        "all",
        "words of the prompts that a model with a lexicon reads: all that it has vectors of, or those near the words "
        "that it was trained on",
        READINGS,
    )

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                _check(name, value, allowed)
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval is {low:g} to {high:g}; the first must not be above the second")
        if self.subject is not None and self.subject < 0:
            raise ValueError(f"subject is {self.subject}; rows are counted from 0")
        if not 0 <= self.batch_index < self.batch_size:
            raise ValueError(f"it is number {self.batch_index} of a batch of {self.batch_size}")
        _check_blend(self.blend)

    @property
    def parts(self) -> tuple[tuple[int, float], ...]:
        """Row and weight in each file of latents; empty for Gaussian noise."""
        return self.blend or (() if self.subject is None else ((self.subject, 1.0),))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ImageSpec":
        """Rebuild a spec from `dataclasses.asdict` after its way through JSON.

        Raises:
            ValueError: a field is missing, unknown, of another type, or out of its range.
        """
        check_json_fields(cls, values, optional=ADDED_LATER)
        interval, blend = values["guidance_interval"], values.get("blend", [])
        if not _are_numbers(interval) or len(interval) != 2:
            raise ValueError(f"guidance_interval is {interval!r}")
        if not isinstance(blend, list) or not all(_are_numbers(part) and len(part) == 2 for part in blend):
            raise ValueError(f"blend is {blend!r}")
        pairs = tuple((row, float(weight)) for row, weight in blend)
        return cls(**{**values, "guidance_interval": tuple(interval), "blend": pairs})


def defaults_beside(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's own defaults for what is not given.

    The default sampler `few`, and the settings that belong to it, give way to another sampler, and to more than
    FEW_STEPS steps.

    Args:
        given: fields of `ImageSpec` that the user has chosen.
        own: see `Painter.defaults`.
    """
    sampler = given.get("sampler", "dpmpp" if given.get("steps", 0) > FEW_STEPS else own.get("sampler"))
    without = OF_FEW if own.get("sampler") == "few" and sampler != "few" else ()
    return {name: value for name, value in own.items() if name not in given and name not in without}


def sampled_size(height: int, width: int) -> tuple[int, int]:
    """Return height and width at which the built-in model samples an image of `height` × `width` pixels.

    It samples what it has learnt, of nearly the same shape; `painting.enlarging` does the rest.
    """
    multiple, learnt, shorter = config.BUILTIN_MULTIPLE, ImageSpec.height, min(height, width)
    if height % multiple == width % multiple == 0 and shorter <= learnt:
        return height, width
    sampled_height, sampled_width = (round(side / shorter * learnt / multiple) * multiple for side in (height, width))
    return sampled_height, sampled_width


FIELDS = {field.name: field for field in dataclasses.fields(ImageSpec)}
ALLOWED: dict[str, tuple[Any, ...]] = {
    name: field.metadata["allowed"] for name, field in FIELDS.items() if field.metadata.get("allowed")
}


def _check(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise ValueError if `value` is none of the choices, or outside the range."""
    if isinstance(allowed[0], str):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}, none of {', '.join(allowed)}")
        return
    low, high = allowed
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, outside {low} to {high}")
    if isinstance(FIELDS[name].default, int) and not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}, no whole number")


def _check_blend(blend: tuple[tuple[int, float], ...]) -> None:
    """Raise ValueError unless `blend` holds rows and weights, and the weights sum to 1."""
    for row, weight in blend:
        if type(row) is not int or row < 0 or not 0 <= weight <= 1:
            raise ValueError(f"blend is {blend!r}; rows from 0 and weights from 0 to 1 are needed")
    if blend and not math.isclose(sum(weight for _, weight in blend), 1, abs_tol=1e-3):
        raise ValueError(f"blend is {blend!r}; the weights must sum to 1")


def check_json_fields(cls: Any, values: Any, optional: frozenset[str] = frozenset()) -> None:
    """Raise ValueError unless `values`, as read from JSON, are the fields of the dataclass `cls`, of their types."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if not isinstance(values, dict) or not set(fields) - optional <= set(values) <= set(fields):
        raise ValueError(f"the fields {', '.join(fields)} are needed")
    for name, value in values.items():
        kind = JSON_TYPES.get(fields[name].type, fields[name].type)
        is_list = get_origin(kind) is tuple  # the caller checks what is in it
        if not is_list and (isinstance(value, bool) or not isinstance(value, kind)):
            raise ValueError(f"{name} is {value!r}")


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)
