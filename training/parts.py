"""The model that is trained: built from the yaml, with the parts that earlier stages have trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

from ldm.checkpoint import find_model, load_model, mismatches
from ldm.models.autoencoder import ShuffleAutoencoder
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.encoders.modules import WordEmbedder
from ldm.modules.prior import PromptPrior
from ldm.tensor_files import read_tensors
from ldm.util import instantiate_from_config
from training.run import CHECKPOINT, load_parts
from training.scenes.augment import BEND, KNOTS, NEAREST
from training.scenes.scenes import COLOURS, NAMED_COLOURS, SHAPE_ATTRIBUTES, VARIANTS
from training.word_vectors import VECTORS_NAME, VOCABULARY_NAME, save_words


def model_node(config: Any, words: Path) -> dict[str, Any]:
    """Complete the `model:` node of a yaml by the numbers that follow from the word vectors and the scenes.

    Args:
        config: the yaml, as OmegaConf has loaded it.
        words: folder of the word vectors.

    Raises:
        ValueError: the yaml describes a U-Net without a prior.
        OSError: there are no word vectors.
    """
    if not (words / VECTORS_NAME).is_file():
        raise OSError(f"there are no word vectors in {words}: run python -m training words --dir {words.parent} first")
    node: Any = OmegaConf.to_container(config.model)
    vectors = np.load(words / VECTORS_NAME, mmap_mode="r")
    node["params"]["cond_stage_config"]["params"].update(vocab_size=vectors.shape[0], vector_dim=vectors.shape[1])
    prior = node["params"]["unet_config"]["params"].get("layout")
    if prior is None:
        raise ValueError("unet_config has no layout: node; only a U-Net with a prior can be trained here")
    prior.update(
        size=node["params"]["image_size"],
        shape_attributes={name: len(values) for name, values in SHAPE_ATTRIBUTES.items()},
        colour_attributes=[len(COLOURS) + 1] * NAMED_COLOURS,
        variants=VARIANTS,
        nearest=NEAREST,
        bend=BEND,
        knots=KNOTS,
    )
    return node


def first_stage_of(model: LatentDiffusion) -> ShuffleAutoencoder:
    """Return the autoencoder of `model`.

    Raises:
        ValueError: it is of another kind.
    """
    autoencoder = model.first_stage_model
    if not isinstance(autoencoder, ShuffleAutoencoder):
        kind = type(autoencoder).__name__
        raise ValueError(f"the first stage is a {kind}; only a ShuffleAutoencoder can be trained here")
    return autoencoder


def prior_of(model: LatentDiffusion) -> PromptPrior:
    """Return the prior of `model`."""
    prior = model.model.diffusion_model.layout
    assert prior is not None  # model_node refuses a model without one
    return prior


@contextmanager
def unchanged_prior(model: LatentDiffusion, folder: Path) -> Iterator[None]:
    """Check that the block, which loads a U-Net from `folder`, leaves the prior as it is.

    The checkpoint of a U-Net contains the prior that it was trained with. The text encoder fits only its own prior.

    Raises:
        ValueError: the U-Net was trained with another prior.
    """
    before = {name: tensor.clone() for name, tensor in prior_of(model).state_dict().items()}
    yield
    if any(not torch.equal(tensor, before[name]) for name, tensor in prior_of(model).state_dict().items()):
        raise ValueError(f"the U-Net in {folder} was trained with another prior: move the folder away to train anew")


def copy_vocabulary(start: Path, words: Path) -> None:
    """Copy vocabulary and word vectors of the model folder `start` to the folder `words`, unless it has some.

    Raises:
        ValueError: the model has no word vectors.
    """
    if (words / VOCABULARY_NAME).is_file():
        return
    vectors = read_tensors(find_model(start)[0]).tensors.get("cond_stage_model.word_vectors")
    if vectors is None:
        raise ValueError(f"{start} has no word vectors; only a model with a WordEmbedder can be trained here")
    save_words(words, (start / VOCABULARY_NAME).read_bytes(), vectors.float().numpy())


def build(
    node: dict[str, Any],
    folder: Path,
    trained: Sequence[str] = ("first_stage", "prior"),
    start: Path | None = None,
) -> LatentDiffusion:
    """Build the model with its word vectors and the trained parts, on the CUDA device if there is one.

    Args:
        node: the model node, complete (see `model_node`).
        folder: the folder of all stages.
        trained: stages whose parts are loaded from `folder` and frozen.
        start: a model folder whose weights all parts start from, also those in `trained` that `folder` lacks. Without
            it the parts that are not trained start from random weights.

    Raises:
        ValueError: the text encoder is of another kind, or `start` does not fit the yaml.
        OSError: the checkpoint of a trained part cannot be read.
    """
    model: LatentDiffusion = instantiate_from_config(node)
    text = model.cond_stage_model
    if not isinstance(text, WordEmbedder):
        raise ValueError(f"the text encoder is a {type(text).__name__}; only a WordEmbedder can be trained here")
    text.word_vectors.copy_(torch.from_numpy(np.load(folder / "words" / VECTORS_NAME)))
    text.load_vocabulary(folder / "words")
    if start is not None:
        weights = load_model(*find_model(start)).state_dict()
        if wrong := mismatches(model.state_dict(), weights):
            raise ValueError(f"{start} does not fit the yaml: {'; '.join(wrong)}")
        model.load_state_dict(weights)
    parts: dict[str, dict[str, nn.Module]] = {
        "first_stage": {"first_stage": model.first_stage_model},
        "prior": {"text_encoder": text, "prior": prior_of(model)},
    }
    for name in trained:
        path = folder / name / CHECKPOINT
        if start is None or path.is_file():
            load_parts(path, parts[name])
        for module in parts[name].values():
            module.requires_grad_(False)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
