"""Single files under the published names, LoRAs, another autoencoder, and files that lack something."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import painting
from ldm.diffusers_names import autoencoder_name, unet_name
from painting.painter import PaintingNote
from painting.pipelines import loading
from painting.pipelines import painter as pipeline_painter
from painting.pipelines.files import LAYOUTS, find_pipeline
from painting.pipelines.loading import clip_tokenizer, clip_vocabulary, import_diffusers
from tests.painting import tiny_pipelines

pytestmark = pytest.mark.slow
KINDS = {"sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
SIZE = {"height": 64, "width": 96}


# --- the published names, written down here and not taken from diffusers ----------------------------------------------
def open_clip(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a text encoder by their names in OpenCLIP."""
    for name, tensor in tensors.items():
        name = name.removeprefix("text_model.").removeprefix("encoder.")
        parts = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1":
            "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
        fixed = {
            "embeddings.token_embedding.weight": "token_embedding.weight",
            "embeddings.position_embedding.weight": "positional_embedding",
            "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias",
        }  # fmt: skip
        if name == "text_projection.weight":
            yield "text_projection", tensor.T.contiguous()
        elif name in fixed:
            yield fixed[name], tensor
        elif match := re.fullmatch(r"layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            three = [
                tensors[next(n for n in tensors if n.endswith(name.replace("q_proj", f"{x}_proj")))] for x in "qkv"
            ]
            yield f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}", torch.cat(three)
        elif (match := re.fullmatch(r"layers\.(\d+)\.(.*)\.(weight|bias)", name)) and match[2] in parts:
            yield f"transformer.resblocks.{match[1]}.{parts[match[2]]}.{match[3]}", tensor


def original_unet(name: str, config: Any) -> str:
    if match := re.fullmatch(r"add_embedding\.linear_([12])\.(weight|bias)", name):
        return f"model.diffusion_model.label_emb.0.{2 * int(match[1]) - 2}.{match[2]}"
    return unet_name(name, config["layers_per_block"], config["up_block_types"])


