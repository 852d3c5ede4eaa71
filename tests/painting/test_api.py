"""The Python API of the README: its names, its shapes, and the same bits as the scripts."""

import dataclasses
import inspect
import subprocess
import sys
import warnings

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import config
import painting
import process_live_audio
import txt2img
from audio.description import describe
from audio.qualities import NAMES, UNHEARD

RECORDING = config.EXAMPLES_DIR / "voice_it.wav"
QUICK = {"steps": 3}


@pytest.fixture(scope="module")
def painter():
    return painting.load_painter(precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def voice():
    return painting.load_voice(RECORDING)


def test_the_names_are_those_of_the_readme():
    assert painting.__all__ == ["ImageSpec", "Voice", "initial_noise", "load_painter", "load_voice", "paint"]
    assert list(inspect.signature(painting.load_voice).parameters) == [
        "source",
        "sample_rate",
        "calibration",
        "channel",
        "trim",
    ]
    assert list(inspect.signature(painting.paint).parameters) == ["prompt", "x_T", "painter", "settings"]


def test_a_picture_has_the_bits_of_the_scripts(tmp_path, voice, painter):
    latent, out = tmp_path / "latent.pt", tmp_path / "out"
    assert process_live_audio.main([f"--input_file={RECORDING}", f"--output_file={latent}"]) == 0
    options = ["--prompt=a golden spiral on purple", "--steps=3", "--seed=7", "--precision=full", "--device=cpu"]
    assert txt2img.main([f"--init_latents={latent}", f"--outdir={out}", *options]) == 0
    by_script = np.asarray(Image.open(out / "samples" / "subject_000_sample_a-golden-spiral-on-purple_0000.png"))

    torch.testing.assert_close(voice.latents, torch.load(latent, weights_only=True), rtol=0, atol=0)
    x_T = painting.initial_noise(voice, seed=7)
    assert x_T.shape == (1, 4, 32, 32) and x_T.dtype == torch.float32
    image = painting.paint("a golden spiral on purple", x_T, painter=painter, **QUICK)
    np.testing.assert_array_equal(np.asarray(image), by_script)


def test_a_voice_says_what_it_is_like(voice, tmp_path, capsys):
    assert tuple(voice.qualities) == NAMES and all(0 <= place <= 100 for place in voice.qualities.values())
    assert voice.description == describe(voice.qualities)
    assert (
        process_live_audio.main([f"--input_file={RECORDING}", f"--output_file={tmp_path / 'a.pt'}", "--verbose"]) == 0
    )
    assert f"\nvoice: {voice.description}\n" in capsys.readouterr().out
    unheard = dataclasses.replace(voice, heard=UNHEARD)
    assert not {"pitch", "periodicity", "duration"} & unheard.qualities.keys()


def test_samples_in_memory_are_as_good_as_a_file(voice):
    samples, sample_rate = soundfile.read(RECORDING, dtype="float32")
    in_memory = painting.load_voice(samples, sample_rate)
    torch.testing.assert_close(in_memory.latents, voice.latents, rtol=0, atol=0)
    with pytest.raises(ValueError, match="sample"):
        painting.load_voice(samples)


def test_a_channel_is_chosen_and_the_choice_noted(voice):
    samples, rate = soundfile.read(RECORDING, dtype="float32")
    opposite = np.stack([samples, -samples], axis=1)
    heard = painting.load_voice(opposite, rate)
    assert heard.note == "channel 1 of 2 is used, because the channels cancel each other" and not voice.note
    torch.testing.assert_close(heard.latents, voice.latents, rtol=0, atol=0)
    torch.testing.assert_close(painting.load_voice(opposite, rate, channel=1).latents, voice.latents, rtol=0, atol=0)
    with pytest.raises(ValueError, match="the recording has 2 channels; there is no channel 3"):
        painting.load_voice(opposite, rate, channel=3)


def test_a_whitening_of_another_calibration_is_refused(tmp_path):
    for name in ("mean.npy", "std.npy", "whitening.npz"):
        (tmp_path / name).write_bytes((config.BUILTIN_CALIBRATION_DIR / name).read_bytes())
    painting.load_voice(RECORDING, calibration=tmp_path)
    np.save(tmp_path / "mean.npy", np.load(tmp_path / "mean.npy") - 3)
    with pytest.raises(ValueError, match=r"whitening.npz was made with another mean.npy"):
        painting.load_voice(RECORDING, calibration=tmp_path)


def test_several_voices_are_blended_by_their_weights(voice):
    other = painting.load_voice(config.EXAMPLES_DIR / "voice_fr.wav")
    alone = painting.initial_noise(voice)
    torch.testing.assert_close(painting.initial_noise([voice, other], weights=[1, 0]), alone, rtol=0, atol=0)
    duet = painting.initial_noise([voice, other], weights=[0.7, 0.3])
    assert torch.cosine_similarity(duet.flatten(), alone.flatten(), dim=0) == pytest.approx(0.84, abs=0.06)


def test_a_voice_makes_an_image_of_any_size(voice, painter):
    x_T = painting.initial_noise(voice, height=128, width=192, painter=painter)
    assert x_T.shape == (1, 4, 16, 24)
    assert painting.paint("spiral", x_T, painter=painter, height=128, width=192, steps=1).size == (192, 128)
    assert painting.initial_noise(voice, height=1080, width=1920).shape == (1, 4, 32, 56)
    with pytest.raises(ValueError, match="height is 10, outside 64 to 2048"):
        painting.initial_noise(voice, height=10)
    with pytest.raises(ValueError, match="2 weights came for 1"):
        painting.initial_noise(voice, weights=[1, 2])
    with pytest.raises(ValueError, match="height and width"):
        painting.paint("spiral", x_T, painter=painter)


def test_messages_name_no_flags_and_are_warnings(painter, voice, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        painting.paint("spiral zzyzx", painting.initial_noise(voice), painter=painter, steps=1)
    assert any("zzyzx" in str(warning.message) for warning in caught)
    for wrong in ({"steps": 0}, {"sampler": "euler"}, {"height": 100}):
        with pytest.raises(ValueError) as error:
            painting.paint("x", painting.initial_noise(voice), painter=painter, **wrong)
        assert "--" not in str(error.value)
    with pytest.raises(TypeError, match="initial_noise"):
        painting.paint("spiral", painting.initial_noise(voice), painter=painter, voice_strength=0.5)
    with pytest.raises(TypeError, match="stepz"):
        painting.paint("x", painting.initial_noise(voice), painter=painter, stepz=3)
    assert capfd.readouterr() == ("", "")


def test_the_package_loads_without_torch():
    code = "import painting, painting.options, sys; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=config.REPO_DIR).returncode == 0
