"""Weights that were zipped again, that are broken, or that belong to something else than a model for prompts."""

import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from files import open_torch_zip
from ldm.__main__ import main
from ldm.broken_weights import broken_weights, vectors_are_sound
from ldm.checkpoint import find_model, load_model
from ldm.families import FAMILIES
from ldm.tensor_files import read_tensors
from tests.ldm.tiny_model import save_companions, save_model, weights_of


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return weights_of()


# --- zipped again ----------------------------------------------------------------------------------------------------


def zip_again(
    path: Path, kind: int, folder: str = "model", before: str = "", without: tuple[str, ...] = (), entry: str = ""
) -> None:
    """Pack the records of a checkpoint once more, as a program that knows nothing of torch does."""
    with zipfile.ZipFile(path) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", kind) as archive:
        if entry:
            archive.writestr(entry, b"")
        for name, content in records.items():
            if name not in without:
                archive.writestr(f"{before}{folder}/{name}" if folder else name, content)


ZIPS: dict[str, dict[str, Any]] = {
    "deflated": {"kind": zipfile.ZIP_DEFLATED},
    "stored, not aligned": {"kind": zipfile.ZIP_STORED},
    "other compression": {"kind": zipfile.ZIP_BZIP2},
    "without a folder": {"kind": zipfile.ZIP_DEFLATED, "folder": ""},
    "in two folders": {"kind": zipfile.ZIP_STORED, "before": "Downloads/"},
    "entry for the folder": {"kind": zipfile.ZIP_DEFLATED, "entry": "model/"},
    "with what macOS adds": {"kind": zipfile.ZIP_DEFLATED, "entry": "__MACOSX/._model"},
    "hidden records lost": {"kind": zipfile.ZIP_STORED, "without": ("version", "byteorder", ".data/serialization_id")},
}


@pytest.mark.parametrize("how", ZIPS)
def test_a_checkpoint_that_was_zipped_again_has_the_same_weights(tmp_path, weights, how):
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": weights, "epoch": 3}, path)
    assert open_torch_zip(path) == (path, True)  # as torch wrote it, it is mapped
    zip_again(path, **ZIPS[how])
    assert open_torch_zip(path)[1] is False
    read = read_tensors(path).tensors
    assert read.keys() == weights.keys() and all(torch.equal(read[name], weights[name]) for name in weights)


def test_a_checkpoint_that_was_zipped_again_is_converted_and_loaded(tmp_path, weights, capsys):
    save_companions(tmp_path)
    path, out = tmp_path / "model.ckpt", tmp_path / "out.safetensors"
    torch.save(weights, path)
    zip_again(path, zipfile.ZIP_DEFLATED)
    assert main([str(path), "--to", str(out)]) == 0
    converted, loaded = load_file(out), load_model(path).state_dict()
    assert all(torch.equal(converted[name], weights[name]) for name in weights)
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_a_wrong_name_does_not_change_how_it_is_read(tmp_path, weights):
    torch.save(weights, tmp_path / "model.ckpt")
    zip_again(tmp_path / "model.ckpt", zipfile.ZIP_DEFLATED, folder="")
    path = (tmp_path / "model.ckpt").rename(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in read_tensors(path).tensors.items())


def pack(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: pack(path, "sd/model.ckpt", "sd/model.yaml"), r"other files .sd/model.ckpt, sd/model.yaml.: unp"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(80)), "packed with gzip: unpack it"),
        (lambda path: path.write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(80)), "packed with 7-Zip"),
        (lambda path: path.write_bytes(b"Rar!\x1a\x07" + bytes(80)), "packed with RAR"),
    ],
)
def test_an_archive_of_other_files_is_named(tmp_path, make, words):
    make(tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=words):
        read_tensors(tmp_path / "model.ckpt")


# --- broken weights --------------------------------------------------------------------------------------------------

BIAS, KERNEL = "model.diffusion_model.input_blocks.0.0.bias", "model.diffusion_model.input_blocks.0.0.weight"


def changed(weights: dict[str, Tensor], name: str, value: float) -> dict[str, Tensor]:
    tensor = weights[name].clone()
    tensor.view(-1)[1] = value
    return {**weights, name: tensor}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_broken_bias_is_refused_when_it_is_loaded(tmp_path, weights, value, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in changed(weights, BIAS, value).items()}
    with pytest.raises(ValueError, match=rf"is broken: 1 of \d+ tensors hold .* numbers .{BIAS}.") as caught:
        load_model(save_model(tmp_path, tensors))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value, words", [(float("nan"), "NaN or infinite"), (1e30, "absurdly large")])
def test_a_broken_kernel_is_named_by_a_description(tmp_path, weights, value, words, capsys):
    main([str(save_model(tmp_path, changed(weights, KERNEL, value)))])
    said = capsys.readouterr().out
    assert f"tensors hold {words} numbers ({KERNEL})" in said and "missing: nothing" in said
    main([str(save_model(tmp_path, weights))])
    assert "broken" not in capsys.readouterr().out


