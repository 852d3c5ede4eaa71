"""What README.md and CONTRIBUTING.md say can be done: every command is run, or its options are checked."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cli
import config

DOCUMENTS = ("README.md", "CONTRIBUTING.md")
SCRIPTS = sorted(path.stem for path in config.REPO_DIR.glob("*.py") if "cli.run(main)" in path.read_text())

# how commands that are not run begin, and why not
NOT_RUN = {
    "make test": "runs this test",
    "make live": "needs a microphone: tests/test_live_workflow.py speaks into one",
    "make bench": "takes long, and needs recordings",
    "make train": "takes hours: tests/training/test_training.py trains a small model",
    "python -m training diffusion": "as above",
    "python -m training export": "as above",
    "python run_live_workflow.py --prompt": "needs a microphone: tests/test_live_workflow.py speaks into one",
    "python run_live_workflow.py --list_mics": "needs a sound system: tests/test_live_workflow.py has one",
    "python run_live_workflow.py --mic": "needs a microphone: tests/test_live_workflow.py speaks into one",
    "python3 -m venv .venv": "downloads torch",
    "pip install": "downloads packages",
    "dask scheduler": "needs several machines: tests/audio/test_batch.py has a cluster of processes",
    "PYTHONPATH=. OMP_NUM_THREADS=1 dask worker": "as above",
    "python prep_audio_spectrograms.py --dask_scheduler": "as above",
    ". .venv/bin/activate": "changes the shell",
    "python -m pytest": "runs tests",
}
# run all the same, though they begin like one of those
RUN = ('python run_live_workflow.py --prompt "a blue butterfly" --steps 20 --input_file',)
# appended, where the last of two settings holds, so that nothing is waited for that another test has looked at
SMALLER = {
    "txt2img.py": "--ddim_steps 1",
    "run_live_workflow.py": "--steps 1",
    "prep_audio_spectrograms.py": "--workers 1",
}
# of pip, Dask and xcode-select, or given to every script by argparse and cli.py
OTHER_OPTIONS = {"--install", "--index-url", "--nworkers", "--nthreads", "--help", "--version"}


def commands(document: str) -> list[str]:
    """The lines of the indented code blocks, without their comments."""
    text = re.sub(r"^```.*?^```", "", (config.REPO_DIR / document).read_text(encoding="utf-8"), flags=re.M | re.S)
    lines = re.findall(r"^    (\S.*)", text, flags=re.M)
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def is_run(command: str) -> bool:
    return command.startswith(RUN) or not command.startswith(tuple(NOT_RUN))


def smaller(command: str) -> str:
    return " ".join([command, *(more for script, more in SMALLER.items() if f"{script} " in f"{command} ")])


def parse(words: list[str]) -> None:
    """Hand the options of `python SCRIPT OPTIONS` to the script's own parser, which leaves if they are wrong."""
    script = importlib.import_module(Path(words[0]).stem)
    (getattr(script, "parse", None) or script.build_parser().parse_args)(words[1:])


ALL = [command for document in DOCUMENTS for command in commands(document)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with all that a clone has, in which whatever is written stays apart from the clone."""
    for path in config.REPO_DIR.iterdir():
        if not path.name.startswith(".") and path.name not in ("data", "outputs", "runs"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def test_every_command_that_can_be_run_here_does_what_it_says(checkout):
    environment = {name: value for name, value in os.environ.items() if name != "VOICETOIMG_DATA_DIR"}
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
    environment["MAKEFLAGS"] = "-o .venv/.ready -o .venv/.ready-dev"  # nothing is to be installed
    ran = [command for command in ALL if is_run(command)]
    for command in ran:
        if command == "make demo":
            command = "make demo STEPS=1"
        done = subprocess.run(
            smaller(command), shell=True, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if command.startswith("mkdir -p data/audio_input_batch"):
            for voice in config.EXAMPLES_DIR.glob("*_*.*"):
                shutil.copy(voice, checkout / "data" / "audio_input_batch")
    assert len(ran) >= 12 and len(list(checkout.glob("outputs/txt2img-samples/samples/*.png"))) >= 9


def test_commands_that_are_not_run_are_still_in_the_documents():
    left_out = [command for command in ALL if not is_run(command)]
    assert not [start for start in NOT_RUN if not any(command.startswith(start) for command in left_out)]
    assert not [start for start in RUN if not any(command.startswith(start) for command in ALL)]


@pytest.mark.parametrize("command", [c for c in ALL if not is_run(c) and c.split()[1].removesuffix(".py") in SCRIPTS])
def test_options_of_commands_that_are_not_run(command):
    parse(shlex.split(command)[1:])


@pytest.mark.parametrize("command", [c for c in ALL if c.startswith("make ") and not is_run(c)])
def test_make_knows_what_it_is_asked_for(command, checkout):
    """Every target is there, and what it would run has options that the script knows."""
    words = shlex.split(command)
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    fresh = ["-o", ".venv/.ready", "-o", ".venv/.ready-dev"]
    done = subprocess.run(["make", "-n", *fresh, *words[1:]], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    recipe = [line for line in done.stdout.splitlines() if "run_live_workflow.py" in line]
    defaults = {"PROMPT": "waves", "STEPS": "20"} | settings
    for line in recipe:
        expanded = [re.sub(r"\$(\w+)", lambda name: defaults[name[1]], word) for word in shlex.split(line)]
        parse(expanded[1:])
    assert recipe or words[1] != "live"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_that_are_named_exist(document):
    """Also those in tables and sentences; those of scripts as their parsers know them, others as `add_argument`."""
    text = (config.REPO_DIR / document).read_text(encoding="utf-8")
    known = OTHER_OPTIONS | {
        option
        for path in config.REPO_DIR.rglob("*.py")
        if not {"tests", ".venv"} & set(path.relative_to(config.REPO_DIR).parts)
        for option in re.findall(r"add\w*\(\s*\"(--\w+)\"|either\(\"(--\w+)\"", path.read_text(encoding="utf-8"))
        for option in option
        if option
    }
    named = set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", text))
    assert named <= known, named - known


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, "models/README.md", "models/calibration/README.md", "examples/README.md"]
)
def test_files_that_are_linked_or_named_exist(document):
    text = (config.REPO_DIR / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    programs = re.findall(
        r"`(?:python )?((?:audio|ldm|live|painting|benchmarks|docs|models|tests|tools)/[\w./]+\.py)", text
    )
    here = (config.REPO_DIR / document).parent
    assert not [name for name in links if not (here / name).exists()]
    assert not [name for name in programs if not (config.REPO_DIR / name).exists()]


def test_torch_is_the_same_version_wherever_it_is_named():
    wanted = re.search(r"^torch==(\S+)", (config.REPO_DIR / "requirements.txt").read_text(), flags=re.M)
    named = re.findall(r"torch==([\d.]+)", (config.REPO_DIR / "README.md").read_text(encoding="utf-8"))
    assert named and set(named) == {wanted[1]}


def test_the_version_is_the_newest_in_the_changelog():
    headings = re.findall(r"^## (\S+)", (config.REPO_DIR / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert headings[0] == cli.VERSION
