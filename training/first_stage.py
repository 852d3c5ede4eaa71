"""Stage `first_stage`: train the autoencoder, whose latents the diffusion model learns."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ldm.models.autoencoder import ShuffleAutoencoder
from painting.images import grid, save_png, to_uint8
from training.compute import mixed_precision, to_tensor
from training.run import TrainingRun, scheduled_rate
from training.scenes.render_cache import cached_renders, render_chunks
from training.settings import FirstStageOptions

RENDER_SIZE = 256  # pixels a side
WARMUP = 100  # steps until the learning rate is reached
MAX_GRADIENT_NORM = 0.5
MEASURE_EVERY = 250  # steps
HELD_OUT_SEED, HELD_OUT = 2**30, 16  # first seed and number of the renders that measure progress


def gradient_loss(x: Tensor, y: Tensor, scales: int = 3) -> Tensor:
    """Compute the mean absolute error of the horizontal and vertical gradients of y, summed over halved scales."""
    total = x.new_zeros(())
    for _ in range(scales):
        d = x - y
        total = total + (d[..., :, 1:] - d[..., :, :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return total


def random_crops(images: Tensor, count: int, size: int, rng: np.random.Generator) -> Tensor:
    """Crop `count` random squares of images uint8 [N, H, W, 3]: [count, 3, size, size] in −1…1.

    A quarter of them is cropped at twice the size and halved.
    """

    def crops(count: int, side: int) -> Tensor:
        free = (len(images), *(extent - side + 1 for extent in images.shape[1:3]))
        image, y, x = (torch.from_numpy(rng.integers(n, size=(count, 1))).to(images.device) for n in free)
        axis = torch.arange(side, device=images.device)
        return to_tensor(images[image[:, :, None], (y + axis)[:, :, None], (x + axis)[:, None, :]])

    far = count // 4
    return torch.cat([crops(count - far, size), F.avg_pool2d(crops(far, 2 * size), 2)]) if far else crops(count, size)


def roughness(z: Tensor) -> Tensor:
    """Compute the share of the variance of latents [B, C, H, W] that is lost by halving and interpolating back."""
    smooth = F.interpolate(F.avg_pool2d(z, 2), scale_factor=2, mode="bilinear")
    return ((z - smooth).square().mean(dim=(0, 2, 3)) / z.var(dim=(0, 2, 3))).mean()


def reconstruction_loss(x: Tensor, y: Tensor, options: FirstStageOptions) -> Tensor:
    """Compute the error of reconstructions y of images x [B, 3, H, W]: absolute, squared, and of gradients."""
    error = (x - y).abs().mean() + options.squared_weight * (x - y).square().mean()
    return error + options.gradient_weight * gradient_loss(x, y)


def add_noise(z: Tensor, latent_noise: float) -> Tensor:
    """Add noise of 0 to `latent_noise` standard deviations, drawn for each image, to latents [B, C, H, W]."""
    share = latent_noise * torch.rand(len(z), 1, 1, 1, device=z.device)
    return z + share * z.detach().std(dim=(0, 2, 3), keepdim=True) * torch.randn_like(z)


def autoencoder_loss(model: ShuffleAutoencoder, x: Tensor, options: FirstStageOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the loss of the autoencoder on images x [B, 3, H, W].

    Left to itself, an autoencoder hides detail in the smallest differences of latents that look like white noise. A
    small diffusion model cannot learn such latents. Three terms keep them as smooth as images: halved latents have to
    decode to the halved image (EQ-VAE, Kouzelis et al. 2025, arXiv 2502.09509), for `halved_share` of the batch;
    latents are decoded with noise of up to `latent_noise` standard deviations; and `roughness` is penalised.

    Returns:
        The loss, the mean absolute error and the KL divergence.
    """
    halved = max(1, int(options.halved_share * len(x)))
    with mixed_precision(x.device):
        mean, log_variance = model.posterior(x)
        z = add_noise(mean + (0.5 * log_variance).exp() * torch.randn_like(mean), options.latent_noise)
        y, y_halved = model.decoder(z[halved:]).float(), model.decoder(F.avg_pool2d(z[:halved], 2)).float()
    mean, log_variance = mean.float(), log_variance.float()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).mean()
    loss = reconstruction_loss(x[halved:], y, options)
    loss = loss + options.halved_share * reconstruction_loss(F.avg_pool2d(x[:halved], 2), y_halved, options)
    loss = loss + options.kl_weight * kl + options.roughness_weight * roughness(mean)
    return loss, (x[halved:] - y).abs().mean(), kl


