"""One image that tells how a voice became a picture: waveform, spectrogram, picture and prompt.

1920x1080 pixels: a projector's frame, or 16 x 9 cm in print at 300 dots an inch.
"""

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from audio import features, plots
from audio.features import Recipe
from files import atomic_path

WIDTH, HEIGHT, DPI = 1920, 1080, 300
MARGIN = 80  # pixels
PICTURE = HEIGHT - 2 * MARGIN  # side of the picture
LEFT = WIDTH - 3 * MARGIN - PICTURE  # width of what stands beside it
WAVE_HEIGHT, SPECTRUM_HEIGHT = 200, 300
BACKGROUND, FOREGROUND, FAINT = (16, 16, 20), (238, 238, 238), (140, 140, 150)
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc", "segoeui.ttf")  # first that is there
PROMPT_SIZES = (60, 48, 38, 30, 24)  # pixels, the largest that fits
PROMPT_HEIGHT = HEIGHT - 2 * MARGIN - WAVE_HEIGHT - SPECTRUM_HEIGHT - 120


def save_card(recording: Path, picture: Path, prompt: str, path: Path, recipe: Recipe) -> None:
    """Write the card of one picture, a PNG; `recipe` is what the voice's spectrogram is made with.

    Raises:
        ValueError: the recording or the picture cannot be read.
        OSError: a file cannot be read or written.
    """
    seconds = features.listen(recording, recipe).seconds
    waveform, decibels = features.overview(recording, LEFT, seconds, recipe)
    waveform /= max(float(np.abs(waveform).max()), 1e-9)  # a soft voice fills its place, too
    card = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    with Image.open(picture) as painted:
        square = painted.convert("RGB").resize((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    card.paste(square, (WIDTH - MARGIN - PICTURE, MARGIN))
    plots.draw_waveform(card, waveform, (MARGIN, MARGIN, WAVE_HEIGHT), FOREGROUND)
    box = (MARGIN, MARGIN + WAVE_HEIGHT + 40, LEFT, SPECTRUM_HEIGHT)
    plots.draw_heat_map(card, decibels, box, -recipe.top_db, 0.0)
    draw = ImageDraw.Draw(card)
    font, lines = fitting(prompt)
    draw.multiline_text((MARGIN, MARGIN + WAVE_HEIGHT + SPECTRUM_HEIGHT + 80), lines, FOREGROUND, font, spacing=12)
    draw.text((MARGIN, HEIGHT - MARGIN), f"{seconds:.1f} s of voice", FAINT, font_of(24), anchor="ls")
    with atomic_path(path) as temporary:
        card.save(temporary, dpi=(DPI, DPI))


def fitting(prompt: str) -> "tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, str]":
    """The largest type in which the prompt fits beside the picture, and the prompt in lines; cut if none does."""
    for size in PROMPT_SIZES:
        font = font_of(size)
        room = max(1, int(LEFT / font.getlength("n")))  # characters
        lines = textwrap.wrap(prompt, room) or [""]
        allowed = max(1, int(PROMPT_HEIGHT / (size + 12)))
        if len(lines) <= allowed and max(map(font.getlength, lines)) <= LEFT:
            return font, "\n".join(lines)
    return font, "\n".join(textwrap.wrap(prompt, room, max_lines=allowed, placeholder=" ..."))


def font_of(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    """A font of the system's, which knows more scripts than the one that Pillow brings along."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
