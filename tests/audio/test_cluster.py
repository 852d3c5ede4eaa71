"""Dask: workers that end, that are not fit, that come late; a scheduler that ends, or is none.

The first half has a scheduler and workers in this process, the second half processes, started by the commands of
docs/calibration.md.
"""

import contextlib
import functools
import importlib
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from audio import batch, cluster
from audio.batch import prepare_batch
from audio.batch_state import BatchState, FileResult
from audio.recipe import RECIPE
from config import REPO_DIR
from tests import forked
from tests.audio.test_batch import contents, many
from tests.programs import PATIENCE, run_main, wait_until

if TYPE_CHECKING:
    import distributed
else:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: requirements-dask.txt")

COUNT = 100  # recordings


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    return many(tmp_path_factory.mktemp("recordings") / "in", COUNT)


@pytest.fixture(scope="module")
def wanted(recordings, tmp_path_factory) -> dict[str, bytes]:
    """Make the result on this machine alone."""
    output = tmp_path_factory.mktemp("here") / "v.npy"
    prepare_batch(recordings, output)
    return contents(output)


# --- a scheduler and workers in this process -------------------------------------------------------------------------
@pytest.fixture(scope="module")
def threads() -> Iterator["distributed.LocalCluster"]:
    """Start a scheduler in a thread of this process, without workers."""
    with (
        quiet(),
        distributed.LocalCluster(
            n_workers=0, processes=False, protocol="tcp://", threads_per_worker=1, dashboard_address=None
        ) as local,
    ):
        yield local


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with cluster._without_its_log():
        yield


@pytest.fixture
def two_workers(threads) -> Iterator[list["distributed.Worker"]]:
    """Start two workers in threads of this process, which `audio.cluster` cannot tell from others."""
    scale(threads, 2)
    yield list(threads.workers.values())
    scale(threads, 0)


def scale(local: "distributed.LocalCluster", count: int) -> None:
    """Start or end workers until there are `count`."""
    local.scale(count)
    scheduler = local.scheduler
    assert scheduler
    wait_until(lambda: len(scheduler.workers) == len(local.workers) == count)


@pytest.fixture(autouse=True)
def sooner(monkeypatch):
    monkeypatch.setattr(cluster, "LOOK_EVERY", 0.05)


def measured(folder: str, path: str, limited: bool) -> FileResult:
    return FileResult(path, seconds=1.0)


def results(address: str, folder: Path, function: Callable[..., FileResult], count: int) -> tuple[dict, list[str]]:
    """Run a function on made-up paths; return its results by path, and what was said."""
    said: list[str] = []
    with cluster.connect(address, folder, 8, said.append) as pool:
        return {one.path: one for one in pool.run(function, [str(i) for i in range(count)])}, said


@pytest.fixture
def made_up(monkeypatch, tmp_path) -> Path:
    """Let files need not be there."""
    monkeypatch.setattr(cluster, "_unreadable", lambda folder, path: "")
    return tmp_path


def test_each_path_gets_its_result(threads, two_workers, made_up):
    found, said = results(threads.scheduler_address, made_up, measured, 50)
    assert len(found) == 50 and all(one.seconds == 1.0 for one in found.values()) and not said


def test_several_rounds_use_one_connection(threads, two_workers, made_up):
    with cluster.connect(threads.scheduler_address, made_up, 8, print) as pool:
        for _ in range(2):
            assert len(list(pool.run(measured, ["a", "b"]))) == 2


def refuse(monkeypatch, worker: "distributed.Worker", folder: str, answer: cluster.Unfit) -> None:
    """Let one worker answer that it is not fit, if it is asked about this folder and some files."""
    fit = cluster._unfit

    def unfit(asked: str, paths: list[str], wanted: dict[str, str]) -> cluster.Unfit | None:
        if distributed.get_worker().address == worker.address and paths:
            return answer
        return fit(asked, paths, wanted)

    monkeypatch.setattr(cluster, "_unfit", unfit)


def test_a_worker_that_loses_the_folder_hands_its_files_on(threads, two_workers, made_up, monkeypatch):
    refuse(monkeypatch, two_workers[0], str(made_up), cluster.Unfit("does not see it"))
    found, said = results(threads.scheduler_address, made_up, measured, 50)
    assert len(found) == 50 and all(one.seconds == 1.0 for one in found.values())
    assert said == [f"the worker {two_workers[0].address} does not see it; it gets no recordings"]


