"""Scenes: the attributes that a render is drawn from and that its caption may name."""

from dataclasses import dataclass, replace

import numpy as np

from training.scenes.figures import FIGURE_DRAWERS
from training.scenes.palette import COLOURS as COLOUR_VALUES
from training.scenes.palette import colour_distance
from training.scenes.patterns import PATTERN_FAMILIES

PATTERNS: tuple[str, ...] = tuple(PATTERN_FAMILIES)
FIGURES: tuple[str, ...] = tuple(FIGURE_DRAWERS)
COLOURS: tuple[str, ...] = tuple(COLOUR_VALUES)
MOODS: tuple[str, ...] = (
    "calm",
    "wild",
    "dark",
    "bright",
    "soft",
    "sharp",
    "dreamy",
    "electric",
    "hypnotic",
    "warm",
    "cool",
)
COMPOSITIONS: tuple[str, ...] = ("centred", "tiled", "mirrored", "kaleidoscopic", "diagonal", "offset")
FOLDING_COMPOSITIONS: tuple[str, ...] = ("mirrored", "kaleidoscopic", "diagonal")
BLENDS: tuple[str, ...] = ("mask", "inside", "mixed")

WARM: tuple[str, ...] = ("red", "coral", "orange", "yellow", "gold", "cream", "brown", "maroon", "magenta", "pink")
COOL: tuple[str, ...] = (
    "green",
    "mint",
    "teal",
    "turquoise",
    "cyan",
    "blue",
    "navy",
    "indigo",
    "violet",
    "lavender",
    "white",
)

NATURAL: dict[str, tuple[str, ...]] = {
    "flower": ("pink", "red", "magenta", "violet", "yellow", "white"),
    "star": ("yellow", "gold", "white", "cyan"),
    "heart": ("red", "pink", "magenta", "maroon"),
    "sun": ("yellow", "orange", "gold", "red"),
    "moon": ("cream", "white", "yellow", "grey"),
    "eye": ("blue", "green", "turquoise", "brown", "violet"),
    "tree": ("green", "lime", "olive", "orange"),
    "mountain": ("grey", "blue", "violet", "brown"),
    "sea": ("blue", "teal", "turquoise", "navy"),
    "fire": ("orange", "red", "yellow"),
    "butterfly": ("orange", "blue", "violet", "yellow"),
    "fish": ("orange", "gold", "turquoise", "coral"),
    "bird": ("blue", "red", "white", "turquoise"),
    "face": ("cream", "brown", "coral", "gold"),
    "planet": ("orange", "blue", "coral", "violet"),
    "galaxy": ("violet", "blue", "magenta", "white"),
    "crystal": ("cyan", "violet", "turquoise", "pink"),
    "feather": ("white", "turquoise", "blue", "green"),
    "leaf": ("green", "lime", "olive", "orange"),
    "mushroom": ("red", "orange", "violet", "brown"),
    "snowflake": ("white", "cyan", "blue"),
    "cat": ("black", "orange", "grey", "white"),
}
"""Usual colours of each figure: what a prompt without colours should give."""


VARIANTS = 16
"""Shapes of each pattern, composition and figure. A small model can learn a few of them, not an endless number."""

SHAPE_ATTRIBUTES: dict[str, tuple[object, ...]] = {
    "pattern": PATTERNS,
    "figure": (None, *FIGURES),
    "composition": (None, *COMPOSITIONS),
    "mood": (None, *MOODS),
    "second": (None, *PATTERNS),
    "blend": (None, *BLENDS),
    "folding": (False, True),
    "banded": (False, True),
}
"""The attributes of a scene that decide its shapes, each with its possible values."""

NAMED_COLOURS = 3
"""Colours of a scene that count as attributes; a fourth colour is only a small accent."""


