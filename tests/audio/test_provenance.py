"""Latents carry a note of the calibration that made them, and torch.load reads them as before."""

import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import config
import prep_ldm
import process_live_audio
from audio import provenance
from audio.features import extract
from audio.qualities import UNHEARD, Heard
from audio.whitening import Whitening
from tests.ldm.test_foreign_files import ZIPS, zip_again

ABOUT = {"recipe": config.RECIPE.to_json(), provenance.STATISTICS: "f" * 64}
RECORDING = config.EXAMPLES_DIR / "voice_it.wav"


@pytest.fixture(scope="module")
def builtin() -> Whitening:
    return Whitening.load(config.BUILTIN_CALIBRATION_DIR / "whitening.npz")


@pytest.fixture(scope="module")
def latent(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("origin") / "it.pt"
    process_live_audio.main(["--input_file", str(RECORDING), "--output_file", str(path)])
    return path


def test_a_recordings_latent_says_what_made_it_wherever_it_is_copied(latent, builtin, tmp_path):
    statistics = provenance.statistics_sha256(builtin.mean_db, builtin.std_db)
    shutil.copy(latent, tmp_path / "copy.pt")
    assert provenance.read_note(tmp_path / "copy.pt") == statistics
    for mapped in (False, True):
        tensor = torch.load(latent, weights_only=True, mmap=mapped)
        assert tensor.shape == (1, 4, 32, 32) and tensor.dtype == torch.float32
    assert zipfile.ZipFile(latent).testzip() is None


def test_the_same_recording_the_same_bytes(latent, tmp_path):
    process_live_audio.main(["--input_file", str(RECORDING), "--output_file", str(tmp_path / latent.name)])
    assert (tmp_path / latent.name).read_bytes() == latent.read_bytes()


def test_latents_carry_what_they_do_not_hold_of_a_recording(latent, tmp_path):
    heard = extract(RECORDING).heard
    assert provenance.read_heard(latent, 1) == [heard] and heard.seconds > 4
    assert provenance.read_heard(latent, 2) == [UNHEARD] * 2  # not that of these rows
    torch.save(torch.load(latent, weights_only=True), tmp_path / "again.pt")
    assert provenance.read_heard(tmp_path / "again.pt", 1) == [UNHEARD]


@pytest.mark.parametrize(
    ("content", "heard"),
    [
        ("[[1e300, 1e9, 7]]", Heard(1e6, 2000, 1)),
        ("[[-5, -1, -1]]", UNHEARD),
        ("[[2.5, 190.25, 0.75]]", Heard(2.5, 190.25, 0.75)),
        *((content, UNHEARD) for content in ("[[NaN, 1, 1]]", "[[1, 1e999, 1]]", f"[[{10**400}, 1, 1]]")),
        *((content, UNHEARD) for content in ("[[1, 2]]", "[1, 2, 3]", "[[1, 2, {}]]", '[["a", 1, 1]]', "null")),
        *((content, UNHEARD) for content in ("", "{", "[" * 99_999)),
    ],
)
def test_what_a_file_from_elsewhere_says_of_its_recording_is_limited(content, heard, tmp_path):
    torch.save(torch.zeros(1, 4, 32, 32), path := tmp_path / "a.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"a/{provenance.HEARD}", content)
    assert provenance.read_heard(path, 1) == [heard]


def test_latents_know_the_recordings_that_they_are_of(latent, tmp_path):
    assert provenance.read_names(latent, 1) == [RECORDING.name]
    assert provenance.read_names(latent, 2) == ["", ""]  # not those of these rows
    torch.save(torch.zeros(2, 4, 32, 32), tmp_path / "elsewhere.pt")
    assert provenance.read_names(tmp_path / "elsewhere.pt", 2) == ["", ""]
    provenance.save_latents(tmp_path / "two.pt", torch.zeros(2, 4, 32, 32), None, ["ann.ogg", "голос.wav"])
    assert provenance.read_names(tmp_path / "two.pt", 2) == ["ann.ogg", "голос.wav"]
    assert provenance.read_note(tmp_path / "two.pt") is None


@pytest.mark.parametrize("content", ["", "{}", "[3]", '["a", "b"]', "[" * 100_000, '"a"'])
def test_names_that_cannot_be_read_are_none(content, tmp_path):
    torch.save(torch.zeros(1), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr(f"a/{provenance.NAMES}", content)
    assert provenance.read_names(tmp_path / "a.pt", 1) == [""]


def test_names_hold_nothing_but_text(tmp_path):
    """Neither escape sequences of terminals, nor bytes that no file of text can hold."""
    name = os.fsdecode(b"caf\xe9\x1b[2J\n.wav")
    assert provenance.recording_name(Path("a/b", name)) == "caf\ufffd\ufffd[2J\ufffd.wav"
    provenance.save_latents(tmp_path / "a.pt", torch.zeros(1, 4, 32, 32), None, ["\x1b[2J" + "x" * 300])
    (name,) = provenance.read_names(tmp_path / "a.pt", 1)
    assert name == "\ufffd[2J" + "x" * 251


def test_saved_again_the_note_is_lost(latent, tmp_path):
    torch.save(torch.load(latent, weights_only=True), tmp_path / "again.pt")
    assert provenance.read_note(tmp_path / "again.pt") is None


@pytest.mark.parametrize("content", ["", "no json", "[]", "{}", '{"statistics_sha256": 3}', '"' + "x" * 5000 + '"'])
def test_a_note_that_cannot_be_read_is_none(content, latent, tmp_path):
    torch.save(torch.zeros(1), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr(f"a/{provenance.RECORD}", content)
    assert provenance.read_note(tmp_path / "a.pt") is None
    (tmp_path / "b.pt").write_text(content)
    assert provenance.read_note(tmp_path / "b.pt") is None


def test_the_note_decides_where_two_calibrations_fit(builtin, latent, tmp_path):
    """Both of two similar calibrations give back a spectrogram; only the note tells which one was used."""
    other = replace(builtin, mean_db=builtin.mean_db - 0.02)
    folders = [tmp_path / "own", tmp_path / "builtin"]
    for folder, whitening in zip(folders, (other, builtin), strict=True):
        whitening.save(folder / "whitening.npz")
    voices = torch.load(latent, weights_only=True).numpy()
    for whitening, folder in zip((other, builtin), folders, strict=True):
        statistics = provenance.statistics_sha256(whitening.mean_db, whitening.std_db)
        assert provenance.find_whitening(voices, statistics, folders)[0] == folder / "whitening.npz"
    assert provenance.find_whitening(voices, "0" * 64, folders) == (None, None)
    assert provenance.find_whitening(voices, None, folders)[0] == folders[1] / "whitening.npz"
    assert provenance.find_whitening(5 * voices, None, folders) == (None, None)


def test_a_whitening_is_read_once_and_again_when_it_was_replaced(builtin, latent, tmp_path, monkeypatch):
    path = tmp_path / "whitening.npz"
    builtin.save(path)
    voices = torch.load(latent, weights_only=True).numpy()
    _, first = provenance.find_whitening(voices, None, [tmp_path])
    monkeypatch.setattr(Whitening, "load", lambda path: pytest.fail(f"{path} is read again"))
    assert provenance.find_whitening(voices, None, [tmp_path])[1] is first
    statistics = provenance.statistics_sha256(builtin.mean_db, builtin.std_db)
    assert provenance.load_whitening(path, statistics) is first
    monkeypatch.undo()
    replace(builtin, mean_db=builtin.mean_db - 0.02).save(path)
    _, second = provenance.find_whitening(voices, None, [tmp_path])
    assert first and second and np.array_equal(second.mean_db, builtin.mean_db - np.float32(0.02))
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is not a whitening"):
        provenance.find_whitening(voices, None, [tmp_path])
    with pytest.raises(ValueError, match="is not a whitening"):
        provenance.load_whitening(path, statistics)


def test_a_batch_says_what_made_it(builtin, tmp_path):
    z_scores = np.zeros((3, 4096), np.float32)
    np.save(tmp_path / "z.npy", z_scores)
    command = ["--input_file", str(tmp_path / "z.npy"), "--output_file", str(tmp_path / "batch.pt")]
    prep_ldm.main(command)
    assert provenance.read_note(tmp_path / "batch.pt") is None  # z-scores from elsewhere
    (tmp_path / "z.json").write_text(json.dumps({**ABOUT, "rows": 3}))
    prep_ldm.main(command)
    assert provenance.read_note(tmp_path / "batch.pt") == "f" * 64
    np.testing.assert_array_equal(torch.load(tmp_path / "batch.pt", weights_only=True).numpy().reshape(3, -1), z_scores)
    (tmp_path / "z.json").write_text(json.dumps({**ABOUT, "rows": 4}))  # of other z-scores
    assert provenance.read_sidecar(tmp_path / "z.npy", 3) is None


@pytest.mark.parametrize("how", ZIPS)
def test_latents_that_were_zipped_again_are_the_same(tmp_path, latent, how):
    path = Path(shutil.copy(latent, tmp_path / "a.pt"))
    zip_again(path, **ZIPS[how])
    assert torch.equal(provenance.read_latents(path), provenance.read_latents(latent))
    assert provenance.read_note(path) == provenance.read_note(latent) is not None


def test_another_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("song.txt", "la la")
    with pytest.raises(ValueError, match=r"a.pt is a zip archive of other files \(song.txt\)"):
        provenance.read_latents(tmp_path / "a.pt")
