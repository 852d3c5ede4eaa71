"""Train the built-in model: the autoencoder, then the text encoder and the layout, then the U-Net.

    python -m training.scenes.words --out training/words
    python -m training.train pictures
    python -m training.train first_stage
    python -m training.train layout
    python -m training.train diffusion
    python -m training.train export --out models/chladni

Everything lies under --dir: checkpoints (each command resumes from its own), loss.csv, sample sheets. Every random
number follows from the seed and the step, so that a run that was interrupted goes on as if it had not been. Renders are
made by the command that needs them first; "pictures" makes all, beside the first stage's training if that is on a GPU.
A command that has no checkpoint yet begins at random, or with --from at the weights of a model that is there:

    python -m training.train diffusion --from models/chladni
    python -m training.train export --from models/chladni --out DIR
"""

import csv
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import cli
from files import atomic_path
from ldm.checkpoint import find_model, load_model, mismatches, read_config
from ldm.devices import choose_precision
from ldm.models.autoencoder import ShuffleAutoencoder
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.dpm_solver import DPMSolverSampler
from ldm.models.diffusion.sampling import SamplingSettings
from ldm.modules.encoders.modules import WordEmbedder
from ldm.modules.grids import warp
from ldm.modules.prior import PromptPrior
from ldm.modules.reader import PromptReader
from ldm.modules.shapes import Shapes
from ldm.tensor_files import read_tensors, write_safetensors
from ldm.util import instantiate_from_config
from painting.images import grid, save_png, to_uint8
from training.scenes.augment import BEND, KNOTS, NEAREST, drift, view
from training.scenes.captions import caption
from training.scenes.render import foldings, repeats
from training.scenes.render_cache import Kind, pool, rendered, told
from training.scenes.scenes import (
    COLOURS,
    NAMED_COLOURS,
    SHAPE_ATTRIBUTES,
    VARIANTS,
    attribute_values,
    recoloured,
    sample_scene,
)

SAVE_EVERY = 180.0  # seconds
SHEET_EVERY = 420.0  # seconds
ENCODED_AT_ONCE = 32  # pictures
LAYOUT_SEED = 500_000_000  # of the first scene that the layout is trained on; the others' are below
CONFIG = Path("configs/latent-diffusion/chladni.yaml")
SHEET_SCALE = 2.0  # of guidance
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


@dataclass(frozen=True)
class FirstStageOptions:
    """How the autoencoder is trained: on `crop`×`crop` pieces of `pictures` renders.

    The last three are for the sake of the diffusion model, which has to learn the latents: see `first_stage_loss`. In
    the last `decoder_steps` of the `steps` the encoder rests.
    """

    pictures: int
    crop: int
    batch_size: int
    steps: int
    decoder_steps: int
    learning_rate: float
    kl_weight: float
    squared_weight: float
    gradient_weight: float
    halved_share: float
    latent_noise: float
    roughness_weight: float


@dataclass(frozen=True)
class LayoutOptions:
    """How the text encoder learns to read prompts, then the layout what scenes look like: see `train_layout`."""

    pictures: int
    learning_rate: float
    reading_batch_size: int
    reading_steps: int
    drawing_batch_size: int
    drawing_steps: int
    prompt_dropout: float


@dataclass(frozen=True)
class Stage:
    """A stretch of diffusion training on `pictures` renders of `size`×`size`; the last `drifting` have such colours."""

    size: int
    pictures: int
    drifting: int
    batch_size: int
    steps: int


@dataclass(frozen=True)
class DiffusionOptions:
    """How the U-Net is trained, by stages of growing resolution."""

    learning_rate: float
    warmup: int
    prompt_dropout: float
    max_weight: float
    stages: tuple[Stage, ...]


# --- pictures --------------------------------------------------------------------------------------------------------


def to_tensor(pictures: np.ndarray | Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in −1…1, channels last in memory.

    The autoencoder is five times as fast on those as on contiguous ones, in bfloat16 on a CPU.
    """
    return rearrange(torch.as_tensor(pictures), "b h w c -> b c h w").float() / 127.5 - 1.0


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """bfloat16 where it does no harm, if the device computes in it natively: otherwise it takes three times as long.

    On a CPU attention is not fused: the backward pass of the fused one costs more than the attention itself.
    """
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    backends = [SDPBackend.MATH] if device.type == "cpu" else [*fused, SDPBackend.MATH]
    native = choose_precision("auto", device) == "bf16"
    with torch.autocast(device.type, torch.bfloat16, enabled=native), sdpa_kernel(backends):
        yield


def in_order(batches: Dataset, steps: range, device: torch.device) -> DataLoader:
    """What `batches` has for each of `steps`; a GPU, which would wait for them, has them made ahead by other cores."""
    workers = min(8, (os.cpu_count() or 1) // 2) if device.type == "cuda" else 0
    return DataLoader(batches, batch_size=None, sampler=steps, num_workers=workers, pin_memory=workers > 0)


# --- checkpoints and logs --------------------------------------------------------------------------------------------


class MuonAdamW:
    """Muon for `matrices`, kernels of convolutions among them, and AdamW for all `others`: an optimizer in two parts.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes every step of a matrix as long in all
    directions; a kernel is one of [out channels, what it looks at]. Its rates are scaled so that those of AdamW fit
    (Liu et al. 2025, arXiv 2502.16982).

    Args:
        matrices: with two dimensions, or four and `channels_last` in memory: torch's Muon takes only the former, so
            what it works on are matrices in the same memory.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], others: Sequence[nn.Parameter], learning_rate: float) -> None:
        self.kernels = list(matrices)
        self.matrices = [nn.Parameter(_as_matrix(kernel.detach())) for kernel in matrices]
        assert all(m.data_ptr() == k.data_ptr() for m, k in zip(self.matrices, self.kernels, strict=True))
        self.muon = torch.optim.Muon(self.matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self) -> None:
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = None if kernel.grad is None else _as_matrix(kernel.grad)
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError if `state` is another optimizer's."""
        if state.keys() != {"muon", "adamw"}:
            raise ValueError("the training there was begun with another optimizer: move its folder away to train anew")
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])


