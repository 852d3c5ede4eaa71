"""Fixtures that several rooms use, the order of the files, and how a run of many files shows its progress."""

import gc
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import forked, sound

# Before torch and NumPy are imported, here and in the scripts that tests start: processes that share the cores are
# slower with several threads each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before any test imports config: each worker of pytest-xdist gets a folder of its own, without a calibration.
os.environ["VOICETOIMG_DATA_DIR"] = tempfile.mkdtemp(prefix="voicetoimg-tests-")
# A hundred processes would compile the modules of this repository anew, and pytest all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# The main process of pytest-xdist leaves the size of its terminal there, and programs believe it rather than theirs.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# Collecting tests and importing libraries makes hundreds of thousands of objects, and nearly no garbage.
gc.disable()

# The files that take longest go first, so that no worker is left alone with one of them at the end.
LONGEST_FIRST = (
    "test_pipelines.py",
    "test_live_workflow.py",
    "test_pages.py",
    "test_batch.py",
    "test_recorder.py",
    "test_cluster.py",
    "test_readme.py",
    "test_training.py",
    "test_txt2img.py",
    "test_av_decoder.py",
    "test_program.py",
    "test_film_file.py",
    "test_painting_cluster.py",
    "test_film.py",
    "test_install.py",
    "test_phase1.py",
    "test_txt2img_options.py",
    "test_txt2img_files.py",
    "test_scenes.py",
)
# Files that one worker gets together: they import diffusers, which takes ten seconds, or librosa, which compiles for
# thirty when it is imported first on a machine.
TOGETHER = {"tests/audio/test_motion.py": "tests/audio/test_features.py"} | dict.fromkeys(
    (
        "tests/ldm/test_checkpoint.py",
        "tests/ldm/test_modules.py",
        "tests/ldm/test_samplers.py",
        "tests/painting/test_pipeline_loading.py",
        "tests/painting/test_pipeline_painter.py",
        "tests/test_txt2img_pipelines.py",
    ),
    "tests/painting/test_pipelines.py",
)
SILENCE = 10.0  # seconds after which a line says which files are at work


@pytest.hookimpl(trylast=True)  # after the terminal reporter is there
def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # of pytest-xdist, which would put the files with most tests first
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    is_worker = hasattr(config, "workerinput")
    if terminal and not is_worker and config.get_verbosity() <= 0:
        config.pluginmanager.register(FileProgress(terminal))
    if not is_worker and sys.platform == "linux" and not config.pluginmanager.hasplugin("_cov"):
        _servers.append(forked.start_server(Path(os.environ["VOICETOIMG_DATA_DIR"])))


_servers: "list[subprocess.Popen[bytes]]" = []  # at most one, which all workers use


def pytest_unconfigure() -> None:
    for server in _servers:
        assert server.stdin
        server.stdin.close()
        server.wait()
    shutil.rmtree(os.environ["VOICETOIMG_DATA_DIR"], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Let workers be forks, which need not load libraries."""
    for spec in specs if _servers else ():
        if spec.popen and not spec.python:
            spec.python = shlex.join(forked.worker_program())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return TOGETHER.get(file, file)

    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """Leave what is there by now, half a million objects, out of later collections of garbage; let those be fewer."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(7000, 10, 10)  # ten times the first one of Python: diffusers brings another half a million


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


class FileProgress:
    """Print a line for each file whose tests are done, in place of a dot for each test."""

    def __init__(self, terminal: Any) -> None:
        self._terminal = terminal
        self._left: Counter[str] = Counter()  # tests still to come, by file
        self._outcomes: dict[str, Counter[str]] = {}
        self._seconds: Counter[str] = Counter()
        self._total = self._done = 0
        self._last_line = time.monotonic()
        self._finished = False

    def pytest_sessionfinish(self) -> None:
        self._finished = True  # the summary needs the words of outcomes

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        if not self._total:  # all workers collect the same tests
            self._expect(ids)

    def _expect(self, ids: Iterable[str]) -> None:
        self._left = Counter(_file_of(one) for one in ids)
        self._total = sum(self._left.values())
        self._last_line = time.monotonic()

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Generator[None, Any, Any]:
        category, letter, word = yield
        if self._finished:
            return category, letter, word
        if category:
            self._outcomes.setdefault(_file_of(report.nodeid), Counter())[category] += 1
        if category in ("failed", "error"):
            self._line(f"{category.upper()} {report.nodeid}")
        return category, "", ""  # no letter and no word

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = _file_of(report.nodeid)
        self._seconds[file] += report.duration  # type: ignore[assignment]  # a Counter may hold any numbers
        if report.when != "teardown":
            return
        self._left[file] -= 1
        self._done += 1
        if not self._left[file]:
            outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self._outcomes[file].items()))
            self._line(f"{file}: {outcomes} in {self._seconds[file]:.0f} s")
        elif time.monotonic() - self._last_line > SILENCE:
            at_work = (name for name, outcomes in self._outcomes.items() if outcomes and self._left[name])
            self._line(f"... at work: {', '.join(at_work)}")

    def _line(self, text: str) -> None:
        percent = 100 * self._done // self._total if self._total else 0
        self._terminal.write_line(f"[{percent:3} %] {text}")
        self._last_line = time.monotonic()


def _file_of(nodeid: object) -> str:
    return str(nodeid).partition("::")[0]


@pytest.fixture(scope="session")
def sound_system() -> None:
    """PulseAudio and PortAudio, without which the test is skipped, or fails in CI."""
    lacking = sound.missing()
    if lacking and sound.must_be_there():
        pytest.fail(f"{lacking}; install it, so that the recorder is tested")
    if lacking:
        pytest.skip(lacking)


@pytest.fixture(scope="session")
def microphone(sound_system: None) -> Iterator[sound.SoundServer]:
    """A microphone that the tests can speak into; each worker of pytest-xdist has its own."""
    with sound.sound_server(hums=True) as server:
        yield server


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents [2, 4, 32, 32] of an English and an Italian voice; beside the file one of each, en.pt and it.pt."""
    import torch

    import config
    import process_live_audio
    from audio.provenance import read_heard, save_latents

    folder = tmp_path_factory.mktemp("voices")
    for language in ("en", "it"):
        recording, latent = config.EXAMPLES_DIR / f"voice_{language}.wav", folder / f"{language}.pt"
        assert process_live_audio.main([f"--input_file={recording}", f"--output_file={latent}"]) == 0
    files = [folder / name for name in ("en.pt", "it.pt")]
    heard = [one for path in files for one in read_heard(path, 1)]
    rows = [torch.load(path, weights_only=True) for path in files]
    save_latents(folder / "voices.pt", torch.cat(rows), None, heard=heard)
    return folder / "voices.pt"
