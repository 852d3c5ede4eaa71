"""Voice Noise, loaded by its path as ComfyUI does: any AUDIO, any latents, the same bits, N(0, I), errors."""

import shutil
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import config
import painting
from audio import gaussianity
from audio.description import WORDS
from audio.qualities import NAMES
from tests.comfyui.packs import Lazy, NestedTensor, audio_of, load_pack
from tests.recordings import speech

LATENTS = (1, 4, 32, 32)
SHAPES = [
    (1, 4, 32, 32),  # SD, 256 pixels
    (1, 4, 24, 40),
    (1, 16, 33, 47),  # SD3, Flux, of no round size
    (2, 128, 16, 8),  # Flux2
    (1, 64, 8, 4),  # Hunyuan Image
    (1, 16, 5, 12, 20),  # Wan, Qwen-Image
    (1, 48, 3, 8, 8),  # Wan 2.2 5B
    (1, 128, 1, 8, 8),  # LTXV
    (1, 3, 96, 64),  # Radiance: pixels
    (1, 64, 512),  # Stable Audio
    (1, 8, 16, 130),  # ACE-Step
    (1, 64, 3072),  # 3-D shapes
    (1, 1024, 16),
    (1, 2048),
]


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> ModuleType:
    """The pack behind a link whose name has a hyphen and a dot."""
    link = tmp_path_factory.mktemp("custom_nodes") / "voice-to.img"
    link.symlink_to(config.REPO_DIR / "comfyui")
    return load_pack(link)


def make(
    pack: ModuleType, audio: Any, strength: float = 1.0, later: str = "from the voice", seed: int = 0, **more: Any
):
    """Run the node as ComfyUI does, in inference mode."""
    node = pack.NODE_CLASS_MAPPINGS["VoicetoimgNoise"]()
    with torch.inference_mode():
        (noise,) = getattr(node, node.FUNCTION)(
            audio=audio, voice_strength=strength, later_noise=later, later_seed=seed, **more
        )
    return noise


def noise_for(noise: Any, shape: tuple[int, ...], **more: Any) -> torch.Tensor:
    """Ask for noise as SamplerCustomAdvanced does."""
    with torch.inference_mode():
        return noise.generate_noise({"samples": torch.zeros(shape), **more})


@pytest.fixture(scope="module")
def voice() -> dict[str, Any]:
    return audio_of(speech(1.0, 16_000), 16_000)


@pytest.fixture(scope="module")
def other() -> dict[str, Any]:
    samples, rate = soundfile.read(config.EXAMPLES_DIR / "voice_it.wav", dtype="float32")
    return audio_of(samples, rate)


@pytest.fixture(scope="module")
def noise(pack, voice):
    return make(pack, voice)


# --- the same noise as the scripts -----------------------------------------------------------------------------------
@pytest.mark.parametrize("strength", [1.0, 0.9, 0.0])
def test_the_same_bits_as_the_scripts(pack, strength):
    samples, rate = soundfile.read(config.EXAMPLES_DIR / "voice_fr.wav", dtype="float32")
    known = painting.load_voice(samples, rate)
    wanted = [painting.initial_noise(known, seed=seed, voice_strength=strength) for seed in range(3)]
    assert torch.equal(noise_for(make(pack, audio_of(samples, rate), strength), (3, 4, 32, 32)), torch.cat(wanted))


def test_another_calibration(pack, voice, noise, tmp_path):
    """It changes the noise, and an edited one is read again."""
    whitening = dict(np.load(config.BUILTIN_CALIBRATION_DIR / "whitening.npz"))
    for name in ("mean", "std"):
        whitening[f"{name}_db"] = np.load(config.BUILTIN_CALIBRATION_DIR / f"{name}.npy") + 1
        np.save(tmp_path / f"{name}.npy", whitening[f"{name}_db"])
    np.savez(tmp_path / "whitening.npz", **whitening)
    own = make(pack, voice, calibration=f" {tmp_path} ")
    assert not torch.equal(noise_for(own, LATENTS), noise_for(noise, LATENTS))
    fewer = whitening | {name: whitening[name][:9] for name in ("scales", "components")}
    np.savez(tmp_path / "whitening.npz", **fewer)
    again = make(pack, voice, calibration=str(tmp_path))
    assert not torch.equal(noise_for(own, LATENTS), noise_for(again, LATENTS))


