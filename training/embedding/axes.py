"""Numbers of a trained network's directions: discriminant axes, their moments by length, and what another take is like.

Source: Fisher, "The use of multiple measurements in taxonomic problems", 1936 (linear discriminant analysis).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from audio.embedding import LONG, PATH, Embedding, Layer, halves, moved
from audio.qualities import NAMES, UNHEARD, Heard, inverse_root, weights_by_length
from audio.whitening import WHITENING_NAME, Whitening
from training.embedding.network import BATCH, VoiceNetwork, directions_of, quantise
from training.embedding.sounds import COPIES, Material

EXAMPLES = 64  # recordings whose activations say how the network is rounded
REPEATS_SHARE = 0.5  # of the weight of all recordings, where the repeats are of few speakers
AXES = 128  # as many as the network has outputs
RIDGE = 0.1  # weight of the penalty, in the variance of qualities and numbers
READ = 64  # numbers that tell what another take is like: those that repeat best
REGULAR = 0.3  # of the mean variance within, added along each axis
POWER = 0.4  # of the ratio of an axis, which is its share of the variance: with 1, few axes would decide
LEAST_DEVIATION = 1e-4
LEAST_SPREAD = 1e-3  # of predictions, where a quality is the same for all
LEAST_VARIANCE = 1e-9  # of the largest; with fewer recordings than axes, some axes have none


class Described(NamedTuple):
    """Recordings, described as the program does it. Q = qualities."""

    spectrograms: np.ndarray  # [N, n, n] dB, aligned and without noise
    named: np.ndarray  # [N, Q] qualities from N(0, 1)
    octaves: np.ndarray  # [N] of seconds


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation of recordings of each length, by weights of which those of one length sum to 1."""

    near: np.ndarray  # [N, L]
    nearest: np.ndarray  # [N] number of the length

    @classmethod
    def of(cls, octaves: np.ndarray, weights: np.ndarray) -> "Moments":
        """Weight recordings [N] by how near their length is to each of LENGTHS."""
        near = weights_by_length(octaves, weights)
        return cls(near / near.sum(axis=0), near.argmax(axis=1))

    def __call__(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute means and standard deviations of values [N, K]: [L, K] each."""
        means = self.near.T @ values
        variances = self.near.T @ (values - means[self.nearest]) ** 2
        return means, np.maximum(np.sqrt(variances), LEAST_DEVIATION)

    def residues(self, values: np.ndarray) -> np.ndarray:
        """Subtract from values [N, K] the mean of their length."""
        return values - (self.near.T @ values)[self.nearest]


def fit_embedding(network: VoiceNetwork, material: Material) -> Embedding:
    """Turn a trained network to whole numbers, and fit the linear maps of what it gives; takes minutes."""
    print(f"maps from the directions of {len(material.recordings)} recordings, and of the repeats, to numbers")
    whitening = Whitening.load(PATH.with_name(WHITENING_NAME))
    rows = sorted(row for takes in material.words for row in takes)
    words = [np.searchsorted(rows, takes) for takes in material.words]
    repeats, recordings = (
        described(whitening, sounds.vectors[chosen], [sounds.heard[row] for row in chosen])
        for sounds, chosen in ((material.repeats, rows), (material.recordings, range(len(material.recordings))))
    )
    copies = described(whitening, material.recording_copies)
    of_recordings, of_repeats, of_copies = (
        mean_directions(network, one.spectrograms) for one in (recordings, repeats, copies)
    )
    within = 0.5 * scatter_of_repeats(of_repeats, words) + 0.5 * scatter_of_copies(of_recordings, of_copies)
    shares = (1 - REPEATS_SHARE) / len(of_recordings), REPEATS_SHARE / len(of_repeats)
    weights = np.repeat(shares, (len(of_recordings), len(of_repeats)))
    octaves = np.concatenate([recordings.octaves, repeats.octaves])
    every = np.concatenate([of_recordings, of_repeats])
    layers = quantise(network, recordings.spectrograms[:: max(1, len(recordings.spectrograms) // EXAMPLES)])
    long = [described(whitening, material.texts.vectors, material.texts.heard).spectrograms]
    long.append(recordings.spectrograms[recordings.octaves > np.log2(LONG[1] / 2)])
    changes = [mean_directions(network, half) for half in halves(np.concatenate(long))]
    embedding = with_axes(layers, Moments.of(octaves, weights), every, weights, within, changes[0] - changes[1])
    told = [(one.named, embedding.numbers(one.spectrograms, one.octaves)) for one in (repeats, recordings)]
    return with_prediction(embedding, told[0], words, told[1])


def described(whitening: Whitening, vectors: np.ndarray, heard: Sequence[Heard] = ()) -> Described:
    """Describe vectors [N, P], dB, as `Whitening.codes` does before it asks the embedding."""
    parts = []
    for start in range(0, len(vectors), BATCH):
        spectrograms = whitening.stretch(np.asarray(vectors[start : start + BATCH], np.float64))
        heard_part = heard[start : start + BATCH] or [UNHEARD] * len(spectrograms)
        values = whitening.measure(spectrograms, heard_part)
        parts.append((spectrograms, whitening.qualities(values), values[:, NAMES.index("duration")]))
    return Described(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def mean_directions(network: VoiceNetwork, spectrograms: np.ndarray) -> np.ndarray:
    """Compute directions [N, D] of spectrograms [N, n, n] as the program does: the mean of `moved` ones."""
    mean = np.sum([directions_of(network, one) for one in moved(spectrograms)], axis=0)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


# --- axes ------------------------------------------------------------------------------------------------------------
def scatter_of_repeats(directions: np.ndarray, words: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the covariance [D, D] of directions [N, D] within the takes of each word, whose rows are given."""
    apart = np.concatenate([directions[takes] - directions[takes].mean(axis=0) for takes in words])
    return apart.T @ apart / (len(apart) - len(words))


def scatter_of_copies(directions: np.ndarray, of_copies: np.ndarray) -> np.ndarray:
    """Compute the covariance [D, D] of directions [N, D] and those of their changed copies [N · COPIES, D]."""
    apart = np.repeat(directions, COPIES, axis=0) - of_copies
    return apart.T @ apart / (2 * len(apart))


def discriminant_axes(between: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the axes along which recordings differ most, and their repeats least.

    Args:
        between: covariance of all recordings, [D, D].
        within: covariance of repeats, [D, D].

    Returns:
        Axes [AXES, D] along which recordings have variance 1, independent of each other; and the ratio of the variance
        between to that within, [AXES], largest first.
    """
    size = len(within)
    ratios, axes = eigh(between, within + REGULAR * np.trace(within) / size * np.eye(size))
    ratios, axes = ratios[::-1], axes.T[::-1]
    variances = ((axes @ between) * axes).sum(axis=1)
    axes = axes / np.sqrt(np.maximum(variances, LEAST_VARIANCE * variances.max()))[:, None]
    return axes[:AXES], np.maximum(ratios[:AXES], LEAST_VARIANCE * ratios[0])


def with_axes(
    layers: tuple[Layer, ...],
    moments: Moments,
    directions: np.ndarray,
    weights: np.ndarray,
    within: np.ndarray,
    changes: np.ndarray,
) -> Embedding:
    """Make an embedding whose numbers are independent and from N(0, 1) over recordings; it predicts no other take.

    Args:
        layers: the network.
        moments: of the lengths of the recordings.
        directions: of the recordings, [N, D].
        weights: of the recordings, [N]; they sum to 1.
        within: covariance of repeats, [D, D].
        changes: differences between the directions of the halves of long recordings, [M, D].
    """
    residues = moments.residues(directions)
    axes, ratios = discriminant_axes((residues * weights[:, None]).T @ residues, within)
    means, deviations = moments(directions @ axes.T)
    shares = (ratios / ratios[0]) ** POWER
    blank = np.zeros((len(NAMES), len(NAMES) + len(axes)))
    told = changes @ axes.T
    change = np.stack((told.mean(axis=0), np.maximum(told.std(axis=0), LEAST_DEVIATION)))
    arrays = (axes, means, deviations, change, shares / shares.sum(), blank, blank[:, 0])
    return Embedding(layers, *(array.astype(np.float32) for array in arrays))


# --- another take ----------------------------------------------------------------------------------------------------
def with_prediction(
    embedding: Embedding,
    repeats: tuple[np.ndarray, np.ndarray],
    words: Sequence[np.ndarray],
    recordings: tuple[np.ndarray, np.ndarray],
) -> Embedding:
    """Add what the qualities of another take are likely to be.

    Ridge regression predicts the mean qualities of the other takes of a word from the qualities and the numbers of one
    take. Of recordings of all kinds, the predictions are then made independent numbers from N(0, 1), as near to the
    predictions as can be (ZCA-cor, see `audio.qualities`).

    Args:
        embedding: has all but the prediction.
        repeats: named qualities [N, Q] and numbers [N, K] of the takes.
        words: rows of the takes of each word.
        recordings: the same of recordings of all kinds.
    """
    qualities, axes = len(NAMES), len(embedding.axes)
    read = min(axes, READ)
    told, numbers = repeats
    taken = np.concatenate(words)
    one = np.concatenate([told[taken], numbers[taken, :read]], axis=1)
    others = np.concatenate([(told[takes].sum(axis=0) - told[takes]) / (len(takes) - 1) for takes in words])
    regression = np.linalg.solve(one.T @ one + len(one) * RIDGE * np.eye(one.shape[1]), one.T @ others)  # [Q + read, Q]
    predicted = np.concatenate([recordings[0], recordings[1][:, :read]], axis=1) @ regression
    mean, deviation = predicted.mean(axis=0), np.maximum(predicted.std(axis=0), LEAST_SPREAD)
    standard = (predicted - mean) / deviation
    independent = inverse_root(standard.T @ standard / len(standard)) / deviation  # [Q, Q]
    again = np.zeros((qualities, qualities + axes))
    again[:, : qualities + read] = independent @ regression.T
    return replace(embedding, again=again.astype(np.float32), again_mean=(independent @ mean).astype(np.float32))


def found_again(embedding: Embedding, material: Material) -> float:
    """Measure how often the nearest take is of the same word of the same speaker, among the speakers kept for the test.

    It is a share, 0 to 1; directions of numbers are compared as `Whitening.whiten` weights them.
    """
    whitening = Whitening.load(PATH.with_name(WHITENING_NAME))
    rows = [row for takes in material.unseen_words for row in takes]
    word = np.concatenate([np.full(len(takes), number) for number, takes in enumerate(material.unseen_words)])
    takes = described(whitening, material.repeats.vectors[rows], [material.repeats.heard[row] for row in rows])
    codes = embedding.numbers(takes.spectrograms, takes.octaves) * np.sqrt(embedding.shares)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    cosines = codes @ codes.T
    np.fill_diagonal(cosines, -1)
    return float((word[cosines.argmax(axis=1)] == word).mean())
