"""Settings of each stage of training, as the `training:` node of the yaml gives them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = Path("configs/latent-diffusion/chladni.yaml")  # of the built-in model


@dataclass(frozen=True)
class FirstStageOptions:
    """Settings of the autoencoder's training.

    The last three make latents that are easy for the diffusion model to learn, see `first_stage.autoencoder_loss`.
    """

    renders: int
    crop: int  # pixels a side of what the autoencoder sees at a time
    batch_size: int
    steps: int
    decoder_steps: int  # the encoder is frozen for so many last steps
    learning_rate: float
    kl_weight: float
    squared_weight: float  # of the squared error, relative to the absolute error
    gradient_weight: float  # of the error of the image's gradient
    halved_share: float  # share of a batch that is decoded from halved latents
    latent_noise: float  # largest noise on latents, in their standard deviations
    roughness_weight: float


@dataclass(frozen=True)
class PriorOptions:
    """Settings of the text encoder's and the prior's training, see `prior.train_prior`."""

    renders: int
    learning_rate: float
    reading_batch_size: int
    reading_steps: int
    drawing_batch_size: int
    drawing_steps: int
    prompt_dropout: float  # share of captions that are replaced by ""


@dataclass(frozen=True)
class DiffusionStage:
    """A part of the U-Net's training, at one resolution."""

    size: int  # pixels a side
    renders: int
    drifting: int  # so many of the renders, the last ones, have drifting colours
    batch_size: int
    steps: int


@dataclass(frozen=True)
class DiffusionOptions:
    """Settings of the U-Net's training, in stages of growing resolution."""

    learning_rate: float
    warmup: int  # steps until the learning rate is reached
    prompt_dropout: float  # share of captions that are replaced by "", so that guidance works
    max_weight: float  # limit of a timestep's weight in the loss, see `diffusion.diffusion_loss`
    stages: tuple[DiffusionStage, ...]


@dataclass(frozen=True)
class EmbeddingOptions:
    """Settings of the training of the voices' embedding, see `embedding.stage.train_embedding`."""

    widths: tuple[int, ...]  # channels of the four convolutions
    pairs_of_repeats: int  # in a batch: two takes of a word
    pairs_of_recordings: int  # in a batch: a recording, and a changed copy of it
    speakers_of_texts: int  # in a batch: all long texts of so many
    steps: int
    learning_rate: float
    held_out: int  # speakers that are kept for the test


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of all stages."""

    seed: int
    first_stage: FirstStageOptions
    prior: PriorOptions
    diffusion: DiffusionOptions
    embedding: EmbeddingOptions


def options_of(config: Any) -> TrainingOptions:
    """Read the `training:` node of a yaml that OmegaConf has loaded.

    Raises:
        ValueError: an entry is missing or unknown.
    """
    try:
        node = config.training
        stages = tuple(DiffusionStage(**stage) for stage in node.diffusion.stages)
        return TrainingOptions(
            seed=int(node.seed),
            first_stage=FirstStageOptions(**node.first_stage),
            prior=PriorOptions(**node.prior),
            diffusion=DiffusionOptions(**{**node.diffusion, "stages": stages}),
            embedding=EmbeddingOptions(**{**node.embedding, "widths": tuple(node.embedding.widths)}),
        )
    except (TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the training: node must have the entries of {CONFIG}: {reason}") from error
