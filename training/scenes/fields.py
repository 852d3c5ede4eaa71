"""Coordinate grids, and the elementary operations on scalar fields that build patterns and figures."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

TAU = np.float32(2 * np.pi)
_TEXTURE = 512
_CELLS = 16


@dataclass(frozen=True)
class Grid:
    """Coordinates of the pixel centres: `x` to the right and `y` up, `[H, W]` float32; the render spans -1..1.

    `px` is the width of a pixel in the units of the whole render (2 / size), before any folding of the coordinates.
    """

    x: np.ndarray
    y: np.ndarray
    px: float

    @cached_property
    def radius(self) -> np.ndarray:
        """Distance from the origin, `[H, W]`."""
        return np.sqrt(self.x * self.x + self.y * self.y)

    @cached_property
    def angle(self) -> np.ndarray:
        """Polar angle in -pi..pi, `[H, W]`."""
        return np.arctan2(self.y, self.x)

    def moved(self, x: float, y: float) -> "Grid":
        """Move the origin to `(x, y)`."""
        return Grid(self.x - np.float32(x), self.y - np.float32(y), self.px)

    def zoomed(self, factor: float) -> "Grid":
        """Multiply the coordinates by `factor`; a larger factor makes patterns finer."""
        return Grid(self.x * np.float32(factor), self.y * np.float32(factor), self.px)

    def turned(self, angle: float) -> "Grid":
        """Turn the grid by `angle` radians."""
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return Grid(self.x * c + self.y * s, self.y * c - self.x * s, self.px)


def make_grid(size: int) -> Grid:
    """Make the plain grid of a render of `size` pixels a side."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = np.meshgrid(axis, -axis)
    return Grid(np.ascontiguousarray(x), np.ascontiguousarray(y), 2 / size)


def wave(phase: np.ndarray) -> np.ndarray:
    """Map the sine of `phase` (radians) to 0..1."""
    return 0.5 + 0.5 * np.sin(phase)


def triangle(t: np.ndarray) -> np.ndarray:
    """Compute a triangle wave of period 1 in 0..1 with `triangle(0) == 0`."""
    return np.abs(2 * (t - np.floor(t + np.float32(0.5))))


