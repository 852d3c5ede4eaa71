"""Batches: skipped files, files that are measured again, and runs that are interrupted."""

import contextlib
import csv
import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import prep_audio_spectrograms
from audio import av_decoder, batch, batch_state, decoding
from audio.batch import find_recordings, prepare_batch
from audio.features import extract
from audio.files import sha256_of
from audio.recipe import Recipe
from config import EXAMPLES_DIR, REPO_DIR
from tests.recordings import BAD, EXAMPLES, speech, write_bad

SCRIPT = REPO_DIR / "prep_audio_spectrograms.py"
ENDS = (".npy", ".csv", "_skipped.csv", ".json")
DEADLINE = 300.0  # seconds that a busy machine may take


@pytest.fixture
def folder(tmp_path) -> Path:
    """Make recordings in folders, with bad files, a hidden one, one without sound, and unusual names."""
    folder = tmp_path / "in"
    for index, path in enumerate(EXAMPLES):
        target = folder / ("b" if index % 2 else "a, é") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for kind in BAD:
        write_bad(folder / f"{kind}.wav", kind)
    (folder / ".hidden.wav").write_bytes(EXAMPLES[0].read_bytes())
    (folder / "notes.txt").write_text("no sound, and none promised\n")
    return folder


def many(folder: Path, count: int) -> Path:
    """Fill a folder with `count` different short recordings."""
    folder.mkdir(parents=True)
    for index in range(count):
        soundfile.write(folder / f"{index:03}.wav", np.roll(speech(0.3, 8000), 37 * index), 8000)
    return folder


def contents(output: Path) -> dict[str, bytes]:
    return {end: output.with_name(output.stem + end).read_bytes() for end in ENDS}


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.DictReader(stream))


def script(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# --- one run ---------------------------------------------------------------------------------------------------------
def test_batch(folder, tmp_path):
    output = tmp_path / "out" / "vectors.npy"
    report = prepare_batch(folder, output, workers=1)
    matrix = np.load(output, allow_pickle=False)
    rows, skipped = read_table(output.with_suffix(".csv")), read_table(output.with_name("vectors_skipped.csv"))
    assert (report.rows, report.skipped) == (len(EXAMPLES), len(BAD)) == (len(rows), len(skipped))
    assert matrix.shape == (len(EXAMPLES), 4096) and matrix.dtype == np.float32
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    for index, row in enumerate(rows):
        assert int(row["row"]) == index and row["decoder"] == "libsndfile"
        assert row["sha256"] == sha256_of(folder / row["path"])
        file = soundfile.info(folder / row["path"])
        assert int(row["sample_rate"]) == file.samplerate
        assert float(row["seconds"]) == pytest.approx(file.duration, abs=1e-3)
        np.testing.assert_allclose(matrix[index], extract(folder / row["path"]).vector, rtol=0, atol=1e-4)
    for row in skipped:
        assert BAD[row["path"].removesuffix(".wav")] in row["reason"] and row["reason"]
    about = json.loads(output.with_suffix(".json").read_text())
    assert about["recipe"] == Recipe().to_json() and about["recordings"] == len(rows)
    assert report.seconds == pytest.approx(sum(float(row["seconds"]) for row in rows), abs=0.01)
    assert sorted(p.name for p in output.parent.iterdir()) == sorted("vectors" + end for end in ENDS)


@pytest.mark.slow
def test_batch_gives_the_same_bytes_for_any_number_of_workers(folder, tmp_path):
    for workers in (1, 3):
        prepare_batch(folder, tmp_path / str(workers) / "v.npy", workers=workers)
    assert contents(tmp_path / "1" / "v.npy") == contents(tmp_path / "3" / "v.npy")


@pytest.mark.parametrize("missing", [ImportError, OSError])  # a Python without semaphores, a system without /dev/shm
def test_without_shared_memory_one_process_does_all_the_work(tmp_path, monkeypatch, missing):
    def refuse() -> None:
        raise missing

    monkeypatch.setattr(batch.multiprocessing, "Lock", refuse)
    said: list[str] = []
    report = prepare_batch(many(tmp_path / "in", 2), tmp_path / "v.npy", workers=2, say=said.append)
    assert report.rows == 2 and said == ["this system has no shared memory (/dev/shm): one process does all the work"]


@pytest.mark.parametrize("kinds", [[], ["text", "silent"]], ids=["none", "all bad"])
def test_batch_without_a_single_recording_keeps_what_was_there(tmp_path, kinds):
    (tmp_path / "in").mkdir()
    for kind in kinds:
        write_bad(tmp_path / "in" / f"{kind}.wav", kind)
    output = tmp_path / "v.npy"
    output.write_bytes(b"older")
    output.with_suffix(".csv").write_text("row,path,seconds\n")
    with pytest.raises(ValueError, match="holds 2 files, but none" if kinds else "no files"):
        prepare_batch(tmp_path / "in", output)
    assert output.read_bytes() == b"older" and sorted(p.name for p in tmp_path.iterdir()) == ["in", "v.csv", "v.npy"]


def test_why_no_file_can_be_used_is_written_where_nothing_was(tmp_path):
    (tmp_path / "in").mkdir()
    for index, kind in enumerate(["empty", "empty", "silent"]):
        write_bad(tmp_path / "in" / f"{index}.wav", kind)
    output = tmp_path / "v.npy"
    why = r"2 × the file is empty; record again, 1 × .*silent"
    for _ in range(2):
        with pytest.raises(
            ValueError, match=rf"in holds 3 files, but none that can be used; .*v_skipped.csv says why: {why}"
        ):
            prepare_batch(tmp_path / "in", output)
        assert [row["path"] for row in read_table(tmp_path / "v_skipped.csv")] == ["0.wav", "1.wav", "2.wav"]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "v_skipped.csv"]
    prepare_batch(many(tmp_path / "good", 2), output)
    before = contents(output)
    with pytest.raises(ValueError, match=f"v.npy stays as it is: {why}"):
        prepare_batch(tmp_path / "in", output)
    assert contents(output) == before


