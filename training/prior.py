"""Stage `prior`: train the text encoder, then the prior, which predicts coarse latents from a prompt.

Scenes are known exactly, so both are trained separately. The text encoder and the prior's reader learn to recognise the
attributes of a scene in its caption. The rest of the prior learns to predict latents from these attributes. Neither
needs the U-Net, and each takes minutes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.prior import PromptPrior
from ldm.modules.reader import PromptReader
from ldm.modules.shapes import Shapes
from training.compute import load_batches, mixed_precision, to_tensor
from training.parts import prior_of
from training.run import TrainingRun, scheduled_rate
from training.scenes.captions import caption
from training.scenes.render import fold_grids, tile_grids
from training.scenes.render_cache import cached_renders, render_chunks, scene_labels
from training.scenes.scenes import VARIANTS, attribute_values, sample_scene
from training.settings import PriorOptions

FIRST_SEED = 500_000_000  # of the scenes that the prior is trained on; those of the other stages are below
WARMUP = 50  # steps until the learning rate is reached
DECAY_POWER = 0.5  # of the learning rate, see `scheduled_rate`


class Thumbnails:
    """Approximate latents of many scenes, computed from renders as small as the latents.

    Latents of the autoencoder are smooth: a cell is little more than an affine map of its mean colour. So renders need
    not be drawn at full size and encoded.

    Args:
        model: its autoencoder is trained.
        pixels: canonical renders [N, H, W, 3] uint8 of the scenes from `first_seed` on, as large as the latents.
    """

    def __init__(self, model: LatentDiffusion, pixels: np.ndarray, first_seed: int) -> None:
        size, device = model.latent_shape[1], model.device
        self.pixels = torch.from_numpy(np.array(pixels)).to(device)
        values, variants = scene_labels(first_seed, len(pixels))
        self.values, self.variants = (torch.from_numpy(numbers).to(device) for numbers in (values, variants))
        large = to_tensor(next(render_chunks(first_seed, min(len(pixels), 128), 8 * size, "canonical")))
        with torch.inference_mode():
            z = torch.cat([model.encode_first_stage(batch.to(device)) for batch in large.split(8)])
        cells, colours = rearrange(z, "b c h w -> (b h w) c"), self._homogeneous(torch.arange(len(z))).flatten(0, 2)
        # float64: in float32 the last bits depend on the arrays' place in memory, and a resumed run would differ
        self.colours = torch.linalg.lstsq(colours.double(), cells.double()).solution.float()  # [4, C]

    def _homogeneous(self, rows: Tensor) -> Tensor:
        """Return the pixels of `rows` in −1…1, with a constant 1 as the fourth channel: [B, H, W, 4]."""
        return F.pad(self.pixels[rows].float() / 127.5 - 1.0, (0, 1), value=1.0)

    def latents(self, rows: Tensor) -> Tensor:
        """Approximate the latents [B, C, H, W] of the scenes `rows` [B]."""
        return rearrange(self._homogeneous(rows) @ self.colours, "b h w c -> b c h w")


class CaptionBatches(Dataset):
    """The batch of each step of learning to read: captions, and the attributes [B, attributes] of their scenes."""

    def __init__(self, options: PriorOptions, seed: int) -> None:
        self.options, self.seed = options, seed

    def __getitem__(self, step: int) -> tuple[list[str], Tensor]:
        rng = np.random.default_rng((self.seed, step))
        numbers = rng.integers(FIRST_SEED, 2**30, size=self.options.reading_batch_size)
        scenes = [sample_scene(int(number)) for number in numbers]
        prompts = ["" if rng.random() < self.options.prompt_dropout else caption(scene, rng) for scene in scenes]
        return prompts, torch.tensor([attribute_values(scene) for scene in scenes])


def reading_loss(model: LatentDiffusion, reader: PromptReader, prompts: list[str], values: Tensor) -> Tensor:
    """Compute the cross entropy of the attributes `values` [B, attributes] that the reader finds in B captions."""
    with mixed_precision(model.device):
        scores = reader.scores(model.get_learned_conditioning(prompts))
    columns = values.to(model.device).unbind(dim=1)
    return torch.stack([F.cross_entropy(s.float(), v) for s, v in zip(scores, columns, strict=True)]).sum()


def one_hot(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Turn indices of attribute values [B, attributes] to one-hot vectors side by side: [B, sum of sizes] float32."""
    return torch.cat([F.one_hot(v, n) for v, n in zip(values.unbind(dim=1), sizes, strict=True)], dim=1).float()


def scene_prior(prior: PromptPrior, values: Tensor, variants: Tensor) -> Tensor:
    """Predict latents [B, C, H, W] of scenes with attributes `values` [B, attributes] and `variants` [B].

    They are computed in float32, as in sampling.
    """
    shapes = values[:, None, : len(prior.shape_counts)]
    colours = one_hot(values[:, len(prior.shape_counts) :], prior.colour_counts)[:, None]
    with torch.autocast(values.device.type, enabled=False):
        return prior.priors(shapes, colours, variants[:, None])[:, 0]


def drawing_loss(prior: PromptPrior, thumbnails: Thumbnails, rows: Tensor) -> Tensor:
    """Compute the squared error of the predicted latents of the scenes `rows` [B]."""
    predicted = scene_prior(prior, thumbnails.values[rows], thumbnails.variants[rows])
    return (predicted - thumbnails.latents(rows)).square().mean()


def set_fold_grids(shapes: Shapes) -> None:
    """Set the sampling grids of the compositions, which follow from the drawing code and need not be learned."""
    folded = np.stack([fold_grids(variant, shapes.size) for variant in range(VARIANTS)])
    shapes.foldings.copy_(torch.from_numpy(folded))
    shapes.repeats.copy_(torch.from_numpy(tile_grids(shapes.size)))


def train_prior(model: LatentDiffusion, options: PriorOptions, folder: Path, renders: Path, seed: int) -> None:
    """Train the text encoder with `reading_loss`, then the prior with `drawing_loss`."""
    prior = prior_of(model)
    set_fold_grids(prior.shapes)
    parameters = [*model.cond_stage_model.parameters(), *prior.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    run = TrainingRun(folder, {"text_encoder": model.cond_stage_model, "prior": prior}, optimizer)
    start, reading_steps = run.resume(), options.reading_steps
    steps = reading_steps + options.drawing_steps
    captions = iter(load_batches(CaptionBatches(options, seed), range(start, reading_steps), model.device))
    thumbnails = None
    bar = tqdm(range(start, steps), "prior", steps, initial=start)
    for step in bar:
        if step >= reading_steps and thumbnails is None:
            pixels = cached_renders(renders, FIRST_SEED, options.renders, model.latent_shape[1], "canonical")
            thumbnails = Thumbnails(model, pixels, FIRST_SEED)
        torch.manual_seed(seed + step)
        if thumbnails is None:
            done, of = step, reading_steps
            loss = reading_loss(model, prior.reader, *next(captions))
        else:
            done, of = step - reading_steps, options.drawing_steps
            rows = np.random.default_rng((seed, step)).integers(options.renders, size=options.drawing_batch_size)
            loss = drawing_loss(prior, thumbnails, torch.from_numpy(rows).to(model.device))
        run.descend(loss, scheduled_rate(options.learning_rate, done, of, WARMUP, DECAY_POWER))
        run.finish_step(step, loss, bar)
    model.cond_stage_model.eval()
    # fixed Gumbel noise, with which the prior samples attributes that a prompt leaves open
    prior.draws.copy_(torch.from_numpy(np.random.default_rng(seed).gumbel(size=prior.draws.shape)))
    run.save(steps)
