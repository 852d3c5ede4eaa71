"""The documents keep their word: commands and Python examples run, and what they name exists."""

import functools
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import cli
import config
import painting
import painting.options
from tests import forked
from tests.programs import PATIENCE, run_main, run_script

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(config.REPO_DIR).as_posix() for path in config.REPO_DIR.glob("docs/*.md")),
)
OTHER_DOCUMENTS = (
    "models/README.md",
    "models/calibration/README.md",
    "models/chladni/README.md",
    "examples/README.md",
    "findings/README.md",
)
ROOMS = ("audio", "ldm", "painting", "live", "training")
SCRIPTS = sorted(path.stem for path in config.REPO_DIR.glob("*.py") if "cli.run(main)" in path.read_text())
MOST_WORDS = 1500  # of README.md

# how commands that are not run begin, and why not
NOT_RUN = {
    "sudo apt install": "changes the system",
    "git clone": "fetches the repository, whose address is not known here",
    "cd voicetoimg": "belongs to the clone",
    "make test": "runs this test",
    "make live": "needs a microphone: tests/test_live_workflow.py speaks into one",
    "make stage": "goes on until Ctrl-C: tests/stage/ serves its pages",
    "python run_live_workflow.py --stage": "as above",
    "make film": "takes minutes: tests/film/test_film.py makes a small one",
    "make bench": "takes long, and needs recordings",
    "make train": "takes a day: tests/training/test_training.py trains a small model",
    "python -m training words": "as above",
    "python -m training first_stage": "as above",
    "python -m training prior": "as above",
    "python -m training diffusion": "as above",
    "python -m training export": "as above",
    "python run_live_workflow.py --list_mics": "needs a sound system: tests/test_live_workflow.py has one",
    "python run_live_workflow.py --mic": "needs a microphone: tests/test_live_workflow.py speaks into one",
    "python3 -m venv .venv": "downloads torch",
    "pip install": "downloads packages",
    "make diffusers": "downloads packages",
    "python txt2img.py --hub": "downloads a model",
    "python txt2img.py --model sd-turbo": "needs that model: tests/test_txt2img_pipelines.py has tiny ones",
    "python txt2img.py --ckpt dreamshaper": "as above",
    "python run_live_workflow.py --model": "as above",
    "ln -s": "needs ComfyUI: tests/comfyui/ loads the nodes from a link",
    "mklink": "as above, on Windows",
    "python -m comfyui": "as above: tests/comfyui/test_export.py",
    "python -m pip install": "downloads packages",
    "dask scheduler": "needs several machines: tests/audio/test_cluster.py has a cluster of processes",
    "python -m dask worker": "as above",
    "python prep_audio_spectrograms.py --dask_scheduler": "as above",
    "python txt2img.py --dask_scheduler": "as above: tests/painting/test_painting_cluster.py",
}
# appended to commands with these words; the last of two settings holds, so that nothing is waited for that another test
# has looked at
SMALLER = {
    "txt2img.py": "--steps 1",
    "run_live_workflow.py": "--steps 1",
    "prep_audio_spectrograms.py": "--workers 1",
    "training.scenes": "--count 4",
    "--walk": "--frames 3",
    "--film": "--fps 2",
    "-m pytest": "--collect-only --quiet -p no:cacheprovider",  # the tests are found; they run by themselves
}
# started in the tests' process, which saves the start of Python and the loading of the model
IN_PROCESS = {
    "process_live_audio.py",
    "txt2img.py",
    "prep_audio_spectrograms.py",
    "z_transformation_with_stats.py",
    "prep_ldm.py",
    "-m audio",
    "-m ldm",
    "-m training.scenes",
}
FORKED = {"run_live_workflow.py"}  # in a process of its own, which saves the loading of libraries, as after a pipe
# of Chromium, pip, git, Dask and xcode-select, or given to every script by argparse and cli.py
OTHER_OPTIONS = {
    "--kiosk",
    "--user-data-dir",
    "--use-fake-ui-for-media-stream",
    "--install",
    "--index-url",
    "--depth",
    "--nworkers",
    "--nthreads",
    "--help",
    "--version",
}


def text_of(document: str) -> str:
    return (config.REPO_DIR / document).read_text(encoding="utf-8")