# --- AUDIO -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_mixed_as_those_of_files(pack, channels, tmp_path):
    samples = np.stack([speech(0.6, 16_000) * (0.2 + 0.1 * channel) for channel in range(channels)])
    samples[-1, 2000:] = 0
    soundfile.write(tmp_path / "v.wav", samples.T, 16_000, subtype="FLOAT")
    wanted = painting.initial_noise(painting.load_voice(tmp_path / "v.wav"), voice_strength=1, seed=0)
    assert torch.equal(noise_for(make(pack, audio_of(samples, 16_000)), LATENTS), wanted)


def test_audio_of_every_kind(pack, voice, noise):
    """A float64 wav, one at 24 times full scale, one on a lazy mapping: the same voice."""
    wanted = noise_for(noise, LATENTS)
    for same in (
        {**voice, "waveform": voice["waveform"].double()},
        {**voice, "sample_rate": np.int64(16_000)},
        {**voice, "title": "more", "waveform": voice["waveform"].clone().requires_grad_()},
        Lazy(voice),
    ):
        assert torch.equal(noise_for(make(pack, same), LATENTS), wanted)
    loud = noise_for(make(pack, {**voice, "waveform": voice["waveform"] * 24}), LATENTS)
    assert torch.corrcoef(torch.stack([loud.flatten(), wanted.flatten()]))[0, 1] > 0.999  # nothing is clipped


def test_a_batch_of_recordings_takes_turns(pack, voice, other):
    length = 8000
    both = [voice["waveform"][:, :, :length], other["waveform"][:, :, :length]]
    single = [make(pack, {"waveform": one, "sample_rate": 16_000}) for one in both]
    together = make(pack, {"waveform": torch.cat(both), "sample_rate": 16_000})
    made = noise_for(together, (3, 4, 32, 32))
    for item, alone in enumerate((single[0], single[1], single[0])):
        wanted = noise_for(alone, LATENTS, batch_index=[item])
        assert torch.equal(made[item], wanted[0])
    assert len({together.seed, single[0].seed, single[1].seed}) == 3


def test_an_unusable_recording_of_several_is_named(pack, voice):
    both = torch.cat([voice["waveform"], voice["waveform"] * 0])
    with pytest.raises(ValueError) as caught:
        make(pack, {**voice, "waveform": both})
    assert_sentence(str(caught.value), "recording 2 of 2: the recording is silent")


SENTENCES = {  # what came, and a part of the sentence
    "none": "no sound came",
    "no audio": "str came, and AUDIO is needed",
    "no rate": "dict came, and AUDIO is needed",
    "numpy": "the waveform is ndarray",
    "integers": "the samples are torch.int16, and floating point is needed; load the file with Load Audio",
    "two dimensions": "the waveform is [1, 16000], and [recordings, channels, samples] is needed",
    "transposed": "the waveform is [1, 16000, 1]",
    "no recording": "the waveform is [0, 1, 16000]",
    "empty": "holds no samples",
    "short": "0.006 s",
    "silent": "silent",
    "nan": "not finite",
    "far too loud": "too large",
    "slow": "100 Hz",
    "rate": "sample rate is 'fast'",
}


@pytest.mark.parametrize("kind", SENTENCES)
def test_audio_that_cannot_be_used(pack, voice, kind):
    waveform = voice["waveform"]
    changes: dict[str, Any] = {
        "integers": (waveform * 32767).to(torch.int16),
        "numpy": waveform.numpy(),
        "two dimensions": waveform[0],
        "transposed": waveform.transpose(1, 2),
        "no recording": waveform[:0],
        "empty": waveform[:, :, :0],
        "short": waveform[:, :, :100],
        "silent": waveform * 0,
        "nan": torch.where(torch.arange(waveform.shape[2]) == 99, torch.nan, waveform),
        "far too loud": waveform * 1e30,
    }
    rates = {"slow": 100, "rate": "fast"}
    audio: Any = {**voice, "waveform": changes.get(kind, waveform), "sample_rate": rates.get(kind, 16_000)}
    audio = {"none": None, "no audio": "voice.wav", "no rate": {"waveform": waveform}}.get(kind, audio)
    with pytest.raises(ValueError) as caught:
        make(pack, audio)
    assert_sentence(str(caught.value), SENTENCES[kind])


