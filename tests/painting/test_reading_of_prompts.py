"""The reading of prompts: words that the model knows, words near them, other languages, colours, and all the rest."""

import re

import numpy as np
import pytest
import torch
from PIL import ImageColor

import config
from ldm.checkpoint import load_model
from painting.foreign_words import MEANINGS, translate
from painting.image_spec import ImageSpec
from painting.ldm_painter import LatentDiffusionPainter
from painting.painter import PaintingNote
from painting.prompts import Lexicon, PromptInterpreter
from training.scenes.captions import FIGURE_WORDS, caption, vocabulary
from training.scenes.palette import COLOURS, srgb_to_oklab
from training.scenes.scenes import sample_scene

YAML = config.BUILTIN_MODEL_WEIGHTS.with_suffix(".yaml")


@pytest.fixture(scope="module")
def interpreter() -> PromptInterpreter:
    lexicon = Lexicon.read(YAML)
    assert lexicon is not None
    return PromptInterpreter(load_model(config.BUILTIN_MODEL_WEIGHTS), lexicon)


@pytest.mark.parametrize(
    "prompt, drawn",
    [
        ("a tiger in the jungle", "drawn: shape and colours by the voice; no effect: tiger, jungle"),
        ("spiral in #ff8800 and #036", "drawn: spiral, orange (#ff8800), navy (#036)"),
        ("a planet, dreamy, tiger", "drawn: planet, dreamy, colours by the voice; no effect: tiger"),
        ("a kitty", "drawn: cat (kitty), colours by the voice"),
        ("three red stars!", "drawn: star, red, other colours by the voice; no effect: three"),
        ("blaue Blume auf gelbem Grund", "drawn: flower (Blume), blue (blaue), yellow (gelbem)"),
        ("Étoile rouge sur fond noir", "drawn: star (Étoile), red (rouge), black (noir)"),
        ("mariposa azul sobre negro", "drawn: butterfly (mariposa), blue (azul), black (negro)"),
        ("rebeccapurple and tomato waves", "drawn: waves, purple, coral (tomato)"),
        ("1234 🦋", "drawn: shape and colours by the voice; no effect: 1234, 🦋"),
        ("waves in dark blue", "drawn: waves, navy, other colours by the voice"),
        ("a dark planet", "drawn: planet, dark, colours by the voice"),
        ("bright leaf", "drawn: leaf, bright, colours by the voice"),
        ("love", "drawn: shape and colours by the voice; no effect: love"),
        ("a psychedelic visualization of a voice", "drawn: shape and colours by the voice"),
        ("", "drawn: shape and colours by the voice"),
        (
            "ein wütender Drache im Wald",
            "drawn: shape and colours by the voice; no effect: ein, wütender, Drache, im, Wald (it reads English, and "
            "common words of German, French and Spanish)",
        ),
    ],
)  # fmt: skip
def test_what_is_read_is_said(interpreter, prompt, drawn):
    assert interpreter.read(prompt).describe() == drawn


def test_prompts_of_known_words_are_left_as_they_are(interpreter):
    rng = np.random.default_rng(0)
    for seed in range(20):
        prompt = caption(sample_scene(seed), rng)
        assert interpreter.read(prompt).text == prompt
    for prompt in ("a golden spiral on my purple wall!", "SCARLET kitty", "Sunset over the ocean"):
        text = interpreter.read(prompt).text
        assert text == (prompt if "wall" not in prompt else "a golden spiral on purple !")


def test_every_figure_is_drawn_by_its_name(interpreter):
    for figure in FIGURE_WORDS:
        assert interpreter.read(f"a {figure}").shapes[:1] == (figure,)


@pytest.mark.parametrize("name", ["cornflowerblue", "papayawhip", "chartreuse", "tan", "indianred", "deepskyblue"])
def test_css_colours_are_the_nearest_that_can_be_drawn(interpreter, name):
    lab = srgb_to_oklab(np.array([ImageColor.getrgb(name), *COLOURS.values()]) / 255)
    distances = np.linalg.norm(lab[1:] - lab[0], axis=1)
    near = {colour for colour, d in zip(COLOURS, distances, strict=True) if d < distances.min() + 0.1}
    (colour,) = interpreter.read(f"{name} spiral").colours
    assert colour.split(" (")[0] in near


def test_translations_are_words_that_the_model_knows():
    known = {"", *vocabulary()}
    for language, (meanings, ambiguous) in MEANINGS.items():
        assert not {english for english in meanings.values()} - known, language
        assert all(re.fullmatch("[a-z]+", word) for word in meanings) and ambiguous <= meanings.keys()


def test_a_word_of_two_languages_counts_beside_another_of_its_own():
    known = frozenset(vocabulary())
    assert translate(["hot", "chat"], known) == ({}, "")
    assert translate(["chat", "noir"], known) == ({"chat": "cat", "noir": "black"}, "French")
    assert translate(["la", "noche", "y", "el", "en"], known)[0] == {}


@pytest.mark.parametrize("prompt", ["#12345 #", "\u0301\u0301", "a" * 5000, "tiger cat " * 1500, "\ud800", "🏳️‍🌈 #gg"])
def test_no_prompt_is_too_odd(interpreter, prompt):
    assert interpreter.read(prompt).describe().startswith("drawn: ")


def test_the_lexicon_must_be_that_of_the_model(interpreter, tmp_path):
    assert Lexicon.read(tmp_path / "none.yaml") is None
    text = YAML.read_text()
    (tmp_path / "other.yaml").write_text(text.replace("    - spiral\n", "", 1))
    other = Lexicon.read(tmp_path / "other.yaml")
    assert other is not None
    model = load_model(config.BUILTIN_MODEL_WEIGHTS)
    with pytest.raises(ValueError, match="another model"):
        PromptInterpreter(model, other)
    (tmp_path / "broken.yaml").write_text(text.replace("  near: ", "  far: "))
    with pytest.raises(ValueError, match="broken"):
        Lexicon.read(tmp_path / "broken.yaml")


def test_a_python_user_is_told_once_what_has_no_effect():
    painter = LatentDiffusionPainter(precision="fp32")
    spec = ImageSpec("a tiger", height=64, width=64, precision="fp32", **{**painter.defaults, "steps": 1})
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.warns(PaintingNote, match="no effect: tiger"):
        first = painter.paint([spec], noise)
    again = painter.paint([spec], noise)  # pytest makes any other warning an error
    assert np.array_equal(first, again)
