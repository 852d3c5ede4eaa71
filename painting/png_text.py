"""PNG text: how an image was made, written into its file and read from it again for `--replay`.

There are two records. "parameters" is one line as web interfaces for diffusion models write and read it. "voicetoimg"
is JSON with every field of `ImageSpec` and `Provenance`.
"""

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from painting.image_spec import ALLOWED, ImageSpec, check_json_fields, web_name

JSON_CHUNK = "voicetoimg"
WEB_CHUNK = "parameters"
MAX_SIDE = ALLOWED["height"][1]  # pixels


class OtherModel(ValueError):
    """An image was made by another model than the one that is here."""


@dataclass(frozen=True)
class Provenance:
    """Hashes of everything that an image was made from: enough to tell whether it can be made again."""

    model: str  # name of the folder of the weights
    model_sha256: str
    latents_sha256: str | None
    calibration_sha256: str | None  # of the whitening, if one was used
    recipe: Mapping[str, float]  # from recording to latents
    version: str  # of this program
    recordings: tuple[str, ...] = ()  # names of the recordings that the latents are of, as far as they are known
    additions: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # LoRAs and another autoencoder

    def to_json(self) -> dict[str, Any]:
        """Return the fields for JSON; additions only where there are some."""
        fields = dataclasses.asdict(self)
        return fields if self.additions else {name: fields[name] for name in fields if name != "additions"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Provenance":
        """Rebuild it from `dataclasses.asdict` after its way through JSON.

        Raises:
            ValueError: a field is missing, unknown, or of another type.
        """
        # images of early versions lack these
        check_json_fields(cls, values, optional=frozenset({"recordings", "additions"}))
        if not isinstance(names := values.get("recordings", []), list):
            raise ValueError(f"recordings is {names!r}")
        _check_additions(values.get("additions", {}))
        return cls(**{**values, "recordings": tuple(map(str, names))})

    def check(self, now: "Provenance") -> None:
        """Raise ValueError if the files that are here `now` would give another image.

        Raises:
            OtherModel: the model is another one.
            ValueError: something else is.
        """
        if self.model_sha256 != now.model_sha256:
            whose = "" if now.model == self.model else f", that of {now.model},"
            raise OtherModel(
                f"the image cannot be made again without the model {self.model}: sha256 {self.model_sha256[:10]} is "
                f"needed, {now.model_sha256[:10]}{whose} is here"
            )
        things = {"latents_sha256": "the same latents"}
        things["calibration_sha256"] = "the calibration that whitened its latents"
        for name, thing in things.items():
            then, here = getattr(self, name), getattr(now, name)
            if then != here:
                raise ValueError(
                    f"the image cannot be made again without {thing}: sha256 {(then or 'none')[:10]} is needed, "
                    f"{(here or 'none')[:10]} is here"
                )
        if self.additions != now.additions:
            raise ValueError(
                f"the image cannot be made again without the same LoRAs and autoencoder: {_names(self.additions)} is "
                f"needed, {_names(now.additions)} is here"
            )


def _check_additions(additions: Mapping[str, Any]) -> None:
    """Raise ValueError unless additions are what `ModelFiles.additions` describes."""
    loras, vae = additions.get("loras", []), additions.get("vae", {"name": "", "sha256": ""})
    each = [*loras, vae] if isinstance(loras, list) else [None]
    for addition in each:
        if not isinstance(addition, dict) or not all(isinstance(addition.get(key), str) for key in ("name", "sha256")):
            raise ValueError(f"additions is {additions!r}")
    if not all(isinstance(lora.get("weight"), int | float) for lora in loras):
        raise ValueError(f"additions is {additions!r}")


def _names(additions: Mapping[str, Any]) -> str:
    """Name additions for a message."""
    loras = [f"{lora['name']}:{lora['weight']:g} ({lora['sha256'][:10]})" for lora in additions.get("loras", ())]
    vae = [f"{additions['vae']['name']} ({additions['vae']['sha256'][:10]})"] if "vae" in additions else []
    return ", ".join([*loras, *vae]) or "none"


def _web_additions(additions: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return LoRAs as words of the prompt, and hashes as settings, as web interfaces write them."""
    loras, vae = additions.get("loras", ()), additions.get("vae")
    words = "".join(f" <lora:{lora['name']}:{lora['weight']:g}>" for lora in loras)
    settings = {"Lora hashes": ", ".join(f"{lora['name']}: {lora['sha256'][:10]}" for lora in loras)} if loras else {}
    if vae:
        settings |= {"VAE hash": vae["sha256"][:10], "VAE": vae["name"]}
    return words, settings


def text_chunks(spec: ImageSpec, made_from: Provenance) -> PngImagePlugin.PngInfo:
    """Build both PNG text records of an image."""
    negative = f"\nNegative prompt: {spec.negative_prompt}" if spec.negative_prompt else ""
    words, settings_of_additions = _web_additions(made_from.additions)
    settings = {
        "Steps": spec.steps,
        "Sampler": web_name(spec.sampler),
        "CFG scale": f"{spec.scale:g}",
        "Seed": spec.seed,
        "Size": f"{spec.width}x{spec.height}",
        "Model hash": made_from.model_sha256[:10],
        "Model": made_from.model,
        **settings_of_additions,
    }
    if made_from.recordings:
        settings["Recording"] = " + ".join(made_from.recordings)
    line = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in settings.items())
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(WEB_CHUNK, f"{spec.prompt}{words}{negative}\n{line}")
    content = {"picture": dataclasses.asdict(spec), "made_from": made_from.to_json()}
    chunks.add_itxt(JSON_CHUNK, json.dumps(content, ensure_ascii=False))
    return chunks


def _quoted(value: str) -> str:
    """Quote a value that could be taken for several, as AUTOMATIC1111's interface does (`infotext_utils.quote`)."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ",:\n") else value


def read_chunks(path: Path) -> tuple[ImageSpec, Provenance]:
    """Read the records that `text_chunks` put into the image file `path`.

    Raises:
        ValueError: not an image, or one that does not say how it was made.
        OSError: the file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of very many pixels and of damage; both end in one of the errors below
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("PNG",)) as image:  # Pillow would start Ghostscript for other formats
                if max(image.size) > MAX_SIDE:
                    raise Image.DecompressionBombError
                image.load()  # text may come after the pixels
                content = json.loads(image.info[JSON_CHUNK])
        return ImageSpec.from_json(content["picture"]), Provenance.from_json(content["made_from"])
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a PNG image") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} has more pixels than any image that was made here") from None
    except (OSError, SyntaxError) as error:
        if getattr(error, "errno", None):
            raise
        # Pillow's own errors about damaged files have no number
        raise ValueError(f"{path} is a broken image: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} does not say how it was made (no {error} in it)") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} says how it was made in a way that cannot be read: {error}") from error
