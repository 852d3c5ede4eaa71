"""Captions of scenes: templates over dictionaries of synonyms.

The dictionaries are the whole vocabulary (`vocabulary`). `HELD_OUT_SYNONYMS` are not part of it: they measure how the
model interprets words that it has never been trained on.
"""

import re

import numpy as np

from training.scenes.scenes import Scene, pick

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "red", "crimson", "ruby", "bright red"),
    "coral": ("coral", "coral", "salmon", "light red"),
    "orange": ("orange", "orange", "tangerine", "amber"),
    "yellow": ("yellow", "yellow", "lemon", "sunny yellow"),
    "gold": ("gold", "golden", "gold", "dark yellow"),
    "cream": ("cream", "beige", "ivory", "pale yellow"),
    "brown": ("brown", "brown", "chocolate", "coffee"),
    "maroon": ("maroon", "dark red", "burgundy", "wine red"),
    "lime": ("lime", "lime green", "bright green", "acid green"),
    "green": ("green", "green", "emerald", "grass green"),
    "olive": ("olive", "olive green", "moss green", "khaki"),
    "mint": ("mint", "mint green", "pale green", "light green"),
    "teal": ("teal", "dark cyan", "teal", "petrol"),
    "turquoise": ("turquoise", "turquoise", "aquamarine", "blue green"),
    "cyan": ("cyan", "sky blue", "light blue", "aqua"),
    "blue": ("blue", "blue", "azure", "royal blue"),
    "navy": ("navy", "navy blue", "dark blue", "midnight blue"),
    "indigo": ("indigo", "deep violet", "indigo", "dark violet"),
    "violet": ("violet", "violet", "bluish purple", "amethyst"),
    "lavender": ("lavender", "lilac", "pale violet", "light purple"),
    "purple": ("purple", "purple", "plum", "dark purple"),
    "magenta": ("magenta", "hot pink", "fuchsia", "neon pink"),
    "pink": ("pink", "pink", "rose", "light pink"),
    "black": ("black", "black", "jet black", "ebony"),
    "white": ("white", "white", "snow white", "pure white"),
    "grey": ("grey", "gray", "silver", "grey"),
}

PATTERN_WORDS: dict[str, tuple[str, ...]] = {
    "spiral": ("spiral", "spirals", "spiral arms", "helix"),
    "rings": ("rings", "concentric rings", "concentric circles", "target"),
    "rays": ("rays", "sunburst", "radial beams", "rays of light"),
    "tunnel": ("tunnel", "endless tunnel", "wormhole"),
    "vortex": ("vortex", "whirlpool", "twister"),
    "mandala": ("mandala", "ornate mandala", "round ornament"),
    "kaleidoscope": ("kaleidoscope", "kaleidoscope pattern", "symmetric shards"),
    "rosette": ("rosette", "petals", "flower of rings"),
    "polygons": ("polygons", "nested polygons", "concentric polygons"),
    "waves": ("waves", "wavy lines", "wave pattern", "rolling waves"),
    "plasma": ("plasma", "lava lamp", "blobs", "liquid shapes"),
    "marble": ("marble", "marble veins", "marbled paper"),
    "clouds": ("clouds", "smoke", "cloudy shapes", "fog"),
    "swirls": ("swirls", "swirling paint", "liquid swirls", "flowing ink"),
    "flames": ("flames", "burning tongues", "rising flames"),
    "contours": ("contour lines", "contours", "topographic map"),
    "veins": ("veins", "web of veins", "lightning"),
    "ripples": ("ripples", "ripples on water", "interference"),
    "moire": ("moire", "moire pattern", "op art"),
    "feathers": ("feathers", "feather pattern", "herringbone"),
    "stripes": ("stripes", "striped pattern", "lines", "bands"),
    "checkers": ("checkers", "checkerboard", "chess board", "squares"),
    "dots": ("dots", "polka dots", "spots"),
    "hexagons": ("hexagons", "honeycomb", "hexagonal tiles"),
    "diamonds": ("diamonds", "rhombus pattern", "diamond pattern"),
    "triangles": ("triangles", "triangle mosaic", "triangular tiles"),
    "zigzag": ("zigzag", "chevrons", "zigzag lines"),
    "lattice": ("lattice", "grid", "crossing lines"),
    "weave": ("weave", "woven pattern", "basket"),
    "scales": ("scales", "fish scales", "dragon scales"),
    "labyrinth": ("labyrinth", "maze", "winding paths"),
    "circles": ("circles", "overlapping circles", "flower of life"),
    "quasicrystal": ("quasicrystal", "interference stars", "crystal pattern"),
    "cells": ("cells", "living cells", "cell pattern"),
    "mosaic": ("mosaic", "stained glass", "broken tiles"),
    "bubbles": ("bubbles", "soap bubbles", "floating balls"),
    "fractal": ("fractal", "fractal lace", "fractal pattern"),
}

