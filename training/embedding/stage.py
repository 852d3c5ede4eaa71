"""Stage `embedding`: train the network that embeds voices by contrast, and write it with the maps of what it gives.

A batch holds pairs: two takes of a word by one speaker, or two changed copies of a recording or of a long text. The
network learns to give both of a pair the same direction, and others different ones. So it hears who says what, and
little of the room, the noise and the microphone. All texts of a speaker are in the same batch, so that it tells them
apart, too. A second task helps: to tell the named qualities of all takes from the direction of one.

Source: van den Oord, Li, Vinyals, "Representation learning with contrastive predictive coding", 2018,
arXiv 1807.03748 (the loss, InfoNCE).
"""

import copy
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from audio.embedding import PATH
from audio.qualities import NAMES
from audio.recipe import RECIPE
from audio.whitening import WHITENING_NAME, Whitening
from files import atomic_path
from training.embedding.axes import described, fit_embedding, found_again
from training.embedding.network import DIRECTION, VoiceNetwork, network_input
from training.embedding.sounds import COPIES, Material, gather
from training.embedding.spectrogram_changes import change
from training.run import TrainingRun
from training.settings import EmbeddingOptions

TEMPERATURE = 0.1  # of the loss: cosines are divided by it
WEIGHT_DECAY = 0.01
WARMUP = 200  # steps until the learning rate is reached
LEAST_RATE = 0.005  # of the learning rate, at the end
LONGEST_AVERAGE = 0.999  # of the running average of weights: what it keeps from step to step
BABBLERS = 128  # recordings a step, of which babble is made
QUALITIES_WEIGHT = 0.3  # of the second task's loss
UNCHANGED = 0.5  # chance that the second of a pair of recordings is no copy that was changed as sound


def train_embedding(options: EmbeddingOptions, repeats: Path, recordings: Path, folder: Path, seed: int) -> Path:
    """Train the embedding by contrast and by named qualities, and write embedding.npz, as the program reads it.

    Args:
        options: its settings.
        repeats: folder of recordings, as of `sounds.gather`.
        recordings: folder of recordings of any kind.
        folder: checkpoint, losses, features and the result, embedding.npz.
        seed: of all random numbers.

    Raises:
        ValueError: as `sounds.gather`; or the checkpoint is of other settings.
        OSError: a file cannot be read or written.
    """
    material = gather(repeats, recordings, folder, options.held_out, seed)
    network = VoiceNetwork(options.widths, RECIPE.spectrogram_size)
    head = nn.Linear(DIRECTION, len(NAMES))  # tells qualities from directions; only the training needs it
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    average = copy.deepcopy(network).requires_grad_(False)
    head.to(device)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=WEIGHT_DECAY)
    modules = {"network": network, "average": average, "head": head}
    run = TrainingRun(folder, modules, optimizer, max_norm=math.inf)
    pairs = Pairs(material, options)
    start = run.resume()
    bar = tqdm(range(start, options.steps), "embedding", options.steps, initial=start)
    for step in bar:
        # all random numbers follow from the seed and the step, so that a resumed run gives the same weights
        torch.manual_seed(seed + step)
        x, qualities = (part.to(device) for part in pairs.batch(np.random.default_rng((seed, step))))
        directions = network(x)
        loss = contrast_loss(directions) + QUALITIES_WEIGHT * F.mse_loss(head(directions), qualities)
        run.descend(loss, cosine_rate(options.learning_rate, step, options.steps))
        update_average(average, network, step)
        run.finish_step(step, loss, bar)
    run.save(max(start, options.steps))
    embedding = fit_embedding(average.eval(), material)
    path = folder / PATH.name
    with atomic_path(path) as temporary:
        embedding.save(temporary)
    print(f"wrote {path}")
    if material.unseen_words:
        share = found_again(embedding, material)
        print(f"speakers kept for the test: the nearest take is of the same speaker and word for {share:.1%}")
    return path