def _as_matrix(kernel: Tensor) -> Tensor:
    """[O, I, H, W], channels last in memory, or [O, I] -> [O, H·W·I], not copied."""
    return rearrange(kernel, "o i h w -> o (h w i)") if kernel.ndim == 4 else kernel


def load_parts(path: Path, modules: dict[str, nn.Module]) -> dict[str, Any]:
    """Load the weights of `modules` by their names in the checkpoint at `path`, and return all that it holds.

    Raises:
        ValueError: they are of another shape.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in modules.items():
        if mismatches(module.state_dict(), state[name]):
            advice = "move its folder away to train anew"
            raise ValueError(f"{path} is of another version, or of another yaml: {advice}")
        module.load_state_dict(state[name])
    return state


class Run:
    """A folder with what one training needs to go on: checkpoint, loss log, sample sheets."""

    def __init__(
        self, folder: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer | MuonAdamW
    ) -> None:
        self.folder = folder
        self.modules = modules
        self.optimizer = optimizer
        self.saved = self.sheeted = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def resume(self) -> int:
        """Load the checkpoint, if there is one, and return the step to go on from."""
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return 0
        state = load_parts(path, self.modules)
        self.optimizer.load_state_dict(state["optimizer"])
        return state["step"]

    def descend(self, loss: Tensor, learning_rate: float, max_norm: float) -> None:
        """One step of the optimizer, with the gradient's norm cut at `max_norm`."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        for module in self.modules.values():
            module.zero_grad()
        loss.backward()
        parameters = (parameter for module in self.modules.values() for parameter in module.parameters())
        nn.utils.clip_grad_norm_(parameters, max_norm)
        self.optimizer.step()

    def save(self, step: int) -> None:
        state = {name: module.state_dict() for name, module in self.modules.items()}
        with atomic_path(self.folder / "checkpoint.pt") as temporary:
            torch.save({**state, "optimizer": self.optimizer.state_dict(), "step": step}, temporary)
        self.saved = time.monotonic()

    def log(self, step: int, **values: float) -> None:
        path = self.folder / "loss.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["time", "step", *values])
            writer.writerow([f"{time.time():.0f}", step, *(f"{value:.5f}" for value in values.values())])

    def save_due(self) -> bool:
        return time.monotonic() - self.saved > SAVE_EVERY

    def sheet_due(self) -> bool:
        due = time.monotonic() - self.sheeted > SHEET_EVERY
        if due:
            self.sheeted = time.monotonic()
        return due


# --- first stage -----------------------------------------------------------------------------------------------------