FIGURE_WORDS: dict[str, tuple[str, ...]] = {
    "flower": ("flower", "blossom", "daisy"),
    "star": ("star", "star shape"),
    "heart": ("heart", "love heart"),
    "sun": ("sun", "shining sun"),
    "moon": ("moon", "crescent moon", "night moon"),
    "eye": ("eye", "open eye", "watching eye"),
    "tree": ("tree", "old tree"),
    "mountain": ("mountain", "mountains", "snowy mountains"),
    "sea": ("sea", "ocean", "sea waves"),
    "fire": ("fire", "flame", "campfire"),
    "butterfly": ("butterfly", "butterfly wings"),
    "fish": ("fish", "swimming fish"),
    "bird": ("bird", "flying bird"),
    "face": ("face", "human face", "portrait"),
    "planet": ("planet", "planet with rings", "saturn"),
    "galaxy": ("galaxy", "spiral galaxy", "nebula"),
    "crystal": ("crystal", "crystals", "gem"),
    "feather": ("feather", "single feather", "plume"),
    "leaf": ("leaf", "tree leaf"),
    "mushroom": ("mushroom", "spotted mushroom"),
    "snowflake": ("snowflake", "ice star"),
    "cat": ("cat", "cat face", "kitten"),
}

MOOD_WORDS: dict[str, tuple[str, ...]] = {
    "calm": ("calm", "peaceful", "quiet", "slow", "relaxed"),
    "wild": ("wild", "chaotic", "energetic", "angry", "intense"),
    "dark": ("dark", "gloomy", "sad", "mysterious", "night"),
    "bright": ("bright", "joyful", "happy", "cheerful", "light"),
    "soft": ("soft", "gentle", "blurred", "tender"),
    "sharp": ("sharp", "crisp", "hard edged", "graphic"),
    "dreamy": ("dreamy", "magical", "glowing", "hazy"),
    "electric": ("electric", "neon", "glowing neon", "energetic neon"),
    "hypnotic": ("hypnotic", "trippy", "trance", "psychedelic"),
    "warm": ("warm", "warm colours", "warm colors"),
    "cool": ("cool", "cold", "cold colours", "cool colors"),
}

COMPOSITION_WORDS: dict[str, tuple[str, ...]] = {
    "centred": ("centred", "centered", "in the middle"),
    "tiled": ("tiled", "repeated", "repeating", "seamless tiles"),
    "mirrored": ("mirrored", "symmetric", "symmetrical", "mirror image"),
    "kaleidoscopic": ("kaleidoscopic", "through a kaleidoscope", "radial symmetry"),
    "diagonal": ("diagonal", "slanted", "tilted"),
    "offset": ("off centre", "asymmetric", "to one side"),
}

ABSTRACTS: tuple[str, ...] = (
    "abstract art",
    "psychedelic art",
    "a psychedelic visualization",
    "psychedelic pattern",
    "visual music",
    "digital art",
    "generative art",
    "abstract painting",
    "vivid abstract image",
    "ornament",
    "poster",
)
GENERIC: tuple[str, ...] = (
    "a psychedelic visualization of a voice",
    "a psychedelic visualization of sound",
    "sound as a picture",
    "the picture of a voice",
    "abstract art",
    "colourful abstract art",
    "colorful psychedelic art",
    "a voice turned into an image",
    "visualization of music",
    "psychedelic pattern",
    "generative art, vivid colors",
    "a beautiful picture of speech",
    "an image made from a voice recording",
)
QUALITIES: tuple[str, ...] = ("vivid", "detailed", "colourful", "colorful", "beautiful", "ornate", "decorative")
FOLDED: tuple[str, ...] = ("psychedelic", "trippy", "many bands", "layered")
BANDED: tuple[str, ...] = ("flat colours", "hard edges", "paper cut", "poster style", "layered paper")
GROUNDS: tuple[str, ...] = ("on", "over", "against", "in front of")
JOINTS: tuple[str, ...] = ("and", "with", "over", "blended with")
FRAME_WORDS = "a an and of on in with the made by background colours colors palette showing image picture drawn from"

