"""The U-Net of latent diffusion, which predicts the noise in latents from their timestep and a prompt.

"Diffusion Models Beat GANs on Image Synthesis" (Dhariwal & Nichol 2021) with the spatial transformers of
"High-Resolution Image Synthesis with Latent Diffusion Models" (Rombach et al. 2022). Parameter names are those of the
published weights.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ldm.modules.attention import SpatialTransformer
from ldm.modules.diffusionmodules.util import (
    POSITION_CHANNELS,
    GroupNorm,
    Upsample,
    position_features,
    timestep_embedding,
    zero_module,
)
from ldm.modules.prior import PriorSettings, PromptPrior


class ResBlock(nn.Module):
    """`skip(x) + f(x, emb)` where f has two 3×3 convolutions, with the embedding [B, E] added between them."""

    def __init__(self, channels: int, emb_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm(out_channels),
            nn.SiLU(),
            nn.Identity(),  # in place of dropout, so that the key of the last layer is out_layers.3 as published
            zero_module(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    """A strided 3×3 convolution that halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Stage(nn.Sequential):
    """Layers in sequence. A ResBlock also gets the time embedding, a SpatialTransformer the prompt."""

    # the base class takes one input
    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:  # type: ignore[override]
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


MakeStage = Callable[[int, int, int], Stage]  # (channels in, channels out, level)


def _embedder(channels: int, emb_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels))


def _way_down(
    first: Stage, ch: int, widths: Sequence[int], num_res_blocks: Sequence[int], stage: MakeStage
) -> tuple[nn.ModuleList, list[int]]:
    """Build the blocks from `first`, with `ch` output channels, to the lowest level.

    Returns:
        the blocks, and the number of output channels of each.
    """
    blocks, skips = [first], [ch]
    for level, width in enumerate(widths):
        for _ in range(num_res_blocks[level]):
            blocks.append(stage(ch, width, level))
            ch = width
            skips.append(ch)
        if level < len(widths) - 1:
            blocks.append(Stage(Downsample(ch)))
            skips.append(ch)
    return nn.ModuleList(blocks), skips


def _way_up(
    skips: Sequence[int], widths: Sequence[int], num_res_blocks: Sequence[int], stage: MakeStage
) -> nn.ModuleList:
    """Build the blocks back to the first level; each also gets the output of one block on the way down."""
    blocks, skips, ch = [], [*skips], widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        for _ in range(num_res_blocks[level] + 1):
            blocks.append(stage(ch + skips.pop(), width, level))
            ch = width
        if level > 0:
            blocks[-1].append(Upsample(ch))
    return nn.ModuleList(blocks)


