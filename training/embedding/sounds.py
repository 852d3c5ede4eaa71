"""The sounds that the embedding learns from: words that persons say several times, recordings, and changed copies."""

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from joblib import Parallel, cpu_count, delayed
from tqdm import tqdm

from audio.batch import find_recordings, plural, prepare_batch
from audio.decoding import named_as_sound
from audio.features import load_audio, log_mel_vector
from audio.qualities import Heard
from audio.row_tables import heard_in, read_rows
from audio.sound import AudioError
from files import atomic_path
from training.embedding.sound_changes import RATE, change_sound

NAME = re.compile(r"(.+)-(.+)-(.+)")  # of a file of repeats, without its suffix: SPEAKER-WORD-TAKE
COPIES = 2  # of each recording, changed as sound
REPEATS_A_COPY = 6  # of the takes, one of so many gets a changed copy, which counts as another take
TEXTS = 12  # of each speaker: takes of many words, joined
TEXT_SECONDS = 2.5, 40.0  # the shortest and the longest
FINGERPRINT = 2  # copies that tell one version of the changes from another

Word = tuple[str, str]  # speaker and word


@dataclass(frozen=True, eq=False)
class Sounds:
    """The recordings of a folder, as features. N = recordings, P = elements of a vector."""

    paths: list[Path]
    digests: list[str]  # sha256 of each file's content
    vectors: np.ndarray  # [N, P] float32, dB, mapped from a file
    heard: list[Heard]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, eq=False)
class Material:
    """All that the embedding learns from."""

    repeats: Sounds
    words: list[list[int]]  # rows of `repeats` that are takes of one word by one speaker, two at least
    unseen_words: list[list[int]]  # the same for the speakers that are kept for the test
    copied: list[int]  # rows of `repeats` that `repeat_copies` [len(copied), P] are of
    repeat_copies: np.ndarray
    recordings: Sounds
    recording_copies: np.ndarray  # [N · COPIES, P]; those of one recording follow each other
    texts: Sounds
    texts_by_speaker: list[list[int]]  # rows of `texts`


def gather(repeats: Path, recordings: Path, folder: Path, held_out: int, seed: int) -> Material:
    """Compute the features of all recordings, and of changed copies; kept in `folder`, and computed once.

    Args:
        repeats: folder of recordings named SPEAKER-WORD-TAKE, such as ann-yes-3.wav, in any folders below it.
        recordings: folder of recordings of any kind.
        folder: where the features are kept.
        held_out: speakers, the last ones in sorted order, that are kept for the test.
        seed: of the changes.

    Raises:
        ValueError: a folder has no usable recordings; one of `repeats` has another name; or too few speakers say a word
            twice.
        OSError: a file cannot be read or written.
    """
    named = [repeats / name for name, refused in find_recordings(repeats) if not refused and named_as_sound(name)]
    if named:  # wrong names are told at once, not after minutes
        split_speakers(words_of(named), held_out, repeats)
    recorded = read_sounds(recordings, folder / "recordings.npy")
    repeated = read_sounds(repeats, folder / "repeats.npy")
    words, unseen_words = split_speakers(words_of(repeated.paths), held_out, repeats)
    copied = [row for takes in words for row in takes][::REPEATS_A_COPY]
    rows = [row for row in range(len(recorded)) for _ in range(COPIES)]
    copies_of_repeats, copies_of_recordings = (
        changed_copies(sounds, chosen, recorded, folder / name, seed)
        for sounds, chosen, name in ((repeated, copied, "repeat_copies"), (recorded, rows, "recording_copies"))
    )
    texts = joined_texts(repeated, words, folder / "texts", seed)
    numbers = words_of(texts.paths).values()
    return Material(
        repeated, words, unseen_words, copied, copies_of_repeats, recorded, copies_of_recordings, texts, [*numbers]
    )


def read_sounds(folder: Path, output: Path) -> Sounds:
    """Compute the features of the recordings below `folder`, as phase 1 does; `output` and tables beside it hold them.

    Raises:
        ValueError: there is none that can be used.
        OSError: a file cannot be read or written.
    """
    print(f"features of the recordings in {folder}")
    report = prepare_batch(folder, output, workers=cpu_count(), say=print)
    if report.skipped:
        print(f"{plural(report.skipped, 'file')} skipped: {output.with_name(output.stem + '_skipped.csv')} says why")
    table = output.with_suffix(".csv")
    rows = list(read_rows(table))
    paths, digests = [folder / row["path"] for row in rows], [row["sha256"] for row in rows]
    return Sounds(paths, digests, np.load(output, mmap_mode="r"), heard_in(table, len(rows)))


def words_of(paths: Sequence[Path]) -> dict[Word, list[int]]:
    """Group files named SPEAKER-WORD-TAKE, by their numbers in the sequence.

    Raises:
        ValueError: a file has another name.
    """
    words = defaultdict(list)
    for row, path in enumerate(paths):
        if not (found := NAME.fullmatch(path.stem)):
            raise ValueError(
                f"{path} is not named SPEAKER-WORD-TAKE, such as ann-yes-3.wav: rename it, or move it out of the folder"
            )
        words[found[1], found[2]].append(row)
    return words


def speaker_of(path: Path) -> str:
    """Return the speaker of a file named SPEAKER-WORD-TAKE.

    Raises:
        ValueError: as `words_of`.
    """
    ((speaker, _),) = words_of([path])
    return speaker


