"""First stages: images [B, 3, H, W] in −1…1 to latents [B, 4, H / 8, W / 8] and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.diffusionmodules.model import Decoder, Encoder
from ldm.modules.diffusionmodules.util import zero_module


class AutoencoderKL(nn.Module):
    """The published KL-regularised autoencoder (Rombach et al. 2022, section 3.1).

    Raises:
        ValueError: `ddconfig` describes another architecture (attention outside the middle, no double_z), or a key of
            it is missing or unknown.
    """

    training_only = frozenset({"lossconfig", "monitor", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels"})
    ddconfig_keys = frozenset({"ch", "ch_mult", "num_res_blocks", "z_channels", "in_channels", "out_ch"})
    ddconfig_unused = frozenset({"double_z", "attn_resolutions", "resolution", "dropout"})

    def __init__(self, ddconfig: Mapping[str, Any], embed_dim: int) -> None:
        super().__init__()
        missing = sorted(self.ddconfig_keys - set(ddconfig))
        unknown = sorted(set(ddconfig) - self.ddconfig_keys - self.ddconfig_unused)
        if missing or unknown:
            raise ValueError(f"the autoencoder's ddconfig lacks the keys {missing} and has the unknown keys {unknown}")
        if list(ddconfig.get("attn_resolutions", [])) or not ddconfig.get("double_z", True):
            raise ValueError("only KL autoencoders with double_z: true and attn_resolutions: [] can be built")
        ch, ch_mult, blocks = ddconfig["ch"], ddconfig["ch_mult"], ddconfig["num_res_blocks"]
        z_channels = ddconfig["z_channels"]
        self.encoder = Encoder(ch, ch_mult, blocks, ddconfig["in_channels"], z_channels)
        self.decoder = Decoder(ch, ch_mult, blocks, ddconfig["out_ch"], z_channels)
        self.quant_conv = nn.Conv2d(2 * z_channels, 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    def encode(self, x: Tensor) -> Tensor:
        """Encode images x [B, 3, H, W] to the mean of the posterior over latents [B, embed_dim, H / f, W / f]."""
        mean, _ = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents `z` to images [B, 3, H, W], which may overshoot −1…1 slightly."""
        return self.decoder(self.post_quant_conv(z))


class PlainBlock(nn.Module):
    """`x + f(x)` without normalisation; f starts at zero, so that a deep stack trains from the first step."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = zero_module(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def _orthogonal(ch_in: int, ch_out: int) -> nn.Conv2d:
    """Make a 1×1 convolution that starts as an orthogonal map, which keeps all information that its width allows."""
    conv = nn.Conv2d(ch_in, ch_out, 1)
    nn.init.orthogonal_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


class ShuffleAutoencoder(nn.Module):
    """A small, fast KL autoencoder: space-to-depth in place of strides, no normalisation, residual branches from zero.

    After "Deep Compression Autoencoder" (Chen et al. 2024, arXiv 2410.10733) and TAESD (Bohan 2023). Latents are
    standardised: `shift` and `scale`, set once after training, give each channel mean 0 and standard deviation 1.

    Args:
        widths: channels at each level, finest (H / 2) first; each level halves the resolution.
        encoder_blocks: residual blocks a level in the encoder.
        decoder_blocks: residual blocks a level in the decoder.
        z_channels: channels of the latents.
    """

    shift: Tensor  # [z_channels, 1, 1], mean of the latents before standardisation
    scale: Tensor  # [z_channels, 1, 1], their standard deviation

    def __init__(
        self, widths: Sequence[int], encoder_blocks: Sequence[int], decoder_blocks: Sequence[int], z_channels: int = 4
    ) -> None:
        super().__init__()
        # encoder: each level moves 2×2 pixels to the channels, mixes them, and refines
        down: list[nn.Module] = []
        ch = 3
        for width, blocks in zip(widths, encoder_blocks, strict=True):
            down += [nn.PixelUnshuffle(2), _orthogonal(4 * ch, width), *(PlainBlock(width) for _ in range(blocks))]
            ch = width
        self.encoder = nn.Sequential(*down, _orthogonal(ch, 2 * z_channels))
        # decoder: the same levels in reverse order
        up: list[nn.Module] = [_orthogonal(z_channels, ch)]
        for i, blocks in reversed(list(enumerate(decoder_blocks))):
            target = widths[i - 1] if i > 0 else 3
            up += [*(PlainBlock(ch) for _ in range(blocks)), _orthogonal(ch, 4 * target), nn.PixelShuffle(2)]
            ch = target
        self.decoder = nn.Sequential(*up)
        self.register_buffer("shift", torch.zeros(z_channels, 1, 1))
        self.register_buffer("scale", torch.ones(z_channels, 1, 1))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latents before standardisation, [B, z_channels, H / f, W / f] each."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    def encode(self, x: Tensor) -> Tensor:
        """Encode images x [B, 3, H, W] to the standardised mean of the posterior [B, z_channels, H / f, W / f]."""
        return (self.posterior(x)[0] - self.shift) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        """Decode standardised latents `z` to images [B, 3, H, W], which may overshoot −1…1 slightly."""
        return self.decoder(z * self.scale + self.shift)


FirstStage = AutoencoderKL | ShuffleAutoencoder