class UNetModel(nn.Module):
    """U-Net over latents [B, C, H, W] with attention to a prompt [B, M, context_dim].

    Args:
        in_channels: channels of the latents.
        out_channels: channels of the prediction.
        model_channels: channels of the first level.
        channel_mult: channels of each level, in units of `model_channels`; each level halves the resolution.
        num_res_blocks: residual blocks on the way down, of every level or of each; one more on the way up.
        attention_resolutions: downsampling factors (1, 2, 4, …) at which attention follows each residual block.
        num_heads: attention heads; each is as wide as the level's channels / num_heads.
        num_head_channels: width of a head, in place of `num_heads`.
        transformer_depth: transformer blocks in each spatial transformer.
        context_dim: width of the prompt's embedding.
        pool_context: add the mean of the prompt's embeddings to the time embedding, as Dhariwal & Nichol 2021 do with
            class labels, so that the prompt reaches every residual block. Published LDMs do not.
        positions: give each cell its position too (`position_features`), for images with a centre. Published LDMs do
            not.
        layout: `PriorSettings` of a `PromptPrior`, whose estimate of the clean latents is a second input beside the
            latents. A time-dependent share of both is added to the output, so that the network learns only the rest.
            Published LDMs have none. (The name is a key of published yamls and state dicts.)

    Raises:
        ValueError: the configuration needs a part of CompVis's code that is not supported (no spatial transformer).
    """

    training_only = frozenset({"image_size", "use_checkpoint", "legacy", "dropout", "use_fp16"})

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        model_channels: int,
        num_res_blocks: int | Sequence[int],
        attention_resolutions: Sequence[int],
        context_dim: int,
        channel_mult: Sequence[int] = (1, 2, 4, 8),
        num_heads: int = -1,
        num_head_channels: int = -1,
        transformer_depth: int = 1,
        use_spatial_transformer: bool = True,
        pool_context: bool = False,
        positions: bool = False,
        layout: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not use_spatial_transformer:
            raise ValueError("only U-Nets with use_spatial_transformer: true are supported")
        if (num_heads == -1) == (num_head_channels == -1):
            raise ValueError("a U-Net config needs either num_heads or num_head_channels")
        self.model_channels = model_channels
        self.positions = positions
        self.multiple = 2 ** (len(channel_mult) - 1)  # height and width of latents must be multiples of it
        emb_channels = 4 * model_channels
        self.time_embed = _embedder(model_channels, emb_channels)
        if pool_context:
            self.context_embed = _embedder(context_dim, emb_channels)
        self.layout = None if layout is None else PromptPrior(context_dim, in_channels, PriorSettings(**layout))

        def attention(ch: int) -> SpatialTransformer:
            heads = num_heads if num_head_channels == -1 else ch // num_head_channels
            return SpatialTransformer(ch, heads, ch // heads, transformer_depth, context_dim)

        def stage(ch_in: int, ch_out: int, level: int) -> Stage:
            attend = [attention(ch_out)] if 2**level in attention_resolutions else []
            return Stage(ResBlock(ch_in, emb_channels, ch_out), *attend)

        widths = [model_channels * mult for mult in channel_mult]
        blocks = [num_res_blocks] * len(widths) if isinstance(num_res_blocks, int) else num_res_blocks
        inputs = in_channels
        if layout is not None:
            inputs = 2 * in_channels
            self.bypass = zero_module(nn.Linear(emb_channels, 2))
        ch_in = inputs + POSITION_CHANNELS * positions
        first = Stage(nn.Conv2d(ch_in, model_channels, 3, padding=1))
        self.input_blocks, skips = _way_down(first, model_channels, widths, blocks, stage)
        ch = widths[-1]
        self.middle_block = Stage(ResBlock(ch, emb_channels, ch), attention(ch), ResBlock(ch, emb_channels, ch))
        self.output_blocks = _way_up(skips, widths, blocks, stage)
        last = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        self.out = nn.Sequential(GroupNorm(widths[0]), nn.SiLU(), zero_module(last))

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, prior: Tensor | None = None
    ) -> Tensor:
        """Predict [B, out_channels, H, W] for latents `x` [B, in_channels, H, W] at `timesteps` [B].

        Args:
            context: embedded prompts [B, M, context_dim].
            prior: estimate of the clean latents, of the shape of `x`, if the U-Net has a `layout`: what that predicts
                from the prompt and the start noise, or in training the true one.

        Raises:
            ValueError: H or W is not a multiple of `multiple`, or the prior is missing.
        """
        height, width = x.shape[2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"latents of {height}x{width} do not fit this U-Net: height and width must be multiples of "
                f"{self.multiple}, in pixels multiples of {8 * self.multiple}"
            )
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(x.dtype))
        if context is not None and hasattr(self, "context_embed"):
            emb = emb + self.context_embed(context.mean(dim=1))
        known = x  # all that is known of the clean latents: the noisy ones, and the prior
        if self.layout is not None:
            if prior is None:
                raise ValueError("this U-Net needs a prior beside the latents: prior is None")
            known = torch.cat([x, prior.to(x.dtype)], dim=1)
        skips, h = [], known  # skips: outputs of the way down, which the way up takes in reverse order
        if self.positions:
            where = position_features(h.shape[2], h.shape[3], h.device).to(h.dtype)
            h = torch.cat([h, repeat(where, "c h w -> b c h w", b=len(h))], dim=1)
        for block in self.input_blocks:
            h = block(h, emb, context)
            skips.append(h)
        h = self.middle_block(h, emb, context)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context)
        y = self.out(h)
        if self.layout is None:
            return y
        # a linear function of latents and prior is nearly right, so the network learns only the difference from it
        shares = self.bypass(F.silu(emb))[:, :, None, None, None]  # [B, 2, 1, 1, 1]: latents, prior
        return y + (shares * rearrange(known, "b (n c) h w -> b n c h w", n=2)).sum(dim=1)
