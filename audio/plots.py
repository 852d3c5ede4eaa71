"""Plots for people: the statistics of a calibration, and a recording. Drawn with Pillow and OpenCV."""

import math
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .files import atomic_path
from .mel import mel_edges
from .recipe import RECIPE, Recipe

HEIGHT = 384  # pixels of a spectrogram
MARGIN, GAP, LINE = 64, 24, 20  # pixels: axis labels at the left, between panels, a line of text
FREQUENCIES = (125, 250, 500, 1000, 2000, 4000, 8000, 16_000)  # Hz; marks on the axis, as far as the recipe has them
PAPER, INK, WAVE, MARK = (255, 255, 255), (40, 40, 40), (38, 84, 124), (214, 69, 65)


def save_calibration(path: Path, mean_db: np.ndarray, std_db: np.ndarray, recipe: Recipe = RECIPE) -> None:
    """Draw mean and standard deviation, [P] dB each, as heat maps: frequency upwards, time to the right.

    Raises:
        OSError: the file cannot be written.
    """
    width = MARGIN + HEIGHT + 2 * LINE + MARGIN
    image = Image.new("RGB", (2 * width, HEIGHT + 5 * LINE), PAPER)
    for index, (title, values) in enumerate((("mean, dB", mean_db), ("standard deviation, dB", std_db))):
        cells = values.reshape(recipe.spectrogram_size, recipe.spectrogram_size)
        left, top = index * width + MARGIN, 2 * LINE
        draw_heat_map(image, cells, (left, top, HEIGHT, HEIGHT), float(cells.min()), float(cells.max()))
        _frequency_axis(image, left, top, recipe)
        percents = {part / 100: f"{part} %" for part in (0, 25, 50, 75, 100)}
        _axis(image, left, top, HEIGHT, percents, "part of the recording")
        _scale(image, left + HEIGHT + GAP // 2, top, float(cells.min()), float(cells.max()))
        _text(image, (left, top - LINE // 2), title, "ls")
    _save(image, path)


def save_recording(
    path: Path,
    waveform: np.ndarray,
    decibels: np.ndarray,
    seconds: float,
    recipe: Recipe = RECIPE,
    spoken: tuple[float, float] | None = None,
) -> None:
    """Draw a recording as `features.overview` returns it: waveform [2, columns], spectrogram [n_mels, columns] in dB.

    Lines mark where what is `spoken` begins and ends, in seconds.

    Raises:
        OSError: the file cannot be written.
    """
    columns, wave_height = waveform.shape[1], HEIGHT // 2
    image = Image.new("RGB", (columns + 2 * MARGIN, wave_height + HEIGHT + 6 * LINE), PAPER)
    top, middle = 2 * LINE, 2 * LINE + wave_height // 2
    draw = ImageDraw.Draw(image)
    for level, label in ((-1, "-1"), (0, "0"), (1, "1")):
        y = middle - level * wave_height // 2
        draw.line((MARGIN, y, MARGIN + columns, y), fill=(210, 210, 210))
        _text(image, (MARGIN - 6, y), label, "rm")
    draw_waveform(image, waveform, (MARGIN, top, wave_height), WAVE)
    _text(image, (MARGIN, LINE), "waveform, 1 is full scale", "lm")
    lower = top + wave_height + 2 * LINE
    draw_heat_map(image, decibels, (MARGIN, lower, columns, HEIGHT), -recipe.top_db, 0.0)
    _frequency_axis(image, MARGIN, lower, recipe)
    _axis(image, MARGIN, lower, columns, {at / seconds: f"{at:g} s" for at in round_values(0.0, seconds)}, "")
    _scale(image, MARGIN + columns + GAP // 2, lower, -recipe.top_db, 0.0)
    _text(image, (MARGIN, lower - LINE), "mel spectrogram, dB below the loudest", "lm")
    for begin_or_end in spoken or ():
        x = MARGIN + round(begin_or_end / seconds * (columns - 1))
        draw.line((x, top - LINE // 2, x, lower + HEIGHT), fill=MARK, width=2)
    if spoken:
        _text(image, (MARGIN + columns, LINE), "what is used lies between the lines", "rm")
    _save(image, path)


def draw_waveform(
    image: Image.Image, waveform: np.ndarray, box: tuple[int, int, int], colour: tuple[int, int, int]
) -> None:
    """Draw a waveform into a box (left, top, height), one pixel a column.

    Args:
        image: to draw on.
        waveform: lowest and highest sample of each column, [2, columns]; 1 is full scale.
        box: in pixels.
        colour: RGB.
    """
    left, top, height = box
    draw = ImageDraw.Draw(image)
    for x, (low, high) in enumerate(top + height // 2 - np.clip(waveform, -1, 1).T * (height // 2), start=left):
        draw.line((x, float(high), x, float(low)), fill=colour)


def draw_heat_map(
    image: Image.Image, values: np.ndarray, box: tuple[int, int, int, int], low: float, high: float
) -> None:
    """Draw values [rows, columns], row 0 at the bottom, into a box (left, top, width, height).

    `low` and `high` are the values of the first and the last colour.
    """
    left, top, width, height = box
    grey = np.clip((values - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
    large = cv2.resize(grey[::-1], (width, height), interpolation=cv2.INTER_NEAREST)
    colours = cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS)
    image.paste(Image.fromarray(cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)), (left, top))


def _frequency_axis(image: Image.Image, left: int, top: int, recipe: Recipe) -> None:
    centres = mel_edges(recipe)[1:-1]
    for hertz in FREQUENCIES:
        if centres[0] <= hertz <= centres[-1]:
            band = float(np.interp(hertz, centres, np.arange(len(centres)) + 0.5))
            y = top + HEIGHT - round(band / recipe.n_mels * HEIGHT)
            ImageDraw.Draw(image).line((left - 4, y, left, y), fill=INK)
            _text(image, (left - 6, y), f"{hertz} Hz" if hertz < 1000 else f"{hertz // 1000} kHz", "rm")


def _axis(image: Image.Image, left: int, top: int, width: int, marks: dict[float, str], name: str) -> None:
    """Draw an axis at the bottom of a heat map: marks at parts, 0 to 1, of its width."""
    for part, mark in marks.items():
        x = left + round(part * (width - 1))
        ImageDraw.Draw(image).line((x, top + HEIGHT, x, top + HEIGHT + 4), fill=INK)
        _text(image, (x, top + HEIGHT + 6), mark, "ma")
    _text(image, (left + width // 2, top + HEIGHT + 6 + LINE), name, "ma")


def _scale(image: Image.Image, left: int, top: int, low: float, high: float) -> None:
    draw_heat_map(image, np.linspace(low, high, 256)[:, None], (left, top, LINE // 2, HEIGHT), low, high)
    for value in round_values(low, high):
        y = top + HEIGHT - round((value - low) / max(high - low, 1e-9) * (HEIGHT - 1)) - 1
        ImageDraw.Draw(image).line((left + LINE // 2, y, left + LINE // 2 + 3, y), fill=INK)
        _text(image, (left + LINE // 2 + 6, y), f"{value:g}", "lm")


def round_values(low: float, high: float) -> list[float]:
    """Choose three to nine round values from `low` to `high`: multiples of 1, 2 or 5 times a power of ten.

    If both are equal, there is one.
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = max(power * factor for factor in (1, 2, 5) if (high - low) / (power * factor) >= 3 - 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _text(image: Image.Image, at: tuple[int, int], text: str, anchor: str) -> None:
    ImageDraw.Draw(image).text(at, text, fill=INK, font=ImageFont.load_default(13), anchor=anchor)


def _save(image: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        image.save(temporary)