def commands(document: str) -> list[str]:
    """The lines of the indented code blocks, without their comments."""
    text = re.sub(r"^```.*?^```", "", text_of(document), flags=re.M | re.S)
    lines = re.findall(r"^    (\S.*)", text, flags=re.M)
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def examples(document: str) -> list[str]:
    """The blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```", text_of(document), flags=re.M | re.S)


def is_run(command: str) -> bool:
    return not command.startswith(tuple(NOT_RUN))


def smaller(command: str) -> str:
    if command == "make demo":
        return "make demo STEPS=1"
    if "--replay" in command:
        return command  # the image decides its steps
    added = [more for script, more in SMALLER.items() if f"{script} " in f"{command} "]
    sized = "--steps 1" in added and "--size" not in command
    return " ".join([command, *added, *(["--size 128"] if sized else [])])


def parse(words: list[str]) -> None:
    """Hand the options of `python SCRIPT OPTIONS` or `python -m ROOM OPTIONS` to its parser, which leaves if wrong."""
    name, options = (f"{words[1]}.__main__", words[2:]) if words[0] == "-m" else (Path(words[0]).stem, words[1:])
    program: Any = importlib.import_module(name)
    (getattr(program, "parse", None) or program.build_parser().parse_args)(options)


ALL = [command for document in DOCUMENTS for command in commands(document)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with all that a clone has, in which whatever is written stays apart from the clone."""
    for path in config.REPO_DIR.iterdir():
        if not path.name.startswith(".") and path.name not in ("data", "outputs", "runs"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def run(command: str, checkout: Path) -> tuple[int, str]:
    """Run a command of a document; return its exit status and what it printed."""
    before, pipe, last = command.rpartition(" | python ")
    python, *words = shlex.split(f"python {last}" if pipe else command)
    if pipe or (python == "python" and words[0] in FORKED):
        text = subprocess.check_output(before, shell=True, text=True) if pipe else None
        done = run_script(*words, data=checkout, text=text)
    elif python == "python" and words[0] in IN_PROCESS:
        done = run_main(words[0], *words[1:], data=checkout)
    elif python == "python" and " ".join(words[:2]) in IN_PROCESS:
        done = run_main(f"{words[1]}.__main__", *words[2:], data=checkout)
    elif python == "python" and words[0] == "-m":
        done = forked.run(words, os.environ | {"VOICETOIMG_DATA_DIR": str(checkout)}, checkout, PATIENCE)
    else:
        environment = {name: value for name, value in os.environ.items() if name != "VOICETOIMG_DATA_DIR"}
        environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
        environment["MAKEFLAGS"] = "-o .venv/.ready -o .venv/.ready-dev"  # nothing is to be installed
        done = subprocess.run(
            command, shell=True, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300
        )
    return done.returncode, f"{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if any(map(is_run, commands(name)))])
def test_every_command_that_can_be_run_here_does_what_it_says(document, checkout):
    """In the order of the document, so that each document works by itself."""
    for command in filter(is_run, commands(document)):
        status, printed = run(smaller(command), checkout)
        assert status == 0, f"{command}\n{printed}"
        if command.startswith("mkdir -p data/audio_input_batch"):
            for voice in config.EXAMPLES_DIR.glob("*_*.*"):
                shutil.copy(voice, checkout / "data" / "audio_input_batch")
    if document == "README.md":
        assert len(list(checkout.glob("outputs/txt2img-samples/samples/*.png"))) == 2


def _paint_in_one_step(paint: Callable[..., Image.Image], *arguments: Any, **settings: Any) -> Image.Image:
    """Paint with one step where an example does not say how many."""
    return paint(*arguments, **{"steps": 1, **settings})


@pytest.mark.slow
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if examples(name)])
def test_python_examples_run(document, checkout, monkeypatch):
    """Each in a namespace of its own, as in a fresh notebook, and without a warning."""
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(painting, "paint", functools.partial(_paint_in_one_step, painting.paint))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for example in examples(document):
            exec(example, {})
    assert (checkout / "voice.png").is_file() or "voice.png" not in text_of(document)


def test_commands_that_are_not_run_are_still_in_the_documents():
    left_out = [command for command in ALL if not is_run(command)]
    assert not [start for start in NOT_RUN if not any(command.startswith(start) for command in left_out)]


