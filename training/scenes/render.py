"""Render scenes: put pattern fields, palettes, shading, moods and figures together.

A pattern is a scalar field in 0..1. A look-up table maps it to colours, a relief shades it, and a figure lies on top.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from training.scenes.augment import NEAREST, colour_mask, random_grid, warp
from training.scenes.fields import (
    Grid,
    domain_warp,
    equalised,
    lerp,
    make_grid,
    noise,
    posterised,
    sharpened,
    slopes,
    smoothstep,
    steepness,
    three_channels,
    triangle,
)
from training.scenes.figures import draw_figure
from training.scenes.palette import COLOURS_OKLAB, LUT_SIZE, apply_lut, apply_lut_filtered, banded_lut, jittered, shade
from training.scenes.patterns import PATTERN_FAMILIES
from training.scenes.scenes import COMPOSITIONS, Scene, recoloured

TILES = 2  # copies of a tiled figure, a side


@dataclass(frozen=True)
class Mood:
    """Visible effects of a mood; the defaults are the look without a mood.

    Attributes:
        zoom: factor on the coordinates (above 1 is finer).
        warp: factor on the strength of the domain warp.
        relief: strength of the shading.
        gap: lightness of a thin line between bands (0 ink, 1 light), or None.
        gain: factor on lightness.
        saturation: factor on the distance from grey.
        bloom: strength of a blurred, lightened copy that is added.
        blur: width of a final blur in units of the render.
        vignette: darkening of the corners, 0..1.
        folds: factor on the number of foldings.
    """

    zoom: float = 1.0
    warp: float = 1.0
    relief: float = 0.3
    gap: float | None = None
    gain: float = 1.0
    saturation: float = 1.0
    bloom: float = 0.0
    blur: float = 0.0
    vignette: float = 0.1
    folds: float = 1.0


MOOD_EFFECTS: dict[str | None, Mood] = {
    None: Mood(),
    "calm": Mood(zoom=0.8, warp=0.5, relief=0.15, vignette=0.0, folds=0.6),
    "wild": Mood(zoom=1.25, warp=2.4, relief=0.45, saturation=1.1, folds=1.4),
    "dark": Mood(gap=0.06, gain=0.9, relief=0.35, vignette=0.45),
    "bright": Mood(gap=0.98, gain=1.08, relief=0.15, vignette=-0.06, saturation=1.05),
    "soft": Mood(zoom=0.8, relief=0.1, blur=0.018, vignette=0.0),
    "sharp": Mood(relief=0.0, gap=0.08, vignette=0.0, saturation=1.05),
    "dreamy": Mood(zoom=0.85, warp=1.3, relief=0.12, bloom=0.45, blur=0.008, vignette=-0.05),
    "electric": Mood(warp=1.4, gap=1.0, relief=0.5, saturation=1.2, bloom=0.25, vignette=0.35),
    "hypnotic": Mood(warp=0.5, relief=0.35, folds=1.5, vignette=0.25),
    "warm": Mood(relief=0.28),
    "cool": Mood(relief=0.28),
}


def _variant_rng(variant: int, part: str) -> np.random.Generator:
    """Make the random numbers that place and size one part of a render, the same for all scenes of a variant.

    So geometry comes from a few fixed seeds. A small model can learn a few shapes of each pattern; if every render
    differed in continuous details, it would only learn to smooth noise.
    """
    return np.random.default_rng([variant, *part.encode()])


def _compose(grid: Grid, composition: str | None, rng: np.random.Generator) -> Grid:
    """Move or fold a grid for a composition; every fold is a mirror, so fields stay continuous."""
    if composition == "centred":
        return grid
    if composition == "tiled":
        n = np.float32(rng.choice([2, 3]))
        x, y = (2 * triangle(axis * (n / 4) + n / 4) - 1 for axis in (grid.x, grid.y))
        return Grid(x, y, grid.px).zoomed(0.8)
    if composition == "mirrored":
        both = rng.random() < 0.4
        folded = Grid(np.abs(grid.x), np.abs(grid.y) if both else grid.y, grid.px)
        return folded.moved(rng.uniform(0.3, 0.6), rng.uniform(-0.3, 0.3) + 0.45 * both).turned(rng.uniform(0, np.pi))
    if composition == "kaleidoscopic":
        sectors = int(rng.integers(3, 9))
        a = triangle((grid.angle + np.pi / 2) * np.float32(sectors / (2 * np.pi))) * np.float32(np.pi / sectors)
        folded = Grid(grid.radius * np.cos(a), grid.radius * np.sin(a), grid.px)
        return folded.moved(rng.uniform(0.25, 0.6), rng.uniform(0.0, 0.3)).turned(rng.uniform(0, np.pi))
    if composition == "diagonal":
        turned = grid.turned(np.pi / 4 * (1 if rng.random() < 0.5 else -1))
        return Grid(turned.x * np.float32(0.5), turned.y * np.float32(1.5), grid.px)
    if composition == "offset":
        corner = rng.uniform(0.5, 0.8, 2) * rng.choice([-1, 1], 2)
        return grid.moved(corner[0], corner[1])
    return grid.moved(rng.normal(0, 0.1), rng.normal(0, 0.1))


def fold_grids(variant: int, size: int) -> np.ndarray:
    """Compute the place of each pixel in the plane of its pattern, for no composition and for each composition.

    The prior gets these grids, so that it need not learn each composition for each pattern.

    Returns:
        [1 + compositions, size, size, 2] float32: x to the right, y upwards; an unfolded render spans −1…1.
    """
    grids = (_compose(make_grid(size), c, _variant_rng(variant, c or "plain")) for c in (None, *COMPOSITIONS))
    return np.stack([np.stack([grid.x, grid.y], axis=2) for grid in grids])


def tile_grids(size: int) -> np.ndarray:
    """Compute the place of each pixel in the image of its figure, for no composition and for each composition.

    Returns:
        [1 + compositions, size, size, 2] float32: x to the right, y downwards, −1…1 from edge to edge.
    """
    grid = make_grid(size)
    once = np.stack([grid.x, -grid.y], axis=2)
    tiled = (TILES * (once + 1)) % 2 - 1
    return np.stack([tiled if composition == "tiled" else once for composition in (None, *COMPOSITIONS)])


def _pattern_field(name: str, grid: Grid, mood: Mood, rng: np.random.Generator) -> np.ndarray:
    """Compute the field `[H, W]` in 0..1 of one pattern, warped and equalised."""
    family = PATTERN_FAMILIES[name]
    bent = domain_warp(grid, 0.16 * family.warp * mood.warp * rng.uniform(0.5, 1.5), rng)
    # coarse, because details finer than two latent cells (16 pixels) are hard to learn
    zoom = mood.zoom * rng.uniform(0.55, 0.85)
    return equalised(family.field(bent.zoomed(zoom), rng), 0.65)


def _fold(scene: Scene, mood: Mood, rng: np.random.Generator) -> tuple[float, float]:
    """Draw the triangle wave that folds the field: half periods and phase; (1, 0) changes nothing."""
    family = PATTERN_FAMILIES[scene.pattern]
    # fine patterns turn to noise when they are folded often, so `folding` is smaller for them
    folds = 1 + rng.uniform(0.6, 1.7) * mood.folds * family.folding
    return (folds, float(rng.integers(2) / 2)) if scene.folding else (1.0, 0.0)


def _lut(labs: list[np.ndarray], scene: Scene, fold: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Make the look-up table from field to colours: fold, flat tones and palette in one."""
    mood = MOOD_EFFECTS[scene.mood]
    gap = None
    if mood.gap is not None:
        gap = shade(labs[0], 0.9) if mood.gap > 0.5 else COLOURS_OKLAB["black"]
    elif rng.random() < 0.3:
        gap = COLOURS_OKLAB["black" if rng.random() < 0.5 else "white"]
    # the first two colours take the ends, because fields of two tones hardly use the middle
    palette = banded_lut([labs[0], *labs[2:], labs[1]], gap, relief=float(rng.uniform(0.02, 0.07)))
    folded = triangle(np.linspace(0, fold[0] / 2, LUT_SIZE, dtype=np.float32) + np.float32(fold[1]))
    levels = int(rng.integers(4, 8))
    return apply_lut(palette, posterised(folded, levels) if scene.banded else folded)


