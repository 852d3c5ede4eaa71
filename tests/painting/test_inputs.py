"""The files of a model that decide its images, and those that only lie beside them."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

import config
from audio.calibration import voice_latents
from audio.provenance import save_latents
from files import sha256_of
from ldm.checkpoint import files_read
from painting.image_spec import ImageSpec
from painting.inputs import Inputs
from painting.model_files import ModelFiles, weights_sha256

SPEC = ImageSpec("a golden spiral")
READ = [
    "bert/config.json", "bert/model.safetensors", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vqvae/config.json",
    "vqvae/diffusion_pytorch_model.safetensors",
]  # fmt: skip
BESIDE = [
    "README.md", "Thumbs.db", "desktop.ini", ".DS_Store", "unet/Thumbs.db", "unet/.DS_Store", "LICENSE.txt",
    "unet/diffusion_pytorch_model.fp16.safetensors", "unet/._diffusion_pytorch_model.safetensors",
    "tokenizer/vocab.txt",  # beside a tokenizer.json it is not read
]  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """Make a folder as diffusers saves it, as far as its files are counted."""
    for name in [*READ, "model_index.json"]:
        path = tmp_path / "large" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"name": name}))
    return tmp_path / "large"


def inputs(folder: Path) -> Inputs:
    weights_sha256.cache_clear()  # as in another process
    return Inputs(ModelFiles(folder), [], [SPEC])


def test_what_is_read_is_known(folder):
    assert [str(path.relative_to(folder)) for path in files_read(folder)] == READ
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "part-1.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    read = {path.name for path in files_read(folder)}
    assert {index.name, "part-1.safetensors"} <= read
    assert files_read(folder / "model.ckpt") == [folder / "model.ckpt"]


@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_a_model_does_not_count(folder, name):
    before = inputs(folder)
    made_from, identity = before.provenance(SPEC), before.identity([SPEC])
    (folder / name).write_text("left by a desktop")
    after = inputs(folder)
    after.check_replay(made_from, SPEC)
    assert after.identity([SPEC]) == identity  # an interrupted job goes on, too


@pytest.mark.parametrize("name", READ)
def test_what_a_model_is_made_of_counts(folder, name):
    before = inputs(folder)
    made_from, identity = before.provenance(SPEC), before.identity([SPEC])
    path = folder / name
    path.write_text(path.read_text() + " ")
    os.utime(path, (1, 1))
    after = inputs(folder)
    with pytest.raises(ValueError, match="without the model large"):
        after.check_replay(made_from, SPEC)
    assert after.identity([SPEC]) != identity


def test_images_of_earlier_versions_are_replayed(folder):
    """Their hash is that of all files that are not hidden."""
    made_from = dataclasses.replace(inputs(folder).provenance(SPEC), model_sha256=sha256_of(folder))
    inputs(folder).check_replay(made_from, SPEC)
    (folder / "unet" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="without the model large: sha256 .* is needed"):
        inputs(folder).check_replay(made_from, SPEC)


def test_a_folder_that_lacks_a_part_says_so(folder):
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(ValueError, match="has no config.json"):
        inputs(folder).provenance(SPEC)


def test_what_the_latents_do_not_hold_of_a_voice_is_part_of_what_its_image_is_made_of(tmp_path):
    voice = voice_latents(config.EXAMPLES_DIR / "voice_fr.wav", config.BUILTIN_CALIBRATION_DIR)
    latents = torch.from_numpy(voice.latents)
    spec = ImageSpec("a golden spiral", subject=0)
    made = {}
    for name, heard in {
        "heard": [voice.heard],
        "longer": [dataclasses.replace(voice.heard, seconds=9.0)],
        "": [],
    }.items():
        save_latents(path := tmp_path / f"{name}.pt", latents, voice.statistics, heard=heard)
        made[name] = Inputs(ModelFiles(config.BUILTIN_MODEL_WEIGHTS), [(path, latents)], [spec])
    assert made[""].latents_sha256(spec) == hashlib.sha256(voice.latents.tobytes()).hexdigest()
    assert len({one.latents_sha256(spec) for one in made.values()}) == 3
    assert len({one.start_noise([spec], (4, 32, 32)).numpy().tobytes() for one in made.values()}) == 3
    with pytest.raises(ValueError, match="the same latents"):
        made["longer"].check_replay(made["heard"].provenance(spec), spec)