def split_speakers(
    words: dict[Word, list[int]], held_out: int, folder: Path
) -> tuple[list[list[int]], list[list[int]]]:
    """Choose the words that are said twice at least, and split them into those of most speakers and of the last ones.

    Raises:
        ValueError: no speakers are left for one of the two.
    """
    often = {word: rows for word, rows in words.items() if len(rows) > 1}
    speakers = sorted({speaker for speaker, _ in often})
    if len(speakers) <= max(held_out, 1):
        raise ValueError(
            f"{folder} has {plural(len(speakers), 'speaker')} with two takes of a word; {held_out + 1} are needed at "
            f"least, because {held_out} of them are kept for the test, and 2 in any case"
        )
    unseen = speakers[len(speakers) - held_out :]
    parts: tuple[list[list[int]], list[list[int]]] = ([], [])
    for (speaker, _), rows in sorted(often.items()):
        parts[speaker in unseen].append(rows)
    return parts


def joined_texts(repeats: Sounds, words: Sequence[Sequence[int]], output: Path, seed: int) -> Sounds:
    """Join takes of many words into TEXTS recordings of each speaker, which are kept, and compute their features.

    Long recordings of one speaker differ little, and few speakers can be heard for long.

    Args:
        repeats: recordings.
        words: rows of the takes of each word of each speaker.
        output: folder of the joined recordings, whose name is continued by a fingerprint of the takes.
        seed: of all random numbers.

    Raises:
        ValueError, OSError: a recording cannot be read, or the file not be written.
    """
    speakers, every = defaultdict(list), [*itertools.chain(*words)]
    for row in every:
        speakers[speaker_of(repeats.paths[row])].append(row)
    code = hashlib.sha256(str((seed, TEXTS, TEXT_SECONDS, [repeats.digests[row] for row in every])).encode())
    folder = output.with_name(f"{output.name}-{code.hexdigest()[:8]}")
    folder.mkdir(parents=True, exist_ok=True)
    for index, (speaker, rows) in enumerate(tqdm(sorted(speakers.items()), "texts")):
        for number in range(TEXTS):
            path = folder / f"{speaker}-text-{number}.flac"
            if not path.is_file():
                rng = np.random.default_rng((seed, index, number))
                text = _text([repeats.paths[row] for row in rng.permutation(rows)], (number + rng.random()) / TEXTS)
                with atomic_path(path) as temporary:
                    soundfile.write(temporary, text, RATE, format="FLAC")
    return read_sounds(folder, folder.with_suffix(".npy"))


def _text(paths: Sequence[Path], length: float) -> np.ndarray:
    """Join takes to a recording [T], as long as `length`, 0 to 1, says on a logarithmic scale of TEXT_SECONDS."""
    shortest, longest = TEXT_SECONDS
    samples, takes, count = round(RATE * shortest * (longest / shortest) ** length), [], 0
    for path in paths:
        takes.append(load_audio(path).samples)
        count += len(takes[-1])
        if count >= samples:
            break
    return np.concatenate(takes)[:samples]


# --- changed copies --------------------------------------------------------------------------------------------------
def changed_copies(sounds: Sounds, rows: Sequence[int], talkers: Sounds, output: Path, seed: int) -> np.ndarray:
    """Change recordings at random, and compute the vectors, [len(rows), P] float32, mapped from a file that is kept.

    Its name tells the recordings, and a fingerprint of the first copies, so that other changes make another file.

    Args:
        sounds: recordings.
        rows: their numbers; one that is named several times gets several copies.
        talkers: recordings for babble.
        output: the path of the file, whose name is continued.
        seed: of all random numbers.

    Raises:
        ValueError, OSError: a recording cannot be read, or the file not be written.
    """
    paths, voices = [sounds.paths[row] for row in rows], talkers.paths

    def copy(number: int) -> np.ndarray:
        return changed_copy(paths[number], voices, np.random.default_rng((seed, number)))

    first = [copy(number) for number in range(min(FINGERPRINT, len(paths)))]
    code = hashlib.sha256(b"".join(vector.tobytes() for vector in first))
    code.update(" ".join([*(sounds.digests[row] for row in rows), *talkers.digests]).encode())
    path = output.with_name(f"{output.name}-{code.hexdigest()[:8]}.npy")
    if not path.is_file():
        copies = Parallel(n_jobs=-1, return_as="generator")(delayed(copy)(number) for number in range(len(paths)))
        with atomic_path(path) as temporary:
            vectors = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(paths), first[0].size))
            for row, vector in enumerate(tqdm(copies, output.name.replace("_", " "), len(paths))):
                vectors[row] = vector
            vectors.flush()
    return np.load(path, mmap_mode="r")


def changed_copy(path: Path, talkers: Sequence[Path], rng: np.random.Generator) -> np.ndarray:
    """Return the vector of a recording that is changed at random, or as it is if nothing can be heard after it."""
    sound = load_audio(path).samples

    def others(count: int) -> list[np.ndarray]:
        return [load_audio(talkers[index]).samples for index in rng.integers(len(talkers), size=count)]

    try:
        return log_mel_vector(change_sound(sound, rng, others))
    except AudioError:
        return log_mel_vector(sound)