def test_a_file_that_only_one_worker_cannot_read_is_the_workers_fault(threads, two_workers, tmp_path, monkeypatch):
    (tmp_path / "0").touch()
    refuse(monkeypatch, two_workers[0], str(tmp_path), cluster.Unfit("cannot read '0'", "0"))
    found, said = results(threads.scheduler_address, tmp_path, measured, 1)
    assert found["0"].seconds == 1.0 and len(said) <= 1  # nothing is said if the other worker was asked first


def test_a_file_that_nobody_can_read_is_skipped_with_its_reason(threads, two_workers, tmp_path):
    for name in ("0", "2"):
        (tmp_path / f"{name}").touch()
    found, said = results(threads.scheduler_address, tmp_path, functools.partial(batch.measure, recipe=RECIPE), 3)
    assert found["1"].reason == "no such file or directory" and "empty" in found["2"].reason and not said


def test_if_no_worker_is_left_that_can_be_used_the_reason_is_an_error(threads, two_workers, made_up, monkeypatch):
    monkeypatch.setattr(cluster, "LONELY_SECONDS", 0.1)
    unfit = cluster._unfit
    monkeypatch.setattr(
        cluster, "_unfit", lambda *asked: cluster.Unfit("has lost the folder") if asked[1] else unfit(*asked)
    )
    with pytest.raises(RuntimeError, match=r"no worker can be used any more: the worker tcp://\S+ has lost the folder"):
        results(threads.scheduler_address, made_up, measured, 20)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"soxr": "0.1"}, r"the worker tcp://\S+ has soxr \S+, this machine 0.1: make them equal"),
        ({"the program in audio/": "0123"}, "has the program in audio/ .*, this machine 0123: make them equal"),
    ],
)
def test_workers_of_other_versions_are_named(threads, two_workers, tmp_path, monkeypatch, wrong, message):
    own = cluster.versions()
    answer = cluster._unfit  # of the worker, which has the right versions
    monkeypatch.setattr(cluster, "_unfit", lambda folder, paths, _: answer(folder, paths, own | wrong))
    with pytest.raises(RuntimeError, match=message):
        results(threads.scheduler_address, tmp_path, measured, 1)


def test_workers_that_do_not_see_the_folder_are_named(threads, two_workers, tmp_path):
    with pytest.raises(RuntimeError, match=r"the worker tcp://\S+ does not see .*nowhere; mount it there"):
        results(threads.scheduler_address, tmp_path / "nowhere", measured, 1)


def test_workers_without_the_program_are_named(threads, two_workers, made_up, monkeypatch):
    monkeypatch.setattr(cluster.Call, "__reduce__", lambda _: (importlib.import_module, ("no_program",)))
    message = r"cannot run this program \(No module named 'no_program'\); .*python -m dask worker tcp://"
    with pytest.raises(RuntimeError, match=message):
        results(threads.scheduler_address, made_up, measured, 1)


def test_a_file_that_ends_its_workers_is_given_up_and_no_other(threads, two_workers, made_up, monkeypatch):
    """A worker that has the file is taken for dead, as one is whose process ends."""
    outcome = cluster.ClusterPool._outcome

    def ends(pool: cluster.ClusterPool, future: "distributed.Future", address: str) -> object:
        return None if "7" in pool._workers[address].tasks[future.key].paths else outcome(pool, future, address)

    monkeypatch.setattr(cluster.ClusterPool, "_outcome", ends)
    found, _ = results(threads.scheduler_address, made_up, measured, 50)
    assert len(found) == 50
    assert found.pop("7").reason == "its decoder crashed or did not end; convert it to wav"
    assert all(one.seconds == 1.0 for one in found.values())


def test_threads_that_are_not_used_are_told_of(threads, two_workers, made_up, monkeypatch):
    ask = cluster.ClusterPool._ask_scheduler
    monkeypatch.setattr(cluster.ClusterPool, "_ask_scheduler", lambda pool: dict.fromkeys(ask(pool), 8))
    found, said = results(threads.scheduler_address, made_up, measured, 50)
    assert len(found) == 50 and len(said) == 2
    assert all(
        line.endswith("has 8 threads, and one is used: start workers with --nworkers 8 --nthreads 1") for line in said
    )


