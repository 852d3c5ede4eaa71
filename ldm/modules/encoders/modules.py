"""Text encoders: from prompts to embeddings [B, max_seq_len, n_embed], to which the U-Net attends."""

import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ldm.modules.x_transformer import AbsolutePositionalEmbedding, Encoder, TransformerWrapper

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


class BERTEmbedder(nn.Module):
    """WordPiece tokens and a transformer trained together with the U-Net (Rombach et al. 2022, section 4.3.1).

    The vocabulary is that of `bert-base-uncased`; it comes with the checkpoint and is set by `load_vocabulary`.
    """

    training_only = frozenset({"use_tokenizer", "device", "embedding_dropout"})
    fallback_prompt = ""  # used for a prompt without any known word

    def __init__(self, n_embed: int, n_layer: int, vocab_size: int = 30_522, max_seq_len: int = 77) -> None:
        super().__init__()
        self.max_seq_len = max_seq_len
        self.transformer = TransformerWrapper(vocab_size, max_seq_len, n_embed, n_layer)
        self.tokenizer: Tokenizer | None = None

    def load_vocabulary(self, folder: Path) -> None:
        """Load `tokenizer.json` or `vocab.txt` from `folder`.

        Raises:
            FileNotFoundError: neither exists.
            ValueError: the file cannot be read, has more words than the model, or lacks a part of BERT's tokenizer.
        """
        from tokenizers import BertWordPieceTokenizer, Tokenizer

        readers = {
            "tokenizer.json": Tokenizer.from_file,
            "vocab.txt": lambda file: BertWordPieceTokenizer(_read_vocabulary(Path(file)), lowercase=True),
        }
        path = next((folder / name for name in readers if (folder / name).is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"no vocab.txt or tokenizer.json in {folder}: this model uses the words of bert-base-uncased; "
                "download its vocab.txt from https://huggingface.co/bert-base-uncased into that folder"
            )
        try:
            tokenizer = readers[path.name](str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise ValueError(f"{path} cannot be read as a vocabulary: {error}") from error
        words, known = tokenizer.get_vocab_size(), self.transformer.token_emb.num_embeddings
        if words > known:
            raise ValueError(f"{path} has {words} words, the model {known}: it belongs to another model")
        if words < known:
            warnings.warn(f"{path} has {words} words, the model {known}: is it cut short, or another's?", stacklevel=2)
        if fault := _fault_of(tokenizer):
            raise ValueError(
                f"{path} {fault}, so prompts would get other tokens than in training: download the tokenizer.json or "
                "the vocab.txt of bert-base-uncased"
            )
        tokenizer.enable_truncation(self.max_seq_len)
        tokenizer.enable_padding(length=self.max_seq_len, pad_id=0, pad_token="[PAD]")
        self.tokenizer = tokenizer

    def out_of_vocabulary(self, prompt: str) -> list[str]:
        """Return the parts of `prompt` that WordPiece cannot spell, such as emoji: all of them are one token."""
        encoding = self._encode(prompt)
        unknown = [span for span, token in zip(encoding.offsets, encoding.tokens, strict=True) if token == "[UNK]"]
        return [prompt[start:end] for start, end in unknown]

    def left_out(self, prompt: str) -> list[str]:
        """Return the words at the end of `prompt` that the model does not read: it reads 77 tokens, ends included."""
        encoding = self._encode(prompt)
        if not encoding.overflowing:
            return []
        rest = encoding.overflowing[0]
        cut = next(word for word in rest.word_ids if word is not None)
        # a word of several tokens may be cut in its middle; then all of it is named
        places = zip([*encoding.word_ids, *rest.word_ids], [*encoding.offsets, *rest.offsets], strict=True)
        start = min(start for word, (start, _) in places if word == cut)
        words = (word.strip(",.;:!?()") for word in prompt[start:].split())
        return [word for word in words if any(map(str.isalnum, word))]

    def _encode(self, prompt: str) -> "Encoding":
        if self.tokenizer is None:
            raise RuntimeError("the text encoder has no vocabulary: call load_vocabulary first")
        return self.tokenizer.encode(prompt)

    def has_known_words(self, prompt: str) -> bool:
        """Tell whether `prompt` has an effect; here every prompt has."""
        return True

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Embed `prompts`, cut or padded to 77 tokens: [B, 77, n_embed]; the model attends to padding as well.

        Raises:
            RuntimeError: no vocabulary was loaded.
        """
        ids = [self._encode(prompt).ids for prompt in prompts]
        return self.transformer(torch.tensor(ids, device=self.transformer.token_emb.weight.device))


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Read one word a line, with a byte order mark, ends of lines as on Windows and empty lines at the end or not."""
    lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    return {line.rstrip(): number for number, line in enumerate(lines)}


def _fault_of(tokenizer: "Tokenizer") -> str | None:
    """Say in words what a tokenizer does otherwise than BERT's for text without capitals; None if it does the same.

    A tokenizer.json whose normalizer, pre-tokenizer or post-processor is missing loads without an error.
    """
    letters = [word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and word.islower()]
    if not letters:
        return "has no lower-case words"
    word = min(letters)

    def tokens(text: str) -> list[str]:
        return list(tokenizer.encode(text).tokens)

    alone = tokens(word)
    if alone[:1] != ["[CLS]"] or alone[-1:] != ["[SEP]"]:
        return "does not put [CLS] and [SEP] around a prompt (it lacks the post-processor)"
    if tokens(word.upper()) != alone or tokens(word.replace(word[0], word[0] + "\u0301", 1)) != alone:
        return "keeps capitals and accents (it lacks the normalizer)"
    inner = alone[1:-1]
    if tokens(f"{word} {word}")[1:-1] != inner * 2 or tokens(f"{word},{word}") != tokens(f"{word} , {word}"):
        return "does not split a prompt into words (it lacks the pre-tokenizer)"
    return None


def _words(prompt: str) -> list[str]:
    """Split `prompt` into lower-case words, with accents as separate characters: "Café, don't!" gives café, don, t."""
    decomposed = unicodedata.normalize("NFKD", prompt.lower())
    return "".join(c if c.isalpha() or unicodedata.combining(c) else " " for c in decomposed).split()


def _plain(word: str) -> str:
    """Remove the accents from a word of `_words`."""
    return "".join(c for c in word if not unicodedata.combining(c))


class WordEmbedder(nn.Module):
    """Fixed word vectors, a projection, and a small transformer: the text encoder of the built-in model.

    Words of similar meaning have similar vectors (`training.word_vectors`), and only the layers after them are trained,
    so a word that no caption used acts like its neighbours. During training a little noise on the vectors makes the
    model learn neighbourhoods, not points. A word without a vector is left out of the prompt.
    """

    fallback_prompt = "abstract art"  # used for a prompt without any known word; the empty one would give mere patches

    word_vectors: Tensor  # [vocab_size, vector_dim]

    def __init__(
        self, vocab_size: int, vector_dim: int, n_embed: int, n_layer: int, max_seq_len: int, vector_noise: float = 0.0
    ) -> None:
        super().__init__()
        self.max_seq_len = max_seq_len
        self.vector_noise = vector_noise
        self.index: Mapping[str, int] = {}
        self.register_buffer("word_vectors", torch.zeros(vocab_size, vector_dim))
        self.padding = nn.Parameter(torch.zeros(vector_dim))
        self.project = nn.Linear(vector_dim, n_embed)
        self.pos_emb = AbsolutePositionalEmbedding(n_embed, max_seq_len)
        self.encoder = Encoder(n_embed, n_layer, heads=4, dim_head=n_embed // 4)
        self.norm = nn.LayerNorm(n_embed)

    def load_vocabulary(self, folder: Path) -> None:
        """Load the words from `folder/vocab.txt`, one a line, in the order of `word_vectors`.

        Raises:
            ValueError: the number of words is not that of the vectors.
            OSError: the file cannot be read.
        """
        words = (folder / "vocab.txt").read_text(encoding="utf-8-sig").split()
        if len(words) != len(self.word_vectors):
            raise ValueError(f"{folder / 'vocab.txt'} has {len(words)} words, the model {len(self.word_vectors)}")
        self.index = {word: i for i, word in enumerate(words)}

    def tokenize(self, prompt: str) -> list[int]:
        """Return the rows of `word_vectors` of the known words in `prompt`, at most `max_seq_len`."""
        return [self.index[_plain(word)] for word in self._known_words(prompt)][: self.max_seq_len]

    def _known_words(self, prompt: str) -> list[str]:
        return [word for word in _words(prompt) if _plain(word) in self.index]

    def left_out(self, prompt: str) -> list[str]:
        """Return the known words at the end of `prompt` that the model does not read: it reads `max_seq_len`."""
        return [unicodedata.normalize("NFC", word) for word in self._known_words(prompt)[self.max_seq_len :]]

    def out_of_vocabulary(self, prompt: str) -> list[str]:
        """Return the words of `prompt` that have no vector, and so no effect."""
        return [unicodedata.normalize("NFC", word) for word in _words(prompt) if _plain(word) not in self.index]

    def has_known_words(self, prompt: str) -> bool:
        """Tell whether any word of `prompt` has a vector."""
        return bool(self.tokenize(prompt))

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Embed `prompts` as [B, max_seq_len, n_embed]; an empty prompt is all padding."""
        words = [self.tokenize(prompt) for prompt in prompts]
        # row −1 marks padding, which has a learned vector
        rows = torch.tensor([row + [-1] * (self.max_seq_len - len(row)) for row in words]).to(self.word_vectors.device)
        vectors = self.word_vectors[rows]
        if self.training and self.vector_noise:
            vectors = vectors + self.vector_noise * torch.randn_like(vectors)
        x = self.project(torch.where(rows[..., None] >= 0, vectors, self.padding))
        return self.norm(self.encoder(x + self.pos_emb(x)))


TextEncoder = BERTEmbedder | WordEmbedder