def assert_sentence(message: str, part: str) -> None:
    assert message.startswith("Voice Noise: ") and part in message and "\n" not in message, message


@pytest.mark.parametrize(
    ("calibration", "part"),
    [
        ("/nowhere/stats", "(missing: mean.npy, std.npy, whitening.npz)"),
        ("/nowhere\nstats", "/nowhere stats"),
        ("~nobody-here/stats", "~nobody-here/stats (missing: mean.npy"),
        (r"\\host\share\stats", "is on another machine"),
        ("//host/share/stats", "is on another machine"),
        (r"\/host\share", "is on another machine"),
        (r"\??\UNC\host\share", "is on another machine"),
    ],
)
def test_calibrations_that_are_none(pack, voice, calibration, part):
    with pytest.raises(ValueError) as caught:
        make(pack, voice, calibration=calibration)
    assert_sentence(str(caught.value), part)


def test_a_broken_calibration(pack, voice, tmp_path):
    for name in ("mean.npy", "std.npy", "whitening.npz"):
        (tmp_path / name).write_text("hello")
    with pytest.raises(ValueError) as caught:
        make(pack, voice, calibration=str(tmp_path))
    assert_sentence(str(caught.value), "mean.npy")


def test_a_whitening_of_another_calibration(pack, voice, tmp_path):
    """The noise would look right, but two voices would be less far apart."""
    for name in ("mean.npy", "std.npy", "whitening.npz"):
        (tmp_path / name).write_bytes((config.BUILTIN_CALIBRATION_DIR / name).read_bytes())
    make(pack, voice, calibration=str(tmp_path))
    np.save(tmp_path / "mean.npy", np.load(tmp_path / "mean.npy") - 3)
    with pytest.raises(ValueError) as caught:
        make(pack, voice, calibration=str(tmp_path))
    assert_sentence(str(caught.value), "whitening.npz was made with another mean.npy or std.npy")


# --- latents ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_latents_of_every_shape_get_noise(noise, shape):
    """The doctor's figures of each item, and of each frame, are those of noise from torch."""
    made = noise_for(noise, shape)
    assert made.shape == shape and made.dtype == torch.float32 and made.is_contiguous() and made.device.type == "cpu"
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(made.numpy(), drawn.numpy(), strict=True):
        assert_noise(as_image(ours), as_image(theirs))
        if len(shape) == 5:
            for frame in range(shape[2]):
                assert_noise(ours[:, frame], theirs[:, frame])


def as_image(item: np.ndarray) -> np.ndarray:
    """Return [C, H, W] of an item of 1 to 4 dimensions, as images for the doctor."""
    if item.ndim == 1:
        return item.reshape(1, 32, -1)
    return item.reshape(len(item), -1, item.shape[-1])


def assert_noise(ours: np.ndarray, theirs: np.ndarray) -> None:
    found, wanted = gaussianity.examine(ours), gaussianity.examine(theirs)
    slack = (4096 / ours.size) ** 0.5
    assert found.gaussian and found.p_normal > 1e-5, gaussianity.verdict(found)
    assert abs(found.kurtosis - 3) < 5 * (24 / ours.size) ** 0.5
    assert abs(found.mean) < 0.08 * slack and abs(found.radius - 1) < 0.06 * slack
    chance = ours[0].size ** -0.5  # standard deviation of the correlation of two channels of noise
    assert found.channels < max(1.3 * wanted.channels, 4 * chance, 0.16)
    assert found.power.max() < 2.5 * max(wanted.power.max(), 1)


def test_frames_are_independent(noise):
    made = noise_for(noise, (1, 16, 9, 16, 16))[0]
    frames = np.corrcoef(made.movedim(1, 0).reshape(9, -1).numpy())
    assert np.abs(frames - np.eye(9)).max() < 5 / 4096**0.5


def test_one_frame_is_an_image(noise):
    """Some models for images have latents with an axis for frames."""
    assert torch.equal(noise_for(noise, (1, 16, 1, 12, 20))[:, :, 0], noise_for(noise, (1, 16, 12, 20)))