HELD_OUT_SYNONYMS: dict[str, str] = {
    "scarlet": "red",
    "vermilion": "red",
    "apricot": "orange",
    "mustard": "gold",
    "canary": "yellow",
    "jade": "green",
    "chartreuse": "lime",
    "cerulean": "cyan",
    "cobalt": "blue",
    "sapphire": "blue",
    "mauve": "lavender",
    "aubergine": "purple",
    "mahogany": "brown",
    "charcoal": "black",
    "alabaster": "white",
    "cherry": "red",
    "periwinkle": "lavender",
    "sienna": "brown",
    "ochre": "gold",
    "obsidian": "black",
    "coil": "spiral",
    "maelstrom": "vortex",
    "undulations": "waves",
    "mist": "clouds",
    "bullseye": "rings",
    "serpentine": "labyrinth",
    "droplets": "bubbles",
    "blaze": "fire",
    "medallion": "mandala",
}
"""Words that no caption contains, each with the name of the colour, pattern or figure that it means."""


def _chance(rng: np.random.Generator, probability: float) -> bool:
    """Return True with this probability."""
    return bool(rng.random() < probability)


def _listed(words: list[str], rng: np.random.Generator) -> str:
    """Join words as a list: "red and gold", "red, gold and black", "red gold"."""
    if len(words) == 1:
        return words[0]
    if _chance(rng, 0.2):
        return " ".join(words)
    last = " and " if _chance(rng, 0.8) else ", "
    return ", ".join(words[:-1]) + last + words[-1]


def _with_article(phrase: str, rng: np.random.Generator) -> str:
    """Put "a" or "an" before most phrases; plurals get none."""
    if phrase.endswith("s") or _chance(rng, 0.25):
        return phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _subject(scene: Scene, rng: np.random.Generator) -> str:
    """Name the pattern, or both patterns."""
    first = pick(PATTERN_WORDS[scene.pattern], rng)
    if scene.second is None or _chance(rng, 0.15):
        return first
    return f"{first} {pick(JOINTS, rng)} {pick(PATTERN_WORDS[scene.second], rng)}"


def _extras(scene: Scene, rng: np.random.Generator, mood_used: bool) -> list[str]:
    """Draw optional words after the main phrase: mood, composition, look."""
    extras = []
    if scene.mood and not mood_used and _chance(rng, 0.65):
        extras.append(pick(MOOD_WORDS[scene.mood], rng))
    if scene.composition and _chance(rng, 0.6):
        extras.append(pick(COMPOSITION_WORDS[scene.composition], rng))
    if scene.folding and _chance(rng, 0.3):
        extras.append(pick(FOLDED, rng))
    if scene.banded and _chance(rng, 0.3):
        extras.append(pick(BANDED, rng))
    if _chance(rng, 0.12):
        extras.append(pick(QUALITIES, rng))
    return [extras[int(i)] for i in rng.permutation(len(extras))]


def _colourless_phrase(scene: Scene, rng: np.random.Generator) -> str:
    """Draw a main phrase that names no colour."""
    if scene.figure is None:
        thing = _subject(scene, rng)
    else:
        thing = pick(FIGURE_WORDS[scene.figure], rng)
        if _chance(rng, 0.4):
            thing = f"{thing} {pick(GROUNDS, rng)} {pick(PATTERN_WORDS[scene.pattern], rng)}"
    forms = (_with_article(thing, rng), thing, f"{pick(ABSTRACTS, rng)} of {thing}", pick(GENERIC, rng))
    return forms[int(rng.integers(len(forms)))]


