"""Text encoders: prompts to embeddings [B, max_seq_len, n_embed] that the U-Net attends to."""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ldm.modules.x_transformer import AbsolutePositionalEmbedding, Encoder, TransformerWrapper

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class BERTEmbedder(nn.Module):
    """WordPiece tokens through a transformer that was trained together with the U-Net (Rombach et al. 2022, 4.3.1).

    The vocabulary is that of `bert-base-uncased`; it comes with the checkpoint and is set by `load_vocabulary`.
    """

    training_only = frozenset({"use_tokenizer", "device", "embedding_dropout"})
    fallback_prompt = ""  # for a prompt of which nothing is left

    def __init__(self, n_embed: int, n_layer: int, vocab_size: int = 30_522, max_seq_len: int = 77) -> None:
        super().__init__()
        self.max_seq_len = max_seq_len
        self.transformer = TransformerWrapper(vocab_size, max_seq_len, n_embed, n_layer)
        self.tokenizer: Tokenizer | None = None

    def load_vocabulary(self, folder: Path) -> None:
        """Take `tokenizer.json` or `vocab.txt` from `folder`.

        Raises:
            FileNotFoundError: neither is there.
            ValueError: it cannot be read, or has more words than the model.
        """
        from tokenizers import BertWordPieceTokenizer, Tokenizer

        readers = {
            "tokenizer.json": Tokenizer.from_file,
            "vocab.txt": lambda file: BertWordPieceTokenizer(file, lowercase=True),
        }
        path = next((folder / name for name in readers if (folder / name).is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"no vocab.txt or tokenizer.json in {folder}: this model's words are those of bert-base-uncased; "
                "get its vocab.txt from https://huggingface.co/bert-base-uncased and put it there"
            )
        try:
            tokenizer = readers[path.name](str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise ValueError(f"{path} cannot be read as a vocabulary: {error}") from error
        words, known = tokenizer.get_vocab_size(), self.transformer.token_emb.num_embeddings
        if words > known:
            raise ValueError(f"{path} has {words} words, the model {known}: it is the vocabulary of another model")
        tokenizer.enable_truncation(self.max_seq_len)
        tokenizer.enable_padding(length=self.max_seq_len, pad_id=0, pad_token="[PAD]")
        self.tokenizer = tokenizer

    def out_of_vocabulary(self, prompt: str) -> list[str]:
        """None: WordPiece spells out what it does not know."""
        return []

    def has_known_words(self, prompt: str) -> bool:
        """Whether `prompt` has an effect: any has."""
        return True

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [B, 77, n_embed] of `prompts`, cut or padded to 77 tokens; padding is attended to as well.

        Raises:
            RuntimeError: no vocabulary was loaded.
        """
        if self.tokenizer is None:
            raise RuntimeError("the text encoder has no vocabulary: call load_vocabulary first")
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(prompts))]
        return self.transformer(torch.tensor(ids, device=self.transformer.token_emb.weight.device))


def _words(prompt: str) -> list[str]:
    """The words of `prompt` in lower case, accents as characters of their own: "Café, don't!" gives café, don, t."""
    decomposed = unicodedata.normalize("NFKD", prompt.lower())
    return "".join(c if c.isalpha() or unicodedata.combining(c) else " " for c in decomposed).split()


def _plain(word: str) -> str:
    """A word of `_words` without its accents."""
    return "".join(c for c in word if not unicodedata.combining(c))


class WordEmbedder(nn.Module):
    """Whole words by fixed word vectors, a projection, and a small transformer: the built-in model's text encoder.

    The vectors (`training.scenes.words`) lie near each other for words of like meaning, and only what follows them is
    trained, so that a word that no caption used steers to where its neighbours do. During training a little noise on
    the vectors makes neighbourhoods, not points, mean something. A word that has no vector is left out of the prompt.
    """

    fallback_prompt = (
        "abstract art"  # for a prompt of which nothing is left: by itself the empty one gives mere patches
    )

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
        """Take the words from `folder/vocab.txt`, one a line, in the order of `word_vectors`.

        Raises:
            ValueError: another number of words than of vectors.
            OSError: no such file.
        """
        words = (folder / "vocab.txt").read_text(encoding="utf-8").split()
        if len(words) != len(self.word_vectors):
            raise ValueError(f"{folder / 'vocab.txt'} has {len(words)} words, the model {len(self.word_vectors)}")
        self.index = {word: i for i, word in enumerate(words)}

    def tokenize(self, prompt: str) -> list[int]:
        """Rows of `word_vectors` for the known words of `prompt`, at most `max_seq_len`."""
        words = map(_plain, _words(prompt))
        return [self.index[word] for word in words if word in self.index][: self.max_seq_len]

    def out_of_vocabulary(self, prompt: str) -> list[str]:
        """Words of `prompt` that have no vector, and so no effect."""
        return [unicodedata.normalize("NFC", word) for word in _words(prompt) if _plain(word) not in self.index]

    def has_known_words(self, prompt: str) -> bool:
        """Whether `prompt` has an effect."""
        return bool(self.tokenize(prompt))

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [B, max_seq_len, n_embed] of `prompts`; an empty prompt is all padding."""
        words = [self.tokenize(prompt) for prompt in prompts]
        rows = torch.tensor([row + [-1] * (self.max_seq_len - len(row)) for row in words]).to(self.word_vectors.device)
        vectors = self.word_vectors[rows]
        if self.training and self.vector_noise:
            vectors = vectors + self.vector_noise * torch.randn_like(vectors)
        x = self.project(torch.where(rows[..., None] >= 0, vectors, self.padding))
        return self.norm(self.encoder(x + self.pos_emb(x)))


TextEncoder = BERTEmbedder | WordEmbedder