def test_broken_weights_are_not_converted(tmp_path, weights):
    source = save_model(tmp_path, changed(weights, KERNEL, float("nan")))
    with pytest.raises(ValueError, match=f"{KERNEL} holds NaN"):
        main([str(source), "--to", str(tmp_path / "out.safetensors")])
    source = save_model(tmp_path, changed(weights, KERNEL, 1e5))
    with pytest.raises(ValueError, match=f"{KERNEL} holds .*which torch.float16 cannot hold"):
        main([str(source), "--dtype", "fp16", "--to", str(tmp_path / "out.safetensors")])
    assert not list(tmp_path.glob("*out*"))


def test_only_damage_is_called_broken():
    tensors = {
        "float8": torch.ones(4, 4).to(torch.float8_e4m3fn),
        "whole numbers": torch.zeros(4, 4, dtype=torch.int64),
        "empty": torch.zeros(0, 4),
        "bias": torch.zeros(4),
        "large": torch.full((4, 4), -5e4),
    }
    assert broken_weights(tensors) is None and vectors_are_sound(tensors.values())
    assert broken_weights({"a": torch.zeros(2, 2)}) == "1 of 1 tensors hold nothing but zeros (a)"
    assert not vectors_are_sound([torch.ones(2), torch.tensor([1.0, torch.nan]).half()])


@pytest.mark.parametrize("value", [float("nan"), 0.0, float("inf"), -1.0])
def test_a_scale_factor_that_is_none_is_refused(tmp_path, weights, value):
    path = save_model(tmp_path, {**weights, "scale_factor": torch.tensor(value)})
    with pytest.raises(ValueError, match="scale_factor of .*: a positive number is needed"):
        load_model(path)


# --- other kinds of files --------------------------------------------------------------------------------------------

