"""What decides a picture, as one value: made from a command line, carried in the picture's file, read from it again."""

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ldm.checkpoint import PRECISIONS

JSON_CHUNK = "voicetoimg"
WEB_CHUNK = "parameters"
MAX_BATCH_SIZE = 256
MAX_SIDE = 2048  # pixels
TYPES: dict[Any, Any] = {float: int | float, Mapping[str, float]: dict}  # as which JSON gives others
SHARE = (0.0, 1.0)
RANGES = {
    "seed": (0, 2**63 - 1),
    "steps": (1, 1000),
    "scale": (0, 100),
    "eta": SHARE,
    "height": (8, MAX_SIDE),
    "width": (8, MAX_SIDE),
    "voice_strength": SHARE,
    "layout_strength": SHARE,
    "guidance_rescale": SHARE,
    "batch_size": (1, MAX_BATCH_SIZE),
}
X_T_TREATMENTS = ("auto", "whitened", "raw")
WEB_SAMPLERS = {"ddim": "DDIM", "plms": "PLMS", "dpmpp": "DPM++ 2M"}  # as the usual web interfaces call them


@dataclass(frozen=True)
class ImageSpec:
    """All that decides a picture but the weights and the latents themselves."""

    prompt: str
    negative_prompt: str
    seed: int
    subject: int | None  # row of the latents file; None: start from Gaussian noise
    sampler: str
    steps: int
    scale: float
    eta: float
    guidance_interval: tuple[float, float]
    height: int  # pixels
    width: int  # pixels
    x_T: str  # auto, whitened or raw
    voice_strength: float
    precision: str  # what the weights are rounded to
    batch_size: int = 1  # pictures that were sampled together: sums of products may round differently with their number
    batch_index: int = 0  # its place among them
    layout_strength: float = 0.0
    blend: tuple[tuple[int, float], ...] = ()  # several voices in place of a subject: row in each file, and its weight
    guidance_rescale: float = 0.0

    @property
    def parts(self) -> tuple[tuple[int, float], ...]:
        """The latents it starts from, one in each file, as row and weight; none: Gaussian noise."""
        return self.blend or (() if self.subject is None else ((self.subject, 1.0),))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ImageSpec":
        """Rebuild a spec from `dataclasses.asdict` after its way through JSON.

        Raises:
            ValueError: a field is missing, unknown, of another type, or out of its range.
        """
        _check_fields(cls, values)
        interval = values["guidance_interval"]
        if not _are_numbers(interval) or len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(f"guidance_interval is {interval!r}")
        blend = _pairs(values.get("blend", []))
        spec = cls(**{**values, "guidance_interval": tuple(interval), "blend": blend})
        for name, (low, high) in RANGES.items():
            if not low <= getattr(spec, name) <= high:
                raise ValueError(f"{name} is {getattr(spec, name)}, outside {low} to {high}")
        choices = {"sampler": WEB_SAMPLERS, "precision": PRECISIONS, "x_T": X_T_TREATMENTS}
        for name, allowed in choices.items():
            if getattr(spec, name) not in allowed:
                raise ValueError(f"{name} is {getattr(spec, name)!r}, none of {', '.join(allowed)}")
        if spec.subject is not None and spec.subject < 0:
            raise ValueError(f"subject is {spec.subject}")
        if not 0 <= spec.batch_index < spec.batch_size:
            raise ValueError(f"it is number {spec.batch_index} of a batch of {spec.batch_size}")
        return spec


