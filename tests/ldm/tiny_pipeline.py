"""A text-to-image pipeline of diffusers with random weights, small enough for tests: the independent reference.

The functions import diffusers and transformers, which takes ten seconds, so that only a worker that needs them waits.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "golden", "spiral", "on", "purple", "blue", "##s", ",", "."]
PROMPT = "A golden spirals, on Qurple"  # an upper-case letter, a word of two pieces, an unknown one
SIZE = 64  # pixels, so that latents are 8×8
WIDTH = 48  # of the text encoder


def randomise(module: nn.Module | Any, seed: int = 0) -> Any:
    """Disturb all weights, the norms' ones and zeros included, so that no two of them can be swapped unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def make_unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    options = {
        "sample_size": SIZE // 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64, 64),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 8,
    }
    return randomise(UNet2DConditionModel(**{**options, **changes}), seed=1)


def make_autoencoder(**changes: Any) -> Any:
    from diffusers import AutoencoderKL

    options = {
        "block_out_channels": (32, 32, 64, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "layers_per_block": 2,
    }
    return randomise(AutoencoderKL(**{**options, **changes}), seed=2)


def make_text_encoder(layers: int = 3) -> Any:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    config = LDMBertConfig(vocab_size=len(WORDS), d_model=WIDTH, encoder_layers=layers, encoder_ffn_dim=4 * WIDTH)
    return randomise(LDMBertModel(config), seed=3)


@functools.cache
def make_pipeline() -> Any:
    """Make the whole pipeline, with a scheduler like CompVis's DDIM: last step to alphas_cumprod[0], timesteps + 1."""
    from diffusers import DDIMScheduler, LDMTextToImagePipeline
    from transformers import BertTokenizer

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
        tokenizer = BertTokenizer(str(vocabulary))
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline: Any = LDMTextToImagePipeline(
        vqvae=make_autoencoder(layers_per_block=1),
        bert=make_text_encoder(layers=2),
        tokenizer=tokenizer,
        unet=make_unet(
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        scheduler=scheduler,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    assert ours.shape == reference.shape
    return ((ours - reference).abs().max() / reference.abs().max()).item()