UNET = "model.diffusion_model.input_blocks.0.0.weight"
SAFE: dict[str, tuple[str, list[str]]] = {
    "kohya LoRA": (
        "a LoRA",
        [
            "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
            "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight",
            "lora_unet_down_blocks_0_attentions_0_proj_in.alpha",
            "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        ],
    ),
    "diffusers LoRA": ("a LoRA", ["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight"]),
    "older diffusers LoRA": ("a LoRA", ["down_blocks.0.attentions.0.attn1.processor.to_k_lora.down.weight"]),
    "PEFT": ("a LoRA", ["base_model.model.down_blocks.0.attentions.0.to_q.lora_B.default.weight"]),
    "LoHa": ("a LoRA", ["lora_unet_mid_block_resnets_0_conv1.hada_w1_a", "lora_te1_text_model_x.hada_w2_b"]),
    "Flux LoRA": ("a LoRA", ["transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight"]),
    "ControlNet": ("a ControlNet", ["control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"]),
    "ControlNet with its model": ("a ControlNet", ["control_model.input_hint_block.0.weight", UNET]),
    "diffusers ControlNet": ("a ControlNet", ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.x.weight"]),
    "Control-LoRA": ("a ControlNet", ["lora_controlnet", "input_hint_block.0.weight", "input_blocks.1.0.x.up"]),
    "SDXL": ("Stable Diffusion XL", ["conditioner.embedders.1.model.ln_final.weight", UNET]),
    "SDXL's U-Net": ("Stable Diffusion XL", ["model.diffusion_model.label_emb.0.0.weight", UNET]),
    "SD 1": ("Stable Diffusion 1", ["cond_stage_model.transformer.text_model.final_layer_norm.weight", UNET]),
    "SD 2": ("Stable Diffusion 2", ["cond_stage_model.model.ln_final.weight", UNET]),
    "SD 3": ("Stable Diffusion 3", ["model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight"]),
    "Flux": ("Flux", ["double_blocks.0.img_attn.norm.key_norm.scale", "single_blocks.0.linear1.weight"]),
    "Flux, ComfyUI": ("Flux", ["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"]),
    "Flux, diffusers": ("Flux", ["single_transformer_blocks.0.attn.norm_k.weight", "transformer_blocks.0.x.weight"]),
    "textual inversion": ("a textual inversion", ["emb_params"]),
    "textual inversion, SDXL": ("a textual inversion", ["clip_g", "clip_l"]),
    "textual inversion, diffusers": ("a textual inversion", ["<cat-toy>"]),
    "VAE": ("an autoencoder (VAE) alone", ["encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.bias"]),
    "VAE, diffusers": ("an autoencoder (VAE) alone", ["decoder.up_blocks.0.resnets.0.conv1.bias", "quant_conv.bias"]),
    "VAE with its prefix": ("an autoencoder (VAE) alone", ["first_stage_model.encoder.down.0.block.0.conv1.weight"]),
    "T2I-Adapter": ("a T2I-Adapter", ["body.0.block1.weight", "conv_in.weight"]),
    "T2I-Adapter, diffusers": ("a T2I-Adapter", ["adapter.body.0.resnets.0.block1.weight"]),
    "IP-Adapter": ("an IP-Adapter", ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"]),
    "AnimateDiff": ("AnimateDiff", ["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"]),
    "diffusers' U-Net": ("a U-Net of diffusers alone", ["down_blocks.0.resnets.0.conv1.weight"]),
    "CLIP": ("a text encoder alone", ["text_model.encoder.layers.0.mlp.fc1.weight"]),
    "T5": ("a text encoder alone", ["encoder.block.0.layer.0.SelfAttention.k.weight"]),
    "ESRGAN": ("an upscaler", ["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"]),
    "LDM of classes": ("of classes", ["cond_stage_model.embedding.weight", UNET]),
    "VQ": ("VQ autoencoder", ["first_stage_model.quantize.embedding.weight", UNET]),
}  # names as these files have been published


@pytest.mark.parametrize("kind", SAFE)
@pytest.mark.parametrize("yaml", [False, True])
def test_other_files_are_named_for_what_they_are(tmp_path, kind, yaml, capsys):
    family, names = SAFE[kind]
    if yaml:
        save_companions(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({name: torch.ones(4, 4) for name in names}, path)
    assert main([str(path)]) == 0
    assert family in capsys.readouterr().out.splitlines()[1]
    with pytest.raises(ValueError) as caught:
        load_model(*find_model(tmp_path))
    assert family in str(caught.value) and "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_word_that_was_learned_shows_by_its_shape(tmp_path):
    torch.save({"sks": torch.ones(768)}, tmp_path / "learned_embeds.bin")
    with pytest.raises(ValueError, match="is a textual inversion"):
        load_model(tmp_path / "learned_embeds.bin")


@pytest.mark.parametrize(
    "content, family",
    [
        ({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(1, 768)}, "name": "x"}, "a textual inv"),
        ({"image_proj": {"proj.weight": torch.ones(2)}, "ip_adapter": {"1.to_k_ip.weight": torch.ones(2)}}, "an IP-"),
    ],
)
def test_nested_files_are_named_for_what_they_are(tmp_path, content, family):
    torch.save(content, tmp_path / "x.pt")
    for use in (load_model, lambda path: main([str(path)])):
        with pytest.raises(ValueError, match=f"x.pt is {family}"):
            use(tmp_path / "x.pt")


def gguf(architecture: str) -> bytes:
    """Write the header of a GGUF file, version 3: magic, version, counts, and its first entry."""
    key, name = b"general.architecture", architecture.encode()
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(name)) + name
    return b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + entry + bytes(64)


@pytest.mark.parametrize(
    "content, words",
    [(gguf("flux"), "GGUF file: quantised weights of flux"), (b"GGUF" + bytes(60), "GGUF file: quantised weights for")],
)
@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors"])
def test_gguf_files_are_named(tmp_path, content, words, name):
    (tmp_path / name).write_bytes(content)
    for use in (load_model, lambda path: main([str(path)])):
        with pytest.raises(ValueError, match=words):
            use(tmp_path / name)


def test_own_models_are_not_refused(tmp_path, weights, capsys):
    """A few tensors with names of additions are what they always were: unknown."""
    path = save_model(tmp_path, {**weights, "lora.down": torch.ones(1)})
    with pytest.raises(ValueError, match="1 unknown .lora.down."):
        load_model(path)
    assert main([str(save_model(tmp_path, weights))]) == 0
    assert "family: the built-in model's kind" in capsys.readouterr().out
    assert not next(family for family in FAMILIES if family.fits(list(weights))).foreign


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ('{"_class_name": "StableDiffusionPipeline"}', "is Stable Diffusion, a StableDiffusionPipeline, which the"),
        ('{"_class_name": "FluxPipeline"}', "is a FluxPipeline, which the library diffusers reads .*; only LDMText"),
        ('{"_class_name": "LDMTextToImagePipeline"}', "has no vqvae, bert, scheduler: LDMTextToImagePipeline, with"),
        ("", "is a pipeline with a text_encoder, as that of Stable Diffusion, which the "),
    ],
)
def test_a_pipeline_of_another_kind_is_named(index, words, tmp_path):
    for name in ("unet", "text_encoder"):
        (tmp_path / name).mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    if index:
        (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=words) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_what_macos_leaves_is_no_model(tmp_path, weights):
    save_model(tmp_path, weights)
    shutil.copy(tmp_path / "model.yaml", tmp_path / "._model.safetensors")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "._model.safetensors").touch()
    assert find_model(tmp_path)[0].name == "model.safetensors"
    with pytest.raises(ValueError, match="models in .*: none$"):
        find_model(tmp_path / "absent")