def in_one_file(pipeline: Any, kind: str) -> dict[str, Tensor]:
    """Return all weights of a pipeline by the names of its published single file."""
    levels = len(pipeline.vae.config.block_out_channels)
    tensors = {original_unet(name, pipeline.unet.config): x for name, x in pipeline.unet.state_dict().items()}
    for name, tensor in pipeline.vae.state_dict().items():
        new = autoencoder_name(name, levels)
        of_attention = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", new)
        tensors[new] = tensor[:, :, None, None] if of_attention else tensor
    first = {name.removeprefix("text_model."): x for name, x in pipeline.text_encoder.state_dict().items()}
    if kind == "sd2":
        tensors |= {f"cond_stage_model.model.{name}": x for name, x in open_clip(first)}
    else:
        prefix = {"sd1": "cond_stage_model", "sdxl": "conditioner.embedders.0"}[kind]
        tensors |= {f"{prefix}.transformer.text_model.{name}": x for name, x in first.items()}
    if kind == "sdxl":
        second = open_clip(dict(pipeline.text_encoder_2.state_dict()))
        tensors |= {f"conditioner.embedders.1.model.{name}": x for name, x in second}
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def small_clip(width: int, projection: bool = False) -> Any:
    return tiny_pipelines.randomise(tiny_pipelines.clip(projection, width))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save a folder of each kind; beside it, NAME.safetensors with the same weights."""
    import diffusers

    root, made = tmp_path_factory.mktemp("single"), {}
    for kind, name in KINDS.items():
        parts = dict(tiny_pipelines.make_pipeline(name).components)
        torch.manual_seed(1)  # so that weights do not depend on the tests before
        linear = {"use_linear_projection": kind != "sd1"}
        if kind == "sdxl":  # the text encoders are told apart by their widths
            parts["text_encoder_2"] = small_clip(64, True)
            parts["unet"] = tiny_pipelines.xl_unet(32 + 64, 64)
        else:
            parts["unet"] = tiny_pipelines.unet(**linear)
            parts["requires_safety_checker"] = False
        tiny_pipelines.randomise(parts["unet"])
        pipeline = getattr(diffusers, name)(**parts)
        made[kind] = root / kind
        pipeline.save_pretrained(made[kind])
        save_file(in_one_file(pipeline, kind), root / f"{kind}.safetensors")
    return made


def paint(model: Path, **how: Any) -> np.ndarray:
    painter = painting.load_painter(model, precision=how.pop("precision", "fp32"), device="cpu", **how)
    x_T = torch.randn(1, *painter.latent_shape(**SIZE), generator=torch.Generator().manual_seed(1))
    return np.asarray(painting.paint("a red cat", x_T, painter=painter, steps=2, **SIZE))


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_equals_the_folder(saved, kind, tmp_path, capfd):
    single = shutil.copy(saved[kind].with_suffix(".safetensors"), tmp_path)
    configs = tmp_path / kind
    shutil.copytree(saved[kind], configs, ignore=shutil.ignore_patterns("*.safetensors"))
    assert np.array_equal(paint(Path(single)), paint(saved[kind]))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("layout, counts", [
    # as counted in the published models
    ("sd1", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
    ("sd2", {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}),
    ("sd2-base", {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}),
    ("sdxl", {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840}),
])  # fmt: skip
def test_the_configs_that_ship_describe_the_published_models(layout, counts):
    import diffusers
    import transformers

    index = json.loads((LAYOUTS / layout / "model_index.json").read_text())
    for part, expected in counts.items():
        library, name = index[part]
        config = json.loads((LAYOUTS / layout / part / "config.json").read_text())
        with torch.device("meta"):
            if library == "diffusers":
                model = getattr(diffusers, name).from_config(config)
            else:
                model = getattr(transformers, name)(transformers.CLIPTextConfig(**config))
        assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_the_tokenizer_that_ships_is_clips():
    import_diffusers()
    words, merges = clip_vocabulary()
    assert len(words) == 49_408 and len(merges) == 48_894
    for pad, number in (("<|endoftext|>", 49_407), ("!", 0)):
        ids = clip_tokenizer(pad)("a photo of a cat", padding="max_length", max_length=9).input_ids
        assert ids == [49_406, 320, 1125, 539, 320, 2368, 49_407, number, number]


def test_names_and_steps_of_single_files(saved, tmp_path):
    for name, sampler, steps, side in (
        ("dreamshaper_8", "plms", 50, 512), ("sd_turbo", "euler", 4, 512), ("photon_lcm", "lcm", 4, 512),
    ):  # fmt: skip
        path = tmp_path / f"{name}.safetensors"
        shutil.copy(saved["sd1"].with_suffix(".safetensors"), path)
        found: Any = find_pipeline(path)
        assert (found.defaults["sampler"], found.defaults["steps"], found.defaults["height"]) == (sampler, steps, side)
    for name, configs in (("v2-1_768-ema-pruned", "sd2"), ("v2-1_512-ema-pruned", "sd2-base")):
        shutil.copy(saved["sd2"].with_suffix(".safetensors"), path := tmp_path / f"{name}.safetensors")
        found = find_pipeline(path)
        assert found.configs == LAYOUTS / configs


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_float32(saved, precision):
    full, half = (paint(saved["sd1"], precision=kind).astype(int) for kind in ("fp32", precision))
    assert 0 < np.abs(full - half).mean() < 12


def test_in_bfloat16_too_the_image_is_that_of_the_pipelines_own_draw(saved):
    painter: Any = painting.load_painter(saved["sd1"], precision="bf16", device="cpu")
    x_T = torch.randn(1, *painter.latent_shape(**SIZE), generator=torch.Generator().manual_seed(1))
    ours = np.asarray(painting.paint("a red cat", x_T, painter=painter, steps=2, **SIZE))
    (alone,) = painter.pipeline("a red cat", **SIZE, num_inference_steps=2, generator=torch.Generator().manual_seed(1))[
        0
    ]
    assert np.array_equal(ours, np.asarray(alone))


# --- memory -----------------------------------------------------------------------------------------------------------
class StandIn:
    """Stands in for a pipeline, and for a GPU that this machine may lack: it records where its parts should be."""

    scheduler = None

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def to(self, device: torch.device) -> None:
        self.asked.append(("whole", device.type))

    def enable_model_cpu_offload(self, device: torch.device) -> None:
        self.asked.append(("parts", device.type))

    def enable_sequential_cpu_offload(self, device: torch.device) -> None:
        self.asked.append(("layers", device.type))

    def set_progress_bar_config(self, disable: bool) -> None:
        self.asked.append(("no bar", disable))


def load_stand_in(saved: dict[str, Path], monkeypatch: Any, stand_in: StandIn, offload: str | None, free: int) -> None:
    found: Any = find_pipeline(saved["sd1"])
    monkeypatch.setattr(loading, "_read_folder", lambda *_: stand_in)
    monkeypatch.setattr(loading, "free_memory", lambda device: free)
    loading.load_diffusers_painter(found, "bf16", torch.device("cuda"), offload=offload)


@pytest.mark.parametrize("offload, how", [(None, "whole"), ("model", "parts"), ("sequential", "layers")])
def test_offloading_is_asked_of_the_pipeline(saved, monkeypatch, offload, how):
    stand_in = StandIn()
    load_stand_in(saved, monkeypatch, stand_in, offload, 1 << 40)
    assert stand_in.asked == [(how, "cuda"), ("no bar", True)]


def test_too_little_memory_is_said_before_it_is_taken(saved, monkeypatch):
    assert loading.free_memory(torch.device("cpu")) > 1 << 20
    with pytest.warns(PaintingNote, match="the weights take 1 MB of memory, and 1 MB are free; try a lower precision"):
        load_stand_in(saved, monkeypatch, StandIn(), None, 10)


@pytest.mark.parametrize("fails", [
    "CUDA out of memory. Tried to allocate 20 GiB", "DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    "DefaultCPUAllocator: not enough memory: you tried to allocate",
])  # fmt: skip
def test_a_model_that_does_not_fit_is_one_line(saved, monkeypatch, fails):
    kind = torch.OutOfMemoryError if "CUDA" in fails else RuntimeError
    stand_in = StandIn()

    def full(device: torch.device) -> None:
        raise kind(fails)

    monkeypatch.setattr(stand_in, "to", full)
    words = "^out of memory: the weights take 1 MB in bf16; try a lower precision, offloading parts of the model, or a"
    with pytest.raises(RuntimeError, match=words):
        load_stand_in(saved, monkeypatch, stand_in, None, 1 << 40)


def test_offloading_needs_a_gpu(saved):
    with pytest.raises(ValueError, match="and there is no GPU"):
        paint(saved["sd1"], offload="model")


def test_large_images_are_decoded_in_tiles(saved, monkeypatch):
    painter: Any = painting.load_painter(saved["sd1"], precision="fp32", device="cpu")
    x_T = torch.randn(1, *painter.latent_shape(**SIZE), generator=torch.Generator().manual_seed(1))
    images = []
    for tiled_from in (64 * 96 + 1, 64 * 96):
        monkeypatch.setattr(pipeline_painter, "TILED_FROM", tiled_from)
        images.append(np.asarray(painting.paint("a red cat", x_T, painter=painter, steps=1, **SIZE)))
        assert painter.pipeline.vae.use_tiling == (tiled_from == 64 * 96) and painter.pipeline.vae.use_slicing
    assert images[0].shape == images[1].shape and not np.array_equal(images[0], images[1])


# --- LoRAs, autoencoders ----------------------------------------------------------------------------------------------
def save_lora(path: Path, width: int = 16) -> Path:
    """Write a LoRA of rank 2 for one attention of the tiny U-Net, in kohya's names."""
    base = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    generator = torch.Generator().manual_seed(3)
    save_file({
        f"{base}.lora_down.weight": torch.randn(2, width, generator=generator),
        f"{base}.lora_up.weight": torch.randn(width, 2, generator=generator),
        f"{base}.alpha": torch.tensor(2.0),
    }, path)  # fmt: skip
    return path


