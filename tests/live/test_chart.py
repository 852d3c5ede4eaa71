"""The chart of a voice's qualities, on cards and on pages."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from audio.description import WORDS
from audio.qualities import NAMES
from live.chart import BEGIN, END, draw_chart, svg_chart

PLACES = {name: 10.0 * number for number, name in enumerate(NAMES)}  # 0 to 90
STRONG, FAINT = (255, 0, 0), (0, 0, 255)


def test_a_page_shows_each_place_between_its_words():
    chart = ElementTree.fromstring(svg_chart(PLACES))
    assert [text.text for text in chart.iter("text")] == [word for pair in WORDS.values() for word in pair]
    dots = [float(dot.attrib["cx"]) for dot in chart.iter("circle")]
    np.testing.assert_allclose(dots, BEGIN + np.arange(10) / 10 * (END - BEGIN), atol=0.06)
    heights = [float(dot.attrib["cy"]) for dot in chart.iter("circle")]
    assert heights == sorted(heights) and heights[-1] < float(chart.attrib["viewBox"].split()[3])
    unusual = [text.text for text in chart.iter("text") if text.get("class") == "unusual"]
    assert unusual == [WORDS[name][0] for name in NAMES[:3]] + [WORDS[name][1] for name in NAMES[8:]]
    assert re.fullmatch(r"places: pitch 0, brightness 10, .*, onset 90", chart.attrib["aria-label"])


def test_a_page_keeps_the_row_of_a_place_that_is_not_known():
    chart = ElementTree.fromstring(svg_chart({name: place for name, place in PLACES.items() if name != "pitch"}))
    assert len(list(chart.iter("circle"))) == len(NAMES) - 1
    assert len(list(chart.iter("text"))) == 2 * len(NAMES)


@pytest.mark.parametrize("known", [NAMES, NAMES[3:], ()])
def test_a_card_shows_the_places_that_are_known_within_its_box(known):
    usual = {name: 25.0 + 5 * NAMES.index(name) for name in known}  # so that no word is red
    pixels = drawn(usual)
    inked = pixels.max(axis=2) > 0
    assert inked[40:200, 50:810].any() and inked.sum() == inked[35:205, 45:815].sum()
    found: dict[int, list[float]] = {0: [], 1: []}
    for number, name in enumerate(NAMES):
        column, row = divmod(number, len(NAMES) // 2)
        y = round(40 + (row + 0.5) * 160 / (len(NAMES) // 2))
        band = pixels[y - 4 : y + 5, 50 + 400 * column : 410 + 400 * column]
        assert (band[4] > 200).any(), "there is a line for each quality"
        dot = np.flatnonzero((band[..., 0] > 200).all(axis=0))
        assert bool(len(dot)) == (name in known)
        found[column] += [float(dot.mean())] if len(dot) else []
    for dots in found.values():  # each place is 5 above the one before
        assert len(dots) < 3 or np.ptp(np.diff(dots)) <= 2 < np.diff(dots).min()


def test_on_a_card_words_of_unusual_places_stand_out():
    usual, unusual = ((drawn({"pitch": place})[..., 0] > 200).sum() for place in (21.0, 20.0))
    assert unusual > usual + 50


def drawn(places: dict[str, float]) -> np.ndarray:
    """Draw a chart in a box of an image: RGB, int [260, 900, 3]."""
    image = Image.new("RGB", (900, 260))
    draw_chart(ImageDraw.Draw(image), places, (50, 40, 760, 160), ImageFont.load_default(19), STRONG, FAINT)
    return np.asarray(image, int)
