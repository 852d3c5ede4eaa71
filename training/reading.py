"""The node `reading` of the model's yaml: what `painting.prompts` must know of the captions and of the drawing code."""

import re
from collections.abc import Iterable
from typing import Any

from training.scenes import captions
from training.scenes.palette import COLOURS
from training.scenes.scenes import SHAPE_ATTRIBUTES
from training.word_vectors import COLOUR_WEIGHT

# Least cosine of the vectors of a word and of a neighbour, so that the word acts like it. Of 330 common nouns
# (benchmarks/prompts.py) 32 are nearer. Four of them are no relatives of their neighbour: computer, ship, cup and game.
# Of the next 29, down to 0.55, it is more than a third.
NEAR = 0.62
# what the values of attributes without names of their own look like; "" is not worth a word
LOOKS = {"folding": ("", "many bands"), "banded": ("", "flat colours"), "blend": ("", "", "", "")}


def words_of(phrases: Iterable[str]) -> list[str]:
    """List the words of phrases, sorted, each once."""
    return sorted({word for phrase in phrases for word in re.findall(r"[a-z]+", phrase)})


def reading_node() -> dict[str, Any]:
    """Describe how the model reads prompts; lists of words are one string each, which keeps the yaml short."""
    tables = (
        captions.COLOUR_WORDS,
        captions.PATTERN_WORDS,
        captions.FIGURE_WORDS,
        captions.MOOD_WORDS,
        captions.COMPOSITION_WORDS,
    )
    phrases = [phrase for table in tables for group in table.values() for phrase in group]
    frame = [*captions.ABSTRACTS, *captions.GENERIC, *captions.QUALITIES, *captions.GROUNDS, *captions.JOINTS]
    trained = captions.vocabulary()
    # a word that is only a part of a phrase, such as "old" in "old tree", says little alone
    neighbours = words_of(phrase for phrase in phrases if " " not in phrase)
    return {
        "near": NEAR,
        "colour_certainty": COLOUR_WEIGHT,
        "attributes": {
            name: list(LOOKS.get(name, [value or "" for value in values])) for name, values in SHAPE_ATTRIBUTES.items()
        },
        "colours": {name: list(rgb) for name, rgb in COLOURS.items()},
        "words": " ".join(trained),
        "frame": " ".join(words_of([*frame, captions.FRAME_WORDS])),
        "phrases": sorted({phrase for phrase in phrases if " " in phrase}),
        "neighbours": " ".join(neighbours),
    }