def test_a_lora_changes_the_image_by_its_weight(saved, tmp_path):
    lora = save_lora(tmp_path / "mine.safetensors")
    plain, none, full = paint(saved["sd1"]), *(paint(saved["sd1"], loras=[(lora, weight)]) for weight in (0, 1))
    assert np.abs(plain.astype(int) - none).max() <= 1
    assert np.abs(plain.astype(int) - full).mean() > 1


@pytest.mark.parametrize("width, words", [(24, "cannot be loaded")])
def test_a_lora_of_another_model_is_one_line(saved, tmp_path, width, words):
    lora = save_lora(tmp_path / "other.safetensors", width)
    with pytest.raises(ValueError, match=words) as caught:
        paint(saved["sd1"], loras=[(lora, 1.0)])
    assert "\n" not in str(caught.value)


def test_another_autoencoder(saved, tmp_path):
    vae: Any = tiny_pipelines.randomise(tiny_pipelines.kl())
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.05)
    vae.save_pretrained(tmp_path / "vae")
    changed = paint(saved["sd1"], vae=tmp_path / "vae")
    assert np.abs(changed.astype(int) - paint(saved["sd1"])).mean() > 3
    other: Any = tiny_pipelines.randomise(tiny_pipelines.kl(16))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="latents of 16 channels, and Stable Diffusion 1 and 2 of 4"):
        paint(saved["sd1"], vae=tmp_path / "other")