def test_nested_latents_get_noise_for_each_part(noise):
    parts = [torch.zeros(2, 128, 2, 8, 8), torch.zeros(2, 8, 25, 16), torch.zeros(2, 8, 25, 16)]
    made = noise.generate_noise({"samples": NestedTensor(parts)})
    assert isinstance(made, NestedTensor)
    assert [part.shape for part in made.unbind()] == [part.shape for part in parts]
    video, sound, other = (part.flatten(1).numpy() for part in made.unbind())
    assert np.array_equal(video, noise_for(noise, (2, 128, 2, 8, 8)).flatten(1))  # as without sound
    assert abs(np.corrcoef(sound[0], other[0])[0, 1]) < 5 / 3200**0.5


def test_nested_parts_differ_in_the_seeded_noise(pack, voice):
    made = make(pack, voice, 0.0).generate_noise({"samples": NestedTensor([torch.zeros(LATENTS)] * 2)})
    assert not torch.equal(*made.unbind())


def test_numbers_of_items(pack, voice):
    """An item depends on its number alone, whichever others are in the batch."""
    noise = make(pack, voice, 0.8)
    batch = noise_for(noise, (4, 4, 32, 32))
    assert torch.equal(noise_for(noise, (3, 4, 32, 32), batch_index=[3, 1, 3]), batch[[3, 1, 3]])
    assert not torch.equal(batch[0], batch[1])
    assert torch.equal(noise_for(noise, (2, 4, 32, 32), batch_index=torch.tensor([2, 0])), batch[[2, 0]])
    assert torch.equal(noise_for(noise, (1, 4, 32, 32), batch_index=None), batch[:1])


@pytest.mark.parametrize("numbers", [[1], [0, -1], [0, 2**31], [0, 0.5], [0, "1"], 3], ids=str)
def test_numbers_that_are_none(noise, numbers):
    with pytest.raises(ValueError) as caught:
        noise_for(noise, (2, 4, 32, 32), batch_index=numbers)
    assert_sentence(str(caught.value), "batch_index is")


@pytest.mark.parametrize("shape", [(4,), (1, 4, 2, 3, 4, 5), (1, 4, 1, 1), (1, 1, 1), (0, 4, 8, 8), (1, 0, 8, 8)])
def test_latents_that_are_none(noise, shape):
    """A flow model would spread the one number of [1, C, 1, 1] over the whole image."""
    with pytest.raises(ValueError) as caught:
        noise_for(noise, shape)
    assert_sentence(str(caught.value), str(list(shape)))


def test_nested_parts_of_different_batches(noise):
    with pytest.raises(ValueError) as caught:
        noise.generate_noise({"samples": NestedTensor([torch.zeros(2, 4, 8, 8), torch.zeros(1, 4, 8, 8)])})
    assert_sentence(str(caught.value), "[[2, 4, 8, 8], [1, 4, 8, 8]]")


def test_the_same_bits_in_any_order_from_one_object(pack, voice, noise):
    """One object goes to all samplers; what one does with its noise, or with torch's generator, changes nothing."""
    shapes = [LATENTS, (1, 16, 8, 8), LATENTS, (2, 4, 32, 32), (1, 16, 8, 8)]
    before = torch.get_rng_state()
    first = [noise_for(noise, shape) for shape in shapes]
    assert torch.equal(torch.get_rng_state(), before)
    kept = [one.clone() for one in first]
    with torch.inference_mode():
        for one in first:
            one.zero_()
    torch.manual_seed(1)
    again = [noise_for(noise, shape) for shape in reversed(shapes)]
    assert all(torch.equal(a, b) for a, b in zip(kept, reversed(again), strict=True))
    fresh = make(pack, voice)
    assert torch.equal(noise_for(fresh, LATENTS), kept[0]) and fresh.seed == noise.seed


def test_two_voices_are_two_noises(pack, noise, other):
    two = make(pack, other)
    assert two.seed != noise.seed
    pair = torch.stack([noise_for(noise, LATENTS).flatten(), noise_for(two, LATENTS).flatten()])
    assert abs(torch.corrcoef(pair)[0, 1]) < 0.5


