"""The latent diffusion model: noise schedule, denoising U-Net, first stage and text encoder in one module.

"Denoising Diffusion Probabilistic Models" (Ho et al. 2020) on the latents of "High-Resolution Image Synthesis with
Latent Diffusion Models" (Rombach et al. 2022).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ldm.models.diffusion.sampling import PARAMETERIZATIONS
from ldm.modules.diffusionmodules.schedule import make_betas
from ldm.modules.low_frequencies import common_shape
from ldm.util import instantiate_from_config

if TYPE_CHECKING:
    from ldm.models.autoencoder import FirstStage
    from ldm.modules.diffusionmodules.openaimodel import UNetModel
    from ldm.modules.encoders.modules import TextEncoder


# A prompt counts as empty if its embedding is this close to that of the empty prompt. The limit is not 0, because
# rounding depends on the batch.
EMPTY_DISTANCE = 0.03


class DiffusionWrapper(nn.Module):
    """Holder of the U-Net under the name that published state dicts use."""

    def __init__(self, unet_config: Mapping[str, Any]) -> None:
        super().__init__()
        self.diffusion_model: UNetModel = instantiate_from_config(unet_config)

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None, prior: Tensor | None = None) -> Tensor:
        return self.diffusion_model(x, t, c, prior)


class LatentDiffusion(nn.Module):
    """A text-conditional diffusion model of latents [B, C, h, w].

    Args:
        unet_config, first_stage_config, cond_stage_config: yaml nodes of the three parts.
        timesteps: length of the noise schedule.
        beta_schedule, linear_start, linear_end: see `make_betas`.
        scale_factor: factor from latents of the first stage to those of the diffusion.
        parameterization: prediction of the U-Net: "eps", the noise, or "v" (Salimans & Ho 2022, appendix D).
        conditioning_key: "crossattn"; the U-Net can follow a prompt in no other way.
        channels, image_size: C and h = w of the latents in training.

    Raises:
        ValueError: the parameterization is unknown, or the conditioning is not by cross-attention.
    """

    training_only = frozenset(
        {
            "base_learning_rate", "ckpt_path", "clip_denoised", "concat_mode", "cond_stage_key", "cond_stage_trainable",
            "first_stage_key", "ignore_keys", "l_simple_weight", "learn_logvar", "load_only_unet", "log_every_t",
            "logvar_init", "loss_type", "monitor", "num_timesteps_cond", "original_elbo_weight", "scale_by_std",
            "scheduler_config", "use_ema", "use_positional_encodings", "v_posterior",
        }
    )  # fmt: skip

    def __init__(
        self,
        unet_config: Mapping[str, Any],
        first_stage_config: Mapping[str, Any],
        cond_stage_config: Mapping[str, Any],
        timesteps: int = 1000,
        beta_schedule: str = "linear",
        linear_start: float = 1e-4,
        linear_end: float = 2e-2,
        scale_factor: float = 1.0,
        parameterization: str = "eps",
        conditioning_key: str = "crossattn",
        channels: int = 4,
        image_size: int = 32,
    ) -> None:
        super().__init__()
        if parameterization not in PARAMETERIZATIONS:
            raise ValueError(f"parameterization is {parameterization!r}; it can be {' or '.join(PARAMETERIZATIONS)}")
        if conditioning_key != "crossattn":
            raise ValueError(f"conditioning_key is {conditioning_key!r}; only crossattn is supported")
        self.model = DiffusionWrapper(unet_config)
        self.first_stage_model: FirstStage = instantiate_from_config(first_stage_config)
        self.cond_stage_model: TextEncoder = instantiate_from_config(cond_stage_config)
        self.parameterization = parameterization
        self.scale_factor = scale_factor
        self.latent_shape = (channels, image_size, image_size)
        # float64, because the samplers take small differences of it. It is a plain attribute, so that .to(bfloat16)
        # leaves it alone, and has real numbers even if the modules are built on the meta device.
        with torch.device("cpu"):
            self.alphas_cumprod = torch.cumprod(
                1.0 - make_betas(beta_schedule, timesteps, linear_start, linear_end), dim=0
            )

    @property
    def device(self) -> torch.device:
        """Device of the U-Net."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Element type that the U-Net computes in."""
        return next(self.model.parameters()).dtype

    def _alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return √ᾱ and √(1 − ᾱ) at timesteps `t` [B], each [B, 1, 1, 1] float32."""
        alpha_bar = self.alphas_cumprod.to(t.device)[t][:, None, None, None]
        return alpha_bar.sqrt().float(), (1.0 - alpha_bar).sqrt().float()

    def q_sample(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Add noise to x_0: `√ᾱ_t x_0 + √(1 − ᾱ_t) noise`, [B, C, h, w] (Ho et al. 2020, equation 4)."""
        alpha, sigma = self._alpha_sigma(t)
        return alpha * x_0 + sigma * noise

    def target(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return the ideal prediction [B, C, h, w]: the noise, or `v = √ᾱ_t noise − √(1 − ᾱ_t) x_0`."""
        if self.parameterization == "eps":
            return noise
        alpha, sigma = self._alpha_sigma(t)
        return alpha * noise - sigma * x_0

    def apply_model(self, x: Tensor, t: Tensor, c: Tensor | None, prior: Tensor | None = None) -> Tensor:
        """Predict eps or v [B, C, h, w] float32 for latents `x` at timesteps `t` [B] under conditioning `c` [B, M, D].

        Args:
            prior: estimate of the clean latents [B, C, h, w], if the U-Net takes one.
        """
        return self.model(x.to(self.dtype), t, None if c is None else c.to(self.dtype), prior).float()

    def conditioned(self, c: Tensor | None, x_T: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return `apply_model` as a function of `x` and `t` alone, for one sampling run from noise `x_T` [B, C, h, w].

        Raises:
            ValueError: the U-Net has a prior, and there is no conditioning.
        """
        return partial(self.apply_model, c=c, prior=self.prior(c, x_T))

    def prior(self, c: Tensor | None, x_T: Tensor, shares: Tensor | None = None) -> Tensor | None:
        """Predict the prior [B, C, h, w] from conditioning `c` [B, M, D] and noise `x_T`; None if the U-Net has none.

        Args:
            shares: of the candidates, [B, K]; None: `x_T` chooses (`PromptPrior`).

        Raises:
            ValueError: the U-Net has a prior, and there is no conditioning.
        """
        prompt_prior = self.model.diffusion_model.layout
        if prompt_prior is None:
            return None
        if c is None:
            raise ValueError("this model predicts a prior from the prompt: conditioning is needed")
        # training gives the empty prompt a prior of 0, so sampling does too
        has_prompt = (c - self.get_learned_conditioning([""])).abs().amax(dim=(1, 2)) > EMPTY_DISTANCE
        return prompt_prior(x_T, c.to(self.dtype), has_prompt, shares)

    def start(self, x_T: Tensor) -> Tensor:
        """Return the x [B, C, h, w] that sampling from noise `x_T` begins with: without the shape that the prior shows.

        The U-Net has learned from noise that is independent of its prior. Where both have the same shape it paints
        colours that the prompt does not name.
        """
        return x_T if self.model.diffusion_model.layout is None else x_T - common_shape(x_T, *x_T.shape[2:])

    def get_learned_conditioning(self, prompts: Sequence[str]) -> Tensor:
        """Encode `prompts` to embeddings [B, M, context_dim]."""
        return self.cond_stage_model(prompts)

    def encode_first_stage(self, x: Tensor) -> Tensor:
        """Encode images `x` [B, 3, H, W] in −1…1 to latents [B, C, H / 8, W / 8]."""
        return self.scale_factor * self.first_stage_model.encode(x)

    def decode_first_stage(self, z: Tensor) -> Tensor:
        """Decode latents `z` [B, C, H / 8, W / 8] to images [B, 3, H, W] float32, about −1…1."""
        dtype = next(self.first_stage_model.parameters()).dtype
        return self.first_stage_model.decode((z / self.scale_factor).to(dtype)).float()
