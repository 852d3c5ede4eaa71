"""Exit statuses, one line for each error, and files written whole or not at all: common to all scripts."""

import argparse
import importlib
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import cli
import config
from files import atomic_path, sha256_of
from painting import options
from painting.png_text import read_chunks
from tests.programs import PATIENCE, TINY, data_folder

SCRIPTS = sorted(path.name for path in config.REPO_DIR.glob("*.py") if "cli.run(main)" in path.read_text())


def python(code: str, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=config.REPO_DIR, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ("return None", 0, ""),
        ("raise ValueError('a\\n b')", 1, "-c: a b\n"),
        ("open('/')", 1, "-c: /: is a directory\n"),
        (
            "raise OSError(28, 'No space left', 'f')",
            1,
            "-c: f: no space left: free some space, or set VOICETOIMG_DATA_DIR to a folder on another disk\n",
        ),
        ("import nowhere", 1, None),
        ("raise KeyboardInterrupt", 130, "\ninterrupted\n"),
        ("\n with cli.keeping('it stays'): raise KeyboardInterrupt", 130, "\ninterrupted: it stays\n"),
    ],
)
def test_exit_status_and_line(body, status, line):
    process = python(f"import cli\ndef main(): {body}\ncli.run(main)")
    said = process.communicate()[1]
    assert process.returncode == status
    assert said == line if line is not None else "nowhere is not installed" in said and said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch has libgomp on Linux")
def test_threads_of_torch_do_not_keep_cores_busy_for_long(monkeypatch):
    """The libgomp of torch itself says what it has read, which is what it reads when torch loads it."""
    folder = Path(importlib.util.find_spec("torch").origin).parent / "lib"  # type: ignore[union-attr, arg-type]
    (library,) = folder.glob("libgomp*")
    monkeypatch.setenv("OMP_DISPLAY_ENV", "VERBOSE")
    for own, used in ((None, cli.SPIN_COUNT), ("7", "7")):
        if own:
            monkeypatch.setenv("GOMP_SPINCOUNT", own)
        process = python(f"import cli, ctypes\ndef main(): ctypes.CDLL({str(library)!r})\ncli.run(main)")
        assert f"GOMP_SPINCOUNT = '{used}'" in process.communicate()[1]


def test_a_bug_keeps_its_traceback():
    process = python("import cli\ndef main(): {}['missing']\ncli.run(main)")
    assert "Traceback" in process.communicate()[1]


@pytest.mark.parametrize("text", ["0", "11", "-3", "1.5", "nan", "", "ten"])
def test_bounded_refuses(text):
    with pytest.raises(cli.argparse.ArgumentTypeError, match="whole number from 1 to 10"):
        cli.bounded(int, 1, 10)(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (8.31, "8.3 s"), (90, "1.5 minutes"), (3816, "1.06 hours")]
)
def test_duration(seconds, text):
    assert cli.duration(seconds) == text