def test_files_are_measured_one_at_a_time_in_a_process(tmp_path, monkeypatch):
    """A worker may have several threads, and the time limit of a file is one of the whole process."""
    monkeypatch.setattr(cluster, "_unfit", lambda *_: None)
    at_work: list[str] = []

    def measure(folder: str, path: str, limited: bool) -> FileResult:
        at_work.append(path)
        time.sleep(0.01)
        assert at_work.pop() == path and not at_work
        return FileResult(path)

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(cluster.work, measure, str(tmp_path), [str(i)], {}) for i in range(8)]
        assert [task.result() for task in tasks] == [[FileResult(str(i))] for i in range(8)]


def test_a_suspect_is_alone_on_its_worker():
    one, other, suspect = cluster._Task(["a", "b"]), cluster._Task(["c"]), cluster._Task(["a"], deaths=1)
    worker = cluster._Worker()
    assert worker.has_room(suspect) and worker.has_room(one)
    worker.tasks["1"] = one
    assert worker.has_room(other) and not worker.has_room(suspect)
    worker.tasks = {"1": suspect}
    assert not worker.has_room(other) and not worker.has_room(suspect)


def test_a_result_that_does_not_arrive_is_made_elsewhere(threads, two_workers, made_up, monkeypatch):
    result, kept = distributed.Future.result, two_workers[0].address

    def late(future: "distributed.Future", timeout: float) -> object:
        found = result(future, timeout)
        if found and future.client.who_has([future])[future.key][0] == kept:
            raise TimeoutError
        return found

    monkeypatch.setattr(distributed.Future, "result", late)
    found, said = results(threads.scheduler_address, made_up, measured, 50)
    assert len(found) == 50 and said == [f"the worker {kept} does not deliver what it has done; it gets no recordings"]


def test_a_cancelled_task_is_the_schedulers_end_and_no_workers_fault(threads, two_workers, made_up):
    with cluster.connect(threads.scheduler_address, made_up, 8, print) as pool:
        future = pool._client.submit(int, 1)
        future.cancel()
        assert future.exception() is None
        with pytest.raises(RuntimeError, match="does not answer any more; start it again"):
            pool._outcome(future, two_workers[0].address)


def test_without_workers_a_line_says_so_and_the_next_one_is_used(threads, made_up, monkeypatch):
    monkeypatch.setattr(cluster, "LONELY_SECONDS", 0.2)
    scale(threads, 1)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        threads.scale(1)

    with cluster.connect(threads.scheduler_address, made_up, 8, say) as pool:
        scale(threads, 0)
        assert len(list(pool.run(measured, ["a", "b"]))) == 2
    (line,) = said
    assert line.startswith("no Dask worker for 0 s; this goes on as soon as one comes: start workers in a copy of this")
    scale(threads, 0)


def test_after_a_while_without_workers_one_that_is_not_fit_is_not_waited_with_for_ever(threads, made_up, monkeypatch):
    monkeypatch.setattr(cluster, "LONELY_SECONDS", 0.2)
    scale(threads, 1)

    def say(line: str) -> None:
        monkeypatch.setattr(cluster, "_unfit", lambda *_: cluster.Unfit("has other versions"))
        threads.scale(1)

    with (
        cluster.connect(threads.scheduler_address, made_up, 8, say) as pool,
        pytest.raises(RuntimeError, match="no worker can be used any more: .* has other versions. What is done is kep"),
    ):
        scale(threads, 0)
        list(pool.run(measured, ["a", "b"]))
    scale(threads, 0)


# --- no scheduler ----------------------------------------------------------------------------------------------------
def test_without_dask_the_way_to_install_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RuntimeError, match="Dask is not installed: pip install -r requirements-dask.txt"):
        prepare_batch(many(tmp_path / "in", 1), tmp_path / "v.npy", dask_scheduler="tcp://127.0.0.1:1")


def test_a_scheduler_without_workers_is_told_of(threads, recordings, tmp_path):
    with pytest.raises(RuntimeError, match="has no workers; start workers in a copy of this folder: python -m dask w"):
        prepare_batch(recordings, tmp_path / "v.npy", dask_scheduler=threads.scheduler_address)


