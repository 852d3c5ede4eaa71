"""The card of an image: one PNG with the image and, beside it, voice and prompt.

Of the voice it shows waveform, spectrogram, and what is seen of it.

Its 1920x1080 pixels fill a projector, or 16 x 9 cm in print at 300 dots per inch.
"""

import subprocess
import textwrap
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from audio import features, plots
from audio.description import describe
from audio.qualities import FLOOR_DB
from audio.recipe import Recipe
from files import atomic_path
from live.chart import draw_chart

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

WIDTH, HEIGHT, DPI = 1920, 1080, 300
MARGIN = 80  # pixels
IMAGE = HEIGHT - 2 * MARGIN  # longer side of the image, pixels
LEFT = WIDTH - 3 * MARGIN - IMAGE  # width of the column beside it, pixels
WAVE_HEIGHT, SPECTRUM_HEIGHT, CHART_HEIGHT = 120, 240, 160
GAP = 40  # pixels between waveform, spectrogram, prompt and chart
BACKGROUND, FOREGROUND, FAINT = (16, 16, 20), (238, 238, 238), (140, 140, 150)
# the first one that has all characters is used; those of the second line have Chinese, Japanese and Korean
FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc", "segoeui.ttf",
    "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "Arial Unicode.ttf", "msyh.ttc",
)  # fmt: skip
UNASSIGNED = "\U0010fffe"  # no font has this character
PROMPT_SIZES = (60, 48, 38, 30, 24)  # pixels; the largest one that fits is used
SMALL, SMALLER = 24, 19  # pixels, sizes of the text below the prompt
LINE = 34  # pixels, of text below the prompt
NO_BREAK = "\u00a0"  # a blank at which no line ends
LINES = 3  # what is seen of a voice in two, and how long it is
PROMPT_TOP = MARGIN + WAVE_HEIGHT + GAP + SPECTRUM_HEIGHT + GAP
CHART_TOP = HEIGHT - MARGIN - LINES * LINE - CHART_HEIGHT
PROMPT_HEIGHT = CHART_TOP - GAP // 2 - PROMPT_TOP


def save_card(
    recording: Path,
    image: Path,
    prompt: str,
    path: Path,
    recipe: Recipe,
    channel: int | None = None,
    trim: bool = True,
    places: Mapping[str, float] | None = None,
) -> str:
    """Write the card of one image.

    Args:
        recording: of the voice. The card shows what is spoken of it.
        image: the generated image.
        prompt: of the image.
        path: of the card, a PNG file.
        recipe: gives the settings of the spectrogram.
        channel: as of `audio.features.extract`.
        trim: as of `audio.features.extract`.
        places: of the voice's qualities (`audio.description.places_of`); None or empty: they are not known.

    Returns:
        The characters of the prompt that no installed font has.

    Raises:
        ValueError: the recording or the image cannot be decoded.
        OSError: a file cannot be read or written.
    """
    heard = features.extract(recording, recipe, channel=channel, trim=trim)
    waveform, decibels = features.overview(recording, LEFT, (heard.begin, heard.end), recipe, channel)
    waveform /= max(float(np.abs(waveform).max()), 1e-9)  # a soft voice fills the height, too
    card = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    with Image.open(image) as generated:
        shown = ImageOps.contain(generated.convert("RGB"), (IMAGE, IMAGE), Image.Resampling.LANCZOS)
    card.paste(shown, (WIDTH - MARGIN - (IMAGE + shown.width) // 2, MARGIN + (IMAGE - shown.height) // 2))
    plots.draw_waveform(card, waveform, (MARGIN, MARGIN, WAVE_HEIGHT), FOREGROUND)
    box = (MARGIN, MARGIN + WAVE_HEIGHT + GAP, LEFT, SPECTRUM_HEIGHT)
    plots.draw_heat_map(card, decibels, box, -FLOOR_DB, 0.0)  # as deep as --layout_strength lays it out
    draw = ImageDraw.Draw(card)
    font, lines, lacking = fit_text(prompt)
    draw.multiline_text((MARGIN, PROMPT_TOP), lines, FOREGROUND, font, spacing=12)
    _draw_qualities(draw, places or {}, heard.end - heard.begin)
    with atomic_path(path) as temporary:
        card.save(temporary, dpi=(DPI, DPI))
    return lacking


def _draw_qualities(draw: ImageDraw.ImageDraw, places: Mapping[str, float], seconds: float) -> None:
    """Draw what is seen of a voice of so many seconds: a chart, and a line in words."""
    path, _ = choose_font("0")
    font, below = load_font(path, SMALL), HEIGHT - MARGIN
    if places:
        draw_chart(draw, places, (MARGIN, CHART_TOP, LEFT, CHART_HEIGHT), load_font(path, SMALLER), FOREGROUND, FAINT)
        text = describe(places).replace(" (", f"{NO_BREAK}(")
        room = int(0.95 * len(text) * LEFT / font.getlength(text))
        lines = textwrap.wrap(text, max(5, room), max_lines=LINES - 1, placeholder=" ...")
        for number, line in enumerate(lines):
            at = MARGIN, below - (LINES - 1 - number) * LINE
            draw.text(at, line.replace(NO_BREAK, " "), FOREGROUND, font, anchor="ls")
    draw.text((MARGIN, below), f"{seconds:.1f} s of voice", FAINT, font, anchor="ls")


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