def smoothstep(low: float, high: float, t: np.ndarray) -> np.ndarray:
    """Compute a Hermite step from 0 at `low` to 1 at `high`."""
    s = np.clip((t - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return s * s * (3 - 2 * s)


def lerp(a: np.ndarray, b: np.ndarray | np.float32, t: np.ndarray | np.float32 | float) -> np.ndarray:
    """Interpolate linearly from `a` (t = 0) to `b` (t = 1)."""
    return a + (b - a) * t


def three_channels(field: np.ndarray) -> np.ndarray:
    """Repeat a field `[H, W]` over three channels: `[H, W, 3]`. NumPy broadcasts over a last axis of 3 slowly."""
    return cv2.cvtColor(np.ascontiguousarray(field, dtype=np.float32), cv2.COLOR_GRAY2RGB)


def slopes(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute central differences of a field `[H, W]`: change per pixel to the right, and per pixel down."""
    field = np.asarray(field, np.float32)
    dx = cv2.Sobel(field, cv2.CV_32F, 1, 0, ksize=1, scale=0.5)
    dy = cv2.Sobel(field, cv2.CV_32F, 0, 1, ksize=1, scale=0.5)
    return dx, dy


def steepness(field: np.ndarray) -> np.ndarray:
    """Compute the length of the gradient of a field `[H, W]`, per pixel."""
    dx, dy = slopes(field)
    return np.sqrt(dx * dx + dy * dy)


def sharpened(field: np.ndarray, level: float | np.float32 = 0.5) -> np.ndarray:
    """Make a two-tone version of a field: 0 below `level` and 1 above, with an edge about a pixel wide."""
    width = np.maximum(steepness(field) * 1.3, np.float32(1e-4))
    return np.clip(0.5 + (field - np.float32(level)) / width, 0, 1)


def posterised(field: np.ndarray, levels: int) -> np.ndarray:
    """Cut a field in 0..1 to `levels` flat tones. Edges are hard, so use it for look-up tables, not for images."""
    return np.clip(np.floor(field * levels), 0, levels - 1) / np.float32(levels - 1)


def equalised(field: np.ndarray, amount: float) -> np.ndarray:
    """Stretch a field to 0..1, and move the distribution of its values towards a uniform one by `amount` (0..1).

    The statistics come from a reduced copy of fixed size, so the result hardly depends on the resolution.
    """
    field = np.asarray(field, np.float32)
    small = cv2.resize(field, (48, 48), interpolation=cv2.INTER_AREA)
    knots = np.quantile(small, np.linspace(0.01, 0.99, 15))
    span = max(knots[-1] - knots[0], 1e-6)
    even = np.linspace(0, 1, 15)
    target = (1 - amount) * (knots - knots[0]) / span + amount * even
    knots = knots + np.arange(15) * (1e-5 * span)
    return np.interp(field.ravel(), knots, target).astype(np.float32).reshape(field.shape)


def _noise_texture(octaves: int) -> np.ndarray:
    """Make periodic value noise `[_TEXTURE, _TEXTURE]` in about -1..1; it is the same in every process."""
    rng = np.random.default_rng(20240607 + octaves)
    total = np.zeros((_TEXTURE, _TEXTURE), np.float32)
    for octave in range(octaves):
        cells = _CELLS << octave
        lattice = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        wrapped = np.pad(lattice, 4, mode="wrap")
        scale = _TEXTURE // cells
        fine = cv2.resize(wrapped, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += fine[4 * scale : -4 * scale, 4 * scale : -4 * scale] * 0.5**octave
    return total


def noise(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, octaves: int = 1) -> np.ndarray:
    """Look up smooth noise in about -1..1 at coordinates `[H, W]`; one cell of the first octave is one unit wide.

    Args:
        x, y: coordinates, already multiplied by the wanted frequency.
        rng: picks the place in the periodic texture.
        octaves: 1 (smooth) to 4 (cloudy, each octave half as strong).
    """
    scale = np.float32(_TEXTURE / _CELLS)
    dx, dy = rng.uniform(0, _TEXTURE, 2)
    map_x, map_y = x * scale + np.float32(dx), y * scale + np.float32(dy)
    # wrap around by hand: np.mod costs ten times as much
    map_x -= np.floor(map_x * np.float32(1 / _TEXTURE)) * np.float32(_TEXTURE)
    map_y -= np.floor(map_y * np.float32(1 / _TEXTURE)) * np.float32(_TEXTURE)
    return cv2.remap(_padded_texture(octaves), map_x, map_y, cv2.INTER_LINEAR)


@lru_cache(maxsize=4)
def _padded_texture(octaves: int) -> np.ndarray:
    """Add one wrapped row and column to the noise texture, so that bilinear look-ups never leave it."""
    return np.ascontiguousarray(np.pad(_noise_texture(octaves), ((0, 1), (0, 1)), mode="wrap"))


def domain_warp(grid: Grid, strength: float, rng: np.random.Generator) -> Grid:
    """Bend a grid by two crossed sums of sines; `strength` is the displacement in units of the render."""
    if strength <= 0:
        return grid
    f = rng.uniform(1.2, 3.2, 4).astype(np.float32)
    p = rng.uniform(0, TAU, 4).astype(np.float32)
    s = np.float32(strength)
    x = grid.x + s * (np.sin(f[0] * grid.y + p[0]) + 0.5 * np.sin(2.1 * f[1] * grid.x + p[1]))
    y = grid.y + s * (np.sin(f[2] * x + p[2]) + 0.5 * np.sin(2.1 * f[3] * grid.y + p[3]))
    return Grid(x.astype(np.float32), y.astype(np.float32), grid.px)