def test_strength_is_a_share_of_the_variance(pack, voice, noise):
    whole, part, none = (noise_for(make(pack, voice, strength), LATENTS).flatten() for strength in (1.0, 0.49, 0.0))
    assert torch.corrcoef(torch.stack([whole, part]))[0, 1] == pytest.approx(0.7, abs=0.05)
    assert torch.equal(none.reshape(4, 32, 32), torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("strength", [-0.01, 1.01, float("nan")])
def test_a_strength_that_is_none(pack, voice, strength):
    """It may come from another node; then no sampler is started."""
    with pytest.raises(ValueError) as caught:
        make(pack, voice, strength)
    assert_sentence(str(caught.value), "voice_strength is")


# --- later noise -----------------------------------------------------------------------------------------------------
def test_seeds_of_later_noise(pack, voice, other):
    """They are in torch's range with room for one more, and on a CPU never draw what fills the noise of an item."""
    of_voices = [make(pack, one, strength).seed for one in (voice, other) for strength in (1.0, 0.5)]
    assert of_voices[0] == of_voices[1] != of_voices[2] == of_voices[3]
    of_seeds = [make(pack, voice, later="from the seed", seed=seed).seed for seed in (0, 1, 2**31, 2**53 - 1)]
    assert of_seeds[0] == make(pack, other, later="from the seed").seed
    assert len({*of_voices, *of_seeds}) == 6
    for seed in (*of_voices, *of_seeds):
        assert type(seed) is int and 0 <= seed <= 2**63 - 2 and seed % 2**32 >= 2**31


def test_torch_looks_at_the_lower_32_bits_of_a_seed():
    """Why fill noise has seeds below 2**31."""
    one, other = (torch.randn(9, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5 + 2**32))
    assert torch.equal(one, other)


# --- qualities -------------------------------------------------------------------------------------------------------
def tell(pack: ModuleType, audio: Any, **more: Any) -> dict[str, list[Any]]:
    """Run Voice Qualities as ComfyUI does; return its outputs by name."""
    node = pack.NODE_CLASS_MAPPINGS["VoicetoimgQualities"]()
    with torch.inference_mode():
        outputs = getattr(node, node.FUNCTION)(audio=audio, **more)
    assert all(isinstance(items, list) for items in outputs)
    return dict(zip(node.RETURN_NAMES, outputs, strict=True))


def test_qualities_are_those_of_the_scripts(pack):
    samples, rate = soundfile.read(config.EXAMPLES_DIR / "voice_it.wav", dtype="float32")
    known = painting.load_voice(samples, rate)
    told = tell(pack, audio_of(samples, rate))
    assert told.pop("description") == [known.description]
    assert told == {name: [known.qualities[name] / 100] for name in NAMES}
    assert all(type(place) is float and 0 <= place <= 1 for (place,) in told.values())


def test_each_recording_has_its_qualities_and_what_is_not_known_is_in_the_middle(pack, voice, other):
    both = [one["waveform"][:, :, :8000] for one in (voice, other)]
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (1, 1, 8000)).astype(np.float32))
    told = tell(pack, {"waveform": torch.cat([*both, noise]), "sample_rate": 16_000})
    for number, one in enumerate((*both, noise)):
        assert {name: items[number : number + 1] for name, items in told.items()} == tell(
            pack, {"waveform": one, "sample_rate": 16_000}
        )
    known = painting.load_voice(noise[0, 0].numpy(), 16_000).qualities
    assert told["periodicity"][2] < 0.05 and told["pitch"][2] == known.get("pitch", 50.0) / 100


def test_the_tooltips_of_qualities_are_their_words(pack):
    node = pack.NODE_CLASS_MAPPINGS["VoicetoimgQualities"]
    assert ("description", *NAMES) == node.RETURN_NAMES
    for name, tooltip in zip(NAMES, node.OUTPUT_TOOLTIPS[1:], strict=True):
        low, high = WORDS[name]
        assert tooltip.index("0: ") < tooltip.index(low) < tooltip.index("1: ") < tooltip.index(high), tooltip


@pytest.mark.parametrize("audio", [None, "voice", {"waveform": torch.zeros(1, 1, 8000), "sample_rate": 16_000}])
def test_a_sound_that_has_no_qualities(pack, audio):
    with pytest.raises(ValueError) as caught:
        tell(pack, audio)
    assert str(caught.value).startswith("Voice Qualities: ") and "\n" not in str(caught.value)


