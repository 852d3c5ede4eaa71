"""Constants and paths that the scripts share. Importing this module creates no files.

All output goes under one root: the folder that the environment variable VOICETOIMG_DATA_DIR names, else the current
folder. On a command line, the default names of these files mean the files there (`own_place`). Files that come with the
program (`models/`, `configs/`) lie beside this file.
"""

import os
from pathlib import Path
from typing import Any

from audio.recipe import MEAN_NAME, STD_NAME, Recipe

# --- the recipe: from a recording to 4,096 numbers -------------------------------------------------------------------
RECIPE = Recipe()  # its numbers: audio/recipe.py
VECTOR_SIZE = RECIPE.vector_size  # 4096 elements
LATENT_CHANNELS = 4
LATENT_SIZE = int((VECTOR_SIZE / LATENT_CHANNELS) ** 0.5)  # 32 latent pixels
LATENT_SHAPE = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)  # [C, H, W]

# --- limits of a good recording --------------------------------------------------------------------------------------
SHORT_SECONDS = 0.3  # about one syllable
QUIET_PEAK = 0.003  # -50 dB of full scale, hardly more than the noise of a sound card
CLIPPED_SHARE = 0.001  # share of samples at full scale from which distortion can be heard

# --- the built-in model ----------------------------------------------------------------------------------------------
BUILTIN_MULTIPLE = 64  # pixels: the sides of its images are multiples of this
# defaults of its own, measured in models/chladni/README.md: the guidance rescale φ (Lin et al. 2024), where 1 is full,
# and the sampler with what belongs to it (`painting.image_spec.defaults_beside`)
BUILTIN_RESCALE = 1.0
BUILTIN_SAMPLING: dict[str, Any] = {"sampler": "few", "steps": 4, "guidance_interval": (0.3, 0.9)}

# --- files that come with the program --------------------------------------------------------------------------------
REPO_DIR = Path(__file__).resolve().parent
MODELS_DIR = REPO_DIR / "models"
CONFIGS_DIR = REPO_DIR / "configs"
EXAMPLES_DIR = REPO_DIR / "examples"
BUILTIN_MODEL_WEIGHTS = MODELS_DIR / "chladni" / "model.safetensors"  # its yaml lies beside it
BUILTIN_CALIBRATION_DIR = MODELS_DIR / "calibration"

# --- output ----------------------------------------------------------------------------------------------------------
# "~" is the home folder here, too: shells expand it only where it is not in quotes
ROOT_DIR = Path(os.path.expanduser(os.environ.get("VOICETOIMG_DATA_DIR") or "."))
DATA_DIR = ROOT_DIR / "data"
AUDIO_INPUT_DIR = DATA_DIR / "audio_input_batch"
SIMILARITY_VECTOR_NPY = DATA_DIR / "vectors" / "audio_spectrogram_vectors.npy"
ZSCORE_VECTOR_NPY = DATA_DIR / "vectors" / "audio_zscore_vectors.npy"
STATS_DIR = DATA_DIR / "stats"
MEAN_NPY = STATS_DIR / MEAN_NAME
STD_NPY = STATS_DIR / STD_NAME
LATENT_TENSOR_PT = DATA_DIR / "latents" / "audio_latents_batch.pt"
TEMP_AUDIO_WAV = ROOT_DIR / "temp_live_audio.wav"
LIVE_LATENT_PT = ROOT_DIR / "live_latent.pt"
OUTPUT_DIR = ROOT_DIR / "outputs" / "txt2img-samples"
SESSIONS_DIR = ROOT_DIR / "outputs" / "sessions"


def own_place(name: str) -> Path | None:
    """Return where the program has its own file if `name`, relative to the current folder, is the default name of one.

    With VOICETOIMG_DATA_DIR=/data, `live_latent.pt` is `/data/live_latent.pt`, and a file in `outputs/txt2img-samples/`
    is one below `/data`. Other names, and those that begin with "./", mean themselves: None.
    """
    path = Path(name)
    if name.startswith(".") or path.is_absolute() or ".." in path.parts:
        return None
    own = ROOT_DIR / path
    folders = (AUDIO_INPUT_DIR, STATS_DIR, OUTPUT_DIR, SESSIONS_DIR)
    files = (SIMILARITY_VECTOR_NPY, ZSCORE_VECTOR_NPY, LATENT_TENSOR_PT, TEMP_AUDIO_WAV, LIVE_LATENT_PT)
    further = any(  # of another run at the same time, or of an earlier run: live_latent_2.pt
        own.parent == file.parent and own.suffix == file.suffix and own.stem.startswith(f"{file.stem}_")
        for file in (TEMP_AUDIO_WAV, LIVE_LATENT_PT)
    )
    return own if own in files or further or any(own.is_relative_to(folder) for folder in folders) else None


def is_builtin_model(weights: Path) -> bool:
    """Tell whether a file of weights is that of the built-in model, by whichever path or link it is named."""
    return weights.resolve() == BUILTIN_MODEL_WEIGHTS.resolve()


def calibration_dirs() -> list[Path]:
    """Return the folders of statistics, the user's own first (if phase 1 was run), then the built-in ones.

    Raises:
        OSError: there are no statistics.
    """
    found = [folder for folder in (STATS_DIR, BUILTIN_CALIBRATION_DIR) if (folder / MEAN_NPY.name).is_file()]
    if not found:
        raise OSError(f"no statistics in {STATS_DIR}; run prep_audio_spectrograms.py first")
    return found
