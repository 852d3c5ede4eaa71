"""Test loading, finding, describing and converting weights, from every format and from hostile files."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import config
from ldm.__main__ import main
from ldm.checkpoint import DTYPES, find_model, load_model, read_config, read_model
from ldm.diffusers_folder import read_diffusers_folder
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.tensor_files import (
    OLD_PICKLE,
    SAFETENSORS,
    ZIP_PICKLE,
    _restricted_pickle,
    read_tensors,
    sniff,
    write_safetensors,
)
from tests.ldm.tiny_pipeline import PROMPT, SIZE, WORDS, make_pipeline, relative_error

pytestmark = [
    pytest.mark.slow,  # importing diffusers takes ten seconds
    pytest.mark.filterwarnings("ignore"),  # of diffusers and transformers about themselves
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("diffusers")
    make_pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def state(folder) -> dict[str, torch.Tensor]:
    """Weights by their CompVis names."""
    return {name: tensor.clone() for name, tensor in load_model(folder).state_dict().items()}


@pytest.fixture(scope="session")
def node(folder) -> dict:
    return read_diffusers_folder(folder)[1]


@pytest.fixture
def place(tmp_path, folder, node) -> Path:
    """Make a folder with the yaml and the vocabulary; tests write a file `model.*` into it."""
    OmegaConf.save(OmegaConf.create({"model": node}), tmp_path / "model.yaml")
    shutil.copy(folder / "tokenizer" / "tokenizer.json", tmp_path)
    return tmp_path


def schedule() -> dict[str, torch.Tensor]:
    """Make the leftovers of CompVis's checkpoints."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    return {
        "betas": betas.float(),
        "alphas_cumprod": alphas_cumprod.float(),
        "alphas_cumprod_prev": torch.ones(1000),
        "sqrt_recipm1_alphas_cumprod": torch.ones(1000),
        "posterior_mean_coef2": torch.ones(1000),
        "first_stage_model.loss.logvar": torch.zeros(()),
        "first_stage_model.loss.discriminator.main.0.weight": torch.ones(3),
        "cond_stage_model.transformer.to_logits.weight": torch.ones(14, 48),
    }


def same(model: LatentDiffusion, state: dict[str, torch.Tensor]) -> bool:
    ours = model.state_dict()
    return ours.keys() == state.keys() and all(torch.equal(ours[name], state[name]) for name in state)


@torch.no_grad()
def outputs(model: LatentDiffusion) -> list[torch.Tensor]:
    x = torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(1))
    c = model.get_learned_conditioning([PROMPT])
    return [c, model.apply_model(x, torch.tensor([400]), c), model.decode_first_stage(x)]


# --- diffusers folders -----------------------------------------------------------------------------------------------


def test_loaded_model_is_ready_to_sample(folder):
    model = load_model(folder)
    tensors = [*model.parameters(), *model.buffers()]
    assert not any(tensor.is_meta or tensor.requires_grad for tensor in tensors)
    assert not any(module.training for module in model.modules())
    assert model.scale_factor == 0.18215 and model.latent_shape == (4, 8, 8) and model.parameterization == "eps"
    expected = make_pipeline().scheduler.alphas_cumprod.double()
    assert torch.allclose(model.alphas_cumprod, expected, atol=1e-6)


def test_kernels_lie_channels_last_and_maps_follow(folder):
    model = load_model(folder)
    kernels = [tensor for tensor in model.state_dict().values() if tensor.ndim == 4]
    assert kernels and all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    unet = model.model.diffusion_model
    seen = []
    unet.middle_block.register_forward_hook(lambda module, arguments, out: seen.append(out))
    outputs(model)
    assert not seen[0].is_contiguous() and seen[0].is_contiguous(memory_format=torch.channels_last)


