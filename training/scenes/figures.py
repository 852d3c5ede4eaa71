"""Figures: procedural drawings with a meaning, as stacks of anti-aliased layers over a background.

Signed distances follow the usual constructions (negative inside; see Inigo Quilez, "2D distance functions");
free outlines are closed Catmull-Rom splines, filled with sub-pixel accuracy.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from einops import rearrange

from training.scenes.fields import (
    TAU,
    Grid,
    lerp,
    make_grid,
    noise,
    smoothstep,
    steepness,
    three_channels,
    triangle,
    wave,
)
from training.scenes.palette import apply_lut, ramp, shade

MAIN, SECOND, DARK, LIGHT = "main", "second", "dark", "light"


@dataclass
class Canvas:
    """A stack of layers, and the grid that they are drawn on, in units of the figure (it fills about -1..1).

    `px` is the width of a pixel in these units.
    """

    grid: Grid
    px: float
    placement: np.ndarray
    layers: list[tuple[str, np.ndarray, np.ndarray]] = field(default_factory=list)
    cover: np.ndarray | None = None

    @property
    def x(self) -> np.ndarray:
        return self.grid.x

    @property
    def y(self) -> np.ndarray:
        return self.grid.y

    def paint(self, role: str, alpha: np.ndarray, tone: np.ndarray | float = 0.5, solid: bool = True) -> None:
        """Add a layer of a role's colour; `tone` runs from its shadow (0) through the colour (0.5) to its light (1)."""
        self.layers.append((role, alpha, np.broadcast_to(np.float32(tone), alpha.shape)))
        if solid:
            self.cover = alpha if self.cover is None else np.maximum(self.cover, alpha)

    def fill(self, distance: np.ndarray) -> np.ndarray:
        """Compute the coverage 0..1 of the inside of a signed distance `[H, W]`; the edge is one pixel wide."""
        return np.clip(0.5 - distance / np.float32(self.px), 0, 1)

    def implicit(self, value: np.ndarray) -> np.ndarray:
        """Compute the coverage 0..1 of `value < 0`; dividing by the gradient makes any function a distance."""
        return np.clip(0.5 - value / np.maximum(steepness(value), 1e-4), 0, 1)

    def line(self, distance: np.ndarray, width: float) -> np.ndarray:
        """Compute the coverage of a line of half-width `width` along `distance == 0`."""
        return self.fill(np.abs(distance) - np.float32(max(width, 0.4 * self.px)))

    def outline(self, points: list[tuple[float, float]] | np.ndarray, smooth: bool = True) -> np.ndarray:
        """Compute the coverage of the closed outline through `points` `[N, 2]`."""
        path = _spline(np.asarray(points, float)) if smooth else np.asarray(points, float)
        pixels = np.c_[path, np.ones(len(path))] @ self.placement.T
        mask = np.zeros((self.x.shape[0] * 2,) * 2, np.uint8)
        cv2.fillPoly(mask, [np.round((pixels * 2 + 0.5) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        return cv2.resize(mask, self.x.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255

    def depth(self, alpha: np.ndarray) -> np.ndarray:
        """Compute the distance from the edge inside a coverage, in units of the figure, slightly smoothed."""
        inside = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        return cv2.GaussianBlur(inside, (0, 0), max(0.008 * alpha.shape[0], 0.6)) * np.float32(self.px)


Drawer = Callable[[Canvas, np.random.Generator], None]
FIGURE_DRAWERS: dict[str, Drawer] = {}
_UPRIGHT = {"tree", "mountain", "sea", "fire", "face", "mushroom", "cat", "eye"}
_FULL = {"mountain", "sea"}


def _figure(drawer: Drawer) -> Drawer:
    """Register a figure under the name of its function."""
    FIGURE_DRAWERS[drawer.__name__.strip("_")] = drawer
    return drawer


def _spline(points: np.ndarray, steps: int = 10) -> np.ndarray:
    """Compute a closed uniform Catmull-Rom spline through `points` `[N, 2]`: `[N * steps, 2]`."""
    before, after, later = (np.roll(points, k, axis=0) for k in (1, -1, -2))
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    curve = (
        2 * points
        + (after - before) * t
        + (2 * before - 5 * points + 4 * after - later) * t**2
        + (3 * points - before - 3 * after + later) * t**3
    ) / 2
    return rearrange(curve, "t n xy -> (n t) xy")


def _mirrored(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Complete an outline from its right half, given from top to bottom."""
    return points + [(-x, y) for x, y in reversed(points) if abs(x) > 1e-6]


def _circle(c: Canvas, x: float, y: float, r: float) -> np.ndarray:
    """Compute the signed distance from a circle."""
    return np.sqrt((c.x - np.float32(x)) ** 2 + (c.y - np.float32(y)) ** 2) - np.float32(r)


def _segment(c: Canvas, a: tuple[float, float], b: tuple[float, float]) -> np.ndarray:
    """Compute the distance from the segment `a`-`b`."""
    px, py, bx, by = c.x - np.float32(a[0]), c.y - np.float32(a[1]), b[0] - a[0], b[1] - a[1]
    t = np.clip((px * np.float32(bx) + py * np.float32(by)) / np.float32(bx * bx + by * by), 0, 1)
    return np.sqrt((px - np.float32(bx) * t) ** 2 + (py - np.float32(by) * t) ** 2)


def _bevel(c: Canvas, alpha: np.ndarray, width: float, rings: float = 0.0) -> np.ndarray:
    """Compute the tone `[H, W]` of a shape: dark at the edge, full colour inside, with `rings` echoes of it."""
    d = c.depth(alpha)
    tone = 0.12 + 0.5 * smoothstep(0.0, width, d)
    if rings > 0:
        tone = tone + 0.3 * (triangle(d * np.float32(rings)) - 0.5)
    return tone


def _rings(rng: np.random.Generator) -> float:
    """Draw the number of echoes of an outline, or none, for `_bevel`."""
    return float(rng.choice([0.0, rng.uniform(4, 9)]))


@_figure
def _flower(c: Canvas, rng: np.random.Generator) -> None:
    petals = int(rng.integers(5, 10))
    r, a = c.grid.radius, c.grid.angle
    for layer in range(int(rng.integers(2, 4))):
        size = 0.98 - 0.3 * layer
        lobe = np.abs(np.cos(petals / 2 * a + (np.pi / 2) * layer))
        edge = size * (0.42 + 0.58 * lobe ** np.float32(rng.uniform(0.45, 0.8)))
        t = r / edge
        stripes = 0.12 * np.cos(petals * 4 * a) * smoothstep(0.2, 0.9, t)
        role = MAIN if layer != 1 else SECOND
        c.paint(role, c.implicit(t - 1), 0.12 + 0.75 * smoothstep(1.0, 0.35, t) * (0.4 + 0.6 * lobe) + stripes)
    heart = r - np.float32(0.19)
    seeds = 0.5 + 0.4 * np.sin(40 * r) * np.sin(8 * a)
    c.paint(LIGHT if rng.random() < 0.5 else DARK, c.fill(heart), seeds)


@_figure
def _star(c: Canvas, rng: np.random.Generator) -> None:
    points = int(rng.choice([5, 5, 5, 6, 7, 8]))
    step = TAU / points
    a = c.grid.angle - np.float32(np.pi / 2)
    a = np.abs(a - step * np.floor(a / step + np.float32(0.5)))
    inner = rng.uniform(0.38, 0.5)
    # the edge runs from the tip (radius 1, angle 0) to the notch (radius `inner`, half a step further round)
    nx, ny = inner * np.sin(step / 2), 1 - inner * np.cos(step / 2)
    length = np.hypot(nx, ny)
    u, v = c.grid.radius * np.cos(a), c.grid.radius * np.sin(a)
    d = ((u - 1) * np.float32(nx) + v * np.float32(ny)) / np.float32(length)
    side = np.sign(np.sin((c.grid.angle - np.float32(np.pi / 2)) * points))
    facet = 0.5 + 0.22 * side * smoothstep(0.0, 0.06, v) if rng.random() < 0.6 else 0.45 + 0.4 * triangle(d * 3)
    c.paint(MAIN, c.fill(d), facet)
    c.paint(DARK, c.line(d + 0.03, 0.03))


@_figure
def _heart(c: Canvas, rng: np.random.Generator) -> None:
    alpha = c.outline(
        _mirrored(
            [
                (0, 0.5),
                (0.22, 0.78),
                (0.5, 0.88),
                (0.82, 0.74),
                (0.96, 0.4),
                (0.84, 0.0),
                (0.5, -0.44),
                (0.16, -0.8),
                (0, -0.98),
            ]
        )
    )
    tone = _bevel(c, alpha, 0.3, _rings(rng))
    shine = np.exp(-(((c.x + 0.42) / 0.26) ** 2) - ((c.y - 0.5) / 0.16) ** 2)
    c.paint(MAIN, alpha, tone + 0.45 * shine)
    if rng.random() < 0.4:
        inner = c.depth(alpha)
        c.paint(LIGHT, c.line(inner - 0.12, 0.025) * alpha)


@_figure
def _sun(c: Canvas, rng: np.random.Generator) -> None:
    rays = int(rng.choice([8, 12, 16]))
    r, a = c.grid.radius, c.grid.angle
    bend = float(rng.choice([0.0, rng.uniform(0.8, 2.0)]))
    for k, role in ((1, SECOND), (0, MAIN)):
        spike = triangle((a + bend * (r - 0.5)) * np.float32(rays / TAU) + 0.5 * k)
        edge = 0.5 + (0.5 - 0.12 * k) * spike ** np.float32(1.2)
        c.paint(role, c.implicit(r - edge), 0.35 + 0.4 * spike)
    disc = r - np.float32(0.5)
    c.paint(DARK, c.fill(disc - 0.03))
    c.paint(MAIN, c.fill(disc + 0.01), 0.85 - 0.5 * smoothstep(0.0, 0.5, r) + 0.1 * np.sin(30 * r))


@_figure
def _moon(c: Canvas, rng: np.random.Generator) -> None:
    disc = c.grid.radius - np.float32(0.92)
    bite = _circle(c, rng.uniform(0.38, 0.5), rng.uniform(0.1, 0.25), 0.76)
    d = np.maximum(disc, -bite)
    craters = noise(c.x * 3, c.y * 3, rng, octaves=2)
    c.paint(MAIN, c.fill(d), 0.5 + 0.25 * craters + 0.25 * smoothstep(0.0, 0.5, bite))
    c.paint(DARK, c.line(d + 0.02, 0.02))
    for x, y, s in ((0.52, 0.38, 0.16), (0.3, -0.12, 0.1), (0.72, -0.1, 0.08)):
        u, v = np.abs(c.x - np.float32(x)), np.abs(c.y - np.float32(y))
        c.paint(LIGHT, c.implicit(np.sqrt(u) + np.sqrt(v) - np.float32(np.sqrt(s))), 0.7)


@_figure
def _eye(c: Canvas, rng: np.random.Generator) -> None:
    height = rng.uniform(0.48, 0.62)
    lens = (1 + height**2) / (2 * height)
    lid = np.maximum(_circle(c, 0, height - lens, lens), _circle(c, 0, lens - height, lens))
    white = c.fill(lid)
    lashes = c.line(np.sin(c.grid.angle * 18) * 0.05, 0.012) * smoothstep(0.36, 0.3, lid) * (c.y > 0)
    c.paint(DARK, lashes * smoothstep(0.1, 0.12, lid), solid=False)
    c.paint(MAIN, c.fill(lid - 0.15), 0.62 - 0.5 * smoothstep(0.0, 0.15, lid) + 0.2 * wave(lid * 70))
    c.paint(DARK, c.fill(lid - 0.035))
    c.paint(LIGHT, white, 0.45 + 0.4 * smoothstep(0.0, -0.3, lid))
    r = c.grid.radius
    fibres = wave(c.grid.angle * 24 + 3 * np.sin(r * 14)) * 0.4 + 0.3 * triangle(r * 5)
    c.paint(DARK, c.fill(r - 0.5) * white)
    c.paint(MAIN, c.fill(r - 0.47) * white, 0.25 + fibres)
    c.paint(SECOND, c.fill(r - np.float32(0.26)) * white, 0.4 + 0.4 * wave(c.grid.angle * 16))
    c.paint(DARK, c.fill(r - 0.18) * white, 0.2)
    c.paint(LIGHT, c.fill(_circle(c, 0.13, 0.15, 0.08)), 1.0)


def _branch(
    start: np.ndarray, angle: float, length: float, level: int, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """List the segments (start, end, width) of a branching tree."""
    end = start + length * np.array([np.sin(angle), np.cos(angle)])
    parts = [(start, end, 0.02 + 0.028 * level)]
    if level:
        for turn in (-1, 1):
            parts += _branch(
                end, angle + turn * rng.uniform(0.35, 0.6), length * rng.uniform(0.68, 0.8), level - 1, rng
            )
    return parts


@_figure
def _tree(c: Canvas, rng: np.random.Generator) -> None:
    parts = _branch(np.array([0.0, -0.98]), rng.normal(0, 0.04), 0.62, 2, rng)
    crown: np.ndarray = np.full(c.x.shape, 9.0, np.float32)
    for _, end, _ in parts[1:]:
        crown = np.minimum(crown, _circle(c, end[0], end[1] + 0.05, rng.uniform(0.3, 0.4)))
    crown = crown + 0.03 * noise(c.x * 5, c.y * 5, rng)
    leaves = 0.42 + 0.3 * noise(c.x * 4.5, c.y * 4.5, rng, octaves=2) + 0.25 * c.y - 0.25 * c.x
    rings = triangle(crown * np.float32(rng.uniform(3, 6))) * 0.25
    c.paint(MAIN, c.fill(crown), leaves + rings)
    for start, end, width in parts:
        wood = _segment(c, tuple(start), tuple(end)) - np.float32(width)
        c.paint(DARK, c.fill(wood), 0.35 + 0.5 * smoothstep(0, -width, wood))


@_figure
def _mountain(c: Canvas, rng: np.random.Generator) -> None:
    if rng.random() < 0.6:
        sun = _circle(c, rng.uniform(-0.5, 0.5), 0.55, rng.uniform(0.2, 0.3))
        c.paint(LIGHT, c.fill(sun), 0.6)
    for layer in range(3):
        peaks = rng.uniform(0.55, 0.9)
        shift = rng.uniform(-1, 1)
        slope = c.x * np.float32(peaks) + np.float32(shift)
        rough = np.float32(0.14) * noise(c.x * 3, 0 * c.y, rng, octaves=3)
        d = c.y - (np.float32(0.72 - 0.42 * layer) - (1 - triangle(slope)) * np.float32(1.0 - 0.2 * layer) + rough)
        # the lit side and the shaded side meet in a wavy line below each peak
        side = np.sin(TAU * (slope + 0.03 * np.sin(9 * c.y) + np.float32(0.5)))
        side = np.clip(side * 6, -1, 1) * smoothstep(0.02, 0.2, triangle(slope))
        alpha = c.implicit(d)
        role = MAIN if layer != 1 else (SECOND if rng.random() < 0.5 else MAIN)
        c.paint(role, alpha, 0.62 - 0.2 * layer + 0.14 * side + 0.1 * np.sin(14 * d))
        snow = d + np.float32(0.24) + 0.07 * np.sin(13 * c.x + 5 * rough) + 0.08 * np.sin(29 * c.x)
        high = smoothstep(0.05, 0.3, c.y)
        if layer < 2:
            c.paint(LIGHT, alpha * c.implicit(-snow) * high, 0.6 + 0.25 * side)


@_figure
def _sea(c: Canvas, rng: np.random.Generator) -> None:
    count = int(rng.integers(4, 6))
    if rng.random() < 0.6:
        c.paint(LIGHT, c.fill(_circle(c, rng.uniform(-0.5, 0.5), 0.5, 0.28)), 0.6)
    for i in range(count):
        base = 0.3 - i * 1.3 / count
        k, p = rng.uniform(3.5, 6), rng.uniform(0, TAU)
        u = c.x * np.float32(k) + np.float32(p)
        crest = np.float32(base) + 0.13 * (np.abs(np.sin(u * 0.5 + 0.35 * np.sin(u))) * -2 + 1.2)
        d = c.y - crest
        tone = 0.75 - 0.09 * i - 0.5 * smoothstep(0.0, -0.4, d) + 0.16 * triangle(d * 6)
        c.paint(MAIN if i % 2 == 0 else SECOND if rng.random() < 0.35 else MAIN, c.implicit(d), tone)
        c.paint(LIGHT, c.line(d + 0.02, 0.022), 0.6)


@_figure
def _fire(c: Canvas, rng: np.random.Generator) -> None:
    for i, (role, s) in enumerate(((MAIN, 1.0), (SECOND, 0.72), (LIGHT, 0.42))):
        j = rng.normal(0, 0.05, 12) * s
        tongue = [
            (0.05 + j[0], 0.98),
            (0.2 + j[1], 0.5),
            (0.42 + j[2], 0.2),
            (0.62 + j[3], 0.5),
            (0.72 + j[4], -0.1),
            (0.6, -0.65),
            (0, -0.95),
            (-0.6, -0.65),
            (-0.75 + j[5], -0.05),
            (-0.5 + j[6], 0.62),
            (-0.36 + j[7], 0.12),
            (-0.1 + j[8], 0.45),
        ]
        points = [(x * s, (y + 0.95) * s - 0.95 + 0.06 * i) for x, y in tongue]
        alpha = c.outline(points)
        c.paint(role, alpha, 0.25 + 0.55 * smoothstep(0.0, 0.35, c.depth(alpha)))


@_figure
def _butterfly(c: Canvas, rng: np.random.Generator) -> None:
    j = rng.normal(0, 0.04, 8)
    upper = [
        (0.05, 0.1),
        (0.3, 0.62 + j[0]),
        (0.72 + j[1], 0.9),
        (0.98, 0.72 + j[2]),
        (0.86, 0.25),
        (0.5, 0.0),
        (0.05, -0.02),
    ]
    lower = [(0.05, 0.02), (0.5, -0.02), (0.76 + j[3], -0.3), (0.62 + j[4], -0.75 + j[5]), (0.36, -0.82), (0.12, -0.4)]
    for role, wing in ((SECOND, lower), (MAIN, upper)):
        alpha = np.maximum(c.outline(wing), c.outline([(-x, y) for x, y in wing]))
        depth = c.depth(alpha)
        c.paint(DARK, alpha)
        inner = smoothstep(0.045, 0.045 + 2 * c.px, depth)
        ax = np.abs(c.x)
        rays = 0.2 * np.sin(14 * np.arctan2(c.y, ax))
        c.paint(role, inner, 0.3 + 0.45 * smoothstep(0.03, 0.25, depth) + rays)
    ax = np.abs(c.x)
    for x, y, r in ((0.68, 0.56, 0.13), (0.5, -0.45, 0.12)):
        spot = np.sqrt((ax - np.float32(x)) ** 2 + (c.y - np.float32(y)) ** 2)
        c.paint(LIGHT, c.fill(spot - np.float32(r)), 0.6)
        c.paint(DARK, c.fill(spot - np.float32(r * 0.55)))
    body = np.sqrt((c.x * 5.5) ** 2 + ((c.y + 0.05) * 1.15) ** 2) - np.float32(0.52)
    c.paint(DARK, c.implicit(body), 0.4 + 0.3 * wave(c.y * 40))
    feelers = c.line(ax - 0.05 - 0.9 * (c.y - 0.35) ** 2, 0.014) * smoothstep(0.36, 0.38, c.y) * (c.y < 0.85)
    c.paint(DARK, feelers)


@_figure
def _fish(c: Canvas, rng: np.random.Generator) -> None:
    fat = rng.uniform(0.42, 0.55)
    tail = c.outline([(-0.45, 0.0), (-0.7, 0.2), (-0.98, 0.5), (-0.86, 0.0), (-0.98, -0.5), (-0.7, -0.2)])
    fins = np.maximum(
        c.outline([(0.3, fat * 0.7), (0.05, fat + 0.32), (-0.3, fat + 0.18), (-0.42, 0.15)]),
        c.outline([(0.15, -fat * 0.7), (-0.1, -fat - 0.25), (-0.25, -fat - 0.1), (-0.3, -0.2)]),
    )
    rays = 0.45 + 0.3 * np.sin(26 * (c.y + 0.4 * c.x))
    c.paint(SECOND, np.maximum(tail, fins), rays)
    body = c.outline(
        [
            (0.98, 0.0),
            (0.72, fat * 0.7),
            (0.3, fat),
            (-0.15, fat * 0.8),
            (-0.6, 0.1),
            (-0.6, -0.1),
            (-0.15, -fat * 0.8),
            (0.3, -fat),
            (0.72, -fat * 0.7),
        ]
    )
    n = np.float32(6.5)
    row = np.floor(c.y * n)
    u = c.x * n + 0.5 * np.mod(row, 2)
    u, v = u - np.floor(u) - 0.5, c.y * n - row - 0.5
    scales = triangle(np.sqrt((u + 0.5) ** 2 + v * v) * 0.9) * smoothstep(0.42, 0.36, c.x)
    c.paint(
        MAIN, body, 0.2 + 0.35 * smoothstep(0.0, 0.25, c.depth(body)) + 0.45 * scales * smoothstep(-0.9, 0.3, c.y + 0.4)
    )
    gill = c.line(_circle(c, 0.86, 0.0, 0.46), 0.018) * (np.abs(c.y) < 0.3) * (c.x < 0.6)
    lips = c.line(c.y + 0.12 - 0.8 * (c.x - 0.75) ** 2, 0.014) * (c.x > 0.74)
    c.paint(DARK, body * np.maximum(gill, lips))
    c.paint(LIGHT, c.fill(_circle(c, 0.7, 0.12, 0.1)), 0.8)
    c.paint(DARK, c.fill(_circle(c, 0.72, 0.12, 0.055)), 0.1)


def _wing(root: tuple[float, float], spread: float, reach: float, fingers: int) -> np.ndarray:
    """Outline a raised wing, `[N, 2]`: a smooth leading edge, and fingers of feathers along the trailing edge."""
    lead = [np.array(root) + (0.2, 0.0), np.array(root) + (0.12, 0.45 * reach)]
    points = [*lead]
    for k in range(fingers):
        t = k / (fingers - 1)
        angle = np.pi / 2 + 0.1 + spread * t
        length = reach * (1 - 0.52 * t)
        tip = np.array(root) + length * np.array([np.cos(angle), np.sin(angle)])
        notch = np.array(root) + 0.74 * length * np.array([np.cos(angle + 0.12), np.sin(angle + 0.12)])
        points += [tip, notch]
    points.append(np.array(root) + (-0.2, -0.16))
    return np.array(points)


@_figure
def _bird(c: Canvas, rng: np.random.Generator) -> None:
    lift = rng.uniform(-0.1, 0.15)
    far = c.outline(_wing((0.28, 0.02), -0.75 - lift, 0.85, 5))
    c.paint(SECOND, far, 0.3 + 0.4 * wave(20 * (c.x - 0.6 * c.y)))
    tail = c.outline(
        [(-0.45, -0.12), (-0.98, -0.12), (-0.86, -0.28), (-1.0, -0.44), (-0.8, -0.44), (-0.72, -0.58), (-0.42, -0.3)]
    )
    c.paint(SECOND, tail, 0.35 + 0.3 * wave(40 * (c.y - 0.15 * c.x)))
    body = c.outline(
        [(0.93, 0.2), (0.84, 0.33), (0.66, 0.34), (0.5, 0.2), (0.1, 0.06), (-0.3, -0.06), (-0.6, -0.2)]
        + [(-0.5, -0.32), (-0.1, -0.38), (0.35, -0.3), (0.66, -0.08), (0.82, 0.08)]
    )
    c.paint(MAIN, body, 0.25 + 0.45 * smoothstep(0.0, 0.18, c.depth(body)))
    near = c.outline(_wing((0.1, -0.08), 1.15 + lift, 1.08, 6))
    c.paint(DARK, near)
    quills = triangle(np.arctan2(c.x - np.float32(0.1), c.y + np.float32(0.3)) * np.float32(4.5))
    c.paint(MAIN, smoothstep(0.02, 0.02 + 2 * c.px, c.depth(near)), 0.3 + 0.55 * quills)
    c.paint(LIGHT, c.outline([(0.9, 0.29), (1.14, 0.19), (0.91, 0.15)], smooth=False), 0.5)
    c.paint(DARK, c.fill(_circle(c, 0.77, 0.25, 0.045)), 0.1)


@_figure
def _face(c: Canvas, rng: np.random.Generator) -> None:
    hair = c.outline(_mirrored([(0, 1.0), (0.5, 0.92), (0.82, 0.5), (0.84, -0.1), (0.74, -0.7), (0.3, -0.8)]))
    c.paint(DARK, hair, 0.35 + 0.35 * wave(22 * np.abs(c.x) + 6 * c.y))
    skin = c.outline(_mirrored([(0, 0.78), (0.42, 0.68), (0.62, 0.25), (0.56, -0.3), (0.32, -0.78), (0, -0.95)]))
    c.paint(MAIN, skin, 0.25 + 0.4 * smoothstep(0.0, 0.35, c.depth(skin)) - 0.15 * c.x)
    ax = np.abs(c.x)
    lid = np.sqrt(((ax - 0.27) / 0.19) ** 2 + ((c.y - 0.14) / 0.1) ** 2) - 1
    eye = c.implicit(lid)
    c.paint(DARK, c.implicit(lid - 0.22))
    c.paint(LIGHT, eye, 0.8)
    iris = np.sqrt((ax - 0.27) ** 2 + (c.y - 0.14) ** 2)
    c.paint(SECOND, c.fill(iris - 0.088) * eye, 0.4)
    c.paint(DARK, c.fill(iris - 0.045), 0.1)
    brow = c.y - 0.34 + 1.1 * (ax - 0.28) ** 2
    c.paint(DARK, c.line(brow, 0.03) * smoothstep(0.2, 0.17, np.abs(ax - 0.28)))
    nose = np.minimum(_segment(c, (0.03, 0.1), (0.1, -0.22)), _segment(c, (0.1, -0.22), (-0.04, -0.26)))
    c.paint(DARK, c.fill(nose - 0.018), 0.5)
    mouth = c.outline([(-0.27, -0.5), (-0.1, -0.43), (0, -0.46), (0.1, -0.43), (0.27, -0.5), (0.0, -0.63)])
    c.paint(SECOND, mouth, 0.45)
    smile = c.y + 0.53 - rng.uniform(0.1, 0.5) * c.x**2
    c.paint(DARK, c.line(smile, 0.012) * mouth)


@_figure
def _planet(c: Canvas, rng: np.random.Generator) -> None:
    tilt = c.grid.turned(rng.uniform(0.15, 0.5))
    ring = np.sqrt(tilt.x**2 + (tilt.y * 3.4) ** 2)
    band = c.implicit(np.abs(ring - 0.93) - 0.17)
    tones = 0.5 + 0.4 * np.sin(ring * 60)
    c.paint(SECOND, band, tones)
    ball = c.grid.radius - np.float32(0.66)
    flow = noise(tilt.x * 2, tilt.y * 7, rng, octaves=2)
    belts = wave(tilt.y * np.float32(rng.uniform(12, 20)) + 2.2 * flow)
    light = smoothstep(0.75, -0.2, np.sqrt((c.x + 0.2) ** 2 + (c.y - 0.2) ** 2))
    c.paint(MAIN, c.fill(ball), 0.05 + 0.5 * light + 0.4 * belts)
    c.paint(SECOND, band * (tilt.y < 0), tones)


@_figure
def _galaxy(c: Canvas, rng: np.random.Generator) -> None:
    flat = c.grid.turned(rng.uniform(0, np.pi))
    y = flat.y * np.float32(rng.uniform(1.0, 1.7))
    r = np.sqrt(flat.x**2 + y * y)
    arms = int(rng.choice([2, 2, 3, 4]))
    a = np.arctan2(y, flat.x)
    dust = noise(c.x * 3.5, c.y * 3.5, rng, octaves=3)
    arm = wave(arms * a + rng.choice([-1, 1]) * 5.5 * np.log(r + 0.08) + 0.8 * dust)
    disc = smoothstep(1.05, 0.25, r)
    c.paint(DARK, smoothstep(1.1, 0.5, r) * 0.8, 0.15)
    c.paint(MAIN, np.clip(arm * disc * 1.7 + 0.1 * dust, 0, 1) * smoothstep(1.08, 0.8, r), 0.35 + 0.6 * arm * disc)
    c.paint(SECOND, np.clip((arm - 0.55) * 2, 0, 1) * disc * 0.55, 0.7)
    c.paint(LIGHT, np.clip(np.exp(-((r / 0.17) ** 2)) * 1.3, 0, 1), 0.9)
    for _ in range(26):
        x, y0 = rng.uniform(-0.95, 0.95, 2)
        c.paint(LIGHT, c.fill(_circle(c, x, y0, rng.uniform(0.008, 0.026))), 0.9, solid=False)


@_figure
def _crystal(c: Canvas, rng: np.random.Generator) -> None:
    sides = ((-0.42, -0.75, 0.35, 0.62), (0.45, -0.7, -0.38, 0.55), (0.0, -0.85, 0.0, 1.0))
    for x, base, lean, height in sides:
        w = rng.uniform(0.2, 0.3) * (1.25 if x == 0 else 0.8)
        h = height + rng.uniform(-0.05, 0.0)
        top = np.array([x - lean * 0.6, h])
        foot = np.array([x * 0.3, base])
        axis = (top - foot) / np.linalg.norm(top - foot)
        side = np.array([axis[1], -axis[0]]) * w
        neck = foot + (top - foot) * 0.72
        left = [foot - side * 0.8, neck - side, top, neck - side * 0.2, foot - side * 0.1]
        right = [foot - side * 0.1, neck - side * 0.2, top, neck + side, foot + side * 0.8]
        for facet, tone in ((left, 0.88), (right, 0.28)):
            alpha = c.outline(np.array(facet), smooth=False)
            c.paint(MAIN, alpha, tone + 0.2 * triangle((c.y + c.x) * 2.5) - 0.1)
        for a, b in (
            (foot - side * 0.1, neck - side * 0.2),
            (neck - side * 0.2, top),
            (neck - side, neck - side * 0.2),
            (neck + side, neck - side * 0.2),
        ):
            c.paint(LIGHT, c.fill(_segment(c, tuple(a), tuple(b)) - 0.012), 0.7)


@_figure
def _feather(c: Canvas, rng: np.random.Generator) -> None:
    bend = rng.uniform(0.1, 0.3)
    x = c.x - np.float32(bend) * (c.y**2 - 0.4)
    t = (c.y + 0.7) / 1.68
    width = 0.36 * np.sqrt(np.clip(np.sin(np.pi * np.clip(t, 0, 1) ** np.float32(0.75)), 0, 1))
    barbs = c.y * 34 - np.abs(x) * 34
    notch = 0.02 * np.sin(barbs) + 0.13 * smoothstep(0.85, 1.0, np.sin(c.y * 5 + np.float32(rng.uniform(0, 6))))
    vane = c.implicit(np.abs(x) - width + np.abs(notch)) * (t > 0) * (t < 1)
    spot = np.sqrt((x * 1.5) ** 2 + (c.y - 0.45) ** 2)
    c.paint(MAIN, vane, 0.35 + 0.35 * wave(barbs) + 0.2 * np.sign(x))
    if rng.random() < 0.6:
        c.paint(SECOND, vane * c.fill(spot - np.float32(0.26)), 0.4 + 0.3 * wave(barbs))
        c.paint(DARK, vane * c.fill(spot - np.float32(0.13)))
    c.paint(LIGHT if rng.random() < 0.5 else DARK, c.fill(np.abs(x) - 0.02) * (np.abs(c.y) < 0.97))


@_figure
def _leaf(c: Canvas, rng: np.random.Generator) -> None:
    fat = rng.uniform(0.5, 0.66)
    alpha = c.outline(
        _mirrored([(0, 0.98), (0.2, 0.66), (fat * 0.85, 0.25), (fat, -0.15), (fat * 0.65, -0.5), (0, -0.72)])
    )
    ax = np.abs(c.x)
    veins = triangle((c.y - ax * 0.85) * np.float32(rng.uniform(2.5, 4)))
    c.paint(MAIN, alpha, 0.3 + 0.25 * smoothstep(0.0, 0.2, c.depth(alpha)) + 0.35 * veins - 0.12 * np.sign(c.x))
    c.paint(LIGHT, alpha * c.fill(np.abs(veins - 0.02) * 0.12 - 0.008), 0.4)
    stem = np.abs(c.x - 0.1 * np.sin(2 * np.minimum(c.y + 0.6, 0))) - 0.022
    c.paint(LIGHT, c.fill(stem) * (c.y < 0.9) * (c.y > -1.0), 0.4)


@_figure
def _mushroom(c: Canvas, rng: np.random.Generator) -> None:
    stem = c.outline(_mirrored([(0, 0.1), (0.2, 0.1), (0.2, -0.5), (0.34, -0.9), (0, -0.95)]))
    c.paint(
        LIGHT,
        stem,
        0.35 + 0.25 * np.sin(30 * c.x) * smoothstep(0.3, -0.8, c.y) + 0.3 * smoothstep(0.0, 0.15, c.depth(stem)),
    )
    gills = np.sqrt((c.x / 0.9) ** 2 + ((c.y - 0.05) / 0.2) ** 2) - 1
    c.paint(DARK, c.implicit(gills), 0.4 + 0.4 * wave(40 * c.x))
    cap = c.outline(
        _mirrored([(0, 0.95), (0.42, 0.86), (0.78, 0.5), (0.96, 0.08), (0.7, -0.04), (0.3, 0.07), (0, 0.09)])
    )
    c.paint(MAIN, cap, 0.2 + 0.5 * smoothstep(0.0, 0.3, c.depth(cap)))
    for x, y, r in (
        (-0.02, 0.55, 0.15),
        (0.42, 0.5, 0.11),
        (-0.45, 0.45, 0.12),
        (0.2, 0.25, 0.08),
        (-0.24, 0.2, 0.07),
        (0.68, 0.2, 0.08),
        (-0.72, 0.17, 0.08),
    ):
        c.paint(LIGHT, c.fill(_circle(c, x + rng.normal(0, 0.02), y, r)), 0.7)


@_figure
def _snowflake(c: Canvas, rng: np.random.Generator) -> None:
    step = TAU / 6
    a = c.grid.angle
    a = np.abs(a - step * np.floor(a / step + np.float32(0.5)))
    wedge = Grid(c.grid.radius * np.cos(a), c.grid.radius * np.sin(a), c.grid.px)
    arm = Canvas(wedge, c.px, c.placement)
    width = rng.uniform(0.03, 0.05)
    d = _segment(arm, (0, 0), (0.95, 0))
    for place in np.sort(rng.uniform(0.25, 0.85, int(rng.integers(3, 5)))):
        reach = (0.95 - place) * rng.uniform(0.5, 0.8) + 0.06
        d = np.minimum(d, _segment(arm, (place, 0), (place + reach * 0.5, reach * 0.86)))
    heart = wedge.x - np.float32(rng.uniform(0.16, 0.24))
    d = np.minimum(d - np.float32(width), np.abs(heart) - np.float32(0.03))
    c.paint(DARK, c.fill(d - 0.035))
    c.paint(MAIN, c.fill(d), 0.45 + 0.4 * smoothstep(0, -width, d))


@_figure
def _cat(c: Canvas, rng: np.random.Generator) -> None:
    head = c.outline(
        _mirrored(
            [
                (0, 0.46),
                (0.3, 0.5),
                (0.58, 0.9),
                (0.68, 0.92),
                (0.76, 0.4),
                (0.86, -0.1),
                (0.66, -0.56),
                (0.3, -0.8),
                (0, -0.84),
            ]
        )
    )
    stripes = 0.18 * np.sin(20 * (c.y + 0.5 * np.abs(c.x))) * smoothstep(0.2, 0.5, np.abs(c.x) + 0.4 * c.y)
    c.paint(MAIN, head, 0.2 + 0.4 * smoothstep(0.0, 0.3, c.depth(head)) + stripes)
    ax = np.abs(c.x)
    ear = c.outline([(0.46, 0.55), (0.62, 0.78), (0.68, 0.45)], smooth=False)
    c.paint(SECOND, np.maximum(ear, ear[:, ::-1]) * head, 0.5)
    lid = np.sqrt(((ax - 0.34) / 0.21) ** 2 + ((c.y - 0.02 - 0.25 * (ax - 0.34)) / 0.15) ** 2) - 1
    c.paint(DARK, c.implicit(lid - 0.2), 0.2)
    c.paint(LIGHT, c.implicit(lid), 0.6)
    c.paint(DARK, c.implicit(np.sqrt(((ax - 0.34) / 0.055) ** 2 + ((c.y - 0.02) / 0.14) ** 2) - 1), 0.1)
    c.paint(SECOND, c.outline([(-0.12, -0.25), (0.12, -0.25), (0.0, -0.4)], smooth=False), 0.4)
    mouth = c.y + 0.52 - 0.9 * (ax - 0.14) ** 2 + 0.02
    c.paint(DARK, c.line(mouth, 0.016) * (ax < 0.3))
    for k in (-1, 0, 1):
        whisker = c.y + 0.36 - np.float32(0.14 * k) * (ax - 0.2) * 2
        c.paint(LIGHT, c.line(whisker, 0.008) * smoothstep(0.26, 0.3, ax) * (ax < 0.98), 0.8, solid=False)


def _place(name: str, size: int, composition: str | None, rng: np.random.Generator) -> Canvas:
    """Make the canvas of a figure, at a random place, size and turn that suit the figure and the composition."""
    scale = rng.uniform(0.74, 0.92)
    x, y = rng.normal(0, 0.05, 2)
    turn, flip = rng.normal(0, 0.1), 1.0 if rng.random() < 0.5 else -1.0
    if composition in ("centred", "mirrored", "kaleidoscopic", "tiled"):
        x = y = turn = 0.0
    elif composition == "diagonal":
        turn = 0.6 * flip
    elif composition == "offset":
        x, y, scale = rng.choice([-1, 1]) * 0.26, rng.choice([-1, 1]) * 0.22, scale * 0.82
    if name in _FULL:
        x, y, turn, scale = 0.0, 0.0, 0.0, 1.0
    elif name in _UPRIGHT:
        turn *= 0.4
    elif name == "feather" and composition != "tiled":
        turn += rng.uniform(0.3, 0.7) * flip
    plain = make_grid(size)
    local = plain.moved(x, y).turned(turn)
    grid = Grid(local.x * np.float32(flip / scale), local.y * np.float32(1 / scale), plain.px)
    cos, sin, half = np.cos(turn) * scale, np.sin(turn) * scale, size / 2
    placement = half * np.array([[flip * cos, -sin, x + 1], [-flip * sin, -cos, 1 - y]])
    placement[:, 2] -= 0.5
    return Canvas(grid, plain.px / scale, placement)


def _role_luts(labs: list[np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Make the look-up table of every role from the colours of the scene, Oklab `[3]` each."""
    main, ground = labs[0], labs[1]
    second = labs[2] if len(labs) > 2 else shade(main, 0.16 if main[0] < 0.62 else -0.16)
    dark = shade(main if rng.random() < 0.5 else ground, -0.9)
    dark = np.array([min(0.2, 0.35 * main[0] + 0.05), dark[1], dark[2]])
    light = np.array([0.965, main[1] * 0.12, main[2] * 0.12])
    return {MAIN: ramp(main, 0.2), SECOND: ramp(second, 0.16), DARK: ramp(dark, 0.12), LIGHT: ramp(light, 0.16)}


def _stack(colour: np.ndarray, cover: np.ndarray, alpha: np.ndarray, tone: np.ndarray, lut: np.ndarray) -> None:
    """Blend a layer over `colour` `[H, W, 3]` and `cover` `[H, W]` in place, within the bounding box of the layer."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not len(rows):
        return
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha, total = alpha[box], cover[box]
    total = alpha + total * (1 - alpha)
    colour[box] = lerp(colour[box], apply_lut(lut, tone[box]), three_channels(alpha / np.maximum(total, 1e-6)))
    cover[box] = total


def draw_figure(
    name: str, size: int, labs: list[np.ndarray], composition: str | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a figure.

    Args:
        name: one of `FIGURE_DRAWERS`.
        size: pixels a side.
        labs: Oklab colours `[3]` of the scene, the figure's first, at least two.
        composition: composition of the scene, or None.
        rng: source of the details.

    Returns:
        Colours `[H, W, 3]` in 0..1, their coverage `[H, W]` and the glow around the figure `[H, W]`, float32.

    Raises:
        KeyError: `name` is unknown.
    """
    drawer = FIGURE_DRAWERS[name]
    canvas = _place(name, size, composition, rng)
    drawer(canvas, rng)
    luts = _role_luts(labs, rng)
    colour = np.zeros((size, size, 3), np.float32)
    cover = np.zeros((size, size), np.float32)
    for role, alpha, tone in canvas.layers:
        _stack(colour, cover, np.clip(alpha, 0, 1).astype(np.float32), tone, luts[role])
    solid = canvas.cover if canvas.cover is not None else cover
    small = cv2.resize(solid.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
    halo = cv2.resize(cv2.GaussianBlur(small, (0, 0), 2.6), (size, size), interpolation=cv2.INTER_LINEAR)
    return colour, cover, np.clip(halo * 1.3, 0, 1)