def _light(rgb: np.ndarray, height: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Light colours `[H, W, 3]` from one side, with the field `height` as a relief."""
    if strength <= 0:
        return rgb
    size = height.shape[0]
    smooth = cv2.GaussianBlur(height, (0, 0), max(0.006 * size, 0.5))
    dx, dy = slopes(smooth)
    angle = rng.uniform(0.2, 0.45) * np.pi
    slope = (np.float32(np.cos(angle)) * dx - np.float32(np.sin(angle)) * dy) * np.float32(size / 2 * 0.12)
    light = slope / (1 + np.abs(slope)) * np.float32(strength)
    shadow, shine = np.minimum(light, 0) * np.float32(1.1), np.maximum(light, 0) * np.float32(0.7)
    rgb *= three_channels(1 + shadow - shine)
    rgb += three_channels(shine)
    return rgb


def _colorize(field: np.ndarray, labs: list[np.ndarray], scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Turn a field `[H, W]` into lit colours `[H, W, 3]`."""
    mood = MOOD_EFFECTS[scene.mood]
    fold = _fold(scene, mood, _variant_rng(scene.variant, "fold"))
    rgb = apply_lut_filtered(_lut(labs, scene, fold, rng), field, steepness(field))
    height = field if fold[0] == 1 else triangle(field * np.float32(fold[0] / 2) + np.float32(fold[1]))
    return _light(rgb, height, mood.relief, rng)


def _blend_mask(blend: str, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Draw the mask `[H, W]` in 0..1 of the second pattern."""
    if blend == "inside":
        radius = grid.radius * (1 + 0.1 * np.cos(int(rng.integers(2, 9)) * grid.angle))
        return smoothstep(0.0, 1.5 * grid.px, np.float32(rng.uniform(0.5, 0.65)) - radius)
    return sharpened(0.5 + noise(grid.x * 1.1, grid.y * 1.1, rng))


def _draw_pattern(scene: Scene, size: int, labs: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Draw the pattern, or two patterns combined: `[H, W, 3]` float32 in 0..1."""
    mood = MOOD_EFFECTS[scene.mood]
    plain = make_grid(size)
    grid = _compose(plain, scene.composition, _variant_rng(scene.variant, scene.composition or "plain"))
    field = _pattern_field(scene.pattern, grid, mood, _variant_rng(scene.variant, scene.pattern))
    if scene.second is None:
        return _colorize(field, labs, scene, rng)
    other = _pattern_field(scene.second, grid, mood, _variant_rng(scene.variant, scene.second))
    if scene.blend == "mixed":
        mixed = equalised(0.5 * (field + other), 0.6)
        return _colorize(mixed, labs, scene, rng)
    mask = three_channels(_blend_mask(scene.blend or "mask", plain, _variant_rng(scene.variant, "blend")))
    # the second pattern swaps the first two colours, so that the border shows also where both fields agree
    return lerp(_colorize(field, labs, scene, rng), _colorize(other, [labs[1], labs[0], *labs[2:]], scene, rng), mask)


def _background_labs(labs: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Choose the colours behind a figure: the second named colour in two shades, then the colours after it."""
    ground = labs[1]
    step = float(rng.uniform(0.05, 0.09))
    shades = [shade(ground, -step), shade(ground, step)] if 0.2 < ground[0] < 0.9 else [ground, ground]
    if len(labs) > 2:
        return [shades[0], labs[2], shades[1], *labs[3:]]
    away = 0.16 if ground[0] < 0.55 else -0.16
    return [shades[0], shade(ground, away), shades[1]]


def _draw_figure(scene: Scene, size: int, labs: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Draw a figure over a background of patterns: `[H, W, 3]` float32 in 0..1."""
    ground = _draw_pattern(scene, size, _background_labs(labs, rng), rng)
    tiles = TILES if scene.composition == "tiled" else 1
    variant_rng = _variant_rng(scene.variant, scene.figure or "")
    colour, alpha, halo = draw_figure(scene.figure or "", -(-size // tiles), labs, scene.composition, variant_rng)
    if tiles > 1:
        colour = np.tile(colour, (tiles, tiles, 1))[:size, :size]
        alpha, halo = (np.tile(a, (tiles, tiles))[:size, :size] for a in (alpha, halo))
    # a halo, lighter or darker than the background, separates the figure from it
    lift = labs[0][0] < labs[1][0] or scene.mood in ("electric", "dreamy", "bright")
    target = np.float32(1.0 if lift else 0.0)
    ground = lerp(ground, target, three_channels(halo * np.float32(0.3 if lift else 0.45)))
    return lerp(ground, colour, three_channels(alpha))


def _finish(rgb: np.ndarray, mood: Mood) -> np.ndarray:
    """Apply the effects of a mood on the whole render, and round to uint8 `[H, W, 3]`."""
    size = rgb.shape[0]
    rgb = np.ascontiguousarray(rgb, dtype=np.float32)
    if mood.blur > 0:
        rgb = cv2.GaussianBlur(rgb, (0, 0), mood.blur / 2 * size)
    if mood.saturation != 1:
        grey = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
        rgb = lerp(three_channels(grey), rgb, np.float32(mood.saturation))
    if mood.bloom > 0:
        small = cv2.resize(rgb, (64, 64), interpolation=cv2.INTER_AREA)
        glow = cv2.resize(cv2.GaussianBlur(small, (0, 0), 3), (size, size), interpolation=cv2.INTER_LINEAR)
        rgb = 1 - (1 - rgb) * (1 - glow * glow * np.float32(mood.bloom))
    if mood.gain != 1:
        rgb = rgb * np.float32(mood.gain)
    if mood.vignette != 0:
        corner = smoothstep(0.55, 1.45, make_grid(size).radius)
        rgb = rgb * three_channels(1 - corner * np.float32(mood.vignette))
    return (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)


def _render_canonical(scene: Scene, size: int) -> np.ndarray:
    """Draw the whole scene, uncropped and unbent: uint8 `[size, size, 3]`."""
    rng = np.random.default_rng([scene.seed, 2])
    labs = [jittered(name, rng) for name in scene.colours]
    draw = _draw_figure if scene.figure else _draw_pattern
    return _finish(draw(scene, size, labs, rng), MOOD_EFFECTS[scene.mood])


def render(scene: Scene, size: int = 256, canonical: bool = False, drifting: bool = False) -> np.ndarray:
    """Draw a scene as sRGB uint8 `[size, size, 3]`; a scene looks the same at every size.

    Args:
        canonical: draw the whole scene, and not the crop (`random_grid`) of its seed.
        drifting: let the colours change from place to place to those of `recoloured` (`colour_mask`), as the prior's
            colours do if the prompt does not name them.

    Raises:
        ValueError: `size` is below 16.
        KeyError: the scene names an unknown pattern, figure, colour or mood.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16, got {size}")
    drawn = size if canonical else round(size * NEAREST)  # so that the largest zoom is still sharp
    image = _render_canonical(scene, drawn)
    if drifting:
        one, other = (x.astype(np.float32) for x in (image, _render_canonical(recoloured(scene), drawn)))
        image = lerp(one, other, three_channels(colour_mask(scene.seed, drawn))).round().astype(np.uint8)
    return image if canonical else warp(image, random_grid(scene.seed, size))


def contact_sheet(scenes: list[Scene], size: int = 128, columns: int = 8) -> np.ndarray:
    """Render scenes side by side, row by row: uint8 `[H, W, 3]`."""
    gap = 4
    rows = -(-len(scenes) // columns)
    step = size + gap
    sheet = np.full((rows * step + gap, columns * step + gap, 3), 24, np.uint8)
    for i, scene in enumerate(scenes):
        top, left = gap + i // columns * step, gap + i % columns * step
        sheet[top : top + size, left : left + size] = render(scene, size)
    return sheet