def save_variant(target: Path, kind: str) -> None:
    pipeline = make_pipeline()
    if kind == "bin":
        pipeline.save_pretrained(target)
        for part in ("unet", "vqvae", "bert"):
            (weights,) = (target / part).glob("*.safetensors")
            name = "pytorch_model.bin" if part == "bert" else "diffusion_pytorch_model.bin"
            torch.save(load_file(weights), target / part / name)
            weights.unlink()
    elif kind == "sharded":
        pipeline.save_pretrained(target, max_shard_size="200KB")
        assert len(list((target / "unet").glob("*.safetensors"))) > 2
    elif kind == "both":
        pipeline.save_pretrained(target, variant="fp16")
        for path in target.rglob("*.safetensors"):
            save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
        pipeline.save_pretrained(target)
    else:  # the names that diffusers wrote in 2022
        pipeline.save_pretrained(target)
        path = target / "vqvae" / "diffusion_pytorch_model.safetensors"
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        tensors = load_file(path)
        for new, name in old.items():
            tensors = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): t for key, t in tensors.items()}
        save_file(tensors, path)
        (target / "vqvae").rename(target / "vae")


@pytest.mark.parametrize("kind", ["bin", "sharded", "both", "old names"])
def test_every_way_that_diffusers_saves_is_read(tmp_path, state, kind):
    save_variant(tmp_path, kind)
    assert same(load_model(tmp_path), state)


# keys in the jsons of CompVis/ldm-text2im-large-256, which was made with diffusers 0.1
HUB_KEYS = {
    "unet": ("_class_name act_fn attention_head_dim block_out_channels center_input_sample cross_attention_dim "
        "down_block_types downsample_padding flip_sin_to_cos freq_shift in_channels layers_per_block "
        "mid_block_scale_factor norm_eps norm_num_groups out_channels sample_size up_block_types"),
    "vqvae": ("_class_name act_fn block_out_channels down_block_types in_channels latent_channels layers_per_block "
        "norm_num_groups out_channels sample_size up_block_types"),
    "bert": ("activation_function d_model encoder_attention_heads encoder_ffn_dim encoder_layers head_dim "
        "max_position_embeddings model_type scale_embedding vocab_size"),
    "scheduler": "_class_name beta_end beta_schedule beta_start clip_sample num_train_timesteps trained_betas",
}  # fmt: skip


