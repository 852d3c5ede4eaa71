"""The files of a run: used by no other run, and never lost."""

import errno
import os
import subprocess
import sys
import wave
from pathlib import Path

import pytest

import config
from live import run_files
from live.run_files import RunFiles, claim_run_files, seconds_of

TAKE = """
import time
from live.run_files import claim_run_files
with claim_run_files() as files:
    print(files.wav, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT_DIR", tmp_path)
    monkeypatch.setattr(config, "TEMP_AUDIO_WAV", tmp_path / "temp_live_audio.wav")
    monkeypatch.setattr(config, "LIVE_LATENT_PT", tmp_path / "live_latent.pt")


def write_wav(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * round(8000 * seconds)))


def test_each_run_has_its_own_names_and_gives_them_back(tmp_path):
    with claim_run_files() as first, claim_run_files() as second:
        assert (first.wav.name, first.latent.name) == ("temp_live_audio.wav", "live_latent.pt")
        assert (second.wav.name, second.latent.name) == ("temp_live_audio_2.wav", "live_latent_2.pt")
    with claim_run_files() as third:
        assert third.wav == first.wav
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_killed_holds_no_names(tmp_path):
    environment = {"VOICETOIMG_DATA_DIR": str(tmp_path), "PYTHONPATH": str(config.REPO_DIR)}
    with subprocess.Popen([sys.executable, "-c", TAKE], env=environment, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline().strip() == str(tmp_path / "temp_live_audio.wav")
        with claim_run_files() as mine:
            assert mine.number == 2
        other.kill()
    with claim_run_files() as mine:
        assert mine.number == 1


def test_a_folder_without_locks_is_not_another_run(tmp_path, monkeypatch):
    def no_locks(descriptor: int) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(run_files, "lock", no_locks)
    with pytest.raises(OSError, match=f"{tmp_path} allows no locks .permission denied"), claim_run_files():
        pass


def test_what_was_left_behind_is_rescued(tmp_path):
    with claim_run_files() as files, claim_run_files() as second:
        write_wav(files.new_recording(), 2.0)
        write_wav(files.new_recording(), 0.1)
        files.new_recording().write_text("no recording")
        at_work = second.new_recording()
        write_wav(at_work, 1.0)
        (kept,) = files.rescue()
        assert seconds_of(kept) == 2.0 and kept.name.startswith("temp_live_audio_20")
        assert set(tmp_path.glob("*.wav")) == {kept, at_work}
    with claim_run_files() as files:
        (kept,) = files.rescue()  # of the second run, which has ended
    assert seconds_of(kept) == 1.0 and len(list(tmp_path.iterdir())) == 2


def test_only_a_recording_with_an_image_is_replaced(tmp_path):
    def record(files: RunFiles, seconds: float) -> Path | None:
        write_wav(recording := files.new_recording(), seconds)
        return files.publish(recording)

    with claim_run_files() as files:
        write_wav(files.wav, 1.0)  # from an unknown source
        assert record(files, 2.0) is None
        files.mark_done()
        assert record(files, 3.0) is None
    with claim_run_files() as files:  # the first run was killed before it had an image
        earlier = record(files, 4.0)
        assert earlier and seconds_of(earlier) == 3.0
        files.set_aside(files.wav)
        assert record(files, 5.0) is None
        files.mark_done()
    lengths = sorted(seconds_of(path) for path in tmp_path.iterdir())
    assert lengths == [3.0, 4.0, 5.0]


def test_what_is_set_aside_replaces_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda _: "now")
    with claim_run_files() as files:
        for content in "abc":
            files.wav.write_text(content)
            files.set_aside(files.wav)
        files.latent.write_text("d")
        files.set_aside(files.latent)
        with pytest.raises(FileNotFoundError):
            files.set_aside(files.wav)
    kept = [*(f"temp_live_audio_now{end}.wav" for end in ("", "_2", "_3")), "live_latent_now.pt"]
    assert [(tmp_path / name).read_text() for name in kept] == list("abcd")
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(("size", "kept"), [(44, 0), (2000, 0), (500_000, 1)])
def test_a_recording_whose_header_is_spoiled_is_kept_if_there_may_be_a_voice_in_it(size, kept):
    with claim_run_files() as files:
        files.new_recording().write_bytes(bytes(size))
        rescued = files.rescue()
    assert len(rescued) == kept and [path.stat().st_size for path in rescued] == [size] * kept
