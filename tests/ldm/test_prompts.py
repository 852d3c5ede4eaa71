"""How text encoders read prompts: words that they leave out, and vocabularies that would mislead them."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import BertWordPieceTokenizer

from ldm.modules.encoders.modules import BERTEmbedder, WordEmbedder
from tests.ldm.tiny_model import BERT_WORDS, TEXT_ENCODERS, WORDS


def bert(folder: Path) -> BERTEmbedder:
    encoder = BERTEmbedder(**TEXT_ENCODERS["bert"]["params"])
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n", encoding="utf-8")
    encoder.load_vocabulary(folder)
    return encoder


def embedder(folder: Path) -> WordEmbedder:
    encoder = WordEmbedder(**TEXT_ENCODERS["words"]["params"])
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    encoder.load_vocabulary(folder)
    return encoder


# --- what is left out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt, rest",
    [
        ("a golden spiral on", []),
        ("a golden spiral on purple", ["purple"]),
        ("a xyzzy golden, SPIRAL qwert on Purplé; and blue", ["purplé", "blue"]),  # unknown words do not count
        ("", []),
    ],
)
def test_words_behind_the_last_place_are_named(tmp_path, prompt, rest):
    encoder = embedder(tmp_path)
    assert encoder.left_out(prompt) == rest
    assert len(encoder.tokenize(prompt)) <= encoder.max_seq_len


@pytest.mark.parametrize(
    "prompt, rest",
    [
        ("a golden spiral on purple blue", []),  # six words and two ends are eight tokens
        ("a golden spiral on purple blue.", []),  # a mark alone is not worth a word
        ("a golden spiral on purple blue, Green", ["Green"]),
        ("a golden spiral on a purples blue", ["purples", "blue"]),  # cut between purple and ##s
        ("  a   golden,spiral;on purple — blue", ["purple", "blue"]),
        ("", []),
    ],
)
def test_tokens_behind_the_last_place_are_named_as_words(tmp_path, prompt, rest):
    assert bert(tmp_path).left_out(prompt) == rest


def test_signs_that_bert_cannot_spell_are_named(tmp_path):
    assert bert(tmp_path).out_of_vocabulary("a golden 🌀 on Xyz") == ["🌀", "Xyz"]


# --- vocabularies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["words", "bert"])
@pytest.mark.parametrize("start, newline, end", [("\ufeff", "\n", "\n"), ("", "\r\n", "\r\n"), ("", "\n", "\n\n\n")])
def test_what_an_editor_changes_in_a_vocabulary_does_not_count(tmp_path, kind, start, newline, end):
    encoder: Any = bert(tmp_path) if kind == "bert" else embedder(tmp_path)
    prompt = "A golden spirals on purple"

    def ids() -> list[int]:
        return encoder.tokenize(prompt) if kind == "words" else encoder.tokenizer.encode(prompt).ids

    expected = ids()
    words = BERT_WORDS if kind == "bert" else WORDS
    (tmp_path / "vocab.txt").write_bytes((start + newline.join(words) + end).encode())
    encoder.load_vocabulary(tmp_path)
    assert ids() == expected


def parts(folder: Path) -> dict[str, Any]:
    """Return the tokenizer of the tiny model as the json of tokenizers."""
    (folder / "words.txt").write_text("\n".join(BERT_WORDS) + "\n", encoding="utf-8")
    return json.loads(BertWordPieceTokenizer(str(folder / "words.txt"), lowercase=True).to_str())


NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"post_processor": None}, r"\[CLS\] and \[SEP\]"),
        ({"normalizer": None}, "capitals and accents"),
        ({"normalizer": {**NORMALIZER, "strip_accents": None, "lowercase": False}}, "capitals and accents"),
        ({"normalizer": {**NORMALIZER, "strip_accents": False, "lowercase": True}}, "capitals and accents"),
        ({"pre_tokenizer": None}, "split a prompt into words"),
        ({"pre_tokenizer": {"type": "WhitespaceSplit"}}, "split a prompt into words"),
    ],
)
def test_a_tokenizer_without_a_part_is_refused(tmp_path, changes, words):
    encoder = BERTEmbedder(**TEXT_ENCODERS["bert"]["params"])
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(parts(tmp_path)))
    encoder.load_vocabulary(tmp_path)  # whole, it is taken
    path.write_text(json.dumps({**parts(tmp_path), **changes}))
    with pytest.raises(ValueError, match=words) as caught:
        encoder.load_vocabulary(tmp_path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_vocabulary_that_is_short_is_named(tmp_path):
    encoder = bert(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(BERT_WORDS[:-2]), encoding="utf-8")
    with pytest.warns(UserWarning, match=f"has {len(BERT_WORDS) - 2} words, the model {len(BERT_WORDS)}"):
        encoder.load_vocabulary(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bert(tmp_path)
