"""One image that tells how a voice became a picture: waveform, spectrogram, picture and prompt.

1920x1080 pixels: a projector's frame, or 16 x 9 cm in print at 300 dots an inch.
"""

import textwrap
from pathlib import Path

import cv2
import numpy as np
from einops import rearrange, reduce
from PIL import Image, ImageDraw, ImageFont

from audio import features
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
    sound = features.load_audio(recording, recipe)
    card = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    with Image.open(picture) as painted:
        square = painted.convert("RGB").resize((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    card.paste(square, (WIDTH - MARGIN - PICTURE, MARGIN))
    card.paste(Image.fromarray(waveform(sound.samples)), (MARGIN, MARGIN))
    card.paste(Image.fromarray(spectrogram(sound.samples, recipe)), (MARGIN, MARGIN + WAVE_HEIGHT + 40))
    draw = ImageDraw.Draw(card)
    font, lines = fitting(prompt)
    draw.multiline_text((MARGIN, MARGIN + WAVE_HEIGHT + SPECTRUM_HEIGHT + 80), lines, FOREGROUND, font, spacing=12)
    draw.text((MARGIN, HEIGHT - MARGIN), f"{sound.seconds:.1f} s of voice", FAINT, font_of(24), anchor="ls")
    with atomic_path(path) as temporary:
        card.save(temporary, dpi=(DPI, DPI))


def waveform(samples: np.ndarray) -> np.ndarray:
    """Sound [T] as an image [WAVE_HEIGHT, LEFT, 3] uint8: from the lowest to the highest sample of each column."""
    padded = np.pad(samples, (0, -len(samples) % LEFT))
    columns = rearrange(padded / max(float(np.abs(samples).max(initial=0.0)), 1e-9), "(x t) -> x t", x=LEFT)
    low, high = reduce(columns, "x t -> x", "min"), reduce(columns, "x t -> x", "max")
    image = np.full((WAVE_HEIGHT, LEFT, 3), BACKGROUND, np.uint8)
    height = np.linspace(1, -1, WAVE_HEIGHT)[:, None]  # of each row
    line = 2 / WAVE_HEIGHT  # silence is a line, not nothing
    image[(height >= low - line) & (height <= high + line)] = FOREGROUND
    return image


def spectrogram(samples: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Sound [T] as an image [SPECTRUM_HEIGHT, LEFT, 3] uint8: mel bands from below to above, louder is brighter."""
    power = features.mel_power(samples, recipe)  # [mel band, frame]
    decibels = 10 * np.log10(np.maximum(power, features.AMIN))
    shades = np.clip((decibels - decibels.max()) / recipe.top_db + 1, 0, 1)
    small = np.ascontiguousarray((shades * 255).astype(np.uint8)[::-1])
    coloured = cv2.applyColorMap(cv2.resize(small, (LEFT, SPECTRUM_HEIGHT)), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(coloured[:, :, ::-1])  # OpenCV has blue first


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
