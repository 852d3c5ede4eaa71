"""The card of an image: one PNG with waveform, spectrogram, image and prompt side by side.

Its 1920x1080 pixels fill a projector, or 16 x 9 cm in print at 300 dots per inch.
"""

import subprocess
import textwrap
import unicodedata
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from audio import features, plots
from audio.recipe import Recipe
from files import atomic_path

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

WIDTH, HEIGHT, DPI = 1920, 1080, 300
MARGIN = 80  # pixels
IMAGE = HEIGHT - 2 * MARGIN  # longer side of the image, pixels
LEFT = WIDTH - 3 * MARGIN - IMAGE  # width of the column beside it, pixels
WAVE_HEIGHT, SPECTRUM_HEIGHT = 200, 300
BACKGROUND, FOREGROUND, FAINT = (16, 16, 20), (238, 238, 238), (140, 140, 150)
# the first one that has all characters is used; those of the second line have Chinese, Japanese and Korean
FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc", "segoeui.ttf",
    "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "Arial Unicode.ttf", "msyh.ttc",
)  # fmt: skip
UNASSIGNED = "\U0010fffe"  # no font has this character
PROMPT_SIZES = (60, 48, 38, 30, 24)  # pixels; the largest one that fits is used
PROMPT_HEIGHT = HEIGHT - 2 * MARGIN - WAVE_HEIGHT - SPECTRUM_HEIGHT - 120


def save_card(recording: Path, image: Path, prompt: str, path: Path, recipe: Recipe, channel: int | None = None) -> str:
    """Write the card of one image; `recipe` gives the settings of its spectrogram, `channel` is as of `extract`.

    Returns the characters of the prompt that no installed font has.

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
    font, lines, lacking = fit_text(prompt)
    draw.multiline_text((MARGIN, MARGIN + WAVE_HEIGHT + SPECTRUM_HEIGHT + 80), lines, FOREGROUND, font, spacing=12)
    draw.text(
        (MARGIN, HEIGHT - MARGIN), f"{seconds:.1f} s of voice", FAINT, load_font(choose_font("0")[0], 24), anchor="ls"
    )
    with atomic_path(path) as temporary:
        card.save(temporary, dpi=(DPI, DPI))
    return lacking


def fit_text(prompt: str) -> tuple[Font, str, str]:
    """Return the largest font in which the prompt fits beside the image, its lines, and the characters that it lacks.

    A prompt that is too long is cut.
    """
    path, lacking = choose_font(prompt)
    wide = {character for character in prompt if unicodedata.east_asian_width(character) in "WF"}
    for size in PROMPT_SIZES:
        font = load_font(path, size)
        room = _room(font, wide or {"n"})
        lines = textwrap.wrap(prompt, room) or [""]
        allowed = max(1, int(PROMPT_HEIGHT / (size + 12)))
        if len(lines) <= allowed and max(map(font.getlength, lines)) <= LEFT:
            return font, "\n".join(lines), lacking
    lines = textwrap.wrap(prompt, room, max_lines=allowed, placeholder=" ...")
    if max(map(font.getlength, lines)) > LEFT:
        lines = textwrap.wrap(prompt, _room(font, set(prompt)), max_lines=allowed, placeholder=" ...")
    return font, "\n".join(lines), lacking


def _room(font: Font, characters: set[str]) -> int:
    """Return how many of the widest of some characters fit on a line."""
    return max(5, int(LEFT / max(1.0, *map(font.getlength, characters))))  # textwrap needs 5, for " ..."


@lru_cache(maxsize=100)
def choose_font(text: str) -> tuple[str, str]:
    """Return the first font that has all characters of a text, or the most of them, and the characters that it lacks.

    These are FONTS, then the one that the system proposes. "" is the font that Pillow includes.
    """
    found = [("", _lacking("", text))]
    for name in FONTS:
        with suppress(OSError):  # it is not installed
            found.insert(len(found) - 1, (name, _lacking(name, text)))
            if not found[-2][1]:
                return name, ""
    best = min(found, key=lambda one: len(one[1]))
    if proposed := _proposed(best[1]):
        with suppress(OSError):
            best = min(best, (proposed, _lacking(proposed, text)), key=lambda one: len(one[1]))
    return best


@lru_cache(maxsize=100)
def load_font(path: str, size: int) -> Font:
    """Load a font; "" is the one that Pillow includes.

    Raises:
        OSError: it is not installed.
    """
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def _lacking(path: str, text: str) -> str:
    """Return the characters that a font draws as the sign for a missing one."""
    font = load_font(path, PROMPT_SIZES[-1])
    missing = font.getmask(UNASSIGNED)
    drawn = sorted({character for character in text if unicodedata.category(character)[0] not in "CMZ"})
    masks = ((character, font.getmask(character)) for character in drawn)
    return "".join(one for one, mask in masks if mask.size == missing.size and bytes(mask) == bytes(missing))


def _proposed(characters: str) -> str:
    """Return the file of the font that fontconfig, which most Linux systems have, proposes for some characters."""
    charset = " ".join(f"{ord(character):x}" for character in characters)
    command = ["fc-match", "--format=%{file}", f":charset={charset}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return ""


def package_for(characters: str) -> str:
    """Return the package of Debian whose font has characters that no installed one has."""
    if any(unicodedata.category(character) == "So" for character in characters):  # emoji and other signs
        return "fonts-symbola"
    wide = any(unicodedata.east_asian_width(character) in "WF" for character in characters)
    return "fonts-noto-cjk" if wide else "fonts-noto-core"
