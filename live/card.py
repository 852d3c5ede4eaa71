"""The card of an image: one PNG with waveform, spectrogram, image and prompt side by side.

Its 1920x1080 pixels fill a projector, or 16 x 9 cm in print at 300 dots per inch.
"""

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from audio import features, plots
from audio.recipe import Recipe
from files import atomic_path

WIDTH, HEIGHT, DPI = 1920, 1080, 300
MARGIN = 80  # pixels
IMAGE = HEIGHT - 2 * MARGIN  # longer side of the image, pixels
LEFT = WIDTH - 3 * MARGIN - IMAGE  # width of the column beside it, pixels
WAVE_HEIGHT, SPECTRUM_HEIGHT = 200, 300
BACKGROUND, FOREGROUND, FAINT = (16, 16, 20), (238, 238, 238), (140, 140, 150)
# the first one that is installed is used
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc", "segoeui.ttf")
PROMPT_SIZES = (60, 48, 38, 30, 24)  # pixels; the largest one that fits is used
PROMPT_HEIGHT = HEIGHT - 2 * MARGIN - WAVE_HEIGHT - SPECTRUM_HEIGHT - 120


def save_card(
    recording: Path, image: Path, prompt: str, path: Path, recipe: Recipe, channel: int | None = None
) -> None:
    """Write the card of one image; `recipe` gives the settings of its spectrogram, `channel` is as of `extract`.

    Raises:
        ValueError: the recording or the image cannot be decoded.
        OSError: a file cannot be read or written.
    """
    seconds = features.extract(recording, recipe, channel=channel).seconds
    waveform, decibels = features.overview(recording, LEFT, seconds, recipe, channel)
    waveform /= max(float(np.abs(waveform).max()), 1e-9)  # a soft voice fills the height, too
    card = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    with Image.open(image) as generated:
        shown = ImageOps.contain(generated.convert("RGB"), (IMAGE, IMAGE), Image.Resampling.LANCZOS)
    card.paste(shown, (WIDTH - MARGIN - (IMAGE + shown.width) // 2, MARGIN + (IMAGE - shown.height) // 2))
    plots.draw_waveform(card, waveform, (MARGIN, MARGIN, WAVE_HEIGHT), FOREGROUND)
    box = (MARGIN, MARGIN + WAVE_HEIGHT + 40, LEFT, SPECTRUM_HEIGHT)
    plots.draw_heat_map(card, decibels, box, -recipe.top_db, 0.0)
    draw = ImageDraw.Draw(card)
    font, lines = fit_text(prompt)
    draw.multiline_text((MARGIN, MARGIN + WAVE_HEIGHT + SPECTRUM_HEIGHT + 80), lines, FOREGROUND, font, spacing=12)
    draw.text((MARGIN, HEIGHT - MARGIN), f"{seconds:.1f} s of voice", FAINT, find_font(24), anchor="ls")
    with atomic_path(path) as temporary:
        card.save(temporary, dpi=(DPI, DPI))


def fit_text(prompt: str) -> "tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, str]":
    """Return the largest font in which the prompt fits beside the image, and its lines; a prompt too long is cut."""
    for size in PROMPT_SIZES:
        font = find_font(size)
        room = max(1, int(LEFT / font.getlength("n")))  # characters
        lines = textwrap.wrap(prompt, room) or [""]
        allowed = max(1, int(PROMPT_HEIGHT / (size + 12)))
        if len(lines) <= allowed and max(map(font.getlength, lines)) <= LEFT:
            return font, "\n".join(lines)
    return font, "\n".join(textwrap.wrap(prompt, room, max_lines=allowed, placeholder=" ..."))


def find_font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    """Return a font of the system, which has more scripts than the one that Pillow includes."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