def save_as_on_the_hub(target: Path) -> None:
    """Save pickled weights, the oldest names of the autoencoder's attention, short jsons, and a bare vocabulary."""
    save_variant(target, "old names")
    (target / "vae").rename(target / "vqvae")
    for part, name in (("unet", "diffusion_pytorch"), ("vqvae", "diffusion_pytorch"), ("bert", "pytorch")):
        (weights,) = (target / part).glob("*.safetensors")
        torch.save(load_file(weights), target / part / f"{name}_model.bin")
        weights.unlink()
    for part, keys in HUB_KEYS.items():
        path = next((target / part).glob("*config.json"))
        content = json.loads(path.read_text())
        path.write_text(json.dumps({key: content[key] for key in keys.split() if key in content}))
    for path in (target / "tokenizer").iterdir():
        path.unlink()
    (target / "tokenizer" / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")


def test_the_layout_of_the_hub_is_read(tmp_path, folder, state, capsys):
    path = tmp_path / "ldm-text2im-large-256"
    save_as_on_the_hub(path)
    names = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert {"unet/diffusion_pytorch_model.bin", "bert/pytorch_model.bin", "tokenizer/vocab.txt"} <= names
    assert find_model(path) == (path, None)
    model = load_model(path)
    assert same(model, state)
    for ours, theirs in zip(outputs(model), outputs(load_model(folder)), strict=True):
        assert relative_error(ours, theirs) < 1e-6
    main([str(path)])
    assert "missing: nothing" in capsys.readouterr().out


def test_fp16_variant_is_read_where_there_is_nothing_else(tmp_path, state):
    save_variant(tmp_path, "both")
    for path in tmp_path.rglob("*model.safetensors"):
        path.unlink()
    assert len(list(tmp_path.rglob("*.fp16.safetensors"))) == 3
    assert same(load_model(tmp_path), {name: tensor.half().float() for name, tensor in state.items()})


@pytest.mark.parametrize(
    "part, changes",
    [
        ("unet", {"use_linear_projection": True}),
        ("unet", {"norm_num_groups": 16}),
        ("unet", {"addition_embed_type": "text"}),
        ("unet", {"block_out_channels": [32, 48]}),
        ("unet", {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}),
        ("vqvae", {"_class_name": "VQModel"}),
        ("bert", {"model_type": "clip_text_model"}),
        ("bert", {"head_dim": 32}),
        ("scheduler", {"beta_schedule": "linear"}),
        ("scheduler", {"prediction_type": "sample"}),
    ],
)
def test_other_architectures_are_refused_by_name(tmp_path, folder, part, changes):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / part).glob("*config.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(next(iter(changes.values()))) in str(caught.value)


def test_all_that_is_not_supported_is_named_at_once(tmp_path, folder):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    other: dict[str, dict[str, Any]] = {
        "unet": {"norm_eps": 1e-6, "act_fn": "gelu", "block_out_channels": [32, 48]},
        "vqvae": {"block_out_channels": [32, 32, 64, 80]},
        "bert": {"head_dim": 32, "encoder_attention_heads": 16},
        "scheduler": {"prediction_type": "sample"},
    }
    for part, changes in other.items():
        path = next((tmp_path / part).glob("*config.json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=f"^{tmp_path} is not supported: ") as caught:
        load_model(tmp_path)
    assert str(caught.value).removeprefix(f"{tmp_path} is not supported: ").split("; ") == [
        "the unet has act_fn 'gelu' (it can be 'silu' or 'swish')",
        "the unet has norm_eps 1e-06 (it can be 1e-05)",
        "the unet has block_out_channels [32, 48] (they can be multiples of the first)",
        "the autoencoder has block_out_channels [32, 32, 64, 80] (they can be multiples of the first)",
        "the text encoder has encoder_attention_heads 16 (it can be 8)",
        "the text encoder has head_dim 32 (it can be 64)",
        "the scheduler has prediction_type 'sample' (it can be 'epsilon' or 'v_prediction')",
    ]


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda path: shutil.rmtree(path / "bert"), "has no bert"),
        (lambda path: (path / "unet" / "config.json").unlink(), "has no config.json"),
        (lambda path: (path / "unet" / "config.json").write_text("{"), "cannot be read as json"),
        (lambda path: (path / "unet" / "config.json").write_text("{}"), "lack the key 'block_out_channels'"),
        (lambda path: next((path / "unet").glob("*.safetensors")).unlink(), "holds no weights"),
        (lambda path: (path / "tokenizer" / "tokenizer.json").unlink(), "no vocab.txt or tokenizer.json"),
    ],
)
def test_incomplete_folders_are_refused(tmp_path, folder, damage, words):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    with pytest.raises((ValueError, OSError), match=words):
        load_model(tmp_path)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "absent.safetensors"])
def test_an_index_leads_nowhere_else(tmp_path, folder, shard):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    next((tmp_path / "unet").glob("*.safetensors")).unlink()
    index = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": shard}}))
    with pytest.raises(ValueError, match="names the shard .* which is not in"):
        load_model(tmp_path)


# --- single files ----------------------------------------------------------------------------------------------------


def save(path: Path, tensors: dict, kind: str = SAFETENSORS, **others) -> Path:
    if kind == SAFETENSORS:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(
            {"state_dict": tensors, "epoch": 3, **others}, path, _use_new_zipfile_serialization=kind == ZIP_PICKLE
        )
    return path


@pytest.mark.parametrize("kind", [SAFETENSORS, ZIP_PICKLE, OLD_PICKLE])
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])  # content counts, not the name
def test_compvis_file_gives_what_the_folder_gives(place, folder, state, kind, name):
    path = save(place / name, {**state, **schedule()}, kind)
    assert sniff(path) == kind
    model = load_model(path)
    assert same(model, state)
    for ours, theirs in zip(outputs(model), outputs(load_model(folder)), strict=True):
        assert relative_error(ours, theirs) < 1e-6


def test_a_bare_state_dict_loads(place, state):
    torch.save(state, place / "model.ckpt")
    assert same(load_model(place / "model.ckpt"), state)


