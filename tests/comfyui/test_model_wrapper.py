"""Voice Noise to Model: what its wrapper hands on, with an executor in the place of ComfyUI's sampling."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.comfyui.packs import NestedTensor, load_pack

OTHERS = ("sampler", "sigmas", "mask", "callback", True)


class Source:
    """A NOISE that counts how often it is asked, and for which shapes."""

    seed = 77

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def generate_noise(self, latent: dict[str, Any]) -> Any:
        samples = latent["samples"]
        if getattr(samples, "is_nested", False):
            self.asked.append([tuple(part.shape) for part in samples.unbind()])
            return NestedTensor([torch.full_like(part, 2.0 + at) for at, part in enumerate(samples.unbind())])
        self.asked.append(tuple(samples.shape))
        return torch.full_like(samples, 2.0)


class Model:
    """A MODEL with the two methods that the node calls."""

    def __init__(self) -> None:
        self.wrappers: list[Any] = []

    def clone(self) -> "Model":
        copy = Model()
        copy.wrappers = list(self.wrappers)
        return copy

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.append((kind, key, wrapper))


def pack_latents(parts: list[Tensor]) -> tuple[Tensor, list[torch.Size]]:
    return torch.cat([part.reshape(len(part), 1, -1) for part in parts], dim=-1), [part.shape for part in parts]


def unpack_latents(packed: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    sizes = [shape[1:].numel() for shape in shapes]
    return [part.reshape(shape) for part, shape in zip(packed.split(sizes, dim=-1), shapes, strict=True)]


@pytest.fixture
def comfy(monkeypatch) -> None:
    """Those modules of ComfyUI that the wrapper imports."""
    parts: dict[str, dict[str, Any]] = {
        "comfy": {},
        "comfy.patcher_extension": {"WrappersMP": SimpleNamespace(OUTER_SAMPLE="outer_sample")},
        "comfy.nested_tensor": {"NestedTensor": NestedTensor},
        "comfy.utils": {"pack_latents": pack_latents, "unpack_latents": unpack_latents},
    }
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def wrapper(comfy, source, tmp_path) -> Any:
    """The wrapper that the node puts on a clone of the model."""
    import config

    (tmp_path / "pack").symlink_to(config.REPO_DIR / "comfyui")
    node = load_pack(tmp_path / "pack").NODE_CLASS_MAPPINGS["VoicetoimgNoiseToModel"]()
    model = Model()
    (changed,) = getattr(node, node.FUNCTION)(model=model, noise=source)
    assert changed is not model and not model.wrappers
    ((kind, _, wrapper),) = changed.wrappers
    assert kind == "outer_sample"
    return wrapper


def test_a_comfyui_without_wrappers(wrapper, source, monkeypatch):
    import comfyui

    monkeypatch.setitem(sys.modules, "comfy.patcher_extension", None)
    with pytest.raises(ValueError, match="^Voice Noise to Model: this ComfyUI is from before"):
        comfyui.NODE_CLASS_MAPPINGS["VoicetoimgNoiseToModel"]().apply(Model(), source)


def executor(*arguments: Any, **more: Any) -> tuple[Any, ...]:
    """Take the place of the sampling: return what it would get."""
    return arguments, more


def test_noise_and_seed_are_replaced_once(wrapper, source):
    noise, latent = torch.randn(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    arguments, more = wrapper(executor, noise, latent, *OTHERS, 5)
    assert torch.equal(arguments[0], torch.full_like(noise, 2.0)) and arguments[1] is latent
    assert arguments[2:] == (*OTHERS, 77) and not more
    assert source.asked == [(2, 4, 8, 8)]


def test_arguments_by_name_and_those_of_newer_versions_are_handed_on(wrapper):
    noise, shapes = torch.randn(1, 4, 8, 8), [torch.Size((1, 4, 8, 8))]
    arguments, more = wrapper(executor, noise, noise, "sampler", "sigmas", seed=5, latent_shapes=shapes, newer="x")
    assert arguments[2:] == ("sampler", "sigmas", None, None, False, 77)
    assert more == {"latent_shapes": shapes, "newer": "x"}
    arguments, _ = wrapper(executor, noise, noise, *OTHERS, 5, "ninth")
    assert arguments[7:] == (77, "ninth")


def test_zeros_are_left_alone(wrapper, source):
    """KSampler (Advanced) without add_noise goes on where another sampler has stopped."""
    noise, latent = torch.zeros(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    arguments, _ = wrapper(executor, noise, latent, *OTHERS, 5)
    assert arguments[0] is noise and arguments[1] is latent and arguments[2:] == (*OTHERS, 5)
    assert not source.asked


def test_nested_latents_are_unpacked_and_packed_again(wrapper, source):
    parts = [torch.zeros(2, 128, 2, 4, 4), torch.zeros(2, 8, 5, 16)]
    latent, shapes = pack_latents(parts)
    arguments, more = wrapper(executor, torch.randn(latent.shape), latent, *OTHERS, 5, latent_shapes=shapes)
    video, sound = unpack_latents(arguments[0], shapes)
    assert (video == 2).all() and (sound == 3).all()
    assert source.asked == [[tuple(part.shape) for part in parts]]
    assert arguments[1] is latent and more == {"latent_shapes": shapes}