# --- the pack --------------------------------------------------------------------------------------------------------
def test_other_packs_are_left_alone(tmp_path, monkeypatch, voice, noise):
    """Modules of the names that this project uses belong to others, before and after; our code does not see them."""
    names = ("audio", "files", "config", "cli", "live", "comfyui", "nodes")
    strange = {name: ModuleType(name) for name in names}
    for name in list(sys.modules):
        if name.split(".")[0] in names:
            monkeypatch.delitem(sys.modules, name)
    for name, module in strange.items():
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "second").symlink_to(config.REPO_DIR / "comfyui")
    second = load_pack(tmp_path / "second")
    assert torch.equal(noise_for(make(second, voice), LATENTS), noise_for(noise, LATENTS))
    assert all(sys.modules[name] is module for name, module in strange.items())
    assert not [name for name in sys.modules if name.startswith(tuple(f"{name}." for name in names))]


def test_the_nodes_as_comfyui_reads_them(pack):
    assert pack.NODE_CLASS_MAPPINGS.keys() == pack.NODE_DISPLAY_NAME_MAPPINGS.keys()
    noise, to_model, qualities = (node.INPUT_TYPES() for node in pack.NODE_CLASS_MAPPINGS.values())
    assert [*noise["required"]] == ["audio", "voice_strength", "later_noise", "later_seed"]
    assert noise["required"]["later_seed"][1]["max"] == 2**53 - 1 and "calibration" in noise["optional"]
    assert [kind[0] for kind in to_model["required"].values()] == ["MODEL", "NOISE"]
    assert [kind[0] for kind in (qualities["required"] | qualities["optional"]).values()] == ["AUDIO", "STRING"]
    for node in pack.NODE_CLASS_MAPPINGS.values():
        assert hasattr(node, node.FUNCTION) and not hasattr(node, "IS_CHANGED")
        for names in ("RETURN_NAMES", "OUTPUT_TOOLTIPS", "OUTPUT_IS_LIST"):
            assert len(getattr(node, names, node.RETURN_TYPES)) == len(node.RETURN_TYPES)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("soundfile", ImportError("numpy.core is\nbroken")),
        ("soundfile", OSError("libsndfile not found")),
        ("scipy.signal", ImportError("No module named 'scipy'")),  # which only sound with hum needs
    ],
)
def test_a_missing_package_is_named(voice, monkeypatch, tmp_path, name, error):

    def fail(self: Any, wanted: str, *_: Any) -> None:
        if wanted == name:
            raise error

    (tmp_path / "third").symlink_to(config.REPO_DIR / "comfyui")
    third = load_pack(tmp_path / "third")
    for module in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    package, _, part = name.rpartition(".")
    if package in sys.modules:  # where an import of the part looks first
        monkeypatch.delattr(sys.modules[package], part, raising=False)
    monkeypatch.setattr(sys, "meta_path", [type("Finder", (), {"find_spec": fail})(), *sys.meta_path])
    time = torch.arange(32_000) / 16_000
    hum = voice["waveform"].repeat(1, 1, 2) + 0.3 * torch.sin(2 * torch.pi * 50 * time)
    with pytest.raises(ValueError) as caught:
        make(third, {**voice, "waveform": hum})
    assert_sentence(str(caught.value), " ".join(str(error).split()))
    assert str(config.REPO_DIR / "comfyui" / "requirements.txt") in str(caught.value)


def test_too_little_memory(pack, voice, monkeypatch):
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(torch.Tensor, "numpy", full)
    with pytest.raises(ValueError) as caught:
        make(pack, voice)
    assert_sentence(str(caught.value), "too little memory")


def test_a_copy_of_this_folder_alone(voice, tmp_path):
    """Another pack may have the name `audio`."""
    shutil.copytree(config.REPO_DIR / "comfyui", tmp_path / "voicetoimg")
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "__init__.py").write_text("raise SystemExit")
    with pytest.raises(ValueError) as caught:
        make(load_pack(tmp_path / "voicetoimg"), voice)
    assert_sentence(str(caught.value), "only a part of voicetoimg")


def test_requirements_are_lower_bounds():
    """Torch and NumPy are those of ComfyUI, which other packs need, too."""
    lines = (config.REPO_DIR / "comfyui" / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if not line.startswith("#")]
    assert wanted and all(">=" in line and not set(line) & set("<~,!") for line in wanted)
    assert not [line for line in wanted if line.startswith(("torch", "numpy"))]
