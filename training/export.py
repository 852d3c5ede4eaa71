"""Stage `export`: write the trained model as a folder that txt2img.py can load."""

import copy
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from files import atomic_path
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.tensor_files import write_safetensors
from painting.preview import LinearDecoder
from training.reading import reading_node
from training.scenes.taste import taste_node
from training.word_vectors import VOCABULARY_NAME


def export(model: LatentDiffusion, node: dict[str, Any], words: Path, out: Path) -> None:
    """Write the folder `out`: float16 weights, the yaml that describes them, and the vocabulary.

    Args:
        model: with the moving average of the U-Net.
        node: the model node that it was built from.
        words: folder of the word vectors.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    with atomic_path(out / "model.safetensors") as temporary:
        write_safetensors(temporary, state, dict.fromkeys(state, torch.float16))
    with atomic_path(out / "model.yaml") as temporary:
        content = OmegaConf.create({"model": with_choices(node, model), "reading": reading_node()})
        temporary.write_text(OmegaConf.to_yaml(content), encoding="utf-8")
    with atomic_path(out / VOCABULARY_NAME) as temporary:
        temporary.write_bytes((words / VOCABULARY_NAME).read_bytes())
    print(f"{sum(t.numel() for t in state.values()) / 1e6:.1f} M parameters -> {out}")


def with_choices(node: dict[str, Any], model: LatentDiffusion) -> dict[str, Any]:
    """Copy a model node, and add to its prior what decides images whose prompt leaves much open.

    These are the affine map from latents to colours, for washes, and the taste. Training does without: its renders have
    no wash, and all values of the attributes.
    """
    node = copy.deepcopy(node)
    weights = LinearDecoder.fit(model.encode_first_stage).weights
    prior = node["params"]["unet_config"]["params"]["layout"]
    prior["rgb"] = [[round(value, 4) for value in row] for row in weights.tolist()]
    prior["taste"] = taste_node()
    return node