def test_a_file_of_somebody_else_is_not_replaced(tmp_path):
    output = tmp_path / "v.npy"
    np.save(output, np.arange(3))
    output.with_suffix(".csv").write_text("some other table\n")
    (tmp_path / "v_skipped.csv").write_text("path,reason,sha256,decoder\n")  # of a run that could use no file
    before = output.read_bytes()
    with pytest.raises(ValueError, match="v.npy exists and is not a result of prep_audio_spectrograms.py: choose"):
        prepare_batch(many(tmp_path / "in", 2), output)
    assert output.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "v.csv", "v.npy", "v_skipped.csv"]


@pytest.mark.parametrize("name", ["v.csv", "v_skipped.csv", "v.json"])
def test_a_table_of_somebody_else_is_not_replaced_either(name, tmp_path):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match=f"{name} exists and is not a result of prep_audio_spectrograms.py"):
        prepare_batch(many(tmp_path / "in", 2), tmp_path / "v.npy", workers=1)
    assert (tmp_path / name).read_text() == "precious" and not (tmp_path / "v.npy").exists()


@pytest.mark.parametrize(
    ("copies", "line"), [(0, ""), (1, "1 recording is a copy of another"), (2, "2 recordings are copies of others")]
)
def test_copies_are_told_of(tmp_path, capsys, copies, line):
    folder = many(tmp_path / "in", 2)
    for index in range(copies):
        shutil.copy(folder / "000.wav", folder / f"copy {index}.wav")
    arguments = ["--input_dir", str(folder), "--output_file", str(tmp_path / "v.npy"), "--workers", "1"]
    for _ in range(2):  # the second learns it from the result of the first
        assert prep_audio_spectrograms.main(arguments) == 0
        said = capsys.readouterr().out
        assert line in said and (copies > 0) == ("with the same sha256" in said)


@pytest.mark.slow
def test_odd_names_links_and_things_that_are_no_files(tmp_path):
    names = [b"with space.wav", b"quo'te\".wav", b"new\nline.wav", b"not utf-8 \xff\xfe.wav", b"-rf.wav", b"voice"]
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for place in (folder / "sub", elsewhere):
        place.mkdir(parents=True)
    for name in names:
        shutil.copy(EXAMPLES[0], folder / os.fsdecode(name))
    shutil.copy(EXAMPLES[1], elsewhere / "linked.wav")
    (folder / "link").symlink_to(elsewhere)
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "a folder.wav").mkdir()
    (folder / "broken link.wav").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.wav")
    report = prepare_batch(folder, tmp_path / "v.npy", workers=2)
    rows, skipped = read_table(tmp_path / "v.csv"), read_table(tmp_path / "v_skipped.csv")
    assert {os.fsencode(row["path"]) for row in rows} == {*names, b"link/linked.wav"} and report.rows == len(names) + 1
    assert {row["path"]: row["reason"].split(",")[0] for row in skipped} == {
        "a folder.wav": "a folder",
        "broken link.wav": "a link to nothing",
        "pipe.wav": "not a regular file",
    }
    assert prepare_batch(folder, tmp_path / "v.npy").new == 0  # also such names are known again


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_skipped_and_tried_again(tmp_path):
    folder = many(tmp_path / "in", 3)
    (folder / "001.wav").chmod(0)
    assert prepare_batch(folder, tmp_path / "v.npy").skipped == 1
    assert "permission denied" in read_table(tmp_path / "v_skipped.csv")[0]["reason"]
    (folder / "001.wav").chmod(0o600)
    assert prepare_batch(folder, tmp_path / "v.npy").new == 1


def test_a_folder_that_may_not_be_read_is_skipped_with_its_reason(tmp_path, monkeypatch):
    """The refusal is simulated, because root may read every folder."""
    folder, walk = many(tmp_path / "in", 2), os.walk

    def refusing(top: Path, followlinks: bool, onerror: Callable[[OSError], None]) -> Iterator:
        onerror(PermissionError(errno.EACCES, "Permission denied", str(folder / "secret")))
        yield from walk(top, followlinks=followlinks)

    monkeypatch.setattr(os, "walk", refusing)
    assert prepare_batch(folder, tmp_path / "v.npy").rows == 2
    (row,) = read_table(tmp_path / "v_skipped.csv")
    assert row["path"] == "secret" and row["reason"] == "the folder cannot be read: permission denied"