class Pairs:
    """Draws of pairs of spectrograms that should get the same direction, and of what is named of their voices."""

    def __init__(self, material: Material, options: EmbeddingOptions) -> None:
        self.material = material
        self.whitening = Whitening.load(PATH.with_name(WHITENING_NAME))
        # changed copies of takes count as further takes, and are numbered after all takes
        copies = {row: len(material.repeats) + number for number, row in enumerate(material.copied)}
        self.words = [[*takes, *(copies[row] for row in takes if row in copies)] for takes in material.words]
        self.of_repeats = min(options.pairs_of_repeats, len(self.words))
        self.of_recordings = min(options.pairs_of_recordings, len(material.recordings))
        self.speakers = min(options.speakers_of_texts, len(material.texts_by_speaker))
        takes, self.named_recordings, self.named_texts = (
            described(self.whitening, sounds.vectors, sounds.heard).named
            for sounds in (material.repeats, material.recordings, material.texts)
        )
        self.named_words = np.stack([takes[rows].mean(axis=0) for rows in material.words])

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw pairs and change each spectrogram.

        Returns:
            `network_input` [2N, 2, n, n], in which i and i + N are a pair, and named qualities [2N, Q].
        """
        material, size = self.material, self.whitening.spectrogram_size
        words = rng.choice(len(self.words), self.of_repeats, replace=False)
        pairs = [[self._take(row) for row in rng.choice(self.words[word], 2, replace=False)] for word in words]
        rows = rng.choice(len(material.recordings), self.of_recordings, replace=False)
        pairs += [[material.recordings.vectors[row], self._again(row, rng)] for row in rows]
        speakers = rng.choice(len(material.texts_by_speaker), self.speakers, replace=False)
        texts = [row for speaker in speakers for row in material.texts_by_speaker[speaker]]
        pairs += [[material.texts.vectors[row]] * 2 for row in texts]
        both = np.stack([*(one for one, _ in pairs), *(other for _, other in pairs)]).reshape(-1, size, size)
        babblers = rng.integers(len(material.recordings), size=BABBLERS)
        others = np.stack([material.recordings.vectors[row] for row in babblers]).reshape(-1, size, size)
        changed = change(torch.from_numpy(both), torch.from_numpy(others))
        named = np.concatenate([self.named_words[words], self.named_recordings[rows], self.named_texts[texts]])
        # as the program does, so that the network sees the same in training and in use
        x = network_input(self.whitening.stretch(changed.double().numpy()))
        return x, torch.from_numpy(np.concatenate([named, named])).float()

    def _take(self, row: int) -> np.ndarray:
        takes = self.material.repeats
        return takes.vectors[row] if row < len(takes) else self.material.repeat_copies[row - len(takes)]

    def _again(self, row: int, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < UNCHANGED:
            return self.material.recordings.vectors[row]
        return self.material.recording_copies[row * COPIES + rng.integers(COPIES)]


def contrast_loss(directions: Tensor) -> Tensor:
    """Compute InfoNCE: the cross-entropy of finding, among all others, what is of a pair with each of a batch.

    `directions` are [2N, D] of unit length, in which i and i + N are a pair.
    """
    cosines = directions @ directions.T / TEMPERATURE
    count = len(directions)
    itself = torch.eye(count, dtype=torch.bool, device=directions.device)
    partner = torch.arange(count, device=directions.device).roll(count // 2)
    return F.cross_entropy(cosines.masked_fill(itself, -math.inf), partner)


def cosine_rate(peak: float, step: int, steps: int) -> float:
    """Return the learning rate at `step`, counted from 0: it rises within WARMUP steps, and falls as a cosine does.

    Source: Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, arXiv 1608.03983.
    """
    falling = 0.5 * (1 + math.cos(math.pi * step / steps))
    return peak * (min(1.0, (step + 1) / WARMUP) * falling + LEAST_RATE)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int) -> None:
    """Include weights, and moments of batch normalisation, after step `step`, counted from 0, in a running average."""
    kept = min(LONGEST_AVERAGE, (step + 2) / (step + 11))
    for mean, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - kept)
        else:
            mean.copy_(now)  # batches seen so far