def test_a_worker_is_no_scheduler(threads, two_workers, recordings, tmp_path):
    with pytest.raises(RuntimeError, match=r"no Dask scheduler answers at \S+ \(it is a Dask worker\)"):
        prepare_batch(recordings, tmp_path / "v.npy", dask_scheduler=two_workers[0].address)


def test_workers_that_never_answer_are_told_of(threads, two_workers, made_up, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(cluster.ClusterPool, "_collect", lambda _: ())
    with pytest.raises(RuntimeError, match=r"none of the Dask workers at \S+ has answered in 0 s"):
        results(threads.scheduler_address, made_up, measured, 1)


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silent", "a web server"])
def test_another_server_is_one_line_in_time(recordings, tmp_path, monkeypatch, answer):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.listen()
        if answer:
            monkeypatch.setattr(cluster, "CONNECT_SECONDS", 10)
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with contextlib.ExitStack() as stack:
            if answer:
                stack.enter_context(answering(server, answer))
            with pytest.raises(RuntimeError, match=f"no Dask scheduler answers at {address}") as caught:
                prepare_batch(recordings, tmp_path / "v.npy", dask_scheduler=address)
    assert "\n" not in str(caught.value)


@contextlib.contextmanager
def answering(server: socket.socket, answer: bytes) -> Iterator[None]:
    """Accept connections in a thread, answer each with the same bytes, and close it."""
    import threading

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(answer)
                    connection.recv(1 << 16)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.mark.parametrize("address", ["nonsense://x", "tcp://127.0.0.1:1"])
def test_no_scheduler_is_one_line(recordings, tmp_path, monkeypatch, address):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with pytest.raises(RuntimeError, match=f"no Dask scheduler answers at {address}") as caught:
        prepare_batch(recordings, tmp_path / "v.npy", dask_scheduler=address)
    assert "\n" not in str(caught.value)


def test_dasks_log_is_only_silenced_for_a_while():
    logger = logging.getLogger("distributed")
    before = logger.level
    with quiet():
        assert logger.level > logging.CRITICAL
    assert logger.level == before


# --- processes -------------------------------------------------------------------------------------------------------
def documented(start: str, port: int) -> list[str]:
    """Return the words of a command of docs/calibration.md, for a scheduler on this machine."""
    text = (REPO_DIR / "docs" / "calibration.md").read_text(encoding="utf-8")
    (command,) = re.findall(rf"^    ({re.escape(start)}[^#\n]*)", text, flags=re.M)
    return shlex.split(command.replace("10.0.0.1:8786", f"127.0.0.1:{port}"))


class Processes:
    """A scheduler, started by the documented command in an empty folder, and workers, started in the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        self.scheduler = self._start([*documented("dask scheduler", self.port), *place], folder)
        self.running: list[forked.Forked | subprocess.Popen[bytes]] = []

    def _start(self, command: list[str], folder: Path) -> "forked.Forked | subprocess.Popen[bytes]":
        """Start a command in a group of processes of its own; what Python runs from -c is a fork."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
        with (self.folder / "dask.log").open("ab") as log, open(os.devnull, "rb") as nothing:
            if command[:2] == [sys.executable, "-c"]:
                streams = (nothing.fileno(), log.fileno(), log.fileno())
                return forked.start(command[1:], environment, folder, streams)
            options = {"cwd": folder, "env": environment, "stdout": log, "stderr": log, "start_new_session": True}
            return subprocess.Popen(command, **options)  # type: ignore[call-overload]

    def documented_workers(self, count: int) -> None:
        """Start workers by the documented command, but so many."""
        command = documented("python -m dask worker", self.port)
        self._workers([*command, "--nworkers", str(count)], count)

    def worker(self, code: str = "") -> None:
        """Start one worker without a nanny, after it has run some code."""
        options = f"{self.address} --nthreads 1 --no-dashboard --no-nanny".split()
        program = f"{code}\nfrom distributed.cli.dask_worker import main; main({options!r})"
        self._workers([sys.executable, "-c", program], 1)

    def _workers(self, command: list[str], count: int) -> None:
        with distributed.Client(self.address, timeout=PATIENCE, set_as_default=False) as client:
            wanted = len(client.nthreads()) + count
            self.running.append(self._start(command, REPO_DIR))
            client.wait_for_workers(wanted, timeout=PATIENCE)

    def worker_processes(self) -> list[int]:
        with distributed.Client(self.address, timeout=PATIENCE, set_as_default=False) as client:
            return list(client.run(os.getpid).values())

    def stop(self) -> None:
        for process in (*self.running, self.scheduler):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> Iterator[Processes]:
    started = Processes(tmp_path_factory.mktemp("dask"))
    with quiet():
        started.documented_workers(2)
        yield started
        started.stop()


@contextlib.contextmanager
def midway(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object], until: Callable[[], object]) -> Iterator[None]:
    """Call `then` once after some files of a batch are recorded; from then on be slow, until something is so."""
    record, recorded = BatchState.record, []

    def recording(state: BatchState, one: FileResult) -> None:
        record(state, one)
        recorded.append(one)
        if len(recorded) == COUNT // 5:
            then()
        elif len(recorded) > COUNT // 5 and not until():
            time.sleep(0.05)

    with monkeypatch.context() as patched:
        patched.setattr(BatchState, "record", recording)
        yield


