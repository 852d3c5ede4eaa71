"""A Dask cluster that measures recordings in place of this machine's cores. Needs `requirements-dask.txt`.

Other work that divides into items is done by a subclass of `ClusterPool`; below, an item is a path.

Each task names its worker. The scheduler alone would also give tasks to a worker that joins in the middle and does not
see the recordings, or has other versions of the libraries. So a worker is asked first, and checks again with each task.
A task of a worker that ends is done again: file by file, because one of its files may have ended the worker.

The scheduler unpickles each task and pickles it again. A task is therefore `pickle.loads` of bytes that only the worker
unpickles, and the scheduler needs nothing of this program.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import logging
import os
import pickle
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .av_decoder import decoder_name
from .batch_state import CRASHED, FileResult
from .features import LIBRARIES

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 10.0  # for the scheduler to answer
ANSWER_SECONDS = 40.0  # for the first worker to answer; it imports this program before
RESULT_SECONDS = (2.0, 10.0)  # for a result to arrive that a worker has ready, at first and, if it is there, once more
LOOK_EVERY = 1.0  # seconds between two looks at which workers are there
LONELY_SECONDS = 60.0  # without any worker, before a line says so
TASKS_A_WORKER = 2  # the current one, and the next
MOST_DEATHS = 3  # of workers that had the same file, the first time among others and then alone
HOW_TO_START = "start workers in a copy of this folder: python -m dask worker {address}"

_ONE_AT_A_TIME = threading.Lock()  # in a worker with several threads: the time limit of a file is that of the process
Measure = Callable[..., FileResult]  # (folder, path, limited), as `batch.measure`


# --- in a worker -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Unfit:
    """A worker's answer that it cannot do a task."""

    reason: str  # continues a sentence that begins with the worker
    unread: str = ""  # the file that it cannot read; "": no file of the task was tried


@dataclass(frozen=True)
class Call:
    """A call of a function that happens when this is unpickled."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def work(function: Measure | None, folder: str, paths: list[str], wanted: dict[str, str]) -> list[FileResult] | Unfit:
    """Measure a few files, after this worker has found itself fit for it; with no files, only answer whether it is."""
    _one_thread()
    if problem := _unfit(folder, paths, wanted):
        return problem
    with _ONE_AT_A_TIME if paths else contextlib.nullcontext():
        return [function(folder, path, limited=True) for path in paths] if function else []


@functools.cache
def _one_thread() -> None:
    """Limit the numerical libraries to one thread as long as this worker lives, so that its bits are those of one."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1)


def _unfit(folder: str, paths: list[str], wanted: dict[str, str]) -> Unfit | None:
    own = versions()
    for name, version in wanted.items():
        if own.get(name) != version:
            return Unfit(f"has {name} {own.get(name)}, this machine {version}: make them equal, and start it again")
    if not os.path.isdir(folder):
        return Unfit(f"does not see {folder}; mount it there at the same path, and start the worker again")
    for path in paths:
        if problem := _unreadable(folder, path):
            return Unfit(f"cannot read {path!a} in {folder} ({problem}), and this machine can", path)
    return None


def _unreadable(folder: str, path: str) -> str:
    """Return why a file cannot be opened, "" if it can."""
    try:
        with open(os.path.join(folder, path), "rb"):
            return ""
    except OSError as error:
        return (error.strerror or str(error)).lower()


