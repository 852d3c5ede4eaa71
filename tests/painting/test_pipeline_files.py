"""Folders of pipelines as they come from anywhere: what is read from them, and what is refused before anything runs."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from painting.pipelines.families import FAMILIES, REFUSED
from painting.pipelines.files import check_lora, check_vae, few_steps, find_pipeline, find_pipeline_in

PARTS = {
    "scheduler": ("diffusers", "PNDMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def save_folder(folder: Path, name: str = "StableDiffusionPipeline", **scheduler: Any) -> Path:
    """Write what a folder of Stable Diffusion consists of, with weights of a few numbers."""
    index: dict[str, Any] = {part: list(value) for part, value in PARTS.items()}
    index["scheduler"][1] = scheduler.get("_class_name", "PNDMScheduler")
    index |= {"_class_name": name, "_diffusers_version": "0.42.1", "safety_checker": [None, None]}
    write_json(folder / "model_index.json", index)
    write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "PNDMScheduler", **scheduler})
    write_json(folder / "tokenizer" / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"})
    write_json(folder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel", "sample_size": 64})
    write_json(folder / "vae" / "config.json", {"_class_name": "AutoencoderKL", "block_out_channels": [1, 2, 3, 4]})
    write_json(folder / "text_encoder" / "config.json", {"architectures": ["CLIPTextModel"]})
    for part, file in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        save_file({"weight": torch.zeros(4)}, folder / part / f"{file}.safetensors")
    return folder


def test_a_folder_says_which_family_it_is_and_its_own_defaults(tmp_path):
    found = find_pipeline(save_folder(tmp_path / "model"))
    assert found is not None and found.family.text == "Stable Diffusion 1 and 2"
    assert found.defaults == {"steps": 50, "scale": 7.5, "sampler": "plms", "height": 512, "width": 512}
    assert found.variant is None and found.size > 12 * 4 and found.numbers == 12 and found.factor == 8
    assert (found.memory("fp32"), found.memory("bf16")) == (48, 24)
    assert [path.name for path in found.files if path.suffix == ".safetensors"] == [
        "model.safetensors", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("folder, scheduler, defaults", [
    ("sd-turbo", {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, (4, 1.0, "euler")),
    ("fast", {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, (4, 1.0, "euler")),
    ("plain", {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}, (50, 7.5, "euler")),
    ("mine", {"_class_name": "LCMScheduler"}, (4, 1.0, "lcm")),
    ("sdxl_lightning_8step", {"_class_name": "EulerDiscreteScheduler"}, (8, 1.0, "euler")),
    ("sde", {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
        (50, 7.5, "dpmpp_sde")),
])  # fmt: skip
def test_models_for_few_steps_are_known_by_their_sampler_or_name(tmp_path, folder, scheduler, defaults):
    found = find_pipeline(save_folder(tmp_path / folder, **scheduler))
    assert found is not None
    assert tuple(found.defaults[name] for name in ("steps", "scale", "sampler")) == defaults


def test_names_tell_steps_and_sampler():
    assert few_steps("lcm-lora-sdv1-5") == (4, "lcm")
    assert few_steps("Hyper-SDXL-12steps-lora") == (12, "ddim")
    assert few_steps("dreamshaper_8") is None


def test_a_variant_is_read_if_there_is_nothing_else(tmp_path):
    folder = save_folder(tmp_path / "model")
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    found = find_pipeline(folder)
    assert found is not None and found.variant == "fp16"


def test_an_ldm_stays_with_ldm_and_other_folders_are_none(tmp_path):
    assert find_pipeline(save_folder(tmp_path / "ldm", "LDMTextToImagePipeline")) is None
    (tmp_path / "empty").mkdir()
    assert find_pipeline(tmp_path / "empty") is None
    assert find_pipeline_in(tmp_path / "missing") is None


def test_a_part_and_a_folder_without_its_index_are_refused(tmp_path):
    folder = save_folder(tmp_path / "model")
    with pytest.raises(ValueError, match=f"{folder / 'unet'} is a part of the pipeline {folder}: name that folder"):
        find_pipeline(folder / "unet")
    (folder / "model_index.json").unlink()
    for find in (find_pipeline, find_pipeline_in):
        with pytest.raises(ValueError, match="model lacks model_index.json, which says what kind of pipeline it is"):
            find(folder)


def test_a_file_that_is_not_what_its_name_says_is_left_to_ldm(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"weight": torch.zeros(1)}, path)
    assert find_pipeline(path) is None
    path.write_bytes(b"<!doctype html>")
    assert find_pipeline(path) is None
    save_file({"weight": torch.zeros(9)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is cut short: .* of .* bytes are here; download it again"):
        find_pipeline(path)


def harm(name: str) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    def register(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        HARMS[name] = function
        return function

    return register


HARMS: dict[str, Callable[[Path], Any]] = {}
MARK = "RAN"


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, (f"import pathlib; pathlib.Path({MARK!r}).touch()",))


def write_header(folder: Path, header: bytes) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def change_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", index | changes)


@harm("which can run code when it is loaded")
def _pickle(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))


@harm("lacks its part vae")
def _no_part(folder: Path) -> None:
    for path in (folder / "vae").iterdir():
        path.unlink()
    (folder / "vae").rmdir()


@harm("holds no weights")
def _no_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


@harm("brings a pipeline of its own as Python code")
def _custom_pipeline(folder: Path) -> None:
    change_index(folder, _class_name=["pipeline", "MyPipeline"])


@harm("code of a model is never run")
def _custom_class(folder: Path) -> None:
    change_index(folder, unet=["my_unet", "MyUNet"])


@harm("is Python code, which is never run")
def _code(folder: Path) -> None:
    (folder / "unet" / "my_unet.py").write_text(f"import pathlib; pathlib.Path({MARK!r}).touch()")


@harm("asks for Python code of its own .auto_map.")
def _remote_code(folder: Path) -> None:
    write_json(folder / "text_encoder" / "config.json", {"auto_map": {"AutoModel": "evil--modeling.Evil"}})


@harm("names the shard '../../outside.safetensors'")
def _shard_that_leads_out(folder: Path) -> None:
    save_file({"weight": torch.zeros(1)}, folder.parent / "outside.safetensors")
    write_json(folder / "unet" / "diffusion_pytorch_model.safetensors.index.json",
        {"weight_map": {"weight": "../../outside.safetensors"}})  # fmt: skip


@harm("which is no name of a folder")
def _part_that_leads_out(folder: Path) -> None:
    change_index(folder, **{"../vae": ["diffusers", "AutoencoderKL"]})


@harm("is cut short")
def _cut_short(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


@harm("model.safetensors is not a plain file")
def _named_pipe(folder: Path) -> None:
    """Make weights a pipe to which nobody writes, so that opening it would never end."""
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.unlink()
    os.mkfifo(path)


@harm("merges.txt is not a plain file")
def _named_pipe_of_words(folder: Path) -> None:
    os.mkfifo(folder / "tokenizer" / "merges.txt")


@harm("its header cannot be read .not enough values to unpack")
def _one_offset(folder: Path) -> None:
    write_header(folder, b'{"weight": {"data_offsets": [0]}}')


@harm("its header cannot be read .cannot convert float infinity")
def _endless_offset(folder: Path) -> None:
    write_header(folder, b'{"weight": {"data_offsets": [0, 1e400]}}')


@harm("its header cannot be read .a tensor ends before it begins")
def _negative_offset(folder: Path) -> None:
    write_header(folder, b'{"weight": {"data_offsets": [-9, -5]}}')


@harm("model_index.json names no unet, which Stable Diffusion 1 and 2 needs: is the file whole?")
def _empty_index(folder: Path) -> None:
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})


@harm("uses the sampler '', which this program does not know")
def _no_sampler(folder: Path) -> None:
    change_index(folder, scheduler=["diffusers"])
    write_json(folder / "scheduler" / "scheduler_config.json", {})


@harm("cannot be read as json")
def _broken_json(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("[" * 100_000)


@harm("a pipeline that this program does not know")
def _unknown(folder: Path) -> None:
    change_index(folder, _class_name="StableVideoDiffusionPipeline")


@harm("uses the sampler 'MyScheduler'")
def _unknown_sampler(folder: Path) -> None:
    write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "MyScheduler"})


@harm("names another model that this one would be added to")
def _adapter(folder: Path) -> None:
    write_json(folder / "text_encoder" / "adapter_config.json", {"base_model_name_or_path": "someone/else"})


@pytest.mark.parametrize("words", HARMS)
def test_a_broken_or_hostile_folder_is_one_line_and_nothing_runs(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    folder = save_folder(tmp_path / "model")
    HARMS[words](folder)
    with pytest.raises(ValueError, match=words) as caught:
        find_pipeline(folder)
    assert "\n" not in str(caught.value) and not Path(MARK).exists()


@pytest.mark.parametrize("name", REFUSED)
def test_classes_that_cannot_be_used_are_refused_with_the_reason(tmp_path, name):
    with pytest.raises(ValueError) as caught:
        find_pipeline(save_folder(tmp_path / "model", name))
    assert str(caught.value) == f"{tmp_path / 'model'} is a {name}, which cannot be used here: {REFUSED[name]}"
    assert name not in FAMILIES


@pytest.mark.parametrize("content, words", [
    ({"lora_unet_down.lora_down.weight": 1}, None),
    ({"cond_stage_model.transformer.text_model.x": 1}, "is no LoRA: it is latent diffusion with CLIP"),
])  # fmt: skip
def test_a_lora_is_known_by_its_names(tmp_path, content, words):
    path = tmp_path / "it.safetensors"
    save_file(dict.fromkeys(content, torch.zeros(1)), path)
    if words is None:
        check_lora(path)
        with pytest.raises(ValueError, match="is no autoencoder"):
            check_vae(path)
    else:
        with pytest.raises(ValueError, match=words):
            check_lora(path)
    path.rename(tmp_path / "it.ckpt")
    for check in (check_lora, check_vae):
        with pytest.raises(ValueError, match="must be a .safetensors file"):
            check(tmp_path / "it.ckpt")


def test_a_network_is_no_autoencoder(tmp_path):
    folder = save_folder(tmp_path / "model")
    check_vae(folder / "vae")
    with pytest.raises(ValueError, match="is no autoencoder: its config.json is that of a UNet2DConditionModel"):
        check_vae(folder / "unet")


def test_a_command_line_does_not_wait_for_diffusers():
    code = (
        "import sys; sys.argv=['txt2img.py']; import painting.options, painting; "
        "painting.options.parse_options('', ['--prompt', 'x']); "
        "print(sorted({'diffusers', 'transformers', 'torch', 'huggingface_hub'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
