"""Recognise what a file of weights belongs to by the names of its tensors."""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class OtherFileError(ValueError):
    """A file of a known kind that can never be the model, and is named for what it is."""


@dataclass(frozen=True)
class Family:
    """A kind of file.

    Attributes:
        text: description, for users.
        marks: pattern of a name that only this family has.
        share: share of the names that must match; 0: one name is enough.
        foreign: whether such a file can never be the model.
        pipeline: for a whole model that diffusers can read from a single file, the name of its layout.
    """

    text: str
    marks: str
    share: float = 0.0
    foreign: bool = True
    pipeline: str = ""

    def fits(self, names: list[str]) -> bool:
        """Tell whether a file with tensors of these names is of this family."""
        found = sum(re.search(self.marks, name) is not None for name in names)
        return found > 0 and found >= self.share * len(names)


# The first that fits counts. Additions to a model come first, because their names contain those of the model.
FAMILIES = (
    Family(
        "a ControlNet: it steers another model and makes no images alone",
        r"^control_model\.|(^|\.)controlnet_|(^|\.)input_hint_block\.|(^|\.)zero_convs\.|^lora_controlnet$",
    ),
    Family(
        "a LoRA: small changes to the weights of another model, which make no images alone",
        r"(^|[._])lora[._]|lora_(down|up|A|B|unet|te\d?)\b|^lora_|^lycoris_|\.(hada_|lokr_|oft_|glora|dora_scale)",
        share=0.5,
    ),
    Family("an IP-Adapter: an addition to another model", r"^image_proj(\.|$)|^ip_adapter(\.|$)"),
    Family(
        "a T2I-Adapter: it steers another model and makes no images alone",
        r"^(adapter\.)?body\.\d+\.(block[12]|in_conv|skep|down_opt|resnets)\b|^style_embedding$",
    ),
    Family("a motion module of AnimateDiff: an addition to another model", r"(^|\.)motion_modules\."),
    Family(
        "a textual inversion: a new word for another model",
        r"^emb_params$|^string_to_(param|token)\b|^<[^<>]+>$|^clip_[lg]$",
    ),
    Family(
        "Flux, or another diffusion transformer",
        r"(^|\.)(double_blocks|single_blocks|single_transformer_blocks)\.\d+\.",
    ),
    Family(
        "Stable Diffusion 3, or another diffusion transformer",
        r"(^|\.)joint_blocks\.\d+\.|^transformer_blocks\.\d+\.attn\.add_k_proj\.",
    ),
    Family("a whole Stable Diffusion XL", r"^conditioner\.embedders\.0\.transformer\.", pipeline="sdxl"),
    Family("the U-Net of Stable Diffusion XL alone", r"^add_embedding\.linear_"),
    Family("the refiner of Stable Diffusion XL; not supported", r"^conditioner\.embedders\."),
    Family(
        "the built-in model's kind: latent diffusion with word vectors",
        r"^cond_stage_model\.word_vectors",
        foreign=False,
    ),
    Family("latent diffusion on a VQ autoencoder; not supported", r"^first_stage_model\.quantize\."),
    Family(
        "latent diffusion with BERT, as CompVis's text-to-image models",
        r"^cond_stage_model\.transformer\.token_emb\.weight",
        foreign=False,
    ),
    Family(
        "latent diffusion with CLIP, as Stable Diffusion 1",
        r"^cond_stage_model\.transformer\.text_model\.",
        pipeline="sd1",
    ),
    Family("latent diffusion with OpenCLIP, as Stable Diffusion 2", r"^cond_stage_model\.model\.", pipeline="sd2"),
    Family("latent diffusion of classes, not of prompts; not supported", r"^cond_stage_model\.embedding\."),
    Family("Stable Diffusion XL's U-Net; not supported", r"^model\.diffusion_model\.label_emb\."),
    Family("latent diffusion without a known text encoder", r"^model\.diffusion_model\.", foreign=False),
    Family(
        "an autoencoder (VAE) alone: it makes no images from prompts",
        r"^(first_stage_model\.|vae\.)?((en|de)coder\.(up|down|mid|up_blocks|down_blocks|mid_block)\.|quantize\.embed)",
    ),
    Family(
        "a U-Net of diffusers alone; name the folder of the whole pipeline instead",
        r"^(down|up)_blocks\.\d+\.|^mid_block\.",
    ),
    Family(
        "a text encoder alone: it makes no images",
        r"(^|\.)text_model\.(encoder|embeddings)\.|^encoder\.block\.\d+\.layer\.|^bert\.(encoder|embeddings)\.",
    ),
    Family("an upscaler of images", r"^body\.\d+\.(rdb\d|weight|bias)|^RRDB_trunk\.|^model\.\d+\.(sub\.|weight|bias)"),
)
# names that only models have which this program reads
OWN = ("cond_stage_model.word_vectors", "cond_stage_model.transformer.token_emb.weight")
INVERSION = next(family for family in FAMILIES if "textual inversion" in family.text)
INVERSION_WIDTHS = (768, 1024, 1280)  # of the text encoders that new words are made for


def recognise(tensors: Mapping[str, Any]) -> Family | None:
    """Return the family of a file that holds `tensors` by these names, or None if it is unknown."""
    names = list(tensors)
    if found := next((family for family in FAMILIES if family.fits(names)), None):
        return found
    # a textual inversion may have any word as the only name, and its shape tells
    shapes = [tuple(getattr(tensor, "shape", ())) for tensor in tensors.values()]
    one_word = len(shapes) == 1 and len(shapes[0]) in (1, 2) and shapes[0][-1] in INVERSION_WIDTHS
    return INVERSION if one_word else None


def refuse_foreign(path: Path, tensors: Mapping[str, Any]) -> None:
    """Raise OtherFileError if the file `path`, which holds `tensors` by these names, can never be the model."""
    family = recognise(tensors)
    if family is not None and family.foreign:
        wanted = "get it as .safetensors" if family.pipeline else "a whole text-to-image model is needed"
        raise OtherFileError(f"{path} is {family.text}. {wanted.capitalize()}; models/README.md tells more")


def gguf_kind(path: Path) -> str:
    """Describe a GGUF file by the first entry of its header, the architecture: " of flux", or "" if it is not there."""
    key = b"general.architecture"
    with path.open("rb") as file:
        head = file.read(4096)
    place = head.find(key) + len(key)
    if place < len(key) or len(head) < place + 12:
        return ""
    kind, length = struct.unpack_from("<IQ", head, place)  # kind 8 is a string
    name = head[place + 12 : place + 12 + min(length, 40)]
    return f" of {name.decode('ascii', 'replace')}" if kind == 8 and name.isalnum() else ""