@dataclass(frozen=True)
class Scene:
    """Describe a render. `seed` decides all details without a name: tones, light, and the variant of the shapes.

    Attributes:
        seed: seed of the unnamed details.
        pattern: family of the pattern, or of the background of a figure.
        second: family of a second pattern that is combined with the first, or None.
        blend: how the two are combined (one of `BLENDS`); None without a second pattern.
        figure: name of the figure, or None.
        colours: 2 to 4 names; with a figure the first is the figure's and the second the background's.
        mood: one of `MOODS`, or None.
        composition: one of `COMPOSITIONS`, or None.
        folding: fold the field into many bands (the psychedelic look).
        banded: cut tones to flat bands with crisp edges.
    """

    seed: int
    pattern: str
    colours: tuple[str, ...]
    second: str | None = None
    blend: str | None = None
    figure: str | None = None
    mood: str | None = None
    composition: str | None = None
    folding: bool = False
    banded: bool = False

    @property
    def variant(self) -> int:
        """Number of the scene's shapes among the `VARIANTS` of its pattern, composition and figure."""
        return self.seed % VARIANTS


def pick(names: tuple[str, ...], rng: np.random.Generator) -> str:
    """Pick one of `names`, all equally likely."""
    return names[int(rng.integers(len(names)))]


def _sample_colours(
    rng: np.random.Generator, first: str | None, mood: str | None, figure: str | None
) -> tuple[str, ...]:
    """Draw two to four clearly different colours that a mood allows; those of figure and background differ the most."""
    pool = {"warm": WARM, "cool": COOL}.get(mood or "", COLOURS)
    apart = 0.25 if figure else 0.17  # least distance of the first two, in Oklab
    u = rng.random()
    count = 2 if u < 0.5 else 3 if u < 0.86 else 4
    chosen = [first or pick(pool, rng)]
    for index in rng.permutation(len(pool)):
        name = pool[int(index)]
        if len(chosen) == count:
            break
        limit = apart if len(chosen) == 1 else 0.13
        if all(colour_distance(name, c) >= limit for c in chosen):
            chosen.append(name)
    if len(chosen) == 1:
        chosen.append("black" if colour_distance("black", chosen[0]) > 0.4 else "white")
    return tuple(chosen)


def recoloured(scene: Scene) -> Scene:
    """Return the same scene in another set of colours, equally many, drawn from those that its mood allows."""
    rng = np.random.default_rng([scene.seed, 6])
    colours = scene.colours
    while len(colours) != len(scene.colours) or {*colours} == {*scene.colours}:
        colours = _sample_colours(rng, None, scene.mood, scene.figure)
    return replace(scene, colours=colours)


def sample_scene(seed: int, *, figure_share: float = 0.3) -> Scene:
    """Draw a scene; the same arguments always give the same scene.

    Args:
        seed: non-negative seed.
        figure_share: probability of a figure.
    """
    rng = np.random.default_rng([seed, 1])
    pattern = pick(PATTERNS, rng)
    figure = pick(FIGURES, rng) if rng.random() < figure_share else None
    mood = pick(MOODS, rng) if rng.random() < 0.5 else None
    composition = pick(COMPOSITIONS, rng) if rng.random() < 0.3 else None
    if figure is None and PATTERN_FAMILIES[pattern].radial and composition in FOLDING_COMPOSITIONS:
        composition = "centred"  # a folded spiral no longer looks like a spiral
    second = blend = None
    if figure is None and rng.random() < 0.12:
        second, blend = pick(tuple(p for p in PATTERNS if p != pattern), rng), pick(BLENDS, rng)
    natural = figure and rng.random() < 0.5 and mood not in ("warm", "cool")
    first = pick(NATURAL[figure], rng) if figure and natural else None
    return Scene(
        seed=seed,
        pattern=pattern,
        colours=_sample_colours(rng, first, mood, figure),
        second=second,
        blend=blend,
        figure=figure,
        mood=mood,
        composition=composition,
        folding=bool(rng.random() < 0.2) or mood == "hypnotic",
        banded=(rng.random() < 0.35 or mood == "sharp") and mood not in ("soft", "dreamy"),
    )


def attribute_values(scene: Scene) -> list[int]:
    """Return the index of each attribute's value: those of `SHAPE_ATTRIBUTES`, then the first `NAMED_COLOURS` colours.

    A colour's index is its place in `COLOURS`; the index one past the last means no colour.
    """
    shapes = [values.index(getattr(scene, name)) for name, values in SHAPE_ATTRIBUTES.items()]
    colours = [COLOURS.index(name) for name in scene.colours[:NAMED_COLOURS]]
    return shapes + colours + [len(COLOURS)] * (NAMED_COLOURS - len(colours))
