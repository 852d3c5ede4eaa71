"""The preparation scripts as a user runs them, handing on through files; process_live_audio.py beside them."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import config
import prep_ldm
import process_live_audio
from audio.features import extract
from audio.provenance import read_heard, read_names
from tests.programs import Finished, run_main, run_script

EXAMPLES = sorted(p for p in config.EXAMPLES_DIR.iterdir() if p.suffix in (".wav", ".ogg"))
SCRIPTS = ["prep_audio_spectrograms.py", "z_transformation_with_stats.py", "prep_ldm.py", "process_live_audio.py"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, dict[str, Finished]]:
    """Return a data folder after all of phase 1, a process for each script, and what each of them printed."""
    data = tmp_path_factory.mktemp("phase1")
    folder = data / "data" / "audio_input_batch" / "voices"
    folder.mkdir(parents=True)
    for path in EXAMPLES:
        shutil.copy(path, folder)
    (folder / "broken.wav").write_text("no sound")
    return data, {script: run_script(script, data=data) for script in SCRIPTS[:3]}


@pytest.mark.slow
def test_phase1(prepared):
    data, said = prepared
    for script, result in said.items():
        assert result.returncode == 0, (script, result.stderr)
    n = len(EXAMPLES)
    vectors, z_scores = (
        np.load(data / "data" / "vectors" / f"audio_{name}_vectors.npy") for name in ("spectrogram", "zscore")
    )
    mean, std = (np.load(data / "data" / "stats" / f"{name}.npy") for name in ("mean", "std"))
    latents = torch.load(data / "data" / "latents" / "audio_latents_batch.pt", weights_only=True)
    assert vectors.shape == z_scores.shape == (n, 4096) and mean.shape == std.shape == (4096,)
    assert latents.shape == (n, 4, 32, 32) and latents.dtype == torch.float32
    np.testing.assert_allclose(z_scores, (vectors - mean) / std, atol=1e-4)
    np.testing.assert_array_equal(latents.reshape(n, 4096), z_scores)
    np.testing.assert_array_equal(latents[1, 2, 3, 4], z_scores[1, 2 * 1024 + 3 * 32 + 4])  # row by row
    assert read_names(data / "data" / "latents" / "audio_latents_batch.pt", n) == [path.name for path in EXAMPLES]
    heard = read_heard(data / "data" / "latents" / "audio_latents_batch.pt", n)
    assert heard == [extract(path).heard for path in EXAMPLES]


@pytest.mark.slow
def test_phase1_says_what_it_did_and_what_comes_next(prepared):
    _, said = prepared
    first, second, third = (said[script] for script in SCRIPTS[:3])
    assert f"{len(EXAMPLES)} recordings, " in first.stdout and re.search(r", \d+\.\d s of sound, ", first.stdout)
    assert "\n1 file skipped: " in first.stdout
    assert "next: python z_transformation_with_stats.py" in first.stdout and not first.stderr
    assert "sample rates: 5 of 8000 Hz, " in second.stdout and "calibration.png" in second.stdout
    assert "elements hardly vary; their standard deviation was raised to 2.5 dB" in second.stdout
    assert "% from these recordings and " in second.stdout and "next: python prep_ldm.py" in second.stdout
    assert second.stderr.startswith(f"warning: {len(EXAMPLES)} recordings; with fewer than 50")
    assert "txt2img.py --init_latents" in third.stdout and "--subject_idx 0" in third.stdout and not third.stderr


@pytest.mark.slow
def test_live_with_own_statistics_gives_the_row_of_phase1(prepared):
    data, _ = prepared
    batch = torch.load(data / "data" / "latents" / "audio_latents_batch.pt", weights_only=True)
    for row in (0, len(EXAMPLES) - 1):
        result = run_main("process_live_audio.py", "--input_file", EXAMPLES[row], "--verbose", data=data)
        assert result.returncode == 0 and not result.stderr, result.stderr
        assert f"calibration: {data / 'data' / 'stats'}" in result.stdout.splitlines()
        latent = torch.load(data / "live_latent.pt", weights_only=True)
        assert latent.shape == (1, 4, 32, 32) and latent.dtype == torch.float32
        np.testing.assert_allclose(latent[0], batch[row], atol=1e-4)
        of_batch = read_heard(data / "data" / "latents" / "audio_latents_batch.pt", len(batch))
        assert read_heard(data / "live_latent.pt", 1) == of_batch[row : row + 1]


def test_live_without_statistics_uses_the_builtin_ones(tmp_path):
    arguments = ("--input_file", EXAMPLES[0], "--output_file", "sub/l.pt")
    result = run_main("process_live_audio.py", *arguments, data=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "calibration" not in result.stdout  # nobody is told to make one
    told = run_main("process_live_audio.py", *arguments, "--verbose", data=tmp_path)
    calibration, latent_line, spoken, voice, following = told.stdout.splitlines()
    assert [calibration, latent_line, following] == ["calibration: built-in", *result.stdout.splitlines()]
    assert re.fullmatch(r"used: from \d\.\d s to \d\.\d s", spoken) and " of 100)" in voice
    latent = torch.load(tmp_path / "sub" / "l.pt", weights_only=True).numpy().reshape(4096)
    mean, std = (np.load(config.BUILTIN_CALIBRATION_DIR / f"{name}.npy") for name in ("mean", "std"))
    decibels = latent * std + mean
    assert -80.01 < decibels.min() < -30 and -10 < decibels.max() < 0.01
    assert [p.name for p in tmp_path.rglob("*")] == ["sub", "l.pt"]  # nothing else was written


def test_live_refuses_statistics_of_another_recipe(tmp_path):
    stats = tmp_path / "data" / "stats"
    shutil.copytree(config.BUILTIN_CALIBRATION_DIR, stats)
    about = stats / "calibration.json"
    about.write_text(about.read_text().replace('"hop_length": 512', '"hop_length": 256'))
    result = run_main("process_live_audio.py", "--input_file", EXAMPLES[0], data=tmp_path)
    assert result.returncode == 1 and "hop_length 256" in result.stderr and "512" in result.stderr
    assert not (tmp_path / "live_latent.pt").exists()


SOUNDS = {
    "silent": (lambda y: y * 0, 1, "silent"),
    "clipped": (lambda y: np.clip(8 * y, -1, 1), 0, "clipped"),
    "quiet": (lambda y: y / 1000, 0, "speak louder"),
    "short": (lambda y: y[:1600], 0, "0.20 s of sound"),
    "no voice": (
        lambda y: np.pad(np.random.default_rng(0).uniform(-0.5, 0.5, 200), 9000),
        0,
        "nothing in it is periodic",
    ),
    "too short": (lambda y: y[:100], 1, "record longer"),
}


@pytest.mark.parametrize(("change", "status", "message"), SOUNDS.values(), ids=SOUNDS)
def test_live_judges_the_recording(tmp_path, change, status, message):
    samples, rate = soundfile.read(config.EXAMPLES_DIR / "voice_en.wav")
    soundfile.write(tmp_path / "in.wav", change(samples), rate, subtype="FLOAT")
    result = run_main("process_live_audio.py", "--input_file", "in.wav", data=tmp_path)
    assert result.returncode == status and message in result.stderr and result.stderr.count("\n") == 1
    assert (tmp_path / "live_latent.pt").exists() == (status == 0)


def test_live_takes_the_channel_of_choice_and_says_what_it_chose(tmp_path):
    samples, rate = soundfile.read(config.EXAMPLES_DIR / "voice_en.wav")
    soundfile.write(tmp_path / "in.wav", np.stack([samples, -samples], axis=1), rate)
    arguments = ("process_live_audio.py", "--input_file", "in.wav")
    result = run_main(*arguments, data=tmp_path)
    assert result.stderr == "note: in.wav: channel 1 of 2 is used, because the channels cancel each other\n"
    chosen = (tmp_path / "live_latent.pt").read_bytes()
    result = run_main(*arguments, "--channel", "1", data=tmp_path)
    assert not result.stderr and (tmp_path / "live_latent.pt").read_bytes() == chosen
    result = run_main(*arguments, "--channel", "3", data=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "process_live_audio.py: in.wav: the recording has 2 channels; there is no channel 3\n"


def test_live_draws_the_recording(tmp_path):
    arguments = ("--input_file", EXAMPLES[0], "--save_picture", "sub/heard.png")
    result = run_main("process_live_audio.py", *arguments, data=tmp_path)
    assert result.returncode == 0 and "drawn: sub/heard.png" in result.stdout, result.stderr
    assert Image.open(tmp_path / "sub" / "heard.png").size[0] > 900
    result = run_main("process_live_audio.py", *arguments[:3], "heard.jpg", data=tmp_path)
    assert result.returncode == 2 and "must end in .png" in result.stderr


@pytest.fixture(scope="module")
def telephone(tmp_path_factory) -> tuple[Path, list[Finished]]:
    """Return a data folder whose calibration is of five telephone recordings, all other files being elsewhere."""
    data = tmp_path_factory.mktemp("telephone")
    for path in config.EXAMPLES_DIR.glob("voice_*.wav"):
        shutil.copy(path, data)
    vectors, z_scores, latents = data / "out" / "v.npy", data / "out" / "z.npy", data / "out" / "l.pt"
    first = run_main(SCRIPTS[0], "--input_dir", data, "--output_file", vectors, "--workers", 1, data=data)
    second = run_main(SCRIPTS[1], "--input_file", vectors, "--output_file", z_scores, data=data)
    third = run_main(SCRIPTS[2], "--input_file", z_scores, "--output_file", latents, data=data)
    return data, [first, second, third]


def test_damaged_recordings_can_be_left_out(tmp_path):
    for path in EXAMPLES[2:5]:
        shutil.copy(path, tmp_path)
    whole = EXAMPLES[5].read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    run_main(SCRIPTS[0], "--input_dir", tmp_path, "--output_file", "v.npy", "--workers", 1, data=tmp_path)
    arguments = ("--input_file", "v.npy", "--output_file", "z.npy", "--max_damage", 20)
    result = run_main(SCRIPTS[1], *arguments, data=tmp_path)
    assert result.returncode == 0 and "\n1 damaged recording left out\n" in result.stdout, result.stderr
    assert run_main(SCRIPTS[2], "--input_file", "z.npy", "--output_file", "l.pt", data=tmp_path).returncode == 0
    assert read_names(tmp_path / "l.pt", 3) == [path.name for path in EXAMPLES[2:5]]


def test_live_warns_where_the_calibration_is_narrower_than_the_microphone(telephone):
    data, (_, second, _) = telephone
    (limit,) = re.findall(r"hint: these recordings hold nothing above (\d+) Hz", second.stdout)
    assert 3500 < float(limit) < 4500
    narrow = run_main("process_live_audio.py", "--input_file", config.EXAMPLES_DIR / "voice_en.wav", data=data)
    wide = run_main("process_live_audio.py", "--input_file", config.EXAMPLES_DIR / "word_de.ogg", data=data)
    assert narrow.returncode == wide.returncode == 0 and not narrow.stderr
    assert wide.stderr.startswith("warning: word_de.ogg: the recording has sound above")
    assert wide.stderr.count("\n") == 1


def test_output_elsewhere_is_handed_on_in_the_next_line(telephone):
    data, (first, second, third) = telephone
    out = data / "out"
    assert f"next: python z_transformation_with_stats.py --input_file {out / 'v.npy'}" in first.stdout
    assert f"next: python prep_ldm.py --input_file {out / 'z.npy'}" in second.stdout
    assert f"--init_latents {out / 'l.pt'}" in third.stdout
    assert torch.load(out / "l.pt", weights_only=True).shape == (5, 4, 32, 32)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_writes_nothing(tmp_path, script):
    result = run_main(script, "--help", data=tmp_path)
    assert result.returncode == 0 and "--output_file" in result.stdout and not list(tmp_path.iterdir())


MISTAKES = [
    (SCRIPTS[0], [], 1, "there is no folder"),
    (SCRIPTS[0], ["--input_dir", "."], 1, "no files in"),
    (SCRIPTS[0], ["--input_dir", __file__], 2, "is a file, a folder is needed"),
    (SCRIPTS[0], ["--input_dir", ".", "--workers", "2", "--dask_scheduler", "x"], 2, "the cluster has its own"),
    (SCRIPTS[0], ["--workers", "0"], 2, "0 is not a whole number from 1"),
    (SCRIPTS[0], ["--output_file", "x.csv"], 2, "must end in .npy"),
    (SCRIPTS[1], [], 1, "run prep_audio_spectrograms.py first"),
    (SCRIPTS[1], ["--output_file", "x.csv"], 2, "must end in .npy"),
    (SCRIPTS[1], ["--stats_dir", config.BUILTIN_CALIBRATION_DIR], 2, "is the built-in calibration; name another"),
    (SCRIPTS[1], ["--stats_dir", "s", "--output_file", "s/mean.npy"], 2, "is one of the files of --stats_dir"),
    (SCRIPTS[2], [], 1, "run z_transformation_with_stats.py first"),
    (SCRIPTS[2], ["--nonsense"], 2, "--nonsense"),
    (SCRIPTS[3], [], 2, "--input_file"),
    *((script, ["--input_file", "none.npy"], 2, "there is no file none.npy") for script in SCRIPTS[1:4]),
]


@pytest.mark.parametrize(("script", "arguments", "status", "message"), MISTAKES)
def test_mistakes_get_one_line_and_leave_nothing(tmp_path, script, arguments, status, message):
    result = run_main(script, *arguments, data=tmp_path)
    assert result.returncode == status and message in result.stderr
    assert result.stderr.count("\n") == 1 and not result.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4095), np.float32), "(N, 4096) is needed"),
        (np.full((2, 4096), np.nan, np.float32), "NaN"),
        (np.array([[None] * 4096] * 2, dtype=object), "not a .npy file"),
    ],
    ids=["shape", "nan", "object"],
)
@pytest.mark.parametrize("script", SCRIPTS[1:3])
def test_hostile_matrices_are_refused(tmp_path, script, array, message):
    np.save(tmp_path / "in.npy", array)
    result = run_main(script, "--input_file", "in.npy", data=tmp_path)
    assert result.returncode == 1 and message in result.stderr and result.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["in.npy"]


def test_no_script_writes_over_what_it_reads(tmp_path):
    for script in ("prep_ldm.py", "z_transformation_with_stats.py"):
        vectors = tmp_path / "v.npy"
        np.save(vectors, np.zeros((3, 4096), np.float32))
        before = vectors.read_bytes()
        result = run_main(script, "--input_file", str(vectors), "--output_file", str(vectors), data=tmp_path)
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
        assert vectors.read_bytes() == before
    voice = tmp_path / "voice.wav"
    voice.write_bytes(EXAMPLES[0].read_bytes())
    result = run_main("process_live_audio.py", "--input_file", str(voice), "--output_file", str(voice), data=tmp_path)
    assert result.returncode == 2 and "must end in .pt" in result.stderr
    assert voice.read_bytes() == EXAMPLES[0].read_bytes()


def test_a_recording_without_any_statistics_is_told_so(tmp_path, monkeypatch):
    for name in ("STATS_DIR", "BUILTIN_CALIBRATION_DIR"):
        monkeypatch.setattr(config, name, tmp_path / "none")
    with pytest.raises(OSError, match="no statistics in .*; run prep_audio_spectrograms.py first"):
        process_live_audio.main(["--input_file", str(EXAMPLES[0]), "--output_file", str(tmp_path / "l.pt")])
    assert not list(tmp_path.iterdir())


def test_a_damaged_recording_is_used_with_a_warning(tmp_path):
    whole = (config.EXAMPLES_DIR / "voice_it.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) * 2 // 3])
    result = run_main(SCRIPTS[3], "--input_file", "cut.wav", "--output_file", "l.pt", data=tmp_path)
    assert result.returncode == 0 and "warning: cut.wav: the recording is damaged: " in result.stderr
    assert "; record again" in result.stderr and (tmp_path / "l.pt").is_file()


def test_latents_that_cannot_be_written_are_one_line(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    np.save(tmp_path / "z.npy", np.random.default_rng(0).standard_normal((2, 4096), np.float32))
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="l.pt cannot be written, is the disk full"):
        prep_ldm.main(["--input_file", str(tmp_path / "z.npy"), "--output_file", str(tmp_path / "l.pt")])
    assert [path.name for path in tmp_path.iterdir()] == ["z.npy"]
