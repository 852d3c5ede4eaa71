"""The text in PNG files, as web interfaces for diffusion models read it."""

import json
import re

import pytest
from PIL import Image

from painting.image_spec import ImageSpec
from painting.png_text import Provenance, text_chunks

# how AUTOMATIC1111's interface finds the settings on the last line (re_param_code of infotext_utils.py)
SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@pytest.mark.parametrize("model", ["chladni", "sd, version 1", "C: drive", 'say "x", y', "two\nlines", "modèle, 花"])
def test_settings_are_told_apart_whatever_is_in_them(model, tmp_path):
    spec = ImageSpec(prompt="a red flower, blue: green", seed=7)
    made_from = Provenance(model, "0123456789abcdef", None, None, {}, "0.1.0")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png", pnginfo=text_chunks(spec, made_from))
    with Image.open(tmp_path / "image.png") as image:
        *prompt, line = image.info["parameters"].split("\n")
    found = {name: json.loads(value) if value[0] == '"' else value for name, value in SETTING.findall(line)}
    assert prompt == ["a red flower, blue: green"]
    assert found["Model"] == model and found["Model hash"] == "0123456789"
    assert (found["Seed"], found["Size"], found["CFG scale"]) == ("7", "256x256", f"{spec.scale:g}")
    assert (":" in model or "," in model or "\n" in model) == line.endswith('"')