@pytest.mark.parametrize("kind", [SAFETENSORS, ZIP_PICKLE])
@pytest.mark.parametrize("stored, dtype", [(torch.float32, torch.bfloat16), (torch.float16, torch.float32)])
def test_weights_come_in_the_precision_that_is_asked_for(place, state, kind, stored, dtype):
    path = save(place / "model.ckpt", {name: tensor.to(stored) for name, tensor in state.items()}, kind)
    model = load_model(path, dtype=dtype)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}
    assert same(model, {name: tensor.to(stored).to(dtype) for name, tensor in state.items()})
    assert model.alphas_cumprod.dtype == torch.float64


def test_running_averages_are_preferred(place, state):
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in state.items()
        if name.startswith("model.")
    }
    extra = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    model = load_model(save(place / "model.ckpt", {**state, **averages, **extra}, ZIP_PICKLE))
    expected = {name: tensor + 1 if name.startswith("model.") else tensor for name, tensor in state.items()}
    assert same(model, expected)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop("model.diffusion_model.out.2.bias"), "1 missing .model.diffusion_model.out.2.bias."),
        (lambda s: s.update({"lora.down": torch.ones(1)}), "1 unknown .lora.down."),
        (lambda s: s.update({"betas2": torch.ones(1)}), "1 unknown .betas2."),
        (lambda s: s.update({"first_stage_model.losses.x": torch.ones(1)}), "unknown .first_stage_model.losses.x."),
        (
            lambda s: s.update({"model.diffusion_model.out.2.bias": torch.ones(5)}),
            r"1 of another shape .model.diffusion_model.out.2.bias is \[5\] and not \[4\].",
        ),
        (lambda s: s.clear() or s.update(a=torch.ones(1)), r"\d{3} missing .*, ….; 1 unknown .a."),
    ],
)
def test_every_key_and_shape_is_accounted_for(place, state, change, words):
    tensors = dict(state)
    change(tensors)
    with pytest.raises(ValueError, match=words) as caught:
        load_model(save(place / "model.safetensors", tensors))
    assert "\n" not in str(caught.value) and f"{len(state)} tensors" in str(caught.value)


@pytest.mark.parametrize("end, fits", [(0.012, True), (0.0155, False)])
def test_another_noise_schedule_is_refused(place, state, node, end, fits):
    path = save(place / "model.safetensors", {**state, **schedule()})
    node = {**node, "params": {**node["params"], "linear_end": end}}
    OmegaConf.save(OmegaConf.create({"model": node}), place / "model.yaml")
    if fits:
        load_model(path)
        return
    with pytest.raises(ValueError, match="another noise schedule"):
        load_model(path)


def test_a_schedule_of_another_length_is_refused(place, state):
    path = save(place / "model.safetensors", {**state, "alphas_cumprod": schedule()["alphas_cumprod"][:500].clone()})
    with pytest.raises(ValueError, match="500 steps"):
        load_model(path)


@pytest.mark.parametrize("shape", [(), (0,), (2, 500)])
def test_a_schedule_that_is_none_is_refused(place, state, shape):
    path = save(place / "model.safetensors", {**state, "alphas_cumprod": torch.ones(shape)})
    with pytest.raises(ValueError, match="alphas_cumprod of shape"):
        load_model(path)


def test_a_measured_scale_factor_is_taken_over(place, state):
    path = save(place / "model.safetensors", {**state, "scale_factor": torch.tensor(0.25)})
    assert load_model(path).scale_factor == 0.25


def test_a_file_without_yaml_says_so(tmp_path, state):
    with pytest.raises(ValueError, match="needs a yaml .* no model.yaml beside it"):
        load_model(save(tmp_path / "model.safetensors", state))


@pytest.mark.parametrize(
    "text, words",
    [
        ("model: [", "cannot be read as a yaml"),
        ("\x00", "cannot be read as a yaml"),
        ("data: 1", "describes no model"),
        ("- 1", "describes no model"),
        ("model: {params: {}}", "needs a target"),
        ("model: {target: os.system, params: {command: ls}}", "is refused"),
        ("model: {target: torch.nn.Identity}", "a LatentDiffusion is needed"),
    ],
)
def test_wrong_yamls_are_refused_in_one_line(place, state, text, words):
    (place / "model.yaml").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        load_model(save(place / "model.safetensors", state))
    assert "\n" not in str(caught.value)