@pytest.mark.slow
def test_the_documented_commands(processes, recordings, wanted, tmp_path):
    _, script, *options = documented("python prep_audio_spectrograms.py --dask_scheduler", processes.port)
    arguments = ["--input_dir", recordings, "--output_file", tmp_path / "v.npy", *options]
    result = run_main(script, *arguments, data=tmp_path)
    assert result.returncode == 0 and not result.stderr and f"{COUNT} recordings" in result.stdout, result
    assert contents(tmp_path / "v.npy") == wanted


@pytest.mark.slow
def test_a_worker_is_killed(processes, recordings, wanted, tmp_path, monkeypatch):
    """The files of the one that ends are done by the other, or by the one that its nanny starts."""
    victim = processes.worker_processes()[0]
    with midway(monkeypatch, lambda: os.kill(victim, signal.SIGKILL), lambda: True):
        prepare_batch(recordings, tmp_path / "v.npy", dask_scheduler=processes.address)
    assert contents(tmp_path / "v.npy") == wanted


@pytest.mark.slow
def test_all_workers_are_killed_one_comes_and_others_that_are_not_fit(
    processes, recordings, wanted, tmp_path, monkeypatch
):
    said: list[str] = []
    monkeypatch.setattr(cluster, "LONELY_SECONDS", 1.0)

    def kill_all() -> None:
        for process in processes.running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def say(line: str) -> None:
        said.append(line)
        if "no Dask worker" in line:
            processes.worker()
            processes.worker(
                "import os.path, audio.cluster; seen = os.path.isdir\n"
                f"os.path.isdir = lambda path: path != {str(recordings.absolute())!r} and seen(path)"
            )
            processes.worker("from audio import features; features.LIBRARIES['soxr'] = '0.1'")

    with midway(monkeypatch, kill_all, lambda: len(said) == 3):
        prepare_batch(recordings, tmp_path / "v.npy", dask_scheduler=processes.address, say=say)
    assert contents(tmp_path / "v.npy") == wanted
    alone, *unfit = said
    assert "no Dask worker" in alone and all(line.endswith("it gets no recordings") for line in unfit)
    assert sum("does not see" in line for line in unfit) == sum("has soxr 0.1" in line for line in unfit) == 1


@pytest.mark.slow
def test_the_scheduler_is_killed(processes, recordings, wanted, tmp_path, monkeypatch):
    """One line, soon; the same command, with a new scheduler or without one, goes on from there."""
    output, said = tmp_path / "v.npy", list[str]()
    if not processes.worker_processes():
        processes.worker()
    with (
        midway(monkeypatch, processes.stop, lambda: False),
        pytest.raises(RuntimeError, match=r"scheduler at tcp://\S+ does not answer any more; start it again") as caught,
    ):
        prepare_batch(recordings, output, dask_scheduler=processes.address, say=said.append)
    assert "\n" not in str(caught.value) and not output.exists()
    assert not [line for line in said if "cannot run this program" in line]  # no worker is blamed
    assert prepare_batch(recordings, output).new <= COUNT - COUNT // 5 + 1 and contents(output) == wanted
