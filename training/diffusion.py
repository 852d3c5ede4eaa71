"""Stage `diffusion`: train the U-Net on the latents of renders, at growing resolution."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from files import atomic_path
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.dpm_solver import DPMSolverSampler
from ldm.models.diffusion.sampling import SamplingSettings
from ldm.modules.grids import warp
from ldm.modules.prior import PromptPrior
from painting.images import grid, save_png, to_uint8
from training.compute import load_batches, mixed_precision, to_tensor
from training.optimizer import MuonAdamW, PowerEMA, inner_and_outer
from training.parts import prior_of, unchanged_prior
from training.prior import scene_prior
from training.run import TrainingRun, scheduled_rate
from training.scenes.augment import colour_mask, random_grid
from training.scenes.captions import caption
from training.scenes.render_cache import Kind, cached_renders
from training.scenes.scenes import attribute_values, recoloured, sample_scene
from training.settings import DiffusionOptions, DiffusionStage

ENCODED_AT_ONCE = 32  # renders
SEEDS_PER_STAGE = 10_000_000  # more than a stage has renders, so that no two stages share a scene
# as txt2img.py samples images of the built-in model with --steps 20
SHEET_SAMPLING = SamplingSettings(steps=20, scale=2.5, guidance_rescale=1.0)
SHEET_PROMPTS = (
    "a golden spiral on purple",
    "calm blue and turquoise waves",
    "a red flower, green background",
    "psychedelic mandala, orange and teal",
    "kaleidoscope, magenta, yellow, black",
    "dark forest of green cells",
    "pink and white marble",
    "a psychedelic visualization of a voice",
)


def first_seed_of(stage: int) -> int:
    """Return the seed of the first scene of a stage's renders."""
    return (stage + 1) * SEEDS_PER_STAGE


def stage_renders(stage: DiffusionStage, first_seed: int, renders: Path) -> list[np.memmap]:
    """Return a stage's renders [N, size, size, 3]: those in the colours of their scenes, then the drifting ones."""
    parts: tuple[tuple[int, Kind], ...] = (
        (stage.renders - stage.drifting, "augmented"),
        (stage.drifting, "drifting"),
    )
    arrays = []
    for count, kind in parts:
        if count:
            arrays.append(cached_renders(renders, first_seed, count, stage.size, kind))
        first_seed += count
    return arrays


def encode_renders(model: LatentDiffusion, renders: np.memmap, folder: Path) -> np.ndarray:
    """Encode renders [N, size, size, 3] to latents [N, 4, size / 8, size / 8] float16, cached in `folder`.

    Args:
        renders: mapped from the file that `cached_renders` made. That file's name stands for all of them.
    """
    digest = hashlib.sha256()
    for tensor in model.first_stage_model.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    # other renders, or another first stage, make another file
    assert renders.filename is not None
    path = folder / f"latents-{digest.hexdigest()[:8]}-{Path(renders.filename).name}"
    if not path.is_file():
        rows = []
        model.first_stage_model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types
        for first in tqdm(range(0, len(renders), ENCODED_AT_ONCE), "encoding"):
            batch = torch.from_numpy(renders[first : first + ENCODED_AT_ONCE].copy()).to(model.device)
            with torch.inference_mode(), mixed_precision(model.device):
                rows.append(model.encode_first_stage(to_tensor(batch)).half().cpu())
        with atomic_path(path) as temporary:
            np.save(temporary, torch.cat(rows).numpy())
    return np.load(path, mmap_mode="r")