def gradient_loss(x: Tensor, y: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of the horizontal and vertical differences of two pictures, over halved scales."""
    total = x.new_zeros(())
    for _ in range(scales):
        d = x - y
        total = total + (d[..., :, 1:] - d[..., :, :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return total


def random_crops(pictures: Tensor, count: int, size: int, rng: np.random.Generator) -> Tensor:
    """`count` random pieces [count, 3, size, size] of `pictures` uint8 [N, H, W, 3]; a quarter from twice as far."""

    def crops(count: int, side: int) -> Tensor:
        free = (len(pictures), *(extent - side + 1 for extent in pictures.shape[1:3]))
        picture, y, x = (torch.from_numpy(rng.integers(n, size=(count, 1))).to(pictures.device) for n in free)
        axis = torch.arange(side, device=pictures.device)
        return to_tensor(pictures[picture[:, :, None], (y + axis)[:, :, None], (x + axis)[:, None, :]])

    far = count // 4
    return torch.cat([crops(count - far, size), F.avg_pool2d(crops(far, 2 * size), 2)]) if far else crops(count, size)


def roughness(z: Tensor) -> Tensor:
    """Share of the variance of latents [B, C, H, W] that is lost when they are halved and interpolated back."""
    smooth = F.interpolate(F.avg_pool2d(z, 2), scale_factor=2, mode="bilinear")
    return ((z - smooth).square().mean(dim=(0, 2, 3)) / z.var(dim=(0, 2, 3))).mean()


def reconstruction_loss(x: Tensor, y: Tensor, options: FirstStageOptions) -> Tensor:
    """How far the picture y is from x [B, 3, H, W]: absolute and squared error, and that of differences."""
    error = (x - y).abs().mean() + options.squared_weight * (x - y).square().mean()
    return error + options.gradient_weight * gradient_loss(x, y)


def noisy(z: Tensor, latent_noise: float) -> Tensor:
    """Latents [B, C, H, W], each with noise of some share of `latent_noise` standard deviations."""
    share = latent_noise * torch.rand(len(z), 1, 1, 1, device=z.device)
    return z + share * z.detach().std(dim=(0, 2, 3), keepdim=True) * torch.randn_like(z)


def first_stage_loss(model: ShuffleAutoencoder, x: Tensor, options: FirstStageOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of the autoencoder on pictures x [B, 3, H, W]; with it the mean absolute error and the KL divergence.

    An autoencoder that is left alone hides detail in latents that are half white noise, whose smallest differences
    matter; a small diffusion model cannot learn those. Three things keep them as smooth as pictures: halved latents
    have to decode to the halved picture (EQ-VAE, Kouzelis et al. 2025, arXiv 2502.09509), here for `halved_share` of
    the batch; up to `latent_noise` standard deviations of noise must do no harm; and `roughness` is penalised.
    """
    halved = max(1, int(options.halved_share * len(x)))
    with mixed_precision(x.device):
        mean, log_variance = model.posterior(x)
        z = noisy(mean + (0.5 * log_variance).exp() * torch.randn_like(mean), options.latent_noise)
        y, y_halved = model.decoder(z[halved:]).float(), model.decoder(F.avg_pool2d(z[:halved], 2)).float()
    mean, log_variance = mean.float(), log_variance.float()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).mean()
    loss = reconstruction_loss(x[halved:], y, options)
    loss = loss + options.halved_share * reconstruction_loss(F.avg_pool2d(x[:halved], 2), y_halved, options)
    loss = loss + options.kl_weight * kl + options.roughness_weight * roughness(mean)
    return loss, (x[halved:] - y).abs().mean(), kl


def decoder_loss(model: ShuffleAutoencoder, x: Tensor, options: FirstStageOptions) -> tuple[Tensor, Tensor, Tensor]:
    """As `first_stage_loss`, of the decoder alone: it learns what there is in latents that stay as they are."""
    with mixed_precision(x.device):
        with torch.no_grad():
            z = noisy(model.posterior(x)[0], options.latent_noise)
        y = model.decoder(z).float()
    return reconstruction_loss(x, y, options), (x - y).abs().mean(), x.new_zeros(())


def standardise(model: ShuffleAutoencoder, pictures: Tensor) -> None:
    """Set `shift` and `scale` so that latents of `pictures` have mean 0 and standard deviation 1 in each channel."""
    with torch.inference_mode():
        mean = torch.cat([model.posterior(batch.to(model.shift.device))[0] for batch in pictures.split(8)])
    model.shift.copy_(mean.mean(dim=(0, 2, 3))[:, None, None])
    model.scale.copy_(mean.std(dim=(0, 2, 3))[:, None, None])


def train_first_stage(
    model: ShuffleAutoencoder, options: FirstStageOptions, folder: Path, renders: Path, seed: int
) -> None:
    """Train the autoencoder with `first_stage_loss`, then its decoder; ends with standardised latents."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types leave it out
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.99))
    run = Run(folder, {"first_stage": model}, optimizer)
    start = run.resume()
    if start >= options.steps:
        print(f"the first stage is trained: {start} steps")
        return
    device = model.shift.device
    pictures = torch.from_numpy(np.array(pool(renders, seed, options.pictures, 256))).to(device)
    held_out = to_tensor(next(rendered(2**30, 16, 256)))
    bar = tqdm(range(start, options.steps), "first stage", options.steps, initial=start)
    for step in bar:
        torch.manual_seed(seed + step)
        learning_rate = options.learning_rate * min(1.0, (step + 1) / 100) * (1.0 - step / options.steps)
        x = random_crops(pictures, options.batch_size, options.crop, np.random.default_rng((seed, step)))
        loss_of = first_stage_loss if step < options.steps - options.decoder_steps else decoder_loss
        loss, l1, kl = loss_of(model, x.contiguous(memory_format=torch.channels_last), options)
        run.descend(loss, learning_rate, 0.5)
        if step % 250 == 0:
            unseen = psnr(model, held_out)
            bar.set_postfix(l1=f"{l1:.4f}", psnr=f"{unseen:.2f}")
            run.log(step, l1=l1.item(), kl=kl.item(), psnr=unseen)
        if run.save_due() and step + 1 < options.steps:  # the last time after latents are standardised
            run.save(step + 1)
        if run.sheet_due():
            save_reconstructions(model, held_out, folder / f"sheet-{step:06d}.png")
    standardise(model, to_tensor(pictures[:256]))
    run.save(options.steps)
    save_reconstructions(model, held_out, folder / "sheet-final.png")
    print(f"PSNR on {len(held_out)} unseen renders: {psnr(model, held_out):.2f} dB")


def save_reconstructions(model: ShuffleAutoencoder, pictures: Tensor, path: Path) -> None:
    """Rows of pictures, each with its reconstruction below."""
    with torch.inference_mode():
        y = model.decode(model.encode(pictures[:8].to(model.shift.device))).cpu()
    save_png(grid(to_uint8(torch.cat([pictures[:8], y])), columns=8), path)


def psnr(model: ShuffleAutoencoder, pictures: Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of the reconstructions of `pictures` [B, 3, H, W]."""
    with torch.inference_mode():
        batches = pictures.to(model.shift.device).split(8)
        y = torch.cat([model.decode(model.encode(batch)).clamp(-1, 1) for batch in batches]).cpu()
    return (-10 * ((pictures - y) / 2).pow(2).mean(dim=(1, 2, 3)).log10()).mean().item()