def test_numbers_of_things():
    assert [cli.counted(number, "step") for number in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-0.1"])
def test_bounded_takes_finite_numbers_only(text):
    with pytest.raises(cli.argparse.ArgumentTypeError):
        cli.bounded(float, 0)(text)


def test_atomic_path_keeps_the_old_file_if_writing_fails(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("letter", ["x", "é", "花", "𝄞"], ids=ascii)  # of one to four bytes
def test_atomic_path_takes_a_name_as_long_as_the_system_does(letter, tmp_path):
    name = letter * (250 // len(letter.encode())) + ".pt"
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_atomic_path_names_the_file_that_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    for target in (Path("/proc/latents.pt"), tmp_path / "folder"):
        with pytest.raises(OSError) as raised, atomic_path(target) as temporary:
            temporary.write_text("new")
        assert cli.describe(raised.value).startswith(f"{target}: "), raised.value


def test_the_hash_of_a_folder_is_that_of_what_is_to_be_seen_in_it(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.bin").write_bytes(b"weights")
    before = sha256_of(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "when").write_text("a download leaves its notes")
    assert sha256_of(tmp_path) == before
    (tmp_path / "unet" / "model.bin").write_bytes(b"other weights")
    assert sha256_of(tmp_path) != before


def test_a_terminated_script_leaves_no_temporary_file(tmp_path):
    code = (
        "import cli, time, pathlib\nfrom files import atomic_path\n"
        f"def main():\n with atomic_path(pathlib.Path({str(tmp_path / 'f')!r})) as t:\n"
        "  t.write_text('x'); print('ready', flush=True); time.sleep(60)\ncli.run(main)"
    )
    process = python(code, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == "ready\n" and list(tmp_path.iterdir())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("error", "status"), [("ValueError", 1), ("cli.WrongOption", 2)])
def test_a_traceback_on_demand_changes_nothing_else(error, status, monkeypatch):
    monkeypatch.setenv("VOICETOIMG_TRACEBACK", "1")
    process = python(f"import cli\ndef main():\n raise {error}('why')\ncli.run(main)")
    said = process.communicate(timeout=PATIENCE)[1].splitlines()
    assert process.returncode == status and said[0].startswith("Traceback") and said[-1].endswith(": why")


def test_notes_and_warnings_are_one_line_each():
    code = (
        "import cli, warnings\ndef main():\n cli.show_warnings()\n"
        " class Special(cli.Note): pass\n class FalseNote(UserWarning): pass\n"
        " for kind in (cli.Note, Special, FalseNote): warnings.warn('a\\n  b', kind)\ncli.run(main)"
    )
    assert python(code).communicate(timeout=PATIENCE)[1] == "note: a b\nnote: a b\nwarning: a b\n"


def test_a_closed_terminal_does_not_end_what_nohup_started():
    process = python(
        "import cli\ncli.run(lambda: print('ready', flush=True) or print(input()))",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate("done\n", timeout=PATIENCE) == ("done\n", "") and process.returncode == 0


def test_a_path_of_any_bytes_can_be_printed():
    code = "import cli, os\ncli.run(lambda: print(os.fsdecode(b'caf\\xe9')))"
    process = python(code, stdout=subprocess.PIPE, errors="surrogateescape")
    assert process.communicate(timeout=PATIENCE)[0] == os.fsdecode(b"caf\xe9\n") and process.returncode == 0


@pytest.mark.parametrize("kind", [cli.existing_folder, cli.new_folder])
def test_folders_are_folders(kind, tmp_path):
    (tmp_path / "file").touch()
    assert kind(str(tmp_path)) == tmp_path
    with pytest.raises(argparse.ArgumentTypeError, match="is a file, a folder is needed"):
        kind(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (cli.new_file(".pt"), "new.pt"),
        (cli.existing_file, "file"),
        (cli.existing_folder, "folder"),
        (cli.new_folder, "new"),
        (cli.existing_path, "folder"),
    ],
)
def test_a_tilde_is_the_home_folder(kind, name, tmp_path, monkeypatch):
    """A shell leaves it in --outdir=~/images, and in quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert kind(f"~/{name}") == tmp_path / name
    if kind is cli.new_folder:
        assert kind("a~") == Path("a~") and kind("~nobody_of_this_name") == Path("~nobody_of_this_name")


def test_the_data_folder_may_be_below_the_home_folder(tmp_path):
    environment = os.environ | {"VOICETOIMG_DATA_DIR": "~/data", "HOME": str(tmp_path)}
    process = python("import config; print(config.ROOT_DIR)", stdout=subprocess.PIPE, env=environment)
    assert process.communicate(timeout=PATIENCE)[0] == f"{tmp_path / 'data'}\n"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_written_all_the_same(encoding, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    code = "import cli\ndef main():\n print('голос…'); raise ValueError('голос…')\ncli.run(main)"
    said, complaint = python(code, stdout=subprocess.PIPE, encoding=encoding).communicate(timeout=PATIENCE)
    expected = "голос…".encode(encoding, "backslashreplace").decode(encoding)
    assert (said, complaint) == (f"{expected}\n", f"-c: {expected}\n")


def test_text_can_be_written():
    assert cli.text("голос") == "голос"
    with pytest.raises(argparse.ArgumentTypeError, match="is not text in UTF-8"):
        cli.text("a star \udcff")


def test_a_folder_without_a_name_is_none():
    with pytest.raises(argparse.ArgumentTypeError, match="the name of the folder is empty"):
        cli.new_folder("")


def test_a_name_of_an_option_is_not_guessed(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("prep_ldm").main(["--input_fil", "x.npy"])
    assert "unrecognized arguments: --input_fil" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_named():
    process = python(
        "import cli, sys\ncli.run(lambda: [print('x' * 100_000) for _ in range(9)])", stdout=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.wait(timeout=PATIENCE) == 1
    remedy = "the reader of this output closed the pipe; files already written are kept"
    assert process.stderr.readline() == f"-c: broken pipe: {remedy}\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_no_file_takes_the_place_of_a_stream_that_is_closed(closed, tmp_path):
    code = (
        "import cli, os, subprocess, sys\n"
        "def main():\n"
        " with open('numbers', 'w') as file:\n"
        "  print('said'); print('warned', file=sys.stderr); sys.stdout.flush()\n"
        "  child = subprocess.run(['sh', '-c', 'echo said; echo warned >&2; cat'])\n"
        "  print(file.fileno() > 2, sys.stdin is None, child.returncode, file=file)\n"
        " raise ValueError('why')\n"
        "cli.run(main)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(config.REPO_DIR)}, text=True,
        input="", capture_output=True, timeout=PATIENCE, preexec_fn=lambda: list(map(os.close, closed)),
    )  # fmt: skip
    assert finished.returncode == 1
    assert (tmp_path / "numbers").read_text() == f"True {0 in closed} 0\n"
    assert finished.stdout == ("" if 1 in closed else "said\n" * 2)
    assert finished.stderr == ("" if 2 in closed else "warned\nwarned\n-c: why\n")


@pytest.mark.slow
def test_recordings_are_read_by_workers_where_all_streams_are_closed(tmp_path):
    samples, rate = soundfile.read(config.EXAMPLES_DIR / "voice_en.wav")
    recordings = tmp_path / "in"
    recordings.mkdir()
    for number, end in enumerate((".wav", ".mp3", ".mp3")):
        soundfile.write(recordings / f"{number}{end}", np.roll(samples, 1000 * number), rate)
    command = [sys.executable, "prep_audio_spectrograms.py", "--input_dir", str(recordings), "--workers", "2"]
    environment = os.environ | {"VOICETOIMG_DATA_DIR": str(tmp_path)}
    finished = subprocess.run(
        command, env=environment, cwd=config.REPO_DIR, timeout=PATIENCE, preexec_fn=lambda: os.closerange(0, 3)
    )
    assert finished.returncode == 0
    assert len(np.load(tmp_path / "data" / "vectors" / "audio_spectrogram_vectors.npy")) == 3


def test_a_folder_to_read_has_to_be_there(tmp_path):
    assert cli.new_folder(str(tmp_path / "new")) == tmp_path / "new"
    with pytest.raises(argparse.ArgumentTypeError, match="there is no folder"):
        cli.existing_folder(str(tmp_path / "new"))


def test_all_scripts_are_there():
    assert SCRIPTS == [
        "prep_audio_spectrograms.py",
        "prep_ldm.py",
        "process_live_audio.py",
        "run_live_workflow.py",
        "txt2img.py",
        "z_transformation_with_stats.py",
    ]


HEAVY = {"torch", "librosa", "scipy", "cv2", "numpy", "soundfile", "sounddevice", "omegaconf", "PIL"}
TELL_HEAVY = f"""
import runpy, sys
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(*{HEAVY!r} & sys.modules.keys(), file=sys.stderr)
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_version_load_nothing_heavy_first(script):
    def answer(option: str) -> str:
        command = [sys.executable, "-c", TELL_HEAVY, script, option]
        result = subprocess.run(command, cwd=config.REPO_DIR, capture_output=True, text=True)
        assert result.returncode == 0 and not result.stderr.strip()
        return result.stdout

    assert answer("--help").startswith("usage: ")
    assert answer("--version") == f"voicetoimg {cli.VERSION}\n"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_examples_that_the_script_understands(script, tmp_path, monkeypatch):
    module: Any = importlib.import_module(script.removesuffix(".py"))
    examples = re.findall(rf"^  python {re.escape(script)}(.*)", module.__doc__, flags=re.M)
    assert examples and "\n\nexamples:\n  python " in module.__doc__
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # some examples read from it
    parse = getattr(module, "parse", None) or module.build_parser().parse_args
    for example in examples:
        words = shlex.split(example)
        for word in words:
            path = Path(word).expanduser()
            if path.suffix in (".wav", ".m4a", ".mp3", ".pt", ".npy", ".png", ".txt"):  # some have to be there
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("a red flower")
            elif path.name == "recordings":
                path.mkdir(parents=True)
        parse(words)


@pytest.mark.parametrize("script", SCRIPTS)
def test_options_have_a_help_that_ends_like_all_others(script):
    module = importlib.import_module(script.removesuffix(".py"))
    parser = module.build_parser() if hasattr(module, "build_parser") else options.build_parser(module.__doc__)
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:  # an older name of an option
            continue
        assert action.help and not action.help.endswith("."), action.option_strings
        assert action.help[0].islower() or action.help.startswith("DDIM"), action.help


def test_importing_config_creates_nothing(tmp_path):
    environment = os.environ | {"VOICETOIMG_DATA_DIR": str(tmp_path / "root")}
    subprocess.run([sys.executable, "-c", "import config"], cwd=config.REPO_DIR, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_calibration_takes_the_place_of_the_built_in_one(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "STATS_DIR", tmp_path)
    assert config.calibration_dirs() == [config.BUILTIN_CALIBRATION_DIR]
    (tmp_path / "mean.npy").write_bytes(b"")
    assert config.calibration_dirs() == [Path(tmp_path), config.BUILTIN_CALIBRATION_DIR]


# --- default names ---------------------------------------------------------------------------------------------------
@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Iterator[Path]:
    """Let VOICETOIMG_DATA_DIR name another folder than the current one."""
    here, data = tmp_path / "here", tmp_path / "data dir"
    here.mkdir()
    data.mkdir()
    with data_folder(data):
        monkeypatch.chdir(here)
        yield data


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


READERS = [  # the script, its option, and a default name
    ("prep_audio_spectrograms", "input_dir", "data/audio_input_batch/ann"),
    ("z_transformation_with_stats", "input_file", "data/vectors/audio_spectrogram_vectors.npy"),
    ("prep_ldm", "input_file", "data/vectors/audio_zscore_vectors.npy"),
    ("process_live_audio", "input_file", "temp_live_audio.wav"),
    ("process_live_audio", "input_file", "temp_live_audio_2026-11-28_20-00-00.wav"),
    ("txt2img", "init_latents", "live_latent.pt"),
    ("txt2img", "init_latents", "live_latent_2.pt"),
    ("txt2img", "init_latents", "data/latents/audio_latents_batch.pt"),
    ("txt2img", "replay", "outputs/txt2img-samples/samples/sample_0000.png"),
    ("run_live_workflow", "input_file", "outputs/sessions/2026-11-28_20-00-00/0001_voice.wav"),
]
WRITERS = [
    ("prep_audio_spectrograms", "output_file", "data/vectors/audio_spectrogram_vectors.npy"),
    ("z_transformation_with_stats", "output_file", "data/vectors/audio_zscore_vectors.npy"),
    ("z_transformation_with_stats", "stats_dir", "data/stats"),
    ("prep_ldm", "output_file", "data/latents/audio_latents_batch.pt"),
    ("process_live_audio", "output_file", "live_latent.pt"),
    ("txt2img", "outdir", "outputs/txt2img-samples"),
    ("run_live_workflow", "outdir", "outputs/txt2img-samples/tonight"),
]


def value_of(script: str, option: str, given: str) -> Path:
    """Return what a script takes for an option."""
    program = importlib.import_module(script)
    parse = getattr(program, "parse", None) or program.build_parser().parse_args
    needed = script == "process_live_audio" and option != "input_file"
    more = ["--input_file", __file__] if needed else []
    value = getattr(parse([f"--{option}={given}", *more]), option)
    return value[0] if isinstance(value, list) else value


@pytest.mark.parametrize(("script", "option", "name"), READERS, ids=str)
def test_a_default_name_is_read_where_it_was_written(script, option, name, elsewhere, capsys):
    def make(path: Path) -> Path:
        if option != "input_dir":
            return put(path)
        path.mkdir(parents=True)
        return path

    own = make(elsewhere / name)
    assert value_of(script, option, name) == own and capsys.readouterr().err == ""
    other = make(Path(name))
    assert value_of(script, option, name) == own
    assert capsys.readouterr().err.splitlines() == [
        f"note: {own} is taken, where VOICETOIMG_DATA_DIR puts it; write ./{name} for that of the current folder"
    ]
    assert value_of(script, option, f"./{name}") == other and capsys.readouterr().err == ""
    (own.rmdir if own.is_dir() else own.unlink)()
    assert value_of(script, option, name) == other
    (note,) = capsys.readouterr().err.splitlines()
    assert note == f"note: {name} of the current folder is taken: there is no {own}, where VOICETOIMG_DATA_DIR puts it"


@pytest.mark.parametrize(("script", "option", "name"), WRITERS, ids=str)
def test_a_default_name_is_written_where_it_is_read(script, option, name, elsewhere):
    assert value_of(script, option, name) == elsewhere / name
    assert value_of(script, option, f"./{name}") == Path(name)


def test_other_names_mean_themselves(elsewhere, capsys):
    names = ["ann.pt", "shows/live_latent.pt", "data/../live_latent.pt", str(put(elsewhere / "live_latent.pt"))]
    for name in names[:3]:
        put(Path(name))
        assert cli.existing_file(name) == Path(name)
    assert cli.existing_file(names[3]) == elsewhere / "live_latent.pt"
    assert capsys.readouterr().err == ""


def test_a_default_name_that_is_nowhere_is_named_where_it_should_be(elsewhere, capsys):
    with pytest.raises(SystemExit):
        value_of("txt2img", "init_latents", "live_latent.pt")
    own = elsewhere / "live_latent.pt"
    assert f"there is no file {own}: run process_live_audio.py first" in capsys.readouterr().err


def test_a_default_name_is_one_file_where_the_data_folder_is_the_current_one(tmp_path, monkeypatch, capsys):
    with data_folder(tmp_path):
        put(Path("live_latent.pt"))
        assert value_of("txt2img", "init_latents", "live_latent.pt") == tmp_path / "live_latent.pt"
    assert capsys.readouterr().err == ""


def test_the_voice_of_the_data_folder_is_painted_and_not_an_older_one(elsewhere, capsys):
    """README's two commands with VOICETOIMG_DATA_DIR, in a folder where an earlier show was."""
    process_live_audio, txt2img = (importlib.import_module(name) for name in ("process_live_audio", "txt2img"))
    older, newer = (config.EXAMPLES_DIR / f"voice_{language}.wav" for language in ("en", "fr"))
    assert process_live_audio.main([f"--input_file={older}", "--output_file=./live_latent.pt"]) == 0
    assert process_live_audio.main([f"--input_file={newer}"]) == 0
    assert txt2img.main(["--init_latents", "live_latent.pt", "--steps", "1", *map(str, TINY)]) == 0
    (image,) = (elsewhere / "outputs" / "txt2img-samples" / "samples").iterdir()
    assert read_chunks(image)[1].recordings == (newer.name,)
    assert f"note: {elsewhere / 'live_latent.pt'} is taken" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["live_latent.pt"]