def _check_fields(cls: Any, values: Any) -> None:
    """Raises ValueError unless `values`, as they come out of JSON, are the fields of the dataclass, of their types."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    if not isinstance(values, dict) or not needed <= set(values) <= set(fields):
        raise ValueError(f"the fields {', '.join(fields)} are needed")
    for name, value in values.items():
        kind = TYPES.get(fields[name].type, fields[name].type)
        is_list = get_origin(kind) is tuple  # the caller looks into it
        if not is_list and (isinstance(value, bool) or not isinstance(value, kind)):
            raise ValueError(f"{name} is {value!r}")


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)


def _pairs(blend: Any) -> tuple[tuple[int, float], ...]:
    """Raises ValueError if `blend`, as it comes out of JSON, is no list of rows and weights."""
    if not isinstance(blend, list) or not all(_are_numbers(part) and len(part) == 2 for part in blend):
        raise ValueError(f"blend is {blend!r}")
    for row, weight in blend:
        if type(row) is not int or row < 0 or not 0 <= weight <= 1:
            raise ValueError(f"blend is {blend!r}")
    if blend and abs(sum(weight for _, weight in blend) - 1) > 1e-3:
        raise ValueError(f"blend is {blend!r}, whose weights are not 1 together")
    return tuple((row, float(weight)) for row, weight in blend)


@dataclass(frozen=True)
class Provenance:
    """What a picture was made from, as hashes: enough to tell whether it can be made again."""

    model: str  # name of the folder that the weights lie in
    model_sha256: str
    latents_sha256: str | None
    calibration_sha256: str | None  # of the whitening, if it was used
    recipe: Mapping[str, float]  # from recording to latents
    version: str  # of this program

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Provenance":
        """Rebuild it from `dataclasses.asdict` after its way through JSON.

        Raises:
            ValueError: a field is missing, unknown, or of another type.
        """
        _check_fields(cls, values)
        return cls(**values)

    def check(self, now: "Provenance") -> None:
        """Raises ValueError if what is there `now` would give another picture."""
        things = {"model_sha256": f"the model {self.model}", "latents_sha256": "the same latents"}
        things["calibration_sha256"] = "the calibration that whitened its latents"
        for name, thing in things.items():
            then, here = getattr(self, name), getattr(now, name)
            if then != here:
                raise ValueError(
                    f"the picture cannot be made again without {thing}: sha256 {(then or 'none')[:10]} is needed, "
                    f"{(here or 'none')[:10]} is here"
                )


def text_chunks(spec: ImageSpec, made_from: Provenance) -> PngImagePlugin.PngInfo:
    """PNG text: one line as web interfaces for diffusion models write and read it, and all of it as JSON."""
    negative = f"\nNegative prompt: {spec.negative_prompt}" if spec.negative_prompt else ""
    line = (
        f"{spec.prompt}{negative}\nSteps: {spec.steps}, Sampler: {WEB_SAMPLERS[spec.sampler]}, "
        f"CFG scale: {spec.scale:g}, Seed: {spec.seed}, Size: {spec.width}x{spec.height}, "
        f"Model hash: {made_from.model_sha256[:10]}, Model: {made_from.model}"
    )
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(WEB_CHUNK, line)
    content = {"picture": dataclasses.asdict(spec), "made_from": dataclasses.asdict(made_from)}
    chunks.add_itxt(JSON_CHUNK, json.dumps(content, ensure_ascii=False))
    return chunks


def read_chunks(path: Path) -> tuple[ImageSpec, Provenance]:
    """What `text_chunks` put into the picture `path`.

    Raises:
        ValueError: no picture, or none that carries how it was made.
        OSError: the file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of very many pixels, and of what is broken
            with Image.open(path, formats=("PNG",)) as picture:  # Pillow would start Ghostscript for another
                if max(picture.size) > MAX_SIDE:
                    raise Image.DecompressionBombError
                picture.load()  # text may come after the pixels
                content = json.loads(picture.info[JSON_CHUNK])
        return ImageSpec.from_json(content["picture"]), Provenance.from_json(content["made_from"])
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no picture") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} has more pixels than any picture that was made here") from None
    except (OSError, SyntaxError) as error:  # Pillow's, of what is cut short or spoiled, have no number
        if getattr(error, "errno", None):
            raise
        raise ValueError(f"{path} is a broken picture: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} does not say how it was made (no {error} in it)") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} says how it was made in a way that cannot be read: {error}") from error
