"""A chart of the qualities of a voice, on cards and on web pages.

Each quality is a line between its two words. A bar goes from the middle, where half of all voices are, to the place of
this voice. Words of unusual places stand out.
"""

from collections.abc import Mapping

from PIL import ImageDraw, ImageFont

from audio.description import WORDS, unusual_word

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]

# on cards, in pixels
GAP = 10  # between a word and its line
COLUMN_GAP = 40
TICK, DOT, BAR = 5, 5, 3  # half the height of the middle's mark, radius, width
# on pages, in units of the chart
ROW, PAGE_WIDTH = 18, 300
BEGIN, END = 108, 192  # of a line


def draw_chart(
    draw: ImageDraw.ImageDraw,
    places: Mapping[str, float],
    box: tuple[int, int, int, int],
    font: Font,
    strong: Colour,
    faint: Colour,
) -> None:
    """Draw a chart in two columns.

    Args:
        draw: what is drawn on.
        places: see `audio.description.places_of`; a quality without one has no bar.
        box: left, top, width and height in pixels.
        font: of the words.
        strong: colour of bars and of words that stand out.
        faint: colour of all else.
    """
    left, top, width, height = box
    rows, names = (len(WORDS) + 1) // 2, tuple(WORDS)
    column_width = (width - COLUMN_GAP) / 2
    for column, shown in enumerate((names[:rows], names[rows:])):
        before, after = (max(font.getlength(WORDS[name][side]) for name in shown) + GAP for side in (0, 1))
        begin = left + column * (column_width + COLUMN_GAP) + before
        end = begin + column_width - before - after
        middle = (begin + end) / 2
        for row, name in enumerate(shown):
            y, place = top + (row + 0.5) * height / rows, places.get(name)
            draw.line((begin, y, end, y), faint)
            draw.line((middle, y - TICK, middle, y + TICK), faint)
            unusual = "" if place is None else unusual_word(name, place)
            for word, x, anchor in zip(WORDS[name], (begin - GAP, end + GAP), ("rm", "lm"), strict=True):
                draw.text((x, y), word, strong if word == unusual else faint, font, anchor)
            if place is not None:
                x = begin + place / 100 * (end - begin)
                draw.line((middle, y, x, y), strong, BAR)
                draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), strong)


def svg_chart(places: Mapping[str, float]) -> str:
    """Return a chart as SVG for a web page, in one column; `live.session.STYLE` has the style of its classes."""
    middle, rows = (BEGIN + END) / 2, []
    for number, (name, words) in enumerate(WORDS.items()):
        y, place = (number + 0.5) * ROW, places.get(name)
        rows.append(f'<path class="line" d="M{BEGIN} {y:g}H{END}M{middle:g} {y - 3:g}V{y + 3:g}"/>')
        if place is not None:
            x = BEGIN + place / 100 * (END - BEGIN)
            rows.append(f'<path class="bar" d="M{middle:g} {y:g}H{x:.1f}"/><circle cx="{x:.1f}" cy="{y:g}" r="3"/>')
        unusual = "" if place is None else unusual_word(name, place)
        for word, at, anchor in zip(words, (BEGIN - 8, END + 8), ("end", "start"), strict=True):
            style = ' class="unusual"' if word == unusual else ""
            rows.append(f'<text{style} x="{at}" y="{y + 4:g}" text-anchor="{anchor}">{word}</text>')
    label = ", ".join(f"{name} {place:.0f}" for name, place in places.items())
    size = f"0 0 {PAGE_WIDTH} {len(WORDS) * ROW}"
    return f'<svg class="chart" viewBox="{size}" role="img" aria-label="places: {label}">{"".join(rows)}</svg>'
