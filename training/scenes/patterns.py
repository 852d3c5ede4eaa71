"""Pattern families: each turns a coordinate grid and a random generator into a scalar field `[H, W]` in about 0..1.

Fields are continuous where possible. Edges are cut later, or by `sharpened`, with a width that follows the gradient. So
every family is anti-aliased at every resolution, also on a folded grid.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.scenes.fields import TAU, Grid, lerp, noise, sharpened, smoothstep, triangle, wave

Family = Callable[[Grid, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Pattern:
    """A pattern family.

    Attributes:
        field: its field function.
        warp: factor on the strength of the domain warp (0 keeps symmetry exact).
        radial: built around a centre, which a folded grid would hide.
        folding: factor on the number of folds of the field; fine patterns get fewer.
    """

    field: Family
    warp: float
    radial: bool
    folding: float


PATTERN_FAMILIES: dict[str, Pattern] = {}


def _family(name: str, warp: float, *, radial: bool = False, folding: float = 1.0) -> Callable[[Family], Family]:
    """Register a field function as a pattern family; see `Pattern` for the arguments."""

    def register(function: Family) -> Family:
        PATTERN_FAMILIES[name] = Pattern(function, warp, radial, folding)
        return function

    return register


def _phase(rng: np.random.Generator) -> np.float32:
    return np.float32(rng.uniform(0, TAU))


def _between(rng: np.random.Generator, low: float, high: float) -> np.float32:
    return np.float32(rng.uniform(low, high))


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _any_turn(grid: Grid, rng: np.random.Generator) -> Grid:
    return grid.turned(rng.uniform(0, TAU))


# --- around a centre -------------------------------------------------------------------------------------------


@_family("spiral", 0.0, radial=True)
def _spiral(g: Grid, rng: np.random.Generator) -> np.ndarray:
    arms = int(rng.integers(1, 7))
    kind = rng.integers(3)
    r = g.radius
    if kind == 0:
        twist = _between(rng, 2.5, 6) * np.log(r + 0.03)
    elif kind == 1:
        twist = _between(rng, 8, 20) * r
    else:
        twist = _between(rng, 10, 20) * np.sqrt(r + 0.01)
    phase = arms * g.angle + _sign(rng) * twist + _phase(rng)
    field = wave(phase)
    if rng.random() < 0.4:
        field = field * 0.75 + 0.25 * wave(phase * 3 + r * 6)
    return field


@_family("rings", 0.35, radial=True)
def _rings(g: Grid, rng: np.random.Generator) -> np.ndarray:
    r = g.radius
    shape = rng.integers(3)
    if shape == 1:
        r = r * (1 + _between(rng, 0.04, 0.12) * np.cos(int(rng.integers(3, 9)) * g.angle + _phase(rng)))
    elif shape == 2:
        r = np.sqrt(r + 0.02) * 1.2
    return lerp(wave(_between(rng, 9, 26) * r + _phase(rng)), wave(r * 4 + _phase(rng)), 0.25)


@_family("rays", 0.25, radial=True)
def _rays(g: Grid, rng: np.random.Generator) -> np.ndarray:
    arms = int(rng.integers(5, 17))
    bend = _between(rng, 0, 0.8) * np.sin(_between(rng, 3, 9) * g.radius + _phase(rng))
    field = wave(arms * g.angle + bend * (rng.random() < 0.6) + _phase(rng))
    return lerp(field, wave(g.radius * _between(rng, 3, 8)), _between(rng, 0.1, 0.35))


@_family("tunnel", 0.1, radial=True, folding=0.5)
def _tunnel(g: Grid, rng: np.random.Generator) -> np.ndarray:
    r = g.radius + 0.06
    sides = int(rng.integers(3, 9)) * 2
    depth = _between(rng, 1.2, 2.6) / r if rng.random() < 0.5 else -_between(rng, 5, 8) * np.log(r)
    twist = _sign(rng) * _between(rng, 0, 0.7) * depth
    checks = np.sin(depth * 2 + _phase(rng)) * np.sin(sides / 2 * g.angle + twist)
    fade = smoothstep(0.0, 0.4, g.radius)
    return 0.5 + (0.5 * checks) * fade - 0.25 * (1 - fade)


@_family("vortex", 0.15, radial=True)
def _vortex(g: Grid, rng: np.random.Generator) -> np.ndarray:
    swirl = _sign(rng) * _between(rng, 5, 11) * np.exp(-_between(rng, 1.6, 2.8) * g.radius)
    c, s = np.cos(swirl), np.sin(swirl)
    x, y = g.x * c - g.y * s, g.x * s + g.y * c
    k = _between(rng, 3, 7)
    bars = np.sin(k * x + _phase(rng)) + 0.6 * np.sin(k * 0.8 * y + _phase(rng) + np.sin(k * 0.5 * x))
    return 0.5 + 0.31 * bars


@_family("mandala", 0.0, radial=True, folding=0.4)
def _mandala(g: Grid, rng: np.random.Generator) -> np.ndarray:
    """Draw wreaths of petals, from the outermost to the innermost."""
    symmetry = int(rng.choice([6, 8, 10, 12]))
    r = g.radius
    field = 0.15 + 0.2 * wave(r * 22)
    wreaths = int(rng.integers(4, 6))
    for k in range(wreaths):
        reach = np.float32(1.45 * 0.7**k * rng.uniform(0.92, 1.05))
        count = symmetry * (2 if k < 2 and rng.random() < 0.5 else 1)
        step = TAU / count
        a = g.angle - np.float32(k % 2) * step / 2
        a = a - step * np.floor(a / step + np.float32(0.5))
        # A petal is an ellipse from near the centre to `reach`, pinched towards its tip.
        u = (r * np.cos(a) - reach * np.float32(0.62)) / (reach * np.float32(0.38))
        breadth = np.float32(reach * 0.62 * np.tan(step / 2) * rng.uniform(0.85, 1.25))
        v = r * np.sin(a) / (breadth * (1.15 - 0.35 * np.clip(u, -1, 1)))
        d = np.sqrt(u * u + v * v)
        tone = triangle(d * int(rng.integers(1, 4)) * 0.5 + 0.5 * (k % 2))
        base = reach * np.float32(0.42)
        disc = sharpened(base - r, level=0.0)
        field = lerp(field, 0.1 + 0.8 * tone, sharpened(1 - d, level=0.0))
        field = lerp(field, 0.9 - 0.75 * triangle(r / base) if k % 2 else 0.2 + 0.6 * triangle(r / base * 1.5), disc)
    return field


@_family("kaleidoscope", 0.0, radial=True)
def _kaleidoscope(g: Grid, rng: np.random.Generator) -> np.ndarray:
    sectors = int(rng.integers(3, 9))
    r = g.radius
    a = triangle(g.angle * np.float32(sectors / TAU)) * np.float32(np.pi / sectors)
    x, y = r * np.cos(a), r * np.sin(a)
    x, y = x + _between(rng, -0.5, 0.5), y + _between(rng, -0.4, 0.4)
    p = rng.uniform(0, TAU, 6).astype(np.float32)
    k = rng.uniform(4, 8, 4).astype(np.float32)
    u = x + 0.25 * np.sin(k[0] * y + p[0])
    v = y + 0.25 * np.sin(k[1] * u + p[1])
    shards = np.sin(k[2] * u + p[2]) * np.sin(k[3] * v + p[3])
    facets = triangle(1.3 * u - 2.1 * v + p[4])
    return 0.5 + 0.3 * shards + 0.3 * (facets - 0.5) + 0.2 * np.sin(9 * r + p[5])


@_family("rosette", 0.1, radial=True)
def _rosette(g: Grid, rng: np.random.Generator) -> np.ndarray:
    petals = int(rng.integers(3, 10))
    curl = _between(rng, -2, 2) * (rng.random() < 0.5)
    rose = g.radius * _between(rng, 6, 12) / (1 + 0.75 * np.abs(np.cos(petals / 2 * g.angle + curl * g.radius)))
    return wave(rose * 1.6 + _phase(rng))


@_family("polygons", 0.15, radial=True)
def _polygons(g: Grid, rng: np.random.Generator) -> np.ndarray:
    sides = int(rng.integers(3, 9))
    twist = _between(rng, -1.2, 1.2) * (rng.random() < 0.6)
    a = g.angle + twist * g.radius
    step = TAU / sides
    a = a - step * np.floor(a / step + np.float32(0.5))
    return triangle(g.radius * np.cos(a) * _between(rng, 1.6, 3.6) + _between(rng, 0, 1))


# --- flowing --------------------------------------------------------------------------------------------------


@_family("waves", 0.5)
def _waves(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = g.turned(rng.normal(0, 0.3))
    k = _between(rng, 5, 13)
    bend = _between(rng, 0.08, 0.22) * np.sin(_between(rng, 2, 6) * g.x + _phase(rng))
    bend = bend + 0.05 * np.sin(_between(rng, 6, 10) * g.x + g.y * 3 + _phase(rng))
    return wave(k * (g.y + bend) + _phase(rng)) * 0.8 + 0.2 * wave(2 * g.y + _phase(rng))


@_family("plasma", 0.8)
def _plasma(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = _any_turn(g, rng)
    k = rng.uniform(2, 5.5, 4).astype(np.float32)
    total = np.sin(k[0] * g.x + _phase(rng)) + np.sin(k[1] * g.y + _phase(rng))
    total = total + np.sin(k[2] * (g.x + g.y) * 0.7 + _phase(rng))
    centred = g.moved(*rng.uniform(-0.6, 0.6, 2))
    return wave(total * 1.2 + np.sin(k[3] * centred.radius * 1.5))


@_family("marble", 0.5)
def _marble(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = _any_turn(g, rng)
    f = _between(rng, 1.0, 1.9)
    turbulence = noise(g.x * f, g.y * f, rng, octaves=3)
    vein = np.abs(np.sin(_between(rng, 2.5, 4.5) * g.x + _between(rng, 2.2, 3.6) * turbulence + _phase(rng)))
    return np.sqrt(vein)


@_family("clouds", 0.6)
def _clouds(g: Grid, rng: np.random.Generator) -> np.ndarray:
    f = _between(rng, 1.0, 2.0)
    drift = noise(g.x * f * 0.7, g.y * f * 0.7, rng)
    return 0.5 + 0.4 * noise(g.x * f + drift * 0.6, g.y * f * 1.4 + drift * 0.4, rng, octaves=4)


@_family("swirls", 0.8)
def _swirls(g: Grid, rng: np.random.Generator) -> np.ndarray:
    # Repeated domain warping after Inigo Quilez, "domain warping".
    f = _between(rng, 0.8, 1.4)
    x, y = g.x * f, g.y * f
    a, b = noise(x, y, rng), noise(x, y, rng)
    c, d = noise(x + 1.4 * a, y + 1.4 * b, rng), noise(x + 1.4 * b, y + 1.4 * a, rng)
    return wave(_between(rng, 3.0, 6.0) * noise(x + 1.2 * c, y + 1.2 * d, rng) + a * 2)


@_family("flames", 0.3)
def _flames(g: Grid, rng: np.random.Generator) -> np.ndarray:
    f = _between(rng, 2.0, 3.4)
    sway = 0.35 * np.sin(2.2 * g.y + _phase(rng)) + 0.5 * noise(g.x * 1.5, g.y * 1.1, rng)
    tongues = noise(g.x * f + sway, g.y * f * 0.33 - 0.6 * np.abs(sway), rng, octaves=2)
    return wave(4.2 * tongues - 2.6 * g.y)


@_family("contours", 0.5)
def _contours(g: Grid, rng: np.random.Generator) -> np.ndarray:
    f = _between(rng, 0.9, 1.6)
    height = noise(g.x * f, g.y * f, rng) + 0.25 * noise(g.x * f * 2, g.y * f * 2, rng)
    line = triangle(height * _between(rng, 3.0, 5.5))
    return lerp(smoothstep(0.0, 0.55, line), wave(height * 3), 0.3)


@_family("veins", 0.4)
def _veins(g: Grid, rng: np.random.Generator) -> np.ndarray:
    f = _between(rng, 1.3, 2.2)
    bend = noise(g.x * f, g.y * f, rng)
    ridge = np.abs(noise(g.x * f + bend * 0.5, g.y * f, rng))
    fine = np.abs(noise(g.x * f * 2.3 + bend, g.y * f * 2.3, rng))
    return np.sqrt(np.minimum(ridge * 1.3, fine * 1.0 + 0.12))


@_family("ripples", 0.15)
def _ripples(g: Grid, rng: np.random.Generator) -> np.ndarray:
    k = _between(rng, 11, 20)
    total = np.zeros_like(g.x)
    sources = int(rng.integers(2, 5))
    for _ in range(sources):
        r = g.moved(*rng.uniform(-0.9, 0.9, 2)).radius
        total += np.sin(k * r + _phase(rng)) / (0.6 + r)
    return 0.5 + total / sources * 0.5


@_family("moire", 0.15, folding=0.45)
def _moire(g: Grid, rng: np.random.Generator) -> np.ndarray:
    k = _between(rng, 11, 19)
    first = g.moved(*rng.uniform(-0.5, 0.5, 2)).radius
    second = g.moved(*rng.uniform(-0.5, 0.5, 2))
    other = second.radius if rng.random() < 0.5 else second.turned(rng.uniform(0, TAU)).x
    return 0.5 + 0.5 * np.sin(k * first) * np.sin(k * other + _phase(rng))


@_family("feathers", 0.2, folding=0.3)
def _feathers(g: Grid, rng: np.random.Generator) -> np.ndarray:
    """Draw rows of long pointed feathers with shaft and barbs, each row over the one above it."""
    g = g.turned(rng.normal(0, 0.35))
    n = _between(rng, 0.9, 1.5)
    x, y = g.x * n, g.y * n * np.float32(1.3)
    barb, slope = _between(rng, 3.0, 5.0), _between(rng, 1.0, 1.8)
    eye = rng.random() < 0.4
    field = np.zeros_like(x)
    base = np.floor(y)
    for step in (2, 1, 0, -1):
        row = base + step
        u = x + 0.5 * np.mod(row, 2)
        u = np.abs(u - np.floor(u) - 0.5)
        v = y - row + 0.9
        # the tip is at v = 0; above it the feather widens, and its upper end lies under the row above
        half = 0.56 * np.sqrt(np.clip(v, 0, 1) * np.clip(2.2 - v, 0, 1.5) / 1.2)
        vane = 0.35 + 0.6 * triangle((v - slope * u) * barb) * smoothstep(0.01, 0.05, u)
        if eye:
            spot = np.sqrt((u * 1.6) ** 2 + (v - 0.5) ** 2)
            vane = lerp(vane, triangle(spot * 5), smoothstep(0.3, 0.27, spot))
        rim = half - u
        field = lerp(field, vane * smoothstep(0.0, 0.07, rim), sharpened(rim, level=0.0) * (v > 0))
    return field


# --- ordered --------------------------------------------------------------------------------------------------


@_family("stripes", 0.25, folding=0.45)
def _stripes(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = g.turned(rng.choice([0, np.pi / 2, np.pi / 4, -np.pi / 4]) + rng.normal(0, 0.08))
    k = _between(rng, 1.4, 3.4)
    broad = sharpened(triangle(g.x * k))
    thin = sharpened(triangle(g.x * k + 0.5), level=0.78)
    return np.clip(broad * 0.85 + thin * _between(rng, 0.0, 0.5) * (1 - broad) + 0.1 * triangle(g.x * k), 0, 1)


@_family("checkers", 0.3, folding=0.45)
def _checkers(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = g.turned(rng.choice([0, np.pi / 4]) + rng.normal(0, 0.1))
    k = _between(rng, 5, 12)
    field = np.sin(k * g.x + _phase(rng)) * np.sin(k * g.y + _phase(rng))
    return lerp(sharpened(0.5 + 0.5 * field), 0.5 + 0.5 * field, 0.25)


@_family("dots", 0.2, folding=0.45)
def _dots(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = g.turned(rng.uniform(0, TAU))
    n = _between(rng, 1.6, 3.6)
    row = np.floor(g.y * n)
    u = g.x * n + 0.5 * np.mod(row, 2)
    u, v = u - np.floor(u) - 0.5, g.y * n - row - 0.5
    r = np.sqrt(u * u + v * v)
    size = _between(rng, 0.3, 0.42)
    if rng.random() < 0.5:
        return np.clip(1 - r / size * 0.5, 0, 1) * sharpened(size - r, level=0.0) + 0.0
    return sharpened(size - r, level=0.0) * (0.6 + 0.4 * sharpened(r - size * 0.5, level=0.0))


@_family("hexagons", 0.2, folding=0.45)
def _hexagons(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = _any_turn(g, rng)
    n = _between(rng, 1.5, 3.2)
    x, y = g.x * n, g.y * n
    s = np.float32(np.sqrt(3))
    ax, ay = x - np.floor(x + 0.5), y - s * np.floor(y / s + 0.5)
    bx, by = x - np.floor(x) - 0.5, y - s * np.floor(y / s) - s / 2
    near = ax * ax + ay * ay < bx * bx + by * by
    u, v = np.abs(np.where(near, ax, bx)), np.abs(np.where(near, ay, by))
    rim = 0.5 - np.maximum(u, u * 0.5 + v * (s / 2))
    tone = wave(_tile_tone(x - np.where(near, ax, bx), y - np.where(near, ay, by), rng))
    border = smoothstep(0.02, 0.07, rim)
    inner = 0.25 + 0.55 * tone + 0.35 * (triangle(rim * 3) - 0.5)
    return inner * border


def _tile_tone(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compute a phase that is constant over a tile, from the integer coordinates `x`, `y` of the tile."""
    return 1.9 * x + 2.7 * y + _phase(rng) + 1.3 * np.sin(x * 1.1 - y * 2.3)


