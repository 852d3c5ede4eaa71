"""A latent diffusion model with random weights that is built in a moment, without diffusers."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from ldm.checkpoint import build_model

WORDS = ["a", "golden", "spiral", "on", "purple", "blue", "green"]
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", ",", "."]
TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "words": {
        "target": "ldm.modules.encoders.modules.WordEmbedder",
        "params": {"vocab_size": len(WORDS), "vector_dim": 8, "n_embed": 16, "n_layer": 1, "max_seq_len": 4},
    },
    "bert": {
        "target": "ldm.modules.encoders.modules.BERTEmbedder",
        "params": {"vocab_size": len(BERT_WORDS), "n_embed": 64, "n_layer": 1, "max_seq_len": 8},
    },
}


def node_of(text: str) -> dict[str, Any]:
    """Make the config of a model with one of `TEXT_ENCODERS`."""
    encoder = TEXT_ENCODERS[text]
    return {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            "image_size": 8,
            "unet_config": {
                "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
                "params": {
                    "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [1],
                    "num_res_blocks": 1, "channel_mult": [1], "num_heads": 4,
                    "context_dim": encoder["params"]["n_embed"],
                },
            },
            "first_stage_config": {
                "target": "ldm.models.autoencoder.ShuffleAutoencoder",
                "params": {"widths": [8, 8, 8], "encoder_blocks": [0, 0, 0], "decoder_blocks": [0, 0, 1]},
            },
            "cond_stage_config": encoder,
        },
    }  # fmt: skip


def weights_of(text: str = "words") -> dict[str, Tensor]:
    """Draw the weights; none is zero."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in build_model(node_of(text), "test").state_dict().items()}
    return {name: 0.2 * torch.randn(shape, generator=generator) + 0.01 for name, shape in shapes.items()}


def save_companions(folder: Path, text: str = "words") -> None:
    """Write yaml and vocabulary, for a file `model.*`."""
    OmegaConf.save(OmegaConf.create({"model": node_of(text)}), folder / "model.yaml")
    words = WORDS if text == "words" else BERT_WORDS
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def save_model(folder: Path, tensors: dict[str, Tensor], text: str = "words") -> Path:
    """Write the whole model into `folder`, and return its weights file."""
    save_companions(folder, text)
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"