# --- layout ----------------------------------------------------------------------------------------------------------


def layout_of(model: LatentDiffusion) -> PromptPrior:
    """The part of the U-Net that knows what prompts look like."""
    layout = model.model.diffusion_model.layout
    assert layout is not None  # see model_node
    return layout


def one_hot(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Numbers of attributes' values [B, attributes] as one-hot vectors side by side [B, sum of sizes] float32."""
    return torch.cat([F.one_hot(v, n) for v, n in zip(values.unbind(dim=1), sizes, strict=True)], dim=1).float()


class Thumbnails:
    """Many small pictures, as small latents: what the layout is trained on.

    An autoencoder with smooth latents leaves in each cell hardly more than the cell's mean colour, linearly; so that
    pictures need not be rendered at full size and encoded.
    """

    def __init__(self, model: LatentDiffusion, pixels: np.ndarray, first_seed: int) -> None:
        """Of `pixels` [N, H, W, 3], the scenes from `first_seed` on, whole, as large as latents of `model`."""
        size, device = model.latent_shape[1], model.device
        self.pixels = torch.from_numpy(np.array(pixels)).to(device)
        values, variants = told(first_seed, len(pixels))
        self.values, self.variants = (torch.from_numpy(numbers).to(device) for numbers in (values, variants))
        large = to_tensor(next(rendered(first_seed, min(len(pixels), 128), 8 * size, "whole")))
        with torch.inference_mode():
            z = torch.cat([model.encode_first_stage(batch.to(device)) for batch in large.split(8)])
        cells, colours = rearrange(z, "b c h w -> (b h w) c"), self._homogeneous(torch.arange(len(z))).flatten(0, 2)
        # float64: in float32 the last bits hang on where the arrays lie in memory, and a resumed run would differ
        self.colours = torch.linalg.lstsq(colours.double(), cells.double()).solution.float()  # [4, C]

    def _homogeneous(self, rows: Tensor) -> Tensor:
        return F.pad(self.pixels[rows].float() / 127.5 - 1.0, (0, 1), value=1.0)

    def latents(self, rows: Tensor) -> Tensor:
        """About the latents [B, C, H, W] of the pictures `rows` [B]."""
        return rearrange(self._homogeneous(rows) @ self.colours, "b h w c -> b c h w")


class Captions(Dataset):
    """For each step of learning to read: captions of scenes, and those scenes' attributes [B, attributes]."""

    def __init__(self, options: LayoutOptions, seed: int) -> None:
        self.options, self.seed = options, seed

    def __getitem__(self, step: int) -> tuple[list[str], Tensor]:
        rng = np.random.default_rng((self.seed, step))
        numbers = rng.integers(LAYOUT_SEED, 2**30, size=self.options.reading_batch_size)
        scenes = [sample_scene(int(number)) for number in numbers]
        prompts = ["" if rng.random() < self.options.prompt_dropout else caption(scene, rng) for scene in scenes]
        return prompts, torch.tensor([attribute_values(scene) for scene in scenes])


def reading_loss(model: LatentDiffusion, reader: PromptReader, prompts: list[str], values: Tensor) -> Tensor:
    """Cross entropy of the attributes of scenes, as the reader finds them in their captions."""
    with mixed_precision(model.device):
        scores = reader.scores(model.get_learned_conditioning(prompts))
    columns = values.to(model.device).unbind(dim=1)
    return torch.stack([F.cross_entropy(s.float(), v) for s, v in zip(scores, columns, strict=True)]).sum()


def prior_of(layout: PromptPrior, values: Tensor, variants: Tensor) -> Tensor:
    """What the layout makes [B, C, H, W] of scenes with attributes `values` [B, attributes] and `variants` [B].

    In float32, as in sampling.
    """
    shapes = values[:, None, : len(layout.shape_counts)]
    colours = one_hot(values[:, len(layout.shape_counts) :], layout.colour_counts)[:, None]
    with torch.autocast(values.device.type, enabled=False):
        return layout.priors(shapes, colours, variants[:, None])[:, 0]


def drawing_loss(layout: PromptPrior, thumbnails: Thumbnails, rows: Tensor) -> Tensor:
    """Squared error of the guess for the attributes and variants of the scenes `rows` [B]."""
    guess = prior_of(layout, thumbnails.values[rows], thumbnails.variants[rows])
    return (guess - thumbnails.latents(rows)).square().mean()


def take_coordinates(shapes: Shapes) -> None:
    """Where compositions show a pattern and a figure is known, and need not be learned."""
    folded = np.stack([foldings(variant, shapes.size) for variant in range(VARIANTS)])
    shapes.foldings.copy_(torch.from_numpy(folded))
    shapes.repeats.copy_(torch.from_numpy(repeats(shapes.size)))


def train_layout(model: LatentDiffusion, options: LayoutOptions, folder: Path, renders: Path, seed: int) -> None:
    """Train the text encoder to tell a scene's attributes from its caption, then the layout to draw it from those.

    Neither needs a U-Net, and each takes minutes.
    """
    layout = layout_of(model)
    take_coordinates(layout.shapes)
    parameters = [*model.cond_stage_model.parameters(), *layout.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    run = Run(folder, {"text": model.cond_stage_model, "layout": layout}, optimizer)
    start, read, steps = run.resume(), options.reading_steps, options.reading_steps + options.drawing_steps
    captions = iter(in_order(Captions(options, seed), range(start, read), model.device))
    thumbnails = None
    bar = tqdm(range(start, steps), "layout", steps, initial=start)
    for step in bar:
        if step >= read and thumbnails is None:
            pixels = pool(renders, LAYOUT_SEED, options.pictures, model.latent_shape[1], "whole")
            thumbnails = Thumbnails(model, pixels, LAYOUT_SEED)
        torch.manual_seed(seed + step)
        if thumbnails is None:
            done, of = step, read
            loss = reading_loss(model, layout.reader, *next(captions))
        else:
            done, of = step - read, options.drawing_steps
            rows = np.random.default_rng((seed, step)).integers(options.pictures, size=options.drawing_batch_size)
            loss = drawing_loss(layout, thumbnails, torch.from_numpy(rows).to(model.device))
        run.descend(loss, options.learning_rate * min(1.0, (done + 1) / 50) * (1.0 - done / of) ** 0.5, 1.0)
        if step % 25 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
            run.log(step, loss=loss.item())
        if run.save_due():
            run.save(step + 1)
    model.cond_stage_model.eval()
    layout.draws.copy_(torch.from_numpy(np.random.default_rng(seed).gumbel(size=layout.draws.shape)))
    run.save(steps)


# --- diffusion -------------------------------------------------------------------------------------------------------


def stage_pictures(stage: Stage, first_seed: int, renders: Path) -> list[np.ndarray]:
    """A stage's renders [N, size, size, 3]: first those in their scenes' colours, then those whose colours drift."""
    parts: tuple[tuple[int, Kind], ...] = ((stage.pictures - stage.drifting, "views"), (stage.drifting, "drifting"))
    pools = []
    for count, kind in parts:
        if count:
            pools.append(pool(renders, first_seed, count, stage.size, kind))
        first_seed += count
    return pools


def encode_pictures(model: LatentDiffusion, pictures: np.ndarray, folder: Path) -> np.ndarray:
    """Latents [N, 4, size / 8, size / 8] float16 of renders [N, size, size, 3], made once and kept in `folder`."""
    digest = hashlib.sha256(pictures[:4].tobytes())  # other pictures, or another first stage: other latents
    for tensor in model.first_stage_model.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    path = folder / f"latents-{digest.hexdigest()[:8]}-{len(pictures)}x{pictures.shape[1]}px.npy"
    if not path.is_file():
        rows = []
        model.first_stage_model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as above
        for first in tqdm(range(0, len(pictures), ENCODED_AT_ONCE), "encoding"):
            batch = torch.from_numpy(pictures[first : first + ENCODED_AT_ONCE].copy()).to(model.device)
            with torch.inference_mode(), mixed_precision(model.device):
                rows.append(model.encode_first_stage(to_tensor(batch)).half().cpu())
        with atomic_path(path) as temporary:
            np.save(temporary, torch.cat(rows).numpy())
    return np.load(path, mmap_mode="r")


def first_seed_of(stage: int) -> int:
    """Seed of the first scene of a stage's renders."""
    return (stage + 1) * 10_000_000


class Batch(NamedTuple):
    """What a step of diffusion training is made of.

    Attributes:
        x_0: clean latents [B, C, H, W].
        prompts: B captions, "" where guidance is to be learned.
        values, variants: attributes [B, attributes] and variants [B] of the scenes.
        others, drifts: the attributes in other colours where they drift, and the part [B, H, W] that those then have.
        views: coordinates [B, H, W, 2] of what is seen of them.
        t: timesteps [B].
        noise: [B, C, H, W].
    """

    x_0: Tensor
    prompts: list[str]
    values: Tensor
    variants: Tensor
    others: Tensor
    drifts: Tensor
    views: Tensor
    t: Tensor
    noise: Tensor

    def to(self, device: torch.device) -> "Batch":
        x_0, prompts, *others = self
        return Batch(x_0.to(device), prompts, *(part.to(device, non_blocking=True) for part in others))


class DiffusionBatches(Dataset):
    """The training batch of each step, `size` pictures of it, by the seed and the step alone."""

    def __init__(
        self, latents: np.ndarray, drifting: int, first_seed: int, size: int, options: DiffusionOptions, seed: int
    ) -> None:
        """Of `latents` [N, C, H, W] of the scenes from `first_seed` on; colours of the last `drifting` drift."""
        self.latents, self.first_seed, self.size, self.options, self.seed = latents, first_seed, size, options, seed
        self.plain = len(latents) - drifting

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        rows = rng.integers(len(self.latents), size=self.size)
        scenes = [sample_scene(self.first_seed + int(row)) for row in rows]
        drifting = rows >= self.plain
        others = [recoloured(scene) if drifts else scene for scene, drifts in zip(scenes, drifting, strict=True)]
        x_0 = torch.from_numpy(self.latents[rows].astype(np.float32))
        side = x_0.shape[2]
        # stratified: all of the schedule
        t = (torch.arange(self.size) + torch.from_numpy(rng.random(self.size))) / self.size * 1000
        return Batch(
            x_0,
            [
                "" if rng.random() < self.options.prompt_dropout else caption(scene, rng, colourless=drifts)
                for scene, drifts in zip(scenes, drifting, strict=True)
            ],
            torch.tensor([attribute_values(scene) for scene in scenes]),
            torch.tensor([scene.variant for scene in scenes]),
            torch.tensor([attribute_values(scene) for scene in others]),
            torch.from_numpy(np.stack([drift(scene.seed, side) for scene in scenes])),
            torch.from_numpy(np.stack([view(scene.seed, side) for scene in scenes])),
            t.long().clamp(max=999),
            torch.from_numpy(rng.standard_normal(x_0.shape, np.float32)),
        )


def true_prior(layout: PromptPrior, batch: Batch) -> Tensor:
    """What the layout makes of the scenes of a batch [B, C, H, W], as they are seen there; 0 without a prompt.

    Sampling decides on one guess at once; the U-Net learns to trust it, since here it always is the right one.
    """
    with torch.no_grad():
        drawn, other = (prior_of(layout, v, batch.variants) for v in (batch.values, batch.others))
        drift_part = F.interpolate(batch.drifts[:, None], drawn.shape[2:], mode="bilinear", align_corners=True)
        guess = warp(torch.lerp(drawn, other, drift_part.to(drawn)), batch.views)
    told = torch.tensor([float(prompt != "") for prompt in batch.prompts], device=guess.device)
    return guess * told[:, None, None, None]


def diffusion_loss(model: LatentDiffusion, batch: Batch, max_weight: float) -> Tensor:
    """Squared error of the predicted v, which weighs that of x_0 by SNR + 1 (Salimans & Ho 2022), cut at `max_weight`.

    The cut is min-SNR-γ's (Hang et al. 2023, arXiv 2303.09556): little noise would otherwise take all the attention.
    Much noise keeps its full weight, unlike there.
    """
    x_t = model.q_sample(batch.x_0, batch.t, batch.noise)
    with mixed_precision(x_t.device):
        c = model.get_learned_conditioning(batch.prompts)
        prediction = model.model.diffusion_model(x_t, batch.t, c, true_prior(layout_of(model), batch))
    error = (prediction.float() - model.target(batch.x_0, batch.t, batch.noise)).pow(2).mean(dim=(1, 2, 3))
    snr_plus_1 = 1.0 / (1.0 - model.alphas_cumprod.to(batch.t.device)[batch.t].float())
    return (snr_plus_1.clamp(max=max_weight) / snr_plus_1 * error).mean()


class PowerEMA:
    """Moving average of a module whose memory is a fixed share of the training so far.

    "Analyzing and Improving the Training Dynamics of Diffusion Models" (Karras et al. 2024, section 3.1): with
    γ = 6.94 the average reaches back over about a tenth of all steps, without knowing how many there will be.
    """

    gamma = 6.94

    def __init__(self, module: nn.Module, average: nn.Module) -> None:
        self.live: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
        self.average: list[Tensor] = [p for p in average.parameters() if p.requires_grad]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = (1.0 - 1.0 / (step + 1)) ** (self.gamma + 1)
        torch._foreach_lerp_(self.average, self.live, 1.0 - decay)


@contextmanager
def same_layout(model: LatentDiffusion, folder: Path) -> Iterator[None]:
    """What is loaded meanwhile must not change the layout, which the text encoder beside it was trained with.

    Raises:
        ValueError: the U-Net in `folder` was trained with another.
    """
    before = {name: tensor.clone() for name, tensor in layout_of(model).state_dict().items()}
    yield
    if any(not torch.equal(tensor, before[name]) for name, tensor in layout_of(model).state_dict().items()):
        raise ValueError(f"the U-Net in {folder} was trained with another layout: move the folder away to train anew")


def inner_and_outer(model: LatentDiffusion) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What of the U-Net is trained: its inner matrices and kernels, which are Muon's, and all else.

    Muon's authors leave vectors and the first and the last layer to AdamW.
    """
    unet = model.model.diffusion_model
    ends = {id(p) for module in (unet.input_blocks[0], unet.out, unet.bypass) for p in module.parameters()}
    inner: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in unet.parameters():
        if parameter.requires_grad:
            (inner if parameter.ndim > 1 and id(parameter) not in ends else others).append(parameter)
    return inner, others


def train_diffusion(
    model: LatentDiffusion, average: LatentDiffusion, options: DiffusionOptions, folder: Path, renders: Path, seed: int
) -> None:
    """Train the U-Net on cached latents, stage after stage; `average` gets the moving average."""
    model.cond_stage_model.eval()
    for module in model.model.modules():
        if isinstance(module, nn.Conv2d):  # a quarter faster, in bfloat16 on two cores
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as above
    optimizer = MuonAdamW(*inner_and_outer(model), options.learning_rate)
    run = Run(folder, {"unet": model.model, "average_unet": average.model}, optimizer)
    ema = PowerEMA(model, average)
    with same_layout(model, folder):
        step = run.resume()
    stage_start, steps = 0, sum(stage.steps for stage in options.stages)
    for number, stage in enumerate(options.stages):
        first_seed = first_seed_of(number)
        stage_end = stage_start + stage.steps
        if step < stage_end:
            parts = [encode_pictures(model, p, folder) for p in stage_pictures(stage, first_seed, renders)]
            latents = np.concatenate(parts)
            batches = DiffusionBatches(latents, stage.drifting, first_seed, stage.batch_size, options, seed)
            left = range(step, stage_end)
            bar = tqdm(in_order(batches, left, model.device), f"{stage.size} px", stage_end, initial=step)
            for step, batch in zip(left, bar, strict=True):
                learning_rate = options.learning_rate * min(1.0, (step + 1) / options.warmup) * (1.0 - step / steps)
                loss = diffusion_loss(model, batch.to(model.device), options.max_weight)
                run.descend(loss, learning_rate, 1.0)
                ema.update(step)
                if step % 25 == 0:
                    bar.set_postfix(loss=f"{loss.item():.4f}")
                    run.log(step, loss=loss.item())
                if run.save_due():
                    run.save(step + 1)
                if run.sheet_due():
                    save_samples(average, stage.size // 8, folder / f"sheet-{step:06d}.png")
            step = stage_end
            run.save(step)
        stage_start = stage_end


def save_samples(model: LatentDiffusion, size: int, path: Path) -> None:
    """Two rows of samples, the same eight prompts from two seeds."""
    prompts = [*SHEET_PROMPTS, *SHEET_PROMPTS]
    x_T = torch.randn(len(prompts), 4, size, size, generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.inference_mode(), mixed_precision(model.device):
        samples = DPMSolverSampler(model).run(
            x_T,
            SamplingSettings(steps=20, scale=SHEET_SCALE),
            conditioning=model.get_learned_conditioning(prompts),
            unconditional=model.get_learned_conditioning([""]),
        )
        pictures = to_uint8(model.decode_first_stage(samples))
    save_png(grid(pictures, columns=len(SHEET_PROMPTS)), path)


def export(average: LatentDiffusion, node: dict[str, Any], words: Path, out: Path) -> None:
    """Write the model folder: float16 weights, the yaml that builds it, the vocabulary."""
    out.mkdir(parents=True, exist_ok=True)
    state = average.state_dict()
    with atomic_path(out / "model.safetensors") as temporary:
        write_safetensors(temporary, state, dict.fromkeys(state, torch.float16))
    with atomic_path(out / "model.yaml") as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create({"model": node})), encoding="utf-8")
    with atomic_path(out / "vocab.txt") as temporary:
        temporary.write_bytes((words / "vocab.txt").read_bytes())
    print(f"{sum(t.numel() for t in state.values()) / 1e6:.1f} M parameters -> {out}")


# --- command line ----------------------------------------------------------------------------------------------------


def model_node(settings: Any, words: Path) -> dict[str, Any]:
    """The yaml's model node with what follows from the words in `words` and from the scenes filled in.

    Raises:
        ValueError: another kind of model.
        OSError: there are no words.
    """
    if not (words / "word_vectors.npy").is_file():
        raise OSError(f"there are no words in {words}: run python -m training.scenes.words --out {words} first")
    node: Any = OmegaConf.to_container(settings.model)
    vectors = np.load(words / "word_vectors.npy", mmap_mode="r")
    node["params"]["cond_stage_config"]["params"].update(vocab_size=vectors.shape[0], vector_dim=vectors.shape[1])
    layout = node["params"]["unet_config"]["params"].get("layout")
    if layout is None:
        raise ValueError("the U-Net has no layout; only one with a layout is trained here")
    layout.update(
        size=node["params"]["image_size"],
        shape_attributes={name: len(values) for name, values in SHAPE_ATTRIBUTES.items()},
        colour_attributes=[len(COLOURS) + 1] * NAMED_COLOURS,
        variants=VARIANTS,
        nearest=NEAREST,
        bend=BEND,
        knots=KNOTS,
    )
    return node


def options_of(settings: Any) -> tuple[int, FirstStageOptions, LayoutOptions, DiffusionOptions]:
    """The yaml's training node: the seed, and how each part is trained.

    Raises:
        ValueError: something is missing in it, or unknown.
    """
    try:
        training = settings.training
        stages = tuple(Stage(**stage) for stage in training.diffusion.stages)
        return (
            int(training.seed),
            FirstStageOptions(**training.first_stage),
            LayoutOptions(**training.layout),
            DiffusionOptions(**{**training.diffusion, "stages": stages}),
        )
    except (TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the training: node is not such a one as {CONFIG} has: {reason}") from error


def first_stage_of(model: LatentDiffusion) -> ShuffleAutoencoder:
    """The autoencoder of `model`.

    Raises:
        ValueError: it is of another kind.
    """
    autoencoder = model.first_stage_model
    if not isinstance(autoencoder, ShuffleAutoencoder):
        raise ValueError(
            f"the first stage is a {type(autoencoder).__name__}; only a ShuffleAutoencoder is trained here"
        )
    return autoencoder


def take_words(start: Path, words: Path) -> None:
    """Put the vocabulary and the word vectors of the model folder `start` into the folder `words`, if it has none.

    Raises:
        ValueError: the model has none either.
    """
    if (words / "vocab.txt").is_file():
        return
    vectors = read_tensors(find_model(start)[0]).tensors.get("cond_stage_model.word_vectors")
    if vectors is None:
        raise ValueError(f"{start} holds no word vectors; only models of the built-in one's kind are trained here")
    words.mkdir(parents=True, exist_ok=True)
    with atomic_path(words / "word_vectors.npy") as temporary, temporary.open("wb") as file:
        np.save(file, vectors.float().numpy())
    with atomic_path(words / "vocab.txt") as temporary:
        temporary.write_bytes((start / "vocab.txt").read_bytes())


def build(
    node: dict[str, Any],
    folder: Path,
    trained: Sequence[str] = ("first_stage", "layout"),
    start: Path | None = None,
) -> LatentDiffusion:
    """A model with the word vectors in place, and with those parts of it that are `trained` in `folder` already.

    The rest is fresh, or from the model folder `start`, which then also stands in for parts that `folder` lacks. It
    lies on the CUDA device, if there is one.

    Raises:
        ValueError: the text encoder is of another kind, or `start` of another shape.
    """
    model: LatentDiffusion = instantiate_from_config(node)
    text = model.cond_stage_model
    if not isinstance(text, WordEmbedder):
        raise ValueError(f"the text encoder is a {type(text).__name__}; only a WordEmbedder is trained here")
    text.word_vectors.copy_(torch.from_numpy(np.load(folder / "words" / "word_vectors.npy")))
    text.load_vocabulary(folder / "words")
    if start is not None:
        weights = load_model(*find_model(start)).state_dict()
        if wrong := mismatches(model.state_dict(), weights):
            raise ValueError(f"{start} is no model as the yaml describes it: {'; '.join(wrong)}")
        model.load_state_dict(weights)
    parts: dict[str, dict[str, nn.Module]] = {
        "first_stage": {"first_stage": model.first_stage_model},
        "layout": {"text": text, "layout": layout_of(model)},
    }
    for name in trained:
        path = folder / name / "checkpoint.pt"
        if start is None or path.is_file():
            load_parts(path, parts[name])
        for module in parts[name].values():
            module.requires_grad_(False)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    parser.add_argument("command", choices=["pictures", "first_stage", "layout", "diffusion", "export"])
    parser.add_argument(
        "--config", type=cli.existing_file, default=CONFIG, metavar="F", help="yaml (default: %(default)s)"
    )
    parser.add_argument(
        "--dir",
        type=cli.new_folder,
        default=Path("training"),
        metavar="DIR",
        help="all is kept there (default: %(default)s)",
    )
    parser.add_argument(
        "--from", type=cli.existing_folder, dest="start", metavar="MODEL", help="a model folder to begin with"
    )
    parser.add_argument(
        "--out",
        type=cli.new_folder,
        default=Path("models/chladni"),
        metavar="DIR",
        help="of export (default: %(default)s)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    read_config(args.config)  # raises where it is no yaml, or describes no model
    settings = OmegaConf.load(args.config)
    seed, first_stage, layout, diffusion = options_of(settings)
    renders = args.dir / "renders"
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True  # shapes stay the same
    if args.start is not None:
        take_words(args.start, args.dir / "words")
    node = model_node(settings, args.dir / "words")

    if args.command == "pictures":
        pool(renders, seed, first_stage.pictures, 256)
        pool(renders, LAYOUT_SEED, layout.pictures, node["params"]["image_size"], "whole")
        for number, stage in enumerate(diffusion.stages):
            stage_pictures(stage, first_seed_of(number), renders)
    elif args.command == "first_stage":
        model = build(node, args.dir, trained=(), start=args.start)
        train_first_stage(first_stage_of(model), first_stage, args.dir / "first_stage", renders, seed)
    elif args.command == "layout":
        model = build(node, args.dir, trained=["first_stage"], start=args.start)
        train_layout(model, layout, args.dir / "layout", renders, seed)
    elif args.command == "diffusion":
        model, average = (build(node, args.dir, start=args.start) for _ in range(2))
        average.load_state_dict(model.state_dict())
        train_diffusion(model, average, diffusion, args.dir / "diffusion", renders, seed)
    else:
        average = build(node, args.dir, start=args.start)
        with same_layout(average, args.dir / "diffusion"):
            load_parts(args.dir / "diffusion" / "checkpoint.pt", {"average_unet": average.model})
        export(average, node, args.dir / "words", args.out)
    return 0


if __name__ == "__main__":
    cli.run(main)