@pytest.mark.parametrize(
    "command",
    [
        c
        for c in ALL
        if not is_run(c)
        and (c.split()[1].removesuffix(".py") in SCRIPTS or c.startswith("python -m training"))
        and "--hub" not in c  # which downloads before anything else
    ],
)
def test_options_of_commands_that_are_not_run(command, checkout, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(checkout)
    for before in (c for c in ALL if c.startswith("printf ")):  # files that they name
        subprocess.run(before, shell=True, check=True)
    (checkout / "live_latent.pt").touch()
    save_file({"a": np.zeros(1)}, checkout / "dreamshaper_8.safetensors")
    monkeypatch.setattr(config, "MODELS_DIR", tmp_path_factory.mktemp("models"))
    for model in re.findall(r"--model (\S+)", command):
        (config.MODELS_DIR / model).mkdir()
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
    defaults = {"PROMPT": "waves", "STEPS": ""} | settings
    for line in recipe:
        line = re.sub(r"\$\{(\w+):\+([^}]*)\}", lambda given: given[2] if defaults[given[1]] else "", line)
        expanded = [re.sub(r"\$(\w+)", lambda name: defaults[name[1]], word) for word in shlex.split(line)]
        parse(expanded[1:])
    assert recipe or words[1] != "live"


@pytest.fixture(scope="module")
def known_options() -> set[str]:
    """All options of the programs: as the parsers of the scripts know them, others as the source adds them."""
    import run_live_workflow

    parsers = (painting.options.build_parser(None), run_live_workflow.build_parser())
    known = OTHER_OPTIONS | {option for parser in parsers for option in parser._option_string_actions}
    folders = [path for path in config.REPO_DIR.iterdir() if path.is_dir() and path.name not in ("tests", ".venv")]
    for path in (*config.REPO_DIR.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))):
        known |= set(re.findall(r"add\w*\(\s*\"(--[\w-]+)\"", path.read_text(encoding="utf-8")))
    return known


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_that_are_named_exist(document, known_options):
    """Also those in tables and sentences."""
    named = set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", text_of(document)))
    assert named <= known_options, named - known_options


def slugs(path: Path) -> set[str]:
    """The names under which web pages of the repository know the headings of a document."""
    headings = re.findall(r"^#+ (.+)", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, *OTHER_DOCUMENTS])
def test_files_that_are_linked_or_named_exist(document):
    here = (config.REPO_DIR / document).parent
    for name, heading in re.findall(r"\]\((?!http)([^)#]+)(?:#([^)]*))?\)", text_of(document)):
        assert (here / name).exists(), name
        assert not heading or heading in slugs(here / name), heading
    folders = "|".join((*ROOMS, "benchmarks", "docs", "models", "tests", "tools"))
    programs = re.findall(rf"`(?:python )?((?:{folders})/[\w./]+\.py)", text_of(document))
    assert not [name for name in programs if not (config.REPO_DIR / name).exists()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_functions_that_are_named_exist(document):
    """Those named as `file.py:function` or `file.py:Class.method`."""
    for file, name in re.findall(r"`([\w/]+\.py):([\w.]+)`", text_of(document)):
        source = (config.REPO_DIR / file).read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"^ *(def|class) {part}\b", source, flags=re.M), f"{file}:{name}"


def test_the_tree_of_files_is_that_of_the_readme():
    """Every script and every module of a room has a line, and every line a file."""
    (block,) = re.findall(r"^```text\n(.*?)^```", text_of("README.md"), flags=re.M | re.S)
    named, folder = set(), ""
    for line in block.splitlines():
        name = line.split()[0]
        folder = "" if not line.startswith(" ") else folder
        named.add((folder + name).rstrip("/"))
        folder = name if name.endswith("/") and not folder else folder
    assert not [name for name in named if not (config.REPO_DIR / name).exists()]
    modules = [*config.REPO_DIR.glob("*.py"), *(path for room in ROOMS for path in config.REPO_DIR.glob(f"{room}/*"))]
    there = {path.relative_to(config.REPO_DIR).as_posix() for path in modules if "__" not in path.name}
    assert not there - named, "give each of these a line in the tree of README.md"


def test_the_readme_is_short():
    assert len(text_of("README.md").split()) <= MOST_WORDS


def test_torch_is_the_same_version_wherever_it_is_named():
    wanted = re.search(r"^torch==(\S+)", (config.REPO_DIR / "requirements.txt").read_text(), flags=re.M)
    named = re.findall(r"torch==([\d.]+)", "\n".join(map(text_of, DOCUMENTS)))
    assert wanted and named and set(named) == {wanted[1]}


def test_the_version_is_the_newest_in_the_changelog():
    headings = re.findall(r"^## (\S+)", text_of("CHANGELOG.md"), flags=re.M)
    assert headings[0] == cli.VERSION