@pytest.mark.parametrize("name, library", [
    ("KandinskyV22CombinedPipeline", None), ("StableCascadeCombinedPipeline", None),
    ("StableCascadeCombinedPipeline", "wuerstchen"),  # as published; diffusers saves it as its own
])  # fmt: skip
def test_prior_and_decoder_in_one_folder(name, library, tmp_path):
    folder = tmp_path / "model"
    tiny_pipelines.make_pipeline(name).save_pretrained(folder)
    if library:
        index = json.loads((folder / "model_index.json").read_text())
        index["vqgan"][0] = library
        (folder / "model_index.json").write_text(json.dumps(index))
    painter = painting.load_painter(folder, precision="fp32", device="cpu")
    size = {"height": 128, "width": 128}
    x_T = torch.randn(1, *painter.latent_shape(**size), generator=torch.Generator().manual_seed(1))
    assert np.asarray(painting.paint("a red cat", x_T, painter=painter, steps=2, **size)).std() > 5


# --- what lacks something ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("part, file", [("unet", "diffusion_pytorch_model"), ("text_encoder", "model")])
def test_missing_weights_are_one_line(saved, tmp_path, part, file):
    folder = tmp_path / "model"
    shutil.copytree(saved["sd1"], folder)
    path = folder / part / f"{file}.safetensors"
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[3])
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"{folder} (lacks weights|cannot be loaded)") as caught:
        paint(folder)
    assert "\n" not in str(caught.value)


def test_a_single_file_without_its_autoencoder_is_one_line(saved, tmp_path):
    tensors = load_file(saved["sd1"].with_suffix(".safetensors"))
    shutil.copytree(saved["sd1"], tmp_path / "it", ignore=shutil.ignore_patterns("*.safetensors"))
    save_file({n: x for n, x in tensors.items() if "first_stage" not in n}, tmp_path / "it.safetensors")
    with pytest.raises(ValueError, match=f"{tmp_path / 'it.safetensors'} ") as caught:
        paint(tmp_path / "it.safetensors")
    assert "\n" not in str(caught.value)
