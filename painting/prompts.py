"""How the built-in model reads a prompt: which words it knows, what is drawn, and which words have no effect.

The model knows a few hundred words, and has vectors of 22,000. A word acts like the words near it. "Kitty" acts like
"cat", but nothing that the model draws is near "tiger": it would be drawn as chance has it, so it is left out, and the
user is told. Colours as #rrggbb or by their CSS names, and common words of German, French and Spanish, become English
words that the model knows.
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from files import read_yaml
from ldm.modules.prior import COLOUR, FIGURE, is_decided
from ldm.tensor_files import some
from painting.colours import srgb_to_oklab
from painting.foreign_words import translate

if TYPE_CHECKING:
    from ldm.models.diffusion.ddpm import LatentDiffusion
    from ldm.modules.encoders.modules import WordEmbedder
    from ldm.modules.prior import PromptPrior

SAME_COLOUR = 0.1  # in Oklab: a name that the model takes for a colour this much further off than the nearest is right
FIRST_OF_ALL = (FIGURE, "pattern")  # attributes that are named first; one of them is what an image shows
LISTED = 24  # words that a line names
# English words of grammar; alone they make no prompt
_GRAMMAR = """
a an and of on in with the by from as into over against front made showing drawn turned
"""
# words that say nothing about what an image shows, and that the model was not trained on
_SMALL_WORDS = """
i you he she it we they me him her us them my your his its our their this that these those there here is are was
were be been am do does did has have had will would can could should may might must not no at to for through
under above below between behind beside near around about into onto out up down off than then but or nor so if
as while when where which who whom whose what how why all any some each every very too also just only like
please make show draw paint give want create more most much many few such own same other another s t d ll re ve
m full style don doesn isn aren wasn won
"""
GRAMMAR, SMALL_WORDS = frozenset(_GRAMMAR.split()), frozenset(_SMALL_WORDS.split())
# colours, words with their accents, numbers, what ends a phrase, and other signs such as emoji
TOKENS = re.compile(
    r"#(?:[0-9a-f]{6}|[0-9a-f]{3})\b|[^\W\d_](?:[^\W\d_]|[\u0300-\u036f])*|\d\w*|[,.;:!?()]"
    r"|[^\w\s#'’\"/&%+=*\u0300-\u036f\ufe0f\u200d-]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Lexicon:
    """Words that a model was trained on, and names of what it draws: the node `reading` of its yaml.

    Attributes:
        attributes: names of the values of each attribute of the prior, in its order; "" is none.
        colours: the colours that it draws, sRGB in 0…255.
        words: all words of its captions.
        frame: those that say nothing about what an image shows, such as "background".
        phrases: those of several words, such as "dark blue".
        neighbours: words that another word may be near to.
        near: least cosine of a word's vector and that of a neighbour.
        colour_certainty: last element of the vector of a word that names a colour.
    """

    attributes: Mapping[str, Sequence[str]]
    colours: Mapping[str, tuple[int, int, int]]
    words: frozenset[str]
    frame: frozenset[str]
    phrases: frozenset[str]
    neighbours: tuple[str, ...]
    near: float
    colour_certainty: float

    @classmethod
    def read(cls, yaml: Path) -> "Lexicon | None":
        """Read it from the yaml of a model; None if the yaml has no such node, or is not there.

        Raises:
            ValueError: the node is broken.
        """
        if not yaml.is_file():
            return None
        node = read_yaml(yaml).get("reading")
        if node is None:
            return None
        try:
            return cls(
                attributes={str(name): [str(value) for value in values] for name, values in node["attributes"].items()},
                colours={str(name): (int(r), int(g), int(b)) for name, (r, g, b) in node["colours"].items()},
                neighbours=tuple(node["neighbours"].split()),
                near=float(node["near"]),
                colour_certainty=float(node["colour_certainty"]),
                words=frozenset(node["words"].split()),
                frame=frozenset(node["frame"].split()),
                phrases=frozenset(map(str, node["phrases"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"the node reading: of {yaml} is broken: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Reading:
    """The model's reading of a prompt.

    Attributes:
        text: what takes the place of the prompt: English words that the model knows; "" if there are none.
        shapes: what the prompt decides of shapes and look, each with the prompt's own word if it is another.
        colours: the same of colours.
        has_subject: whether the prompt decides the figure or the pattern.
        no_effect: words that change nothing.
        foreign: whether the prompt is in another language than English.
    """

    text: str
    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    has_subject: bool
    no_effect: tuple[str, ...]
    foreign: bool

    def describe(self, source: str = "the voice") -> str:
        """Say in one line what is drawn, and which words have no effect.

        Args:
            source: what decides the rest.
        """
        left = [*([] if self.has_subject else ["shape"]), *_colours_left(len(self.colours))]
        rest = [f"{' and '.join(left)} by {source}"] if left else []
        line = "drawn: " + ", ".join([*self.shapes, *self.colours, *rest])
        if self.no_effect:
            line += f"; no effect: {some(self.no_effect, LISTED)}"
        return line + " (it reads English, and common words of German, French and Spanish)" * self.foreign


def _colours_left(named: int) -> list[str]:
    return ["colours"] if not named else ["other colours"] if named == 1 else []


@dataclass(frozen=True, eq=False)
class Token:
    """A word of a prompt as it stands there, and as the model reads it: "" if it does not."""

    written: str
    read: str
    small: bool = False  # it says nothing about what an image shows
    trained: bool = False  # it is one of the captions' words


class PromptInterpreter:
    """Reads prompts for one model.

    Args:
        model: with a `WordEmbedder` and a `PromptPrior`.
        lexicon: of the model.

    Raises:
        ValueError: the lexicon is that of another model.
    """

    def __init__(self, model: "LatentDiffusion", lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.encoder: WordEmbedder = model.cond_stage_model  # type: ignore[assignment]  # it has a prior
        self.prior: PromptPrior = model.model.diffusion_model.layout  # type: ignore[assignment]
        counts = [len(values) for values in lexicon.attributes.values()]
        missing = sorted({*lexicon.neighbours} - self.encoder.index.keys())
        if counts != self.prior.shape_counts or len(lexicon.colours) + 1 != self.prior.colour_counts[0] or missing:
            raise ValueError("the reading: node of the model's yaml describes another model")
        self.names = [*lexicon.colours]
        self.oklab = srgb_to_oklab(np.array([*lexicon.colours.values()]) / 255)
        self.read = functools.lru_cache(maxsize=256)(self._read)
        self._is_near = functools.lru_cache(maxsize=4096)(self._compare)

    def _read(self, prompt: str) -> Reading:
        """Read a prompt."""
        tokens, foreign = self._tokens(prompt)
        content = [token for token in tokens if token.read and not token.small]
        if all(token.read == token.written for token in tokens):
            text = prompt
        elif any(token.read[:1].isalpha() and token.read not in GRAMMAR | SMALL_WORDS for token in tokens):
            # words that the model was not trained on would only disturb what is left
            text = _joined([token for token in tokens if token.trained or not token.small])
        else:
            text = ""
        return self._weighed(text, tokens, content[: self.encoder.max_seq_len], foreign)

    def _tokens(self, prompt: str) -> tuple[list[Token], bool]:
        """Split a prompt into words, and find how the model reads each; tell whether it is in another language."""
        written = [unicodedata.normalize("NFC", word) for word in TOKENS.findall(unicodedata.normalize("NFKD", prompt))]
        plain = [bare(word) for word in written]
        known = self.lexicon.words
        translations, language = translate(plain, known)
        tokens = []
        for word, key in zip(written, plain, strict=True):
            if word in ",.;:!?()":
                tokens.append(Token(word, word, True, True))
            elif key in known:
                tokens.append(Token(word, word, key in self.lexicon.frame, True))
            elif key in translations:
                english = translations[key]
                tokens.append(Token(word, english, english in {"", *self.lexicon.frame}, english in known))
            elif key.startswith("#"):
                tokens.append(Token(word, self._nearest_colour(key)[0]))
            elif key in SMALL_WORDS or (len(key) == 1 and key.isalpha()):
                tokens.append(Token(word, word, True))
            else:
                tokens.append(Token(word, word if self._is_near(key) else self._other_number(key)))
        unread = [token.written for token in tokens if not token.read and not token.small and token.written.isalpha()]
        foreign = bool(unread) and (bool(language) or not "".join(unread).isascii())
        return self._with_colour_names(tokens), foreign

    def _compare(self, word: str) -> bool:
        """Tell whether a word names a colour, or is near a word that the model was trained on."""
        if word not in self.encoder.index:
            return False
        rows = torch.tensor([self.encoder.index[name] for name in (word, *self.lexicon.neighbours)])
        vectors = self.encoder.word_vectors[rows.to(self.encoder.word_vectors.device)].float()
        unit = torch.nn.functional.normalize(vectors, dim=1)
        is_colour = vectors[0, -1] >= self.lexicon.colour_certainty
        return bool(is_colour or (unit[1:] @ unit[0]).max() >= self.lexicon.near)

    def _other_number(self, word: str) -> str:
        """Return the singular or the plural of a word if the model was trained on it, else ""."""
        forms = [word.removesuffix("s"), re.sub("ies$", "y", word), word.removesuffix("es"), word + "s"]
        return next((form for form in forms if form != word and form in self.lexicon.words), "")

    def _nearest_colour(self, colour: str) -> tuple[str, set[str]]:
        """Return the nearest colour that the model draws to #rrggbb or a CSS name, and all that are nearly as near."""
        rgb = np.array(ImageColor.getrgb(colour)[:3]) / 255
        distances = np.linalg.norm(self.oklab - srgb_to_oklab(rgb), axis=1)
        alike = {name for name, d in zip(self.names, distances, strict=True) if d < distances.min() + SAME_COLOUR}
        return self.names[int(distances.argmin())], alike

    def _with_colour_names(self, tokens: list[Token]) -> list[Token]:
        """Put colours that the model draws in place of CSS names that it does not read as such in this prompt."""
        for i, token in enumerate(tokens):
            name = bare(token.written)
            if token.trained or name not in ImageColor.colormap:
                continue
            nearest, alike = self._nearest_colour(name)
            changed = [*tokens[:i], Token(token.written, nearest), *tokens[i + 1 :]]
            now, then = self._decided([_joined(tokens), _joined(changed)])
            same_shapes = {v for v in now if v[0] != COLOUR} == {v for v in then if v[0] != COLOUR}
            if not (token.read and same_shapes and any(v in alike for kind, v in now if kind == COLOUR)):
                tokens = changed
        return tokens

    def _weighed(self, text: str, tokens: list[Token], content: list[Token], foreign: bool) -> Reading:
        """Find out which words decide what, by leaving each out and by reading each alone."""
        shown = text if self.encoder.has_known_words(text) else self.encoder.fallback_prompt
        texts = [shown, *(_joined([t for t in tokens if t is not token]) for token in content)]
        decided, *rest = self._decided([*texts, *(token.read for token in content)])
        without, alone = rest[: len(content)], rest[len(content) :]
        own_words: dict[tuple[str, str], str] = {}
        no_effect = [token.written for token in tokens if not token.read and not token.small]
        effects = [
            [value for value in decided if value not in others or value in single]
            for others, single in zip(without, alone, strict=True)
        ]
        active = [token for token, mine in zip(content, effects, strict=True) if mine]
        for token, mine in zip(content, effects, strict=True):
            if not mine and not self._is_in_phrase(token, active, tokens):
                no_effect.append(token.written)
            if not token.trained or token.read != token.written:
                own_words |= {value: token.written for value in mine if value not in own_words}
        order = [token.written for token in tokens]
        named = {value: _with_own_word(value[1], own_words.get(value, "")) for value in decided}
        return Reading(
            text=text,
            shapes=tuple(name for (kind, _), name in named.items() if kind != COLOUR),
            colours=tuple(name for (kind, _), name in named.items() if kind == COLOUR),
            has_subject=any(kind in FIRST_OF_ALL for kind, _ in decided),
            no_effect=tuple(dict.fromkeys(sorted(no_effect, key=order.index))),
            foreign=foreign,
        )

    def _is_in_phrase(self, token: Token, others: Sequence[Token], tokens: Sequence[Token]) -> bool:
        """Tell whether a token and one of `others` beside it are words of one phrase, such as "dark blue"."""
        place = next(i for i, each in enumerate(tokens) if each is token)
        for first, second in itertools.pairwise(tokens[max(place - 1, 0) : place + 2]):
            pair = f" {bare(first.read)} {bare(second.read)} "
            is_phrase = any(pair in f" {phrase} " for phrase in self.lexicon.phrases)
            if is_phrase and (first in others or second in others):
                return True
        return False

    @torch.inference_mode()
    def _decided(self, texts: Sequence[str]) -> list[dict[tuple[str, str], None]]:
        """Return what each text decides, as attributes and names of values: what an image shows first, colours last."""
        probabilities = self.prior.reader(self.encoder(texts)).float().cpu()
        parts = probabilities.split([*self.prior.shape_counts, *self.prior.colour_counts], dim=1)
        attributes: list[tuple[str, Sequence[str]]] = [*self.lexicon.attributes.items()]
        attributes += [(COLOUR, [*self.names, ""])] * len(self.prior.colour_counts)
        order = sorted(range(len(parts)), key=lambda i: (attributes[i][0] not in FIRST_OF_ALL, i))
        order.sort(key=lambda i: attributes[i][0] != FIGURE)
        found: list[dict[tuple[str, str], None]] = []
        for row in range(len(texts)):
            values = ((attributes[i][0], _sure(parts[i][row], *attributes[i])) for i in order)
            found.append({(kind, name): None for kind, name in values if name})
        return found


def _sure(p: Tensor, kind: str, names: Sequence[str]) -> str:
    """Return the name of the value that probabilities p [values] decide, or "" where they leave it open."""
    return names[int(p.argmax())] if is_decided(p[None], kind) else ""


def _with_own_word(name: str, own: str) -> str:
    """Add the prompt's own word to a name, unless it is a form of it."""
    return f"{name} ({own})" if own and name not in bare(own) else name


def _joined(tokens: Sequence[Token]) -> str:
    return " ".join(token.read for token in tokens if token.read)


def bare(word: str) -> str:
    """Write a word in lower case, without accents and ligatures."""
    decomposed = unicodedata.normalize("NFKD", word.lower().replace("ß", "ss").replace("œ", "oe"))
    return "".join(c for c in decomposed if not unicodedata.combining(c))