def test_files_that_are_no_recordings_are_not_enough(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no sound, and none promised")
    with pytest.raises(ValueError, match="in holds 1 file, but no recording"):
        prepare_batch(tmp_path / "in", tmp_path / "v.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(MemoryError(), "MemoryError"), (OSError(errno.EIO, "Input/output error"), "input/output error")],
)
def test_what_the_system_refuses_is_a_reason(tmp_path, monkeypatch, error, reason):
    folder = many(tmp_path / "in", 2)
    hear = batch.extract

    def extract(path: Path, recipe: Recipe, channel: int | None, trim: bool) -> object:
        if path.name == "001.wav":
            raise error
        return hear(path, recipe)

    monkeypatch.setattr(batch, "extract", extract)
    assert prepare_batch(folder, tmp_path / "v.npy").rows == 1
    assert read_table(tmp_path / "v_skipped.csv")[0]["reason"] == reason


def test_a_file_that_changes_while_it_is_read_is_left_for_the_next_run(tmp_path, monkeypatch):
    folder = many(tmp_path / "in", 2)
    hear = batch.extract

    def extract(path: Path, recipe: Recipe, channel: int | None, trim: bool) -> object:
        heard = hear(path, recipe)
        if path.name == "001.wav":
            with path.open("ab") as file:
                file.write(b"more")
        return heard

    monkeypatch.setattr(batch, "extract", extract)
    assert prepare_batch(folder, tmp_path / "v.npy").rows == 1
    assert "changed while it was read" in read_table(tmp_path / "v_skipped.csv")[0]["reason"]
    monkeypatch.undo()
    assert prepare_batch(folder, tmp_path / "v.npy").rows == 2


def test_a_file_that_is_gone_has_no_digest(tmp_path):
    assert batch.identify(str(tmp_path), "gone.wav", limited=False).sha256 == ""


# --- the next run ----------------------------------------------------------------------------------------------------
def test_only_what_is_new_is_done(folder, tmp_path):
    output, voice = tmp_path / "v.npy", folder / "a, é" / EXAMPLES[0].name
    assert prepare_batch(folder, output).new == len(EXAMPLES)
    before = contents(output), output.stat().st_mtime_ns
    os.utime(voice, (1, 1))  # another time, the same content
    assert prepare_batch(folder, output).new == 0 and (contents(output), output.stat().st_mtime_ns) == before
    voice.rename(folder / "0 moved.wav")
    soundfile.write(folder / "added.wav", speech(0.5, 8000), 8000)
    (folder / "b" / EXAMPLES[1].name).unlink()
    report = prepare_batch(folder, output)
    assert report.new == 1 and report.rows == len(EXAMPLES)
    assert [row["path"] for row in read_table(tmp_path / "v.csv")][:2] == ["0 moved.wav", f"a, é/{EXAMPLES[2].name}"]
    prepare_batch(folder, tmp_path / "fresh" / "v.npy")
    assert contents(output) == contents(tmp_path / "fresh" / "v.npy")


def test_changed_content_is_noticed_whatever_time_it_has(tmp_path):
    folder, output = many(tmp_path / "in", 3), tmp_path / "v.npy"
    prepare_batch(folder, output)
    path = folder / "001.wav"
    status, whole = path.stat(), path.read_bytes()
    path.write_bytes(whole[:2000] + bytes(100) + whole[2100:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prepare_batch(folder, output).new == 1
    np.testing.assert_allclose(np.load(output)[1], extract(path).vector, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg, which makes the files, is not installed")
def test_files_of_many_kinds_give_the_same_bytes_for_any_number_of_workers(tmp_path):
    """Compressed ones, parts, damage, a stream of choice, and disturbances: each worker has a decoder of its own."""
    voice, rate = speech(1.5, 16_000), 16_000
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(folder / "plain.wav", voice, rate)
    soundfile.write(folder / "opposite.flac", np.stack([voice, -voice], axis=1), rate)
    soundfile.write(folder / "offset.wav", voice * 0.5 + 0.3, rate)
    hum = 0.2 * np.sin(2 * np.pi * 50 * np.arange(len(voice)) / rate)
    soundfile.write(folder / "hum.wav", voice * 0.5 + hum, rate)
    for end in ("m4a", "mp3", "ogg", "opus", "webm", "ts", "wma", "aac"):
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", folder / "plain.wav", folder / f"a.{end}"]
        subprocess.run(command, check=True, timeout=DEADLINE)
    (folder / "glued.mp3").write_bytes(2 * (folder / "a.mp3").read_bytes())
    (folder / "cut.opus").write_bytes((folder / "a.opus").read_bytes()[:-2000])
    (folder / "list.m4a").write_text("ffconcat version 1.0\nfile a.wav\n")
    for workers in (1, 2):
        report = prepare_batch(folder, tmp_path / str(workers) / "v.npy", workers=workers)
        assert (report.rows, report.skipped, report.damaged) == (14, 1, 1)
    assert contents(tmp_path / "1" / "v.npy") == contents(tmp_path / "2" / "v.npy")


def test_what_was_done_to_a_recording_and_which_channel_was_taken(tmp_path):
    voice = speech(0.5, 8000)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "mono.wav", voice, 8000)
    soundfile.write(tmp_path / "in" / "opposite.wav", np.stack([voice, -voice], axis=1), 8000)
    prepare_batch(tmp_path / "in", tmp_path / "v.npy")
    note = "channel 1 of 2 is used, because the channels cancel each other"
    assert [row["note"] for row in read_table(tmp_path / "v.csv")] == ["", note]
    np.testing.assert_array_equal(*np.load(tmp_path / "v.npy"))
    said: list[str] = []
    assert prepare_batch(tmp_path / "in", tmp_path / "v.npy", channel=2, say=said.append).rows == 1
    assert said == ["channel was chosen, is now 2: all recordings are done again"]
    (skipped,) = read_table(tmp_path / "v_skipped.csv")
    assert skipped["reason"] == "the recording has 1 channel; there is no channel 2"


def test_another_recipe_starts_afresh_and_says_so(tmp_path):
    folder, output = many(tmp_path / "in", 3), tmp_path / "v.npy"
    said: list[str] = []
    prepare_batch(folder, output, say=said.append)
    report = prepare_batch(folder, output, Recipe(hop_length=256), say=said.append)
    assert report.new == 3 and said == ["hop_length was 512, is now 256: all recordings are done again"]


def test_a_result_that_was_tampered_with_is_not_built_upon(tmp_path):
    folder, output = many(tmp_path / "in", 3), tmp_path / "v.npy"
    prepare_batch(folder, output)
    whole = contents(output)
    np.save(output, np.zeros((3, 4096), np.float32))
    assert prepare_batch(folder, output).new == 3 and contents(output) == whole


def test_what_an_unfinished_run_of_another_recipe_did_is_done_afresh(tmp_path):
    folder, output = many(tmp_path / "in", 3), tmp_path / "v.npy"
    said: list[str] = []
    with batch_state.BatchState(output) as unfinished:
        unfinished.begin({"recipe": Recipe(n_mels=32).to_json()}, "")
        unfinished._database.execute("INSERT INTO done (sha256, vector) VALUES ('x', x'00')")  # so that it is kept
    assert prepare_batch(folder, output, say=said.append).new == 3
    assert said == ["n_mels was 32, is now 64: all recordings are done again"]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (sqlite3.OperationalError("database is locked"), RuntimeError, "another run is at work on .*v.npy; wait"),
        (sqlite3.OperationalError("database or disk is full"), OSError, "No space left on device: .*progress"),
        (sqlite3.OperationalError("attempt to write a readonly database"), OSError, "Permission denied: .*progress"),
        (sqlite3.OperationalError("disk I/O error"), RuntimeError, "disk I/O error; remove that file to start afresh"),
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left on device: '{folder}'"),
    ],
)
def test_errors_of_the_database_are_one_clear_line(tmp_path, error, kind, message):
    with (
        batch_state.BatchState(tmp_path / "v.npy") as one,
        pytest.raises(kind, match=message.format(folder=tmp_path)),
        one._clear_errors(),
    ):
        raise error


def test_a_folder_without_locks_is_not_another_run(tmp_path, monkeypatch):
    """SQLite takes ENOLCK, of a network folder without a lock server, for a lock that somebody holds."""

    def no_locks(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(batch_state, "lock", no_locks)
    state = batch_state.BatchState(tmp_path / "v.npy")
    with pytest.raises(OSError, match="allows no locks .*choose a folder on another disk"), state._clear_errors():
        raise sqlite3.OperationalError("database is locked")


@pytest.mark.parametrize("length", [236, 250])  # too long for the names of the state, and of the results
def test_a_name_that_is_too_long_is_called_so(tmp_path, length):
    with pytest.raises(OSError) as caught:
        prepare_batch(many(tmp_path / "in", 1), tmp_path / f"{'v' * length}.npy")
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_result_that_cannot_be_written_leaves_nothing_new(tmp_path, monkeypatch):
    folder, output = many(tmp_path / "in", 3), tmp_path / "v.npy"
    prepare_batch(folder, output)
    before = contents(output)
    soundfile.write(folder / "new.wav", speech(0.4, 8000), 8000)

    def full(self: object, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(batch_state.NpyWriter, "append", full)
    with pytest.raises(OSError, match="No space left on device"):
        prepare_batch(folder, output)
    assert contents(output) == before and not list(tmp_path.glob(".v*.new"))
    monkeypatch.undo()
    assert prepare_batch(folder, output).new == 0  # it was measured; only the matrix was missing


def test_a_run_that_comes_as_another_ends_is_told_so(tmp_path, monkeypatch):
    """The other run removes the file after this one has opened it and before it has locked it."""
    connect = sqlite3.connect

    def late(path: Path, **options: Any) -> sqlite3.Connection:
        database = connect(path, **options)
        database.execute("PRAGMA user_version = 1")  # makes the file
        path.unlink()
        return database

    monkeypatch.setattr(sqlite3, "connect", late)
    with pytest.raises(RuntimeError, match="another run on .*v.npy has just ended; run this command again"):
        batch_state.BatchState(tmp_path / "v.npy")


def test_a_damaged_state_is_begun_again(tmp_path):
    folder, output = many(tmp_path / "in", 3), tmp_path / "v.npy"
    (tmp_path / ".v.progress.sqlite").write_bytes(b"rubbish" * 1000)
    assert prepare_batch(folder, output).rows == 3


# --- interrupted -----------------------------------------------------------------------------------------------------
KILLING = """
import os, random, signal, sys, time
from pathlib import Path
from audio.batch import prepare_batch
folder, output, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
random.seed(1)
longest, killed = 0.0, 0
while killed < kills:
    child = os.fork()
    if not child:
        prepare_batch(folder, output)
        os._exit(0)
    started = time.monotonic()
    time.sleep(random.uniform(0, 0.25))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        killed += 1
    else:  # done: begin again, half of the time with something left
        assert status == 0, status
        for path in output.parent.glob("v*" if random.random() < 0.5 else "v.json"):
            path.unlink()
print(prepare_batch(folder, output).rows)
"""


@pytest.mark.slow
def test_killed_many_times_at_random_moments(tmp_path):
    """The result is that of one undisturbed run, byte for byte, with no other file left."""
    folder, output = many(tmp_path / "in", 60), tmp_path / "out" / "v.npy"
    command = [sys.executable, "-c", KILLING, str(folder), str(output), "30"]
    result = subprocess.run(command, cwd=REPO_DIR, capture_output=True, text=True, timeout=5 * DEADLINE)
    assert result.returncode == 0 and result.stdout == "60\n", result.stderr
    prepare_batch(folder, tmp_path / "peace" / "v.npy")
    assert contents(output) == contents(tmp_path / "peace" / "v.npy")
    assert sorted(p.name for p in output.parent.iterdir()) == sorted("v" + end for end in ENDS)


def done_so_far(output: Path) -> int:
    with contextlib.closing(sqlite3.connect(output.parent / ".v.progress.sqlite")) as database:
        return database.execute("SELECT count(*) FROM done").fetchone()[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_keeps_what_is_done(tmp_path, how):
    """The signal goes to all processes, as Ctrl-C does. At most the tasks under way are lost."""
    folder, output = many(tmp_path / "in", 150), tmp_path / "out" / "v.npy"
    arguments = ("--input_dir", folder, "--output_file", output, "--workers", 2)
    process = script(*arguments, start_new_session=True)
    wal, deadline = output.parent / ".v.progress.sqlite-wal", time.monotonic() + DEADLINE
    while not (wal.exists() and wal.stat().st_size > 600_000) and process.poll() is None:  # some thirty rows
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, how)
    _, said = process.communicate(timeout=DEADLINE)
    if process.returncode == 0:
        pytest.skip("the machine was faster than the test")
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[how]
    assert how != signal.SIGINT or said.endswith("interrupted: what is done is kept, the same command continues\n")
    assert "Traceback" not in said and not list(output.parent.glob("v*"))
    before = done_so_far(output)
    report = prepare_batch(folder, output)
    assert before >= 16 and report.new == 150 - before and report.rows == 150
    assert sorted(p.name for p in output.parent.iterdir()) == sorted("v" + end for end in ENDS)


HELD_BACK = """
import signal
from pathlib import Path
from audio import batch
held_back = lambda *_, limited: signal.pthread_sigmask(signal.SIG_BLOCK, ())
with batch._pool(2, None, Path(".")) as pool:
    print(*({*map(int, signals)} >= batch.ENDING for signals in pool._parallel(held_back, [["0"], ["1"]])))
print({*map(int, held_back(limited=False))} & batch.ENDING)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signals to hold back")
def test_workers_start_with_signals_held_back():
    """A process of its own is needed, which has not started workers before."""
    result = subprocess.run([sys.executable, "-c", HELD_BACK], cwd=REPO_DIR, capture_output=True, text=True)
    assert result.stdout == "True True\nset()\n", result.stderr


def processes(session: int) -> list[str]:
    listed = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True).stdout
    return [status for status in listed.split() if not status.startswith("Z")]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ps"), reason="nothing lists processes")
def test_workers_end_with_their_parent(tmp_path):
    folder, output = many(tmp_path / "in", 400), tmp_path / "out" / "v.npy"
    process = script("--input_dir", folder, "--output_file", output, "--workers", 2, start_new_session=True)
    wal, deadline = output.parent / ".v.progress.sqlite-wal", time.monotonic() + DEADLINE
    while not (wal.exists() and wal.stat().st_size > 100_000) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    while processes(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("renamed", range(5))
def test_a_result_that_was_half_in_place_is_completed(tmp_path, renamed):
    """A run is killed between the renames of the four files: the next one completes them first."""
    folder, output = many(tmp_path / "in", 3), tmp_path / "v.npy"
    prepare_batch(folder, output)
    soundfile.write(folder / "new.wav", speech(0.4, 8000), 8000)
    prepare_batch(folder, tmp_path / "new" / "v.npy")
    wanted = contents(tmp_path / "new" / "v.npy")
    with batch_state.BatchState(output) as half:
        half._set("finishing", "yes")
        half._database.execute("INSERT INTO done (sha256, vector) VALUES ('x', x'00')")  # so that it is kept
    for index, end in enumerate(ENDS):
        place = output.with_name("v" + end) if index < renamed else output.with_name(f".v{end}.new")
        place.write_bytes(wanted[end])
    assert prepare_batch(folder, output).new == 0 and contents(output) == wanted
    assert not list(tmp_path.glob(".v*"))


@pytest.mark.slow
def test_a_second_run_says_so_and_stops(tmp_path):
    folder, output = many(tmp_path / "in", 3), tmp_path / "v.npy"
    with batch_state.BatchState(output):
        process = script("--input_dir", folder, "--output_file", output, "--workers", 1)  # another process is needed
        _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1 and said.count("\n") == 1 and f"another run is at work on {output}" in said
    assert prepare_batch(folder, output).rows == 3


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_leaves_the_old_result(tmp_path, small_disk):
    folder, output = many(tmp_path / "in", 5), small_disk / "v.npy"
    prepare_batch(folder, output)
    before = contents(output)
    many(folder / "more", 60)  # a megabyte of vectors
    with pytest.raises(OSError, match="No space left on device") as caught:
        prepare_batch(folder, output)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename
    assert contents(output) == before
    shutil.rmtree(folder / "more")
    for path in small_disk.glob(".v.progress*"):  # what was done stays, as far as it fits
        assert path.stat().st_size < 600_000
        path.unlink()
    assert prepare_batch(folder, output).new == 0


# --- workers ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_file_that_ends_its_worker_is_skipped(tmp_path):
    def deadly(folder: str, path: str, limited: bool) -> batch_state.FileResult:
        if path == "7":
            os.kill(os.getpid(), signal.SIGKILL)
        return batch_state.FileResult(path, seconds=1.0)

    with batch._pool(2, None, tmp_path) as pool:
        results = {one.path: one for one in pool.run(deadly, [str(i) for i in range(50)])}
    assert len(results) == 50 and "crashed" in results.pop("7").reason
    assert all(one.seconds == 1.0 for one in results.values())


@pytest.mark.slow
def test_a_worker_that_ends_a_task_finds_the_next_one(tmp_path):
    def done(folder: str, path: str, limited: bool) -> batch_state.FileResult:
        return batch_state.FileResult(path)

    under_way: list[list[str]] = []
    tasks = [[str(i)] for i in range(50)]
    with batch._pool(2, None, tmp_path) as pool:
        assert isinstance(pool, batch._Pool)
        results = pool._parallel(done, batch._noted(tasks, under_way))
        first = next(results)
        assert len(under_way) >= 4  # of two workers: one that each is at, and one that it finds
        assert {first.path, *(one.path for one in results)} == {path for (path,) in tasks}


@pytest.mark.parametrize(
    ("system", "status"),
    [("", -signal.SIGALRM), ("import signal; del signal.setitimer\n", 1)],
    ids=["a timer", "none, as on Windows"],
)
def test_a_decoder_that_hangs_is_ended(tmp_path, system, status):
    (tmp_path / "f").write_bytes(b"x")
    code = (
        f"{system}import pathlib, time; from audio import batch; batch.LEAST_SECONDS = 0.3\n"
        f"limit = lambda: batch._time_limit(pathlib.Path({str(tmp_path / 'f')!r}))\n"
        "with limit(): pass\n"
        "time.sleep(0.5)\n"  # the limit went with the file
        "print('alive', flush=True)\n"
        "with limit(): time.sleep(60)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO_DIR, capture_output=True, text=True)
    assert result.returncode == status and result.stdout == "alive\n"


# --- damaged on purpose ----------------------------------------------------------------------------------------------
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III", "aiff": "PCM_24"}


def mutate(whole: bytes, random: np.random.Generator) -> bytes:
    """Change, cut off, repeat or leave out bytes, more often in the header than in the rest."""
    content = bytearray(whole)
    for _ in range(random.integers(1, 9)):
        reach = len(content) if random.random() < 0.5 else min(len(content), 200)
        where, length = int(random.integers(reach)), int(random.integers(1, 64))
        match random.integers(5):
            case 0:
                content[where : where + length] = random.bytes(length)
            case 1:
                content[where] ^= 1 << random.integers(8)
            case 2:
                del content[where : where + length]
            case 3:
                content[where:where] = content[where : where + length]
            case 4:
                content[where : where + 4] = int(random.choice([0, 1, 2**31 - 1, 2**32 - 1])).to_bytes(4, "little")
    return bytes(content[: random.integers(1, len(content))] if random.random() < 0.1 else content)


@pytest.mark.slow
def test_fuzz(tmp_path):
    """Every mutated file becomes a vector of finite numbers or a reason; no file stops, crashes or hangs the batch."""
    folder, random, count = tmp_path / "in", np.random.default_rng(0), 400
    folder.mkdir()
    for kind, subtype in FORMATS.items():
        soundfile.write(tmp_path / f"s.{kind}", speech(0.3, 16_000), 16_000, subtype=subtype)
        whole = (tmp_path / f"s.{kind}").read_bytes()
        for index in range(count // len(FORMATS)):
            (folder / f"{index}.{kind}").write_bytes(mutate(whole, random))
    arguments = ("--input_dir", folder, "--output_file", tmp_path / "v.npy", "--workers", 2)
    process = script(*arguments)
    _, said = process.communicate(timeout=5 * DEADLINE)
    assert process.returncode == 0 and not said
    rows, skipped = read_table(tmp_path / "v.csv"), read_table(tmp_path / "v_skipped.csv")
    assert len({r["path"] for r in rows} | {r["path"] for r in skipped}) == count == len(rows) + len(skipped)
    assert np.isfinite(np.load(tmp_path / "v.npy")).all() and all(row["reason"] for row in skipped)
    assert not [row for row in skipped if "crashed" in row["reason"]]
    assert min(len(rows), len(skipped)) > count // 10  # it is not all the same


# --- damaged, and usable all the same --------------------------------------------------------------------------------
CUT = {"wav": "PCM_16", "aiff": "PCM_16", "mp3": None, "ogg": "VORBIS"}


def damaged(folder: Path) -> list[str]:
    """Write damaged files of 3 s (cut at half their bytes, or with noise in the middle) and whole ones.

    Returns the names of the damaged ones.
    """
    folder.mkdir()
    for kind, subtype in CUT.items():
        path = folder / f"whole.{kind}"
        soundfile.write(path, speech(3, 16_000), 16_000, subtype=subtype)
        content = path.read_bytes()
        (folder / f"cut.{kind}").write_bytes(content[: len(content) // 2])
    middle = len(content) // 2
    noise = np.random.default_rng(0).bytes(64)
    (folder / "hole.ogg").write_bytes(content[:middle] + noise + content[middle + 64 :])
    header = bytearray((folder / "whole.wav").read_bytes())
    header[40:44] = b"\xff" * 4  # as programs write that do not know how long it will become
    (folder / "piped.wav").write_bytes(header)
    return ["hole.ogg", *(f"cut.{kind}" for kind in CUT)]


def test_what_was_read_in_part_is_a_row_with_a_note(tmp_path, capsys):
    names = damaged(tmp_path / "in")
    arguments = ["--input_dir", str(tmp_path / "in"), "--output_file", str(tmp_path / "v.npy"), "--workers", "1"]
    for _ in range(2):  # the second learns it from the result of the first
        assert prep_audio_spectrograms.main(arguments) == 0
        said = capsys.readouterr().out
        assert f"{len(names)} damaged recordings, used as far as" in said and "0 files skipped" in said, said
        rows = {row["path"]: row for row in read_table(tmp_path / "v.csv")}
        assert sorted(name for name, row in rows.items() if row["damage"]) == sorted(names)
        soundfile.write(tmp_path / "in" / "new.wav", speech(1, 8000), 8000)
    assert rows["cut.wav"]["damage"] == "damaged: 1.50 of 3.00 s could be read"
    assert rows["cut.ogg"]["damage"] == f"damaged: cut off after {float(rows['cut.ogg']['seconds']):.2f} s"


def test_a_cut_flac_is_skipped_with_its_reason(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("whole.flac", "cut.flac"):
        soundfile.write(tmp_path / "in" / name, speech(3, 16_000), 16_000)
    content = (tmp_path / "in" / "cut.flac").read_bytes()
    (tmp_path / "in" / "cut.flac").write_bytes(content[: len(content) // 2])
    assert prepare_batch(tmp_path / "in", tmp_path / "v.npy").rows == 1
    reason = read_table(tmp_path / "v_skipped.csv")[0]["reason"]
    assert reason.startswith("damaged: ") and "lost sync" in reason and "may rescue a part" in reason


# --- through PyAV ----------------------------------------------------------------------------------------------------
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")


VOICE = EXAMPLES_DIR / "voice_en.wav"


def convert(target: Path, *options: str) -> Path:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(VOICE), *options, str(target)]
    subprocess.run(command, check=True, timeout=DEADLINE)
    return target


@pytest.mark.slow
@needs_ffmpeg
def test_what_pyav_reads_and_only_by_content(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, *options in (
        ("a.m4a",), ("a.wma",), ("a.mka",), ("a.aac",), ("six.mka", "-ac", "6"),
        ("a.mp4", "-f", "lavfi", "-i", "color=size=32x32:rate=5:duration=3"),
    ):  # fmt: skip
        convert(folder / name, *options)
    convert(tmp_path / "b.m4a").rename(folder / "aac in truth.wav")
    convert(tmp_path / "c.m4a").rename(folder / "no suffix")
    convert(folder / "no sound.mp4", "-f", "lavfi", "-i", "color=size=32x32:rate=5:duration=1", "-map", "1:v")
    whole = convert(tmp_path / "d.mka").read_bytes()
    (folder / "cut.mka").write_bytes(whole[:-200])
    (folder / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{VOICE}\n")
    (folder / "list.wav").write_text(f"ffconcat version 1.0\nfile {VOICE}\n")
    report = prepare_batch(folder, tmp_path / "v.npy", workers=2)
    skipped = {row["path"]: row["reason"] for row in read_table(tmp_path / "v_skipped.csv")}
    assert report.rows == 9 and set(skipped) == {"no sound.mp4", "list.wav"} and report.damaged == 1
    assert "there is no sound in it" in skipped["no sound.mp4"] and "not a recording" in skipped["list.wav"]
    assert all(row["decoder"].startswith("PyAV ") for row in read_table(tmp_path / "v.csv"))
    damage = {row["path"]: row["damage"] for row in read_table(tmp_path / "v.csv")}
    assert damage.pop("cut.mka").endswith("(File ended prematurely)") and not any(damage.values())
    wanted, vectors = extract(VOICE).vector, np.load(tmp_path / "v.npy")
    assert all(np.corrcoef(vector, wanted)[0, 1] > 0.8 for vector in vectors)  # lossy, and one is cut


@needs_ffmpeg
def test_pyav_gives_the_samples_of_libsndfile(tmp_path):
    convert(tmp_path / "a.mka", "-c:a", "pcm_s16le")
    np.testing.assert_array_equal(extract(tmp_path / "a.mka").vector, extract(VOICE).vector)


@needs_ffmpeg
def test_installing_pyav_brings_back_what_it_can_read(tmp_path, monkeypatch):
    folder, output = many(tmp_path / "in", 2), tmp_path / "v.npy"
    convert(folder / "a.m4a")
    with monkeypatch.context() as without:
        for module in (batch, decoding, av_decoder):
            without.setattr(module, "decoder_name", lambda: "")
        assert prepare_batch(folder, output).skipped == 1
        assert "pip install av" in read_table(tmp_path / "v_skipped.csv")[0]["reason"]
    report = prepare_batch(folder, output)
    assert (report.new, report.rows, report.skipped) == (1, 3, 0)


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_decoder_that_is_ended_is_tried_again(tmp_path, monkeypatch):
    folder, output = many(tmp_path / "in", 2), tmp_path / "v.npy"
    convert(folder / "a.m4a")
    program = tmp_path / "decoder.py"
    program.write_text("import os, signal, sys\nsys.stdin.buffer.read1()\nos.kill(os.getpid(), signal.SIGKILL)\n")
    av_decoder._end_all()
    with monkeypatch.context() as ended:
        ended.setattr(av_decoder, "PROGRAM", str(program))
        assert prepare_batch(folder, output).skipped == 1
    row = read_table(tmp_path / "v_skipped.csv")[0]
    assert "ended from outside (SIGKILL)" in row["reason"] and not row["sha256"]
    report = prepare_batch(folder, output)
    assert (report.new, report.rows, report.skipped) == (1, 3, 0)


@needs_ffmpeg
def test_whatever_has_sound_is_a_row_or_skipped(tmp_path):
    folder = many(tmp_path / "in", 1)
    for name, *options in (
        ("a.mts", "-c:a", "mp2", "-ar", "48000"),
        ("a.loas", "-f", "latm"),
        ("a.vob", "-c:a", "mp2"),
    ):
        convert(folder / name, *options)
        shutil.copy(folder / name, folder / f"{name} without a name")
    for suffix in (".dsf", ".ts", ".rm", ".qcp"):
        (folder / f"none{suffix}").write_bytes(b"something else" * 99)
    prepare_batch(folder, tmp_path / "v.npy")
    told = read_table(tmp_path / "v.csv") + read_table(tmp_path / "v_skipped.csv")
    assert {row["path"] for row in told} == {path.name for path in folder.iterdir()}
    assert len(read_table(tmp_path / "v.csv")) == 7


@pytest.mark.slow
@needs_ffmpeg
def test_fuzz_through_pyav(tmp_path):
    random, whole = np.random.default_rng(0), convert(tmp_path / "a.m4a", "-t", "0.4").read_bytes()
    (tmp_path / "in").mkdir()
    for index in range(20):
        (tmp_path / "in" / f"{index}.m4a").write_bytes(mutate(whole, random))
    report = prepare_batch(tmp_path / "in", tmp_path / "v.npy", workers=2)
    assert report.rows + report.skipped == 20 and np.isfinite(np.load(tmp_path / "v.npy")).all()


def test_finding_is_in_one_order_and_without_what_is_hidden(folder):
    (folder / ".git").mkdir()
    shutil.copy(EXAMPLES[0], folder / ".git" / "a.wav")
    found = [path for path, reason in find_recordings(folder) if not reason]
    assert len(found) == len(set(found)) == len(EXAMPLES) + len(BAD) + 1
    assert not [path for path in found if "/." in f"/{path}"]


def test_verbose_says_how_fast(tmp_path, capsys):
    folder, output = many(tmp_path / "in", 3), tmp_path / "v.npy"
    arguments = ["--input_dir", str(folder), "--output_file", str(output), "--workers", "1", "--verbose"]
    assert prep_audio_spectrograms.main(arguments) == 0
    said = capsys.readouterr().out
    assert "files/s" in said and "hours of sound per second" in said and "slowest '00" in said
    assert prep_audio_spectrograms.main(arguments) == 0
    assert " s: no new recordings\n" in capsys.readouterr().out