def save_half(path: Path, kind: str) -> None:
    save(path, {"a": torch.ones(1000)}, kind)
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git-lfs pointer"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html><html>404"), "web page"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n" + bytes(100)), "neither .safetensors nor a torch .ckpt"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "damaged or cut short"),
        (lambda path: path.write_bytes(b"\x80\x02}q\x00."), "damaged or cut short|holds no"),
        (lambda path: save_half(path, SAFETENSORS), "damaged or cut short"),
        (lambda path: save_half(path, ZIP_PICKLE), "damaged or cut short"),
        (lambda path: save_half(path, OLD_PICKLE), "damaged or cut short"),
        (lambda path: torch.save([1, 2], path), "holds a list, not a state dict"),
        (lambda path: torch.save({"a": 1}, path), "holds no named tensors"),
        (lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path), "cannot be read"),
    ],
)
def test_files_that_hold_no_weights_are_refused_in_one_line(place, make, words):
    make(place / "model.ckpt")
    with pytest.raises(ValueError, match=words) as caught:
        load_model(place / "model.ckpt")
    assert "\n" not in str(caught.value)


# --- pickles ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign_module(monkeypatch):
    """Make a module that a checkpoint refers to, and that the test then removes from sys.modules."""
    module = types.ModuleType("departed_lightning.callbacks")
    source = """
import collections
class ModelCheckpoint:
    def __init__(self): self.best = 3.5; self.seen = [1, 2]
class Config(dict): pass
class Names(list): pass
class Slots:
    __slots__ = ("a",)
class Reduced:
    def __reduce__(self): return touch, (PATH,)
def touch(path):
    open(path, "w").close()
    return path
"""
    exec(source, module.__dict__)
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) == "builtins":
            value.__module__ = module.__name__
    monkeypatch.setitem(sys.modules, "departed_lightning", types.ModuleType("departed_lightning"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("kind", [ZIP_PICKLE, OLD_PICKLE])
def test_foreign_objects_are_ignored_and_tensors_loaded(place, state, foreign_module, monkeypatch, tmp_path, kind):
    from collections import Counter, defaultdict
    from pathlib import PurePosixPath

    import numpy as np

    foreign_module.PATH = str(tmp_path / "touched")
    slots = foreign_module.Slots()
    slots.a = 1
    others = {
        "callbacks": {foreign_module.ModelCheckpoint: {"best": torch.tensor(0.5)}, "instance": slots},
        "checkpoint": foreign_module.ModelCheckpoint(),
        "hyper_parameters": foreign_module.Config(a=1, b=foreign_module.Names([1, 2])),
        "reduced": foreign_module.Reduced(),
        "misc": [np.float64(3), np.arange(3), PurePosixPath("a/b"), Counter("aab"), defaultdict(list, a=[1])],
        "types": [type(None), complex(1, 2), {1, 2}, torch.float16, torch.Size([1]), ValueError("x"), slice(1)],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    path = save(place / "model.ckpt", {**state, **schedule()}, kind, **others)
    monkeypatch.delitem(sys.modules, "departed_lightning.callbacks")
    monkeypatch.delitem(sys.modules, "departed_lightning")
    assert same(load_model(path), state)
    assert not (tmp_path / "touched").exists()  # the foreign function in __reduce__ was not called
    assert "departed_lightning.callbacks.ModelCheckpoint" in read_tensors(path).foreign


class Harm:
    """An object whose pickle calls `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def harms(marker: Path) -> dict[str, object]:
    command = f"touch {marker}"
    python = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Harm(os.system, command),
        "subprocess": Harm(subprocess.check_output, ["touch", str(marker)]),
        "eval": Harm(eval, python),
        "exec": Harm(exec, python),
        "open": Harm(open, str(marker), "w"),
        "import": Harm(__import__, "antigravity"),
        "getattr": Harm(getattr, Harm(__import__, "os"), "system"),
        "nested pickle": Harm(pickle.loads, pickle.dumps(Harm(os.system, command))),
        "makedirs": Harm(os.makedirs, str(marker)),
    }


@pytest.mark.parametrize("kind", [ZIP_PICKLE, OLD_PICKLE])
@pytest.mark.parametrize("name", list(harms(Path())))
def test_code_in_a_pickle_is_not_run_and_refused(place, tmp_path, kind, name):
    marker = tmp_path / "harmed"
    path = save(place / "model.ckpt", {"a": torch.ones(1)}, kind, callbacks=[harms(marker)[name]])
    with pytest.raises(ValueError, match="tries to run code when it is loaded .*Nothing was run") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_the_marker_appears_where_a_pickle_is_believed(tmp_path):
    """Check that the test above would notice."""
    marker = tmp_path / "harmed"
    torch.save({"a": harms(marker)["os.system"]}, tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=False)
    assert marker.exists()


def test_a_pickle_cannot_change_torch(place, state):
    """A pickle sets state on a copy of the function that it gets."""

    before = dict(vars(torch._utils._rebuild_tensor_v2))
    stream = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x05\x00\x00\x00stainK\x01sb."
    _restricted_pickle([]).load(io.BytesIO(stream))
    assert vars(torch._utils._rebuild_tensor_v2) == before


# --- finding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, weights, config",
    [
        (["model.yaml", "model.safetensors", "vocab.txt"], "model.safetensors", "model.yaml"),
        (["sd.ckpt", "sd.yaml"], "sd.ckpt", "sd.yaml"),
        (["model.ckpt", "txt2img-1p4B-eval.yaml"], "model.ckpt", "txt2img-1p4B-eval.yaml"),
        (["model.ckpt"], "model.ckpt", None),
        (["model.ckpt", "a.yaml", "b.yaml"], "model.ckpt", None),
        (["model.ckpt", "model.safetensors", "model.yaml"], "model.safetensors", "model.yaml"),
        (["a.ckpt", "b.safetensors", "b.yaml"], "b.safetensors", "b.yaml"),
        (["model_index.json", "model.ckpt"], ".", None),
    ],
)
def test_models_are_found(tmp_path, names, weights, config):
    for name in names:
        (tmp_path / name).touch()
    assert find_model(tmp_path) == (tmp_path / weights, config and tmp_path / config)


@pytest.mark.parametrize(
    "names, words",
    [
        ([], "holds no weights .none.*unet/"),
        (["readme.md"], "holds no weights .readme.md."),
        (["a.ckpt", "b.ckpt"], "more than one set of weights .a.ckpt, b.ckpt."),
    ],
)
def test_folders_that_say_too_little_are_refused(tmp_path, names, words):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=words):
        find_model(tmp_path)


def test_a_missing_folder_names_those_that_are_there(tmp_path):
    (tmp_path / "chladni").mkdir()
    (tmp_path / "chladni" / "a.safetensors").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no model folder .*large; models in .*: chladni$"):
        find_model(tmp_path / "large")


# --- the command line ------------------------------------------------------------------------------------------------


def test_a_file_is_described(place, state, capsys):
    path = save(place / "model.ckpt", {**state, **schedule()}, ZIP_PICKLE, harmless=Path("x"))
    assert main([str(path)]) == 0
    text = capsys.readouterr().out
    for words in (
        "format: pickle in a zip",
        "family: latent diffusion with BERT",
        "precision: float32",
        "U-Net: 0.8 M parameters in",
        "first stage: 1.0 M parameters in",
        "text encoder: 0.",
        "unused: 8 tensors (betas, ",
        "objects not loaded: pathlib",
        "missing: nothing",
    ):
        assert words in text


def test_what_a_file_lacks_is_said(tmp_path, state, capsys):
    tensors = {name: tensor.half() for name, tensor in state.items() if name.startswith("model.")}
    main([str(save(tmp_path / "model.safetensors", tensors))])
    text = capsys.readouterr().out
    assert "precision: float16" in text and "text encoder: none" in text
    assert "missing: the first stage; the text encoder; a yaml" in text and "a vocabulary" in text


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_conversion_keeps_the_weights(tmp_path, place, state, dtype, capsys):
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in state.items()
        if name.startswith("model.")
    }
    source = save(place / "model.ckpt", {**state, **averages, **schedule()}, ZIP_PICKLE)
    out = tmp_path / "converted" / "fast.safetensors"
    assert main([str(source), "--to", str(out), *(["--dtype", dtype] if dtype else [])]) == 0
    written = capsys.readouterr().out
    assert sorted(path.name for path in out.parent.iterdir()) == ["fast.safetensors", "fast.yaml", "tokenizer.json"]
    assert all(f"written: {path}" in written for path in out.parent.iterdir())
    asked = DTYPES.get(dtype, torch.float32)
    assert same(load_model(out, dtype=asked), load_model(source, dtype=asked).state_dict())
    with safe_open(out, framework="pt") as file:  # safetensors' own reader takes it, and finds no leftovers
        assert set(file.keys()) == {*state, "alphas_cumprod"}
        assert file.get_tensor("alphas_cumprod").dtype == torch.float32
        assert file.get_tensor("model.diffusion_model.out.2.bias").dtype == asked


def test_a_diffusers_folder_is_converted(tmp_path, folder, state):
    out = tmp_path / "model.safetensors"
    main([str(folder), "--to", str(out)])
    assert same(load_model(*find_model(tmp_path)), state)


def test_weights_that_do_not_fit_their_yaml_are_not_converted(place, state):
    source = save(place / "model.ckpt", {**state, "surplus": torch.ones(1)}, ZIP_PICKLE)
    with pytest.raises(ValueError, match="1 unknown .surplus."):
        main([str(source), "--to", str(place / "out.safetensors")])
    assert not (place / "out.safetensors").exists()


def test_an_existing_file_is_not_overwritten(place, state):
    source = save(place / "model.ckpt", state, ZIP_PICKLE)
    out = place / "out.safetensors"
    out.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="exists already and is not overwritten"):
        main([str(source), "--to", str(out)])
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([__file__, "--dtype", "bf16"], "--to"),
        (["a.ckpt"], "there is no file or folder a.ckpt"),
        ([__file__, "--to", "b.ckpt"], "must end in .safetensors"),
        ([__file__, "--to", "b.safetensors", "--dtype", "int8"], "int8"),
        ([__file__, "--config", "absent.yaml"], "there is no file absent.yaml"),
    ],
)
def test_wrong_command_lines_end_with_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and words in message


@pytest.mark.parametrize("arguments, status", [(["--help"], 0), ([__file__, "--dtype", "bf16"], 2)])
def test_help_and_a_wrong_flag_answer_before_torch_is_imported(arguments, status):
    code = (
        f"import runpy, sys\nsys.argv = ['ldm', *{arguments}]\n"
        "try: runpy.run_module('ldm', run_name='__main__')\n"
        f"except SystemExit as leaving: assert leaving.code == {status}\n"
        "assert not {'torch', 'numpy', 'omegaconf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=config.REPO_DIR, check=True, capture_output=True)


def test_written_file_is_aligned_and_exact(tmp_path):
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "half": torch.randn(3, 5),
        "wide": torch.randn(2, dtype=torch.float64),
        "scalar": torch.tensor(1.5),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "empty": torch.zeros(0, 4),
    }
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()} | {"half": torch.bfloat16}
    write_safetensors(tmp_path / "x.safetensors", tensors, dtypes)
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name].to(dtypes[name])) for name in tensors)


def test_read_model_refuses_a_yaml_for_a_diffusers_folder(place, folder):
    with pytest.raises(ValueError, match="leave .*model.yaml out"):
        read_model(folder, place / "model.yaml")
    with pytest.raises(ValueError, match="is a folder without the unet/"):
        read_model(place)
    assert read_config(place / "model.yaml")["target"].endswith("LatentDiffusion")


def test_loading_the_builtin_model_imports_nothing_heavy():
    """Any arithmetic on the meta device would import torch's compiler, which takes two seconds."""
    code = (
        "import sys, config\nfrom ldm.checkpoint import load_model\n"
        "assert not {'einops', 'PIL', 'tokenizers'} & set(sys.modules)\n"
        "load_model(config.BUILTIN_MODEL_WEIGHTS)\n"
        "heavy = {'transformers', 'diffusers', 'pytorch_lightning', 'cv2', 'librosa', 'scipy', 'torch._dynamo'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=config.REPO_DIR)