def _figure_phrase(scene: Scene, rng: np.random.Generator) -> str:
    """Draw the main phrase of a scene with a figure."""
    figure = pick(FIGURE_WORDS[scene.figure or ""], rng)
    own, ground = pick(COLOUR_WORDS[scene.colours[0]], rng), pick(COLOUR_WORDS[scene.colours[1]], rng)
    pattern = pick(PATTERN_WORDS[scene.pattern], rng)
    thing = _with_article(f"{own} {figure}", rng)
    on = pick(GROUNDS, rng)
    forms = (
        f"{thing} {on} {ground} {pattern}",
        f"{thing} {on} {_with_article(f'{ground} background', rng)}",
        f"{thing} with {ground} {pattern}",
        f"{figure}, {own}, {ground}, {pattern}",
        f"{figure}, {own} and {ground}",
        _with_article(f"{figure} {on} {pattern}", rng),
        thing,
        _with_article(figure, rng),
        f"{ground} {pattern} with {thing}",
        f"{pick(ABSTRACTS, rng)} of {thing}",
    )
    weights = np.array([4, 3, 1.5, 1.5, 1.5, 1.5, 1.5, 1, 1.5, 1.5])
    return forms[int(rng.choice(len(forms), p=weights / weights.sum()))]


def _pattern_phrase(scene: Scene, rng: np.random.Generator) -> str:
    """Draw the main phrase of a scene of patterns only."""
    names = [pick(COLOUR_WORDS[c], rng) for c in scene.colours]
    named = names[: int(rng.integers(2, len(names) + 1))]
    colours = _listed(named, rng)
    subject = _subject(scene, rng)
    abstract = pick(ABSTRACTS, rng)
    forms = (
        _with_article(f"{colours} {subject}", rng),
        f"{subject} in {colours}",
        ", ".join([subject, *named]),
        f"{abstract} of {colours} {subject}",
        f"{names[0]} {subject} on {names[1]}",
        f"{subject}, {colours}",
        f"{abstract}, {subject}, {colours}",
        f"{colours}, {subject}",
        _with_article(subject, rng),
        f"{abstract} of {subject}",
        colours,
        f"{colours} {abstract.removeprefix('a ')}",
        f"{abstract} in {colours}",
    )
    weights = np.array([4, 3, 2, 3, 2, 2, 1.5, 1.5, 1.2, 1.2, 0.8, 1, 1.2])
    return forms[int(rng.choice(len(forms), p=weights / weights.sum()))]


def caption(scene: Scene, rng: np.random.Generator, colourless: bool = False) -> str:
    """Write a lower-case ASCII caption of 1 to 20 words; it names only what the render shows, but not all of it.

    Args:
        scene: the scene; one scene can have many captions.
        rng: draws the template, the synonyms and the parts to leave out.
        colourless: name no colour.
    """
    if _chance(rng, 0.05):
        return pick(GENERIC, rng)
    if colourless:
        phrase = _colourless_phrase(scene, rng)
    else:
        phrase = _figure_phrase(scene, rng) if scene.figure else _pattern_phrase(scene, rng)
    mood_used = False
    # "dark" or "bright" before a colour would mean a shade of it
    bare = not phrase.startswith(("a ", "an ", "the "))
    if scene.mood not in (None, "dark", "bright") and _chance(rng, 0.4) and bare:
        phrase, mood_used = f"{pick(MOOD_WORDS[scene.mood], rng)} {phrase}", True
    extras = _extras(scene, rng, mood_used)
    parts = [*extras, phrase] if _chance(rng, 0.2) else [phrase, *extras]
    return ", ".join(parts)


def vocabulary() -> list[str]:
    """List every word that a caption can contain, sorted, each once."""
    tables = (COLOUR_WORDS, PATTERN_WORDS, FIGURE_WORDS, MOOD_WORDS, COMPOSITION_WORDS)
    phrases = [phrase for table in tables for group in table.values() for phrase in group]
    phrases += [*ABSTRACTS, *GENERIC, *QUALITIES, *FOLDED, *BANDED, *GROUNDS, *JOINTS, FRAME_WORDS]
    return sorted({word for phrase in phrases for word in re.findall(r"[a-z]+", phrase)})
