"""A miniature of the built-in model's training."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

import config
from training.__main__ import main


def tiny_config() -> DictConfig:
    """Shrink the yaml of the built-in model."""
    tiny = OmegaConf.load(config.CONFIGS_DIR / "latent-diffusion" / "chladni.yaml")
    assert isinstance(tiny, DictConfig)
    parts = tiny.model.params
    parts.unet_config.params.update(
        model_channels=32, channel_mult=[1, 1], num_res_blocks=[1, 1], attention_resolutions=[2], context_dim=32
    )
    parts.first_stage_config.params.update(widths=[8, 16, 32], encoder_blocks=[0, 0, 0], decoder_blocks=[0, 0, 1])
    parts.cond_stage_config.params.update(n_embed=32, n_layer=1)
    tiny.training.first_stage.update(renders=8, crop=64, batch_size=4, steps=101, decoder_steps=25, learning_rate=5e-3)
    parts.unet_config.params.layout.update(width=32, cell_width=8, extent=16, fields=1, maps=3)
    tiny.training.prior.update(
        renders=16, reading_batch_size=16, reading_steps=40, drawing_batch_size=16, drawing_steps=36
    )
    stages = [
        {"size": 64, "renders": 8, "drifting": 4, "batch_size": 4, "steps": 2},
        {"size": 128, "renders": 4, "drifting": 0, "batch_size": 2, "steps": 2},
    ]
    tiny.training.diffusion.update(stages=stages)
    return tiny


def command(name: str, folder: Path, *arguments: str) -> None:
    """Run a stage of the miniature in `folder`, which holds tiny.yaml."""
    main([name, "--config", str(folder / "tiny.yaml"), "--dir", str(folder), *arguments])
