"""Checks before a run."""

import shutil
from pathlib import Path

import pytest

import config
from live.checks import check_all, check_files, check_folder, check_weights


@pytest.mark.parametrize("place", ["file/folder", "/proc/nowhere"], ids=["below a file", "read-only"])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"{place} cannot be written to .*; set VOICETOIMG_DATA_DIR"):
        check_folder(tmp_path / place)


def test_a_folder_may_be_made_later(tmp_path):
    check_folder(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1_000_000))
    with pytest.raises(OSError, match="its disk has 1 MB free, at least 20 MB are needed"):
        check_folder(tmp_path)


def test_only_files_can_be_replaced(tmp_path):
    check_files(tmp_path / "new.wav")
    with pytest.raises(OSError, match=f"{tmp_path} is a folder; a file of that name is to be written"):
        check_files(tmp_path)
    with pytest.raises(OSError, match="/dev/null is a device"):
        check_files(Path("/dev/null"))


def test_incomplete_weights_are_named(tmp_path, monkeypatch):
    weights = tmp_path / "model.safetensors"
    monkeypatch.setattr(config, "BUILTIN_MODEL_WEIGHTS", weights)
    with pytest.raises(OSError, match="there is no model"):
        check_all(another_model=False, images=tmp_path)
    with weights.open("wb") as file, (config.MODELS_DIR / "chladni" / "model.safetensors").open("rb") as whole:
        file.write(whole.read(1_000_000))
    with pytest.raises(OSError, match=f"the model {weights} is incomplete"):
        check_weights(weights)
    check_all(another_model=True, images=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/images cannot be written to"):
        check_all(another_model=True, images=tmp_path / "file" / "images")