@_family("diamonds", 0.2, folding=0.45)
def _diamonds(g: Grid, rng: np.random.Generator) -> np.ndarray:
    n = _between(rng, 1.2, 2.4)
    stretch = _between(rng, 0.5, 1.0)
    x, y = g.x * n, g.y * n * stretch
    d = triangle(x) + triangle(y)
    return triangle(d * int(rng.integers(1, 4)) * 0.5 + 0.02)


@_family("triangles", 0.15, folding=0.45)
def _triangles(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = _any_turn(g, rng)
    n = _between(rng, 1.4, 2.6)
    a = np.float32(np.pi / 3)
    axes = [g.x * np.cos(k * a) + g.y * np.sin(k * a) for k in range(3)]
    cells = [axis * n - np.floor(axis * n) for axis in axes]
    rim = np.minimum.reduce([np.minimum(c, 1 - c) for c in cells])
    ids = [np.floor(axis * n) for axis in axes]
    tone = wave(_tile_tone(ids[0] + 0.5 * ids[2], ids[1] - 0.3 * ids[2], rng))
    return (0.2 + 0.8 * tone) * smoothstep(0.01, 0.06, rim)


@_family("zigzag", 0.2, folding=0.45)
def _zigzag(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = g.turned(rng.choice([0, np.pi / 2]) + rng.normal(0, 0.1))
    zig = triangle(g.x * _between(rng, 1.0, 2.4)) * _between(rng, 0.25, 0.5)
    return triangle((g.y + zig) * _between(rng, 1.6, 3.4)) * 0.85 + 0.15 * wave(3 * g.y)


@_family("lattice", 0.2, folding=0.45)
def _lattice(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = g.turned(rng.choice([0, np.pi / 4]) + rng.normal(0, 0.1))
    n = _between(rng, 1.6, 3.2)
    u, v = triangle(g.x * n), triangle(g.y * n)
    bars = sharpened(np.maximum(u, v), level=_between(rng, 0.62, 0.75))
    knots = sharpened(np.minimum(u, v), level=0.72)
    return np.clip(0.62 * bars + 0.38 * knots + 0.3 * (1 - bars) * (u + v) * 0.5, 0, 1)


@_family("weave", 0.15, folding=0.45)
def _weave(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = g.turned(rng.choice([0, np.pi / 4]))
    n = _between(rng, 2.0, 3.6)
    x, y = g.x * n, g.y * n
    over = np.sin(np.pi * x) * np.sin(np.pi * y) > 0
    u, v = x - np.floor(x), y - np.floor(y)
    across, along = np.where(over, u, v), np.where(over, v, u)
    bulge = np.sin(np.pi * along) * smoothstep(0.5, 0.4, np.abs(across - 0.5))
    return np.where(over, 0.5 - 0.5 * bulge, 0.5 + 0.5 * bulge) * 0.9 + 0.05


@_family("scales", 0.15, folding=0.45)
def _scales(g: Grid, rng: np.random.Generator) -> np.ndarray:
    g = g.turned(rng.choice([0, np.pi]) + rng.normal(0, 0.15))
    n = _between(rng, 1.1, 2.3)
    x, y = g.x * n, g.y * n * 1.6
    row = np.floor(y)
    field = np.zeros_like(x)
    # rows overlap downwards: each is drawn over the row above it, from the top
    for step in (1, 0, -1):
        r = row + step
        u = x + 0.5 * np.mod(r, 2)
        u = u - np.floor(u) - 0.5
        v = (y - r) / 1.6 - 0.31
        d = np.sqrt(u * u + v * v) * 2
        inside = smoothstep(1.16, 1.11, d)
        field = lerp(field, triangle(d * 1.5 + 0.05) * smoothstep(1.14, 1.0, d), inside)
    return field


@_family("labyrinth", 0.1, folding=0.45)
def _labyrinth(g: Grid, rng: np.random.Generator) -> np.ndarray:
    # Truchet tiles: two arcs in one of two orientations (C. S. Smith, "The tiling patterns of Sebastien Truchet", 1987)
    g = g.turned(rng.choice([0, np.pi / 4]))
    n = _between(rng, 1.4, 3.0)
    x, y = g.x * n + 40, g.y * n + 40
    ix, iy = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    flips = rng.integers(0, 2, (64, 64)).astype(np.float32)
    flip = flips[iy & 63, ix & 63]
    u, v = x - ix, y - iy
    u = np.where(flip > 0, 1 - u, u).astype(np.float32)
    v = v.astype(np.float32)
    near = np.minimum(np.sqrt(u * u + v * v), np.sqrt((1 - u) ** 2 + (1 - v) ** 2))
    return triangle((near - 0.5) * int(rng.integers(1, 4)) + 0.5)


@_family("circles", 0.15, folding=0.45)
def _circles(g: Grid, rng: np.random.Generator) -> np.ndarray:
    # overlapping circles on a hexagonal lattice; the parity of the overlaps makes petals
    n = _between(rng, 1.2, 2.2)
    x, y = g.x * n, g.y * n * np.float32(2 / np.sqrt(3))
    radius = _between(rng, 0.85, 1.05)
    product = np.ones_like(x)
    base = np.floor(y)
    for step in (-1, 0, 1, 2):
        row = base + step
        u = x + 0.5 * np.mod(row, 2)
        u = u - np.floor(u)
        v = (y - row) * np.float32(np.sqrt(3) / 2)
        for shift in (-1, 0, 1, 2):
            d = np.sqrt((u - np.float32(shift)) ** 2 + v * v)
            product *= np.clip((d - radius) * 9, -1, 1)
    return 0.5 + 0.5 * product


@_family("quasicrystal", 0.1, folding=0.45)
def _quasicrystal(g: Grid, rng: np.random.Generator) -> np.ndarray:
    count = int(rng.choice([4, 5, 7]))
    k = _between(rng, 9, 16)
    start = rng.uniform(0, np.pi)
    # near the origin all waves are in phase and make plain rings, so the visible part lies beside it
    g = g.moved(*rng.uniform(0.5, 1.6, 2))
    total = np.zeros_like(g.x)
    for i in range(count):
        a = start + np.pi * i / count
        total += np.cos(k * (g.x * np.float32(np.cos(a)) + g.y * np.float32(np.sin(a))))
    return wave(total * _between(rng, 0.4, 0.7))


# --- scattered ------------------------------------------------------------------------------------------------


def _voronoi(g: Grid, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute distances to the nearest and the second seed, and a tone for each cell, each `[H, W]`."""
    side = int(np.ceil(np.sqrt(count)))
    lattice = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) + 0.5) / side * 2.6 - 1.3
    seeds = (lattice + rng.uniform(-0.42, 0.42, lattice.shape) * (2.6 / side)).astype(np.float32)
    tones = rng.permutation(len(seeds)).astype(np.float32) / len(seeds)
    first = np.full(g.x.shape, 9e9, np.float32)
    second = first.copy()
    tone = np.zeros_like(first)
    for (sx, sy), t in zip(seeds, tones, strict=True):
        d = (g.x - sx) ** 2 + (g.y - sy) ** 2
        nearer = d < first
        second = np.minimum(second, np.maximum(first, d))
        np.copyto(tone, t, where=nearer)
        first = np.minimum(first, d)
    return np.sqrt(first), np.sqrt(second), tone


@_family("cells", 0.35, folding=0.45)
def _cells(g: Grid, rng: np.random.Generator) -> np.ndarray:
    near, far, tone = _voronoi(g, rng, int(rng.integers(12, 36)))
    rim = smoothstep(0.0, 0.16, far - near)
    return rim * (0.35 + 0.4 * tone + 0.25 * np.cos(near * 14))


@_family("mosaic", 0.15, folding=0.45)
def _mosaic(g: Grid, rng: np.random.Generator) -> np.ndarray:
    near, far, tone = _voronoi(g, rng, int(rng.integers(20, 50)))
    return (0.12 + 0.88 * tone) * smoothstep(0.012, 0.035, far - near)


@_family("bubbles", 0.15)
def _bubbles(g: Grid, rng: np.random.Generator) -> np.ndarray:
    field = 0.12 + 0.12 * np.sin(2 * g.y + _phase(rng))
    for radius in np.sort(rng.uniform(0.1, 0.42, int(rng.integers(12, 20))))[::-1]:
        d = g.moved(*rng.uniform(-1.1, 1.1, 2)).radius / np.float32(radius)
        inside = sharpened(1 - d, level=0.0)
        field = lerp(field, 0.3 + 0.7 * triangle(d * _between(rng, 0.5, 1.2) + _between(rng, 0, 0.5)), inside)
    return field


@_family("fractal", 0.1, folding=0.45)
def _fractal(g: Grid, rng: np.random.Generator) -> np.ndarray:
    # Repeated "absolute value over squared radius" folding, the set that Kali published on fractalforums.com.
    cx, cy = _between(rng, 0.55, 0.8), _between(rng, 0.35, 0.75)
    x, y = np.abs(g.x) * 0.9 + 0.05, np.abs(g.y) * 0.9 + 0.05
    trap = np.zeros_like(x)
    for _ in range(5):
        scale = 1 / (x * x + y * y + 0.06)
        x, y = np.abs(x * scale) - cx, np.abs(y * scale) - cy
        trap += np.exp(-4 * np.abs(np.sqrt(x * x + y * y) - 0.5))
    return trap * 0.4