def decoder_loss(model: ShuffleAutoencoder, x: Tensor, options: FirstStageOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the loss of the decoder alone, with a frozen encoder; the result is that of `autoencoder_loss`."""
    with mixed_precision(x.device):
        with torch.no_grad():
            z = add_noise(model.posterior(x)[0], options.latent_noise)
        y = model.decoder(z).float()
    return reconstruction_loss(x, y, options), (x - y).abs().mean(), x.new_zeros(())


def standardise(model: ShuffleAutoencoder, images: Tensor) -> None:
    """Set `shift` and `scale` so that latents of `images` have mean 0 and standard deviation 1 in each channel."""
    with torch.inference_mode():
        mean = torch.cat([model.posterior(batch.to(model.shift.device))[0] for batch in images.split(8)])
    model.shift.copy_(mean.mean(dim=(0, 2, 3))[:, None, None])
    model.scale.copy_(mean.std(dim=(0, 2, 3))[:, None, None])


def train_first_stage(
    model: ShuffleAutoencoder, options: FirstStageOptions, folder: Path, renders: Path, seed: int
) -> None:
    """Train the autoencoder with `autoencoder_loss`, then its decoder alone, and standardise the latents."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types leave it out
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.99))
    run = TrainingRun(folder, {"first_stage": model}, optimizer, MAX_GRADIENT_NORM)
    start = run.resume()
    if start >= options.steps:
        print(f"the first stage is trained: {start} steps")
        return
    images = torch.from_numpy(np.array(cached_renders(renders, seed, options.renders, RENDER_SIZE)))
    images = images.to(model.shift.device)
    held_out = to_tensor(next(render_chunks(HELD_OUT_SEED, HELD_OUT, RENDER_SIZE)))
    bar = tqdm(range(start, options.steps), "first stage", options.steps, initial=start)
    for step in bar:
        # all random numbers follow from the seed and the step, so that a resumed run gives the same weights
        torch.manual_seed(seed + step)
        x = random_crops(images, options.batch_size, options.crop, np.random.default_rng((seed, step)))
        loss_of = autoencoder_loss if step < options.steps - options.decoder_steps else decoder_loss
        loss, l1, kl = loss_of(model, x.contiguous(memory_format=torch.channels_last), options)
        run.descend(loss, scheduled_rate(options.learning_rate, step, options.steps, WARMUP))
        if step % MEASURE_EVERY == 0:
            unseen = mean_psnr(model, held_out)
            bar.set_postfix(l1=f"{l1:.4f}", psnr=f"{unseen:.2f}")
            run.log(step, l1=l1.item(), kl=kl.item(), psnr=unseen)
        if step + 1 < options.steps:  # the last checkpoint follows below, standardised
            run.save_if_due(step + 1)
        if run.sheet_due():
            save_reconstructions(model, held_out, folder / f"sheet-{step:06d}.png")
    standardise(model, to_tensor(images[:256]))
    run.save(options.steps)
    save_reconstructions(model, held_out, folder / "sheet-final.png")
    print(f"PSNR on {len(held_out)} unseen renders: {mean_psnr(model, held_out):.2f} dB")


def save_reconstructions(model: ShuffleAutoencoder, images: Tensor, path: Path) -> None:
    """Write a PNG with eight images, and their reconstructions below."""
    with torch.inference_mode():
        y = model.decode(model.encode(images[:8].to(model.shift.device))).cpu()
    save_png(grid(to_uint8(torch.cat([images[:8], y])), columns=8), path)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio [B] in dB of images y for images x [B, 3, H, W], both in −1…1."""
    return -10 * ((x - y) / 2).pow(2).mean(dim=(1, 2, 3)).log10()


def mean_psnr(model: ShuffleAutoencoder, images: Tensor) -> float:
    """Compute the mean PSNR in dB of the reconstructions of `images` [B, 3, H, W]."""
    with torch.inference_mode():
        batches = images.to(model.shift.device).split(8)
        y = torch.cat([model.decode(model.encode(batch)).clamp(-1, 1) for batch in batches]).cpu()
    return psnr(images, y).mean().item()