class Batch(NamedTuple):
    """The data of one step.

    Attributes:
        x_0: clean latents [B, C, H, W].
        prompts: B captions; "" where the model learns to predict without a prompt.
        values, variants: attributes [B, attributes] and variants [B] of the scenes.
        other_values, masks: attributes in the other colours of a drifting render, and their share [B, H, W] in each
            place of the canonical image.
        grids: sampling grids [B, H, W, 2] that the renders were cropped and bent with.
        t: timesteps [B].
        noise: [B, C, H, W].
    """

    x_0: Tensor
    prompts: list[str]
    values: Tensor
    variants: Tensor
    other_values: Tensor
    masks: Tensor
    grids: Tensor
    t: Tensor
    noise: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Copy the tensors to `device`."""
        copies: dict[str, Any] = {
            name: part.to(device, non_blocking=True)
            for name, part in self._asdict().items()
            if isinstance(part, Tensor)
        }
        return self._replace(**copies)


class DiffusionBatches(Dataset):
    """The batch of each step, which follows from the seed and the step alone.

    Args:
        latents: [N, C, H, W] of the scenes from `first_seed` on.
        drifting: so many of them, the last ones, have drifting colours.
        size: of a batch.
        timesteps: number of timesteps of the noise schedule.
        prompt_dropout: share of captions that are replaced by "".
    """

    def __init__(
        self,
        latents: np.ndarray,
        drifting: int,
        first_seed: int,
        size: int,
        timesteps: int,
        prompt_dropout: float,
        seed: int,
    ) -> None:
        self.latents, self.first_seed, self.size = latents, first_seed, size
        self.timesteps, self.prompt_dropout, self.seed = timesteps, prompt_dropout, seed
        self.first_drifting = len(latents) - drifting

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        rows = rng.integers(len(self.latents), size=self.size)
        scenes = [sample_scene(self.first_seed + int(row)) for row in rows]
        drifting = rows >= self.first_drifting
        others = [recoloured(scene) if drifts else scene for scene, drifts in zip(scenes, drifting, strict=True)]
        x_0 = torch.from_numpy(self.latents[rows].astype(np.float32))
        side = x_0.shape[2]
        # stratified: one timestep in each of `size` equal parts of the schedule
        t = (torch.arange(self.size) + torch.from_numpy(rng.random(self.size))) / self.size * self.timesteps
        prompts = [
            "" if rng.random() < self.prompt_dropout else caption(scene, rng, colourless=drifts)
            for scene, drifts in zip(scenes, drifting, strict=True)
        ]
        return Batch(
            x_0=x_0,
            prompts=prompts,
            values=torch.tensor([attribute_values(scene) for scene in scenes]),
            variants=torch.tensor([scene.variant for scene in scenes]),
            other_values=torch.tensor([attribute_values(scene) for scene in others]),
            masks=torch.from_numpy(np.stack([colour_mask(scene.seed, side) for scene in scenes])),
            grids=torch.from_numpy(np.stack([random_grid(scene.seed, side) for scene in scenes])),
            t=t.long().clamp(max=self.timesteps - 1),
            noise=torch.from_numpy(rng.standard_normal(x_0.shape, np.float32)),
        )


def true_prior(prior: PromptPrior, batch: Batch) -> Tensor:
    """Predict the prior [B, C, H, W] of the scenes of a batch, cropped and bent as their renders; 0 without a prompt.

    At sampling time the prior is fixed before the first step. The U-Net learns to rely on it, because in training it is
    always correct.
    """
    with torch.no_grad():
        first, other = (scene_prior(prior, v, batch.variants) for v in (batch.values, batch.other_values))
        mask = F.interpolate(batch.masks[:, None], first.shape[2:], mode="bilinear", align_corners=True)
        latents = warp(torch.lerp(first, other, mask.to(first)), batch.grids)
    has_prompt = torch.tensor([float(prompt != "") for prompt in batch.prompts], device=latents.device)
    return latents * has_prompt[:, None, None, None]


def diffusion_loss(model: LatentDiffusion, batch: Batch, max_weight: float) -> Tensor:
    """Compute the squared error of the predicted v, weighted over timesteps.

    The error of v is that of x_0 times SNR + 1 (Salimans & Ho 2022, arXiv 2202.00512). This weight is limited to
    `max_weight`, as in min-SNR-γ (Hang et al. 2023, arXiv 2303.09556), because timesteps with little noise would
    dominate otherwise. Unlike there, timesteps with much noise keep their full weight.
    """
    x_t = model.q_sample(batch.x_0, batch.t, batch.noise)
    with mixed_precision(x_t.device):
        c = model.get_learned_conditioning(batch.prompts)
        prediction = model.model.diffusion_model(x_t, batch.t, c, true_prior(prior_of(model), batch))
    error = (prediction.float() - model.target(batch.x_0, batch.t, batch.noise)).pow(2).mean(dim=(1, 2, 3))
    snr_plus_1 = 1.0 / (1.0 - model.alphas_cumprod.to(batch.t.device)[batch.t].float())
    return (snr_plus_1.clamp(max=max_weight) / snr_plus_1 * error).mean()


def train_diffusion(
    model: LatentDiffusion, average: LatentDiffusion, options: DiffusionOptions, folder: Path, renders: Path, seed: int
) -> None:
    """Train the U-Net of `model`, stage after stage; `average` gets the moving average of its weights."""
    model.cond_stage_model.eval()
    for module in model.model.modules():
        if isinstance(module, nn.Conv2d):  # a quarter faster, in bfloat16 on two cores
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types leave it out
    optimizer = MuonAdamW(*inner_and_outer(model), options.learning_rate)
    run = TrainingRun(folder, {"unet": model.model, "average_unet": average.model}, optimizer)
    ema = PowerEMA(model, average)
    with unchanged_prior(model, folder):
        step = run.resume()
    stage_end, steps = 0, sum(stage.steps for stage in options.stages)
    for number, stage in enumerate(options.stages):
        stage_end += stage.steps
        if step >= stage_end:
            continue
        first_seed = first_seed_of(number)
        latents = [encode_renders(model, part, folder) for part in stage_renders(stage, first_seed, renders)]
        batches = DiffusionBatches(
            np.concatenate(latents),
            stage.drifting,
            first_seed,
            stage.batch_size,
            timesteps=len(model.alphas_cumprod),
            prompt_dropout=options.prompt_dropout,
            seed=seed,
        )
        left = range(step, stage_end)
        bar = tqdm(load_batches(batches, left, model.device), f"{stage.size} px", stage_end, initial=step)
        for step, batch in zip(left, bar, strict=True):
            loss = diffusion_loss(model, batch.to(model.device), options.max_weight)
            run.descend(loss, scheduled_rate(options.learning_rate, step, steps, options.warmup))
            ema.update(step)
            run.finish_step(step, loss, bar)
            if run.sheet_due():
                save_samples(average, stage.size // 8, folder / f"sheet-{step:06d}.png")
        step = stage_end
        run.save(step)


def save_samples(model: LatentDiffusion, size: int, path: Path) -> None:
    """Write a PNG with two rows of samples: the same eight prompts, from different noise of `size` × `size` cells."""
    prompts = [*SHEET_PROMPTS, *SHEET_PROMPTS]
    x_T = torch.randn(len(prompts), 4, size, size, generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.inference_mode(), mixed_precision(model.device):
        x_0 = DPMSolverSampler(model).run(
            x_T,
            SHEET_SAMPLING,
            conditioning=model.get_learned_conditioning(prompts),
            unconditional=model.get_learned_conditioning([""]),
        )
        images = to_uint8(model.decode_first_stage(x_0))
    save_png(grid(images, columns=len(SHEET_PROMPTS)), path)
