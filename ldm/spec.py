"""What decides a picture, as one value: made from a command line, carried in the picture's file, read from it again."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ldm.checkpoint import PRECISIONS

JSON_CHUNK = "voicetoimg"
WEB_CHUNK = "parameters"
MAX_BATCH_SIZE = 256
KINDS: dict[Any, type | tuple[type, ...]] = {str: str, int: int, float: (int, float)}  # what JSON may give for each
WEB_SAMPLERS = {"ddim": "DDIM", "plms": "PLMS", "dpmpp": "DPM++ 2M"}  # as the usual web interfaces call them


@dataclass(frozen=True)
class PictureSpec:
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
    def from_json(cls, values: Mapping[str, Any]) -> "PictureSpec":
        """Rebuild a spec from `dataclasses.asdict` after its way through JSON.

        Raises:
            ValueError: a field is missing, unknown, or of another type.
        """
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        needed = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}
        if not isinstance(values, Mapping) or not needed <= set(values) <= set(kinds):
            raise ValueError(f"the fields {', '.join(kinds)} are needed")
        interval = values["guidance_interval"]
        if not (isinstance(interval, list) and len(interval) == 2):
            raise ValueError("guidance_interval is no pair of numbers")
        blend = _pairs(values.get("blend", []))
        spec = cls(**{**values, "guidance_interval": tuple(interval), "blend": blend})
        for name, kind in kinds.items():
            value = getattr(spec, name)
            allowed = KINDS.get(kind)
            if allowed and (isinstance(value, bool) or not isinstance(value, allowed)):
                raise ValueError(f"{name} is {value!r}")
        if spec.subject is not None and (isinstance(spec.subject, bool) or not isinstance(spec.subject, int)):
            raise ValueError(f"subject is {spec.subject!r}")
        if spec.sampler not in WEB_SAMPLERS or spec.precision not in PRECISIONS:
            raise ValueError(f"sampler is {spec.sampler!r}, precision {spec.precision!r}")
        if not all(isinstance(end, int | float) for end in interval):
            raise ValueError(f"guidance_interval is {interval!r}")
        if not 0 <= spec.batch_index < spec.batch_size <= MAX_BATCH_SIZE:
            raise ValueError(f"it is number {spec.batch_index} of a batch of {spec.batch_size}")
        return spec


def _pairs(blend: Any) -> tuple[tuple[int, float], ...]:
    """Raises ValueError if `blend`, as it comes out of JSON, is no list of rows and weights."""
    if not isinstance(blend, list) or not all(isinstance(part, list) and len(part) == 2 for part in blend):
        raise ValueError(f"blend is {blend!r}")
    for row, weight in blend:
        if type(row) is not int or row < 0 or type(weight) not in (int, float) or not 0 <= weight <= 1:
            raise ValueError(f"blend is {blend!r}")
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


def text_chunks(spec: PictureSpec, made_from: Provenance) -> PngImagePlugin.PngInfo:
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


def read_chunks(path: Path) -> tuple[PictureSpec, Provenance]:
    """What `text_chunks` put into the picture `path`.

    Raises:
        ValueError: no picture, or none that carries how it was made.
        OSError: the file cannot be read.
    """
    try:
        with Image.open(path) as picture:
            picture.load()  # text may come after the pixels
            content = json.loads(picture.info[JSON_CHUNK])
        return PictureSpec.from_json(content["picture"]), Provenance(**content["made_from"])
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no picture") from None
    except KeyError as error:
        raise ValueError(f"{path} does not say how it was made (no {error} in it)") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} says how it was made in a way that cannot be read: {error}") from error