@functools.cache
def versions() -> dict[str, str]:
    """Return what the bits of a result depend on: the versions of libraries, and of this program."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes().replace(b"\r\n", b"\n"))
    return LIBRARIES | {"decoder": decoder_name() or "none", "the program in audio/": digest.hexdigest()[:12]}


# --- here ------------------------------------------------------------------------------------------------------------
@dataclass
class _Task:
    paths: list[Any]  # or other items; none: the worker is only asked whether it can be used
    deaths: int = 0  # workers that have ended while they had this task; if any, it is one file

    @property
    def suspect(self) -> bool:
        """Whether the file may have ended a worker, and so has to be alone on the next one."""
        return self.deaths > 0


@dataclass
class _Worker:
    fit: bool = False
    problem: str = ""  # why it is not
    told: bool = False
    tasks: dict[Any, _Task] = field(default_factory=dict)  # under way, by key

    def has_room(self, task: _Task) -> bool:
        if task.suspect or any(one.suspect for one in self.tasks.values()):
            return not self.tasks
        return len(self.tasks) < TASKS_A_WORKER


class ClusterPool:
    """Measures files on the workers of a cluster that are fit for it, also on those that join later."""

    what = "recordings"  # that workers get

    def __init__(
        self, client: "Client", address: str, folder: Path, files_a_task: int, say: Callable[[str], None]
    ) -> None:
        """Ask all workers.

        Raises:
            RuntimeError: there are none, or none that can be used.
        """
        self._client, self._address, self._files_a_task, self._say = client, address, files_a_task, say
        self._folder = str(folder.absolute())
        self._workers: dict[str, _Worker] = {}
        self._waiting: collections.deque[_Task] = collections.deque()
        self._futures: dict[Any, tuple[str, Future]] = {}  # worker and future of each task under way, by key
        self._done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._given_up: list[Any] = []
        self._function: Measure | None = None
        self._next_look, self._count, self._told = 0.0, 0, False
        self._alone_since = time.monotonic()
        self._begin()

    def _begin(self) -> None:
        self._look()
        if not self._workers:
            raise RuntimeError(
                f"the Dask scheduler at {self._address} has no workers; {HOW_TO_START.format(address=self._address)}"
            )
        deadline = time.monotonic() + self.patience
        while not any(worker.fit for worker in self._workers.values()):
            if problems := self._problems(all_of_them=True):
                raise RuntimeError(problems[0])
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"none of the Dask workers at {self._address} has answered in {self.patience:.0f} s; "
                    f"wait until they are free, or {HOW_TO_START.format(address=self._address)}"
                )
            list(self._collect())
            self._look()

    @property
    def patience(self) -> float:
        """Seconds for the first worker to answer."""
        return ANSWER_SECONDS

    def run(self, function: Measure, paths: list[str]) -> Iterator[FileResult]:
        """Yield one result for each path, as they come.

        Raises:
            RuntimeError: the scheduler has gone, or all workers have become unfit.
        """
        self._function = function
        yield from self.do(paths)

    def do(self, paths: list[Any]) -> Iterator[Any]:
        """Yield one result for each item, as they come.

        Raises:
            RuntimeError: see `run`.
        """
        size = self._files_a_task
        chunks = (paths[begin : begin + size] for begin in range(0, len(paths), size))
        self._waiting.extend(map(_Task, chunks))
        while self._waiting or any(task.paths for worker in self._workers.values() for task in worker.tasks.values()):
            self._look()
            self._tell()
            self._hand_out()
            yield from self._collect()
            while self._given_up:
                yield self._given_up.pop()

    # --- workers -----------------------------------------------------------------------------------------------------
    def _look(self) -> None:
        """See which workers have come and gone, at most once every LOOK_EVERY seconds."""
        if time.monotonic() < self._next_look:
            return
        there = self._ask_scheduler()
        for address in self._workers.keys() - there.keys():
            self._lose(address)
        for address in there.keys() - self._workers.keys():
            self._workers[address] = _Worker()
            self._submit(address, _Task([]))
            if (count := there[address]) > 1:
                self._say(
                    f"the worker {address} has {count} threads, and one is used: start workers with "
                    f"--nworkers {count} --nthreads 1"
                )
        self._complain_if_lonely()
        self._next_look = time.monotonic() + LOOK_EVERY

    def _ask_scheduler(self) -> dict[str, int]:
        """Return the addresses of all workers, each with its number of threads."""
        try:
            if self._client.status != "running" or not (scheduler := self._client.scheduler):
                raise self._gone()
            return self._client.sync(scheduler.ncores, callback_timeout=CONNECT_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            raise self._gone() from error

    def _gone(self) -> RuntimeError:
        return RuntimeError(
            f"the Dask scheduler at {self._address} does not answer any more; start it again, and then this command, "
            "which continues: what is done is kept"
        )

    def _lose(self, address: str) -> None:
        """Take the tasks of a worker back that has ended."""
        for key, task in self._workers.pop(address).tasks.items():
            self._futures.pop(key)[1].release()
            self._retry(task)

    def _retry(self, task: _Task) -> None:
        """Let the files of a task be done again after their worker has ended, each alone."""
        if task.deaths + 1 < MOST_DEATHS:
            self._waiting.extendleft(_Task([path], task.deaths + 1) for path in reversed(task.paths))
        else:
            self._given_up += map(self._result_of_crash, task.paths)

    def _result_of_crash(self, path: Any) -> Any:
        """Return the result of an item that has ended MOST_DEATHS workers."""
        return FileResult(path, reason=CRASHED)

    def _refuse(self, address: str, problem: str) -> None:
        """Give a worker no more tasks."""
        worker = self._workers[address]
        worker.fit, worker.problem = False, worker.problem or problem
        self._alone_since = time.monotonic()  # another one may follow that is fit

    def _tell(self) -> None:
        """Say why workers are not used, each once; if none can be used, an error says why."""
        if any(worker.fit for worker in self._workers.values()):
            for address, worker in self._workers.items():
                if worker.problem and not worker.told:
                    worker.told = True
                    self._say(f"the worker {address} {worker.problem}; it gets no {self.what}")

    def _problems(self, all_of_them: bool = False) -> list[str]:
        """Return why workers cannot be used; with `all_of_them`, only if that is true of each."""
        found = [f"the worker {address} {one.problem}" for address, one in self._workers.items() if one.problem]
        return found if not all_of_them or len(found) == len(self._workers) else []

    def _complain_if_lonely(self) -> None:
        """Say so if there has been no worker for a while; raise RuntimeError if there are only unfit ones."""
        if any(worker.fit for worker in self._workers.values()):
            self._alone_since, self._told = time.monotonic(), False
        elif time.monotonic() - self._alone_since > LONELY_SECONDS:
            if problems := self._problems():
                raise RuntimeError(f"no worker can be used any more: {problems[0]}. What is done is kept")
            if not self._told:
                self._told = True
                self._say(
                    f"no Dask worker for {LONELY_SECONDS:.0f} s; this goes on as soon as one comes: "
                    + HOW_TO_START.format(address=self._address)
                )

    # --- tasks -------------------------------------------------------------------------------------------------------
    def _hand_out(self) -> None:
        """Give tasks to the workers that have room for them, first to those with the fewest."""
        while self._waiting:
            free = [
                (len(worker.tasks), address)
                for address, worker in self._workers.items()
                if worker.fit and worker.has_room(self._waiting[0])
            ]
            if not free:
                return
            self._submit(min(free)[1], self._waiting.popleft())

    def _call(self, paths: list[Any]) -> Call:
        """Return what a worker does for some items, or, without any, to find out whether it is fit.

        It answers with a list of results, or an `Unfit`.
        """
        return Call(work, (self._function if paths else None, self._folder, paths, versions()))

    def _submit(self, address: str, task: _Task) -> None:
        call = self._call(task.paths)
        self._count += 1
        key = f"voicetoimg-{self._client.id}-{self._count}"
        future = self._client.submit(pickle.loads, pickle.dumps(call), key=key, workers=[address])
        self._futures[key] = address, future
        self._workers[address].tasks[key] = task
        future.add_done_callback(self._done.put)

    def _collect(self) -> Iterator[Any]:
        """Wait a moment for a task to end; yield its results, or see to it that they are made elsewhere."""
        try:
            future = self._done.get(timeout=LOOK_EVERY)
        except queue.Empty:
            return
        if future.key not in self._futures:
            return  # its worker was lost
        address, _ = self._futures[future.key]
        outcome = self._outcome(future, address)
        del self._futures[future.key]
        task = self._workers[address].tasks.pop(future.key)
        if isinstance(outcome, list):
            self._workers[address].fit = not self._workers[address].problem
            yield from outcome
        elif outcome is None:
            self._retry(task)
        elif outcome.unread and self._function and _unreadable(self._folder, outcome.unread):
            yield self._function(self._folder, outcome.unread, limited=False)  # says why, without decoding
            self._do_elsewhere([path for path in task.paths if path != outcome.unread], task.deaths)
        else:
            self._refuse(address, outcome.reason)
            self._do_elsewhere(task.paths, task.deaths)

    def _do_elsewhere(self, paths: list[str], deaths: int) -> None:
        if paths:
            self._waiting.appendleft(_Task(paths, deaths))

    def _outcome(self, future: "Future", address: str) -> list[Any] | Unfit | None:
        """Fetch what a task of a worker has returned; None if the worker has ended, or the task has ended several."""
        from distributed import KilledWorker

        for patience in RESULT_SECONDS:
            try:
                if future.status == "finished":
                    return future.result(timeout=patience)
                failure = future.exception(timeout=patience)
            except concurrent.futures.CancelledError as error:
                raise self._gone() from error
            except (OSError, asyncio.TimeoutError):
                if address not in self._ask_scheduler():
                    return None
            else:
                if future.status == "cancelled":  # as all are when the connection ends; `exception` is None then
                    raise self._gone()
                if failure is not None:
                    return None if isinstance(failure, KilledWorker) else self._without_program(failure)
        return Unfit("does not deliver what it has done")

    def _without_program(self, failure: BaseException) -> Unfit:
        why = " ".join(str(failure).split())
        how = HOW_TO_START.format(address=self._address)
        return Unfit(f"cannot run this program ({why}); install both lists of packages there, and {how}")


@contextlib.contextmanager
def connect(address: str, folder: Path, files_a_task: int, say: Callable[[str], None]) -> Iterator[ClusterPool]:
    """Connect to a scheduler, and ask its workers whether they can measure the recordings in `folder`.

    Args:
        address: of the scheduler, tcp://host:port.
        folder: the recordings, at the same path on every worker.
        files_a_task: files that are sent to a worker together.
        say: called with a message about a worker that cannot be used, or if all have gone.

    Raises:
        RuntimeError: Dask is not installed, no scheduler answers, or it has no workers that can be used.
    """
    with client_of(address) as client:
        yield ClusterPool(client, address, folder, files_a_task, say)


@contextlib.contextmanager
def client_of(address: str) -> Iterator["Client"]:
    """Connect to a scheduler at `address`, tcp://host:port.

    Raises:
        RuntimeError: Dask is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise RuntimeError("Dask is not installed: pip install -r requirements-dask.txt") from error
    with _without_its_log():
        _check_scheduler(address)
        try:
            with warnings.catch_warnings():  # versions that matter are compared with those of each worker
                warnings.simplefilter("ignore")
                client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            raise _no_scheduler(address, error) from error
        try:
            yield client
        finally:
            with contextlib.suppress(Exception):  # nothing can be done about a connection that does not close
                client.close(timeout=CONNECT_SECONDS)


def _check_scheduler(address: str) -> None:
    """Raise RuntimeError if no scheduler answers in time: `Client` would wait for some other servers for ever."""
    from distributed.core import rpc

    async def identity() -> dict[str, Any]:
        async with rpc(address) as server:
            return await server.identity()

    def ask() -> dict[str, Any]:
        return asyncio.run(asyncio.wait_for(identity(), CONNECT_SECONDS))

    try:
        with concurrent.futures.ThreadPoolExecutor(1) as thread:  # this one may have an event loop, in a notebook
            kind = thread.submit(ask).result().get("type")
    except Exception as error:  # another server's answer can make nearly any error
        raise _no_scheduler(address, error) from error
    if kind != "Scheduler":
        raise _no_scheduler(address, ValueError(f"it is a Dask {str(kind).lower()}"))


def _no_scheduler(address: str, error: Exception) -> RuntimeError:
    why = " ".join(str(error).split()) or f"no answer in {CONNECT_SECONDS:.0f} s"
    return RuntimeError(f"no Dask scheduler answers at {address} ({why})")


@contextlib.contextmanager
def _without_its_log() -> Iterator[None]:
    """Silence Dask's log, whose lines would come between ours; what goes wrong is said as one line."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
