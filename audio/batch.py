"""Turn a folder of recordings into one matrix of vectors: in parallel, incrementally, and safe to interrupt.

Each file is a job of its own. Its result is committed to the state on disk (`audio/batch_state.py`) as it comes; at the
end the matrix and its tables are written in the order of the paths. So the bytes do not depend on the number of
workers, on the machines, or on how often the run was interrupted.
"""

import contextlib
import faulthandler
import functools
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, astuple, dataclass, field, replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol

from .av_decoder import decoder_name
from .batch_state import CRASHED, BatchState, FileResult, refuse_foreign
from .decoding import named_as_sound
from .features import LIBRARIES, extract
from .files import sha256_of
from .recipe import CONSTANTS, RECIPE, Recipe
from .sound import AudioError, NotAudio

CHUNK = 4096  # files handed to the workers at a time
FILES_A_TASK = 8  # files that are sent to a worker together
WAITING_TASKS = "2*n_jobs"  # tasks under way: for each worker the current one, and the next
REASONS_SHOWN = 3  # if no file can be used
# the signals that end a program, as far as the system has them
ENDING = {number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))}
LOOK_EVERY = 0.5  # seconds between two looks whether the parent process is there
LEAST_SECONDS, BYTES_A_SECOND = 60, 100_000  # time limit per file; a decoder that needs longer is considered hung


@dataclass
class BatchReport:
    """Counts and times of a batch."""

    rows: int = 0
    skipped: int = 0
    damaged: int = 0  # rows of files that could only be read in part
    seconds: float = 0.0  # of sound in all rows
    copies: int = 0  # rows with the same content as another row
    new: int = 0  # files measured this time; the others were done before
    new_seconds: float = 0.0  # of sound in those
    wall: float = 0.0  # seconds that the batch took
    slowest: tuple[float, str] = field(default=(0.0, ""))  # seconds and path


def prepare_batch(
    folder: Path,
    output: Path,
    recipe: Recipe = RECIPE,
    workers: int = 1,
    dask_scheduler: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    channel: int | None = None,
    trim: bool = True,
) -> BatchReport:
    """Write the vectors of all recordings below `folder` to `output`, float32 [N, spectrogram_size**2].

    Beside it, with the same stem: `.csv` (the recording of each row), `_skipped.csv` (files without a row, and why) and
    `.json` (recipe, libraries, digests). They are replaced together at the end, or not at all. Files whose content is
    in the older result are not measured again.

    Args:
        folder: recordings, in any folders below it.
        output: the matrix.
        recipe: how to make the vectors.
        workers: number of processes; 1 is this one. In others, a decoder that crashes ends its worker, not the batch.
        dask_scheduler: address of a Dask cluster that does the work in place of the workers.
        say: called with a message if results of an earlier run or workers cannot be used.
        channel: the one of each recording to use, from 1; None: as `features.extract` chooses.
        trim: whether silence at both ends is left out, as of `features.extract`.

    Raises:
        ValueError: there are no recordings, or none that can be used; or `output` was not written by this program.
        RuntimeError: another run is at work on `output`, or the cluster cannot be used.
        OSError: a file cannot be written.
    """
    started = time.perf_counter()
    heard = {"channel": channel or "chosen", "silence": "cut" if trim else "kept"}
    made_with = {"recipe": recipe.to_json(), "constants": CONSTANTS, "libraries": LIBRARIES, "input": heard}
    measure_one = functools.partial(measure, recipe=recipe, channel=channel, trim=trim)
    report = BatchReport()
    found = find_recordings(folder)
    if (first := next(found, None)) is None:  # before anything is written
        raise ValueError(f"no files in {folder}; put recordings there (wav, flac, mp3, ...), or name another folder")
    refuse_foreign(output)
    if workers > 1 and not dask_scheduler and not _can_share():
        say("this system has no shared memory (/dev/shm): one process does all the work")
        workers = 1
    with BatchState(output) as state, _pool(workers, dask_scheduler, folder, say) as pool:
        if changed := state.begin(made_with, decoder_name()):
            say(f"{changed}: all recordings are done again")
        files = state.enlist(itertools.chain([first], found))
        if state.knows_anything():
            for paths in state.open_files(CHUNK):
                state.identify((one.path, one.sha256) for one in pool.run(identify, paths))
        _measure_all(state, pool, measure_one, files, report)
        state.commit()
        totals = state.totals()
        if not totals.rows:
            why = f"none that can be used; {_why_not(state)}" if totals.skipped else "no recording"
            raise ValueError(f"{folder} holds {plural(files, 'file')}, but {why}")
        state.finish(made_with, recipe.vector_size, totals)
    return replace(report, **asdict(totals), wall=time.perf_counter() - started)


def _why_not(state: BatchState) -> str:
    """Explain why no file can be used: the most common reasons, and where the table of all is."""
    noted = state.note_skipped()
    where = f"{noted} says why" if noted else f"{state.output} stays as it is"
    return f"{where}: " + ", ".join(f"{count} × {reason}" for reason, count in state.reasons(REASONS_SHOWN))


def plural(number: int, noun: str) -> str:
    """Put a number and a noun together: 1 file, 2 files."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _measure_all(
    state: BatchState,
    pool: "_Workers",
    measure_one: Callable[..., FileResult],
    files: int,
    report: BatchReport,
) -> None:
    """Measure the files without a result, with a progress bar if standard error is a terminal."""
    from tqdm import tqdm

    open_files = sum(len(paths) for paths in state.open_files(CHUNK))
    with tqdm(total=files, initial=files - open_files, unit="file", disable=None) as bar:
        for paths in state.open_files(CHUNK):
            for one in pool.run(measure_one, paths):
                state.record(one)
                bar.update()
                report.new += one.vector is not None
                report.new_seconds += one.seconds
                report.slowest = max(report.slowest, (one.took, one.path))


def find_recordings(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield every file below `folder` that is not hidden: its relative path, and "" or the reason why it is skipped.

    Symlinks are followed, and each folder is visited once. Entries that are named like a recording but are not files (a
    folder, a dangling link) are yielded with the reason why they are skipped.
    """
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        refused.append((os.path.relpath(error.filename, folder), f"the folder cannot be read: {_why(error)}"))

    refused: list[tuple[str, str]] = []
    for root, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below = os.path.relpath(root, folder)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=os.fsencode)
        for name in (*folders, *names):
            if name.startswith("."):
                continue
            path = os.path.join(root, name)
            relative = (name if below == os.curdir else os.path.join(below, name)).replace(os.sep, "/")
            if os.path.isfile(path):
                yield relative, ""
            elif named_as_sound(name):
                yield relative, _no_recording(path)
    yield from refused


def _no_recording(path: str) -> str:
    if os.path.isdir(path):
        return "a folder, not a recording"
    return "a link to nothing, not a recording" if os.path.islink(path) else "not a regular file"


# --- one file, in a worker -------------------------------------------------------------------------------------------
def measure(
    folder: str, path: str, limited: bool, recipe: Recipe, channel: int | None = None, trim: bool = True
) -> FileResult:
    """Measure one file of a batch. Any problem with the file becomes a reason, so that the batch goes on."""
    started = time.perf_counter()
    file, digest = Path(folder, path), ""
    try:
        with _time_limit(file if limited else None):
            before = file.stat()
            digest = sha256_of(file)
            features = extract(file, recipe, channel=channel, trim=trim)
            after = file.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise OSError("the file changed while it was read; run this command again")
    except NotAudio as error:
        return FileResult(path, reason=_why(error) if named_as_sound(path) else "", took=time.perf_counter() - started)
    except AudioError as error:
        took = time.perf_counter() - started
        return FileResult(path, decoder=decoder_name(), sha256=digest, reason=_why(error), took=took)
    except (OSError, MemoryError) as error:
        return FileResult(path, reason=_why(error), took=time.perf_counter() - started)
    took = time.perf_counter() - started
    return FileResult(
        path=path,
        vector=features.vector,
        seconds=features.seconds,
        source_rate=features.source_rate,
        decoder=features.decoder,
        sha256=digest,
        took=took,
        damage=features.damage,
        note=features.note,
        voice=astuple(features.heard),
    )


def identify(folder: str, path: str, limited: bool) -> FileResult:
    """Return only the digest of one file's content, "" if it cannot be read."""
    try:
        with _time_limit(Path(folder, path) if limited else None):
            return FileResult(path, sha256=sha256_of(Path(folder, path)))
    except OSError:
        return FileResult(path)


def _why(error: Exception) -> str:
    """Describe an error in one line, without the name of the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _time_limit(path: Path | None) -> Iterator[None]:
    """End this process if the block takes far too long for the size of a file; nothing else stops a hung decoder."""
    if path is None:
        yield
        return
    _end_after(LEAST_SECONDS + path.stat().st_size / BYTES_A_SECOND)
    try:
        yield
    finally:
        _end_after(0)


def _end_after(seconds: float) -> None:
    """End this process after so many seconds, whatever it does then; 0 cancels this."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)  # raises SIGALRM, which nothing here handles
    elif seconds:  # Windows; slower, because it starts a thread
        faulthandler.dump_traceback_later(seconds, exit=True, file=_nowhere())
    else:
        faulthandler.cancel_dump_traceback_later()


@functools.cache
def _nowhere() -> Any:
    return open(os.devnull, "w")  # noqa: SIM115 (open as long as the process lives)


# --- many files ------------------------------------------------------------------------------------------------------
class _Workers(Protocol):
    """Workers that measure files: `_Pool`, or those of a cluster."""

    def run(self, function: Callable[..., FileResult], paths: list[str]) -> Iterator[FileResult]: ...


class _Pool:
    """Measures files in this process, or in worker processes."""

    def __init__(self, folder: Path, n_jobs: int, died: tuple[type[Exception], ...] = ()) -> None:
        """Use `n_jobs` workers; `died` are the errors that say that one has died, none if there are no workers."""
        self.folder, self.n_jobs, self.died = str(folder.absolute()), n_jobs, died

    def run(self, function: Callable[..., FileResult], paths: list[str]) -> Iterator[FileResult]:
        """Yield one result for each path, as they come."""
        if not self.died:
            yield from (function(self.folder, path, limited=False) for path in paths)
            return
        waiting = dict.fromkeys(paths)
        while waiting:
            left = list(waiting)
            tasks = (left[begin : begin + FILES_A_TASK] for begin in range(0, len(left), FILES_A_TASK))
            under_way: list[list[str]] = []
            try:
                for one in self._parallel(function, _noted(tasks, under_way)):
                    del waiting[one.path]
                    yield one
            except self.died:
                # one of the files under way ended its worker: measure each of them once more, alone
                for path in itertools.chain(*under_way):
                    if path in waiting:
                        del waiting[path]
                        yield self._alone(function, path)

    def _alone(self, function: Callable[..., FileResult], path: str) -> FileResult:
        try:
            return next(self._parallel(function, [[path]]))
        except self.died:
            return FileResult(path, reason=CRASHED)

    def _parallel(self, function: Callable[..., FileResult], tasks: Iterable[list[str]]) -> Iterator[FileResult]:
        from joblib import Parallel, delayed

        # tasks in place of joblib's batches: it would count WAITING_TASKS in files, and workers would run out of them
        settings = {"batch_size": 1, "pre_dispatch": WAITING_TASKS}
        parallel = Parallel(n_jobs=self.n_jobs, return_as="generator_unordered", **settings)
        return itertools.chain.from_iterable(parallel(delayed(_task)(function, self.folder, task) for task in tasks))


def _task(function: Callable[..., FileResult], folder: str, paths: list[str]) -> list[FileResult]:
    """Measure a few files, in a worker."""
    return [function(folder, path, limited=True) for path in paths]


def _noted(tasks: Iterable[list[str]], under_way: list[list[str]]) -> Iterator[list[str]]:
    """Yield the tasks, and add each to `under_way` before."""
    for task in tasks:
        under_way.append(task)
        yield task


@contextlib.contextmanager
def _pool(
    workers: int, dask_scheduler: str | None, folder: Path, say: Callable[[str], None] = lambda line: None
) -> "Iterator[_Workers]":
    """Start the workers, each with one thread, so that they do not compete and their bits do not differ."""
    from joblib import parallel_config
    from threadpoolctl import threadpool_limits

    if dask_scheduler:
        from .cluster import connect

        with connect(dask_scheduler, folder, FILES_A_TASK, say) as pool:
            yield pool
    elif workers == 1:
        with threadpool_limits(limits=1):
            yield _Pool(folder, 1)
    else:
        begins = {"initializer": _worker_start(), "initargs": (os.getpid(),)}
        with parallel_config(backend="loky", inner_max_num_threads=1, **begins):
            _start_workers(workers)
            yield _Pool(folder, workers, (BrokenProcessPool,))


def _can_share() -> bool:
    """Tell whether processes can share a lock, without which no worker can be started; some containers lack it."""
    try:
        multiprocessing.Lock()
    except (ImportError, OSError):
        return False
    return True


def _worker_start() -> Callable[[int], None]:
    """Make the function that each worker begins with.

    It makes this package importable under the name that it has here: another program may have given it any name. joblib
    pickles inner functions by value, so it needs no import, and it must not use any name of this module.
    """
    package, folder = __package__, os.path.dirname(os.path.abspath(__file__))

    def start(parent: int) -> None:
        import importlib.util
        import sys

        if package not in sys.modules:
            init, where = os.path.join(folder, "__init__.py"), [folder]
            spec = importlib.util.spec_from_file_location(package, init, submodule_search_locations=where)
            assert spec and spec.loader
            sys.modules[package] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[package])
        importlib.import_module(f"{package}.batch")._begin(parent)

    return start


def _begin(parent: int) -> None:
    """Start a worker: leave the signals that end a program to the process `parent`, and end when that has ended.

    Ctrl-C reaches all processes of a terminal. If it ended a worker in the middle of an answer, the parent would wait
    for the rest of the answer for ever. (Windows does not tell when a parent ends; there the worker ends once it has
    waited long enough for work.)
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY)
    os._exit(1)


def _start_workers(count: int) -> None:
    """Start the workers while signals are blocked: Ctrl-C would end a starting worker with a traceback.

    In the workers signals stay blocked. A signal that comes meanwhile reaches this process once they have started. The
    trackers, which remove files that workers leave behind, are started first, because that unblocks signals again.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.backend import resource_tracker as joblib_tracker

    masked = hasattr(signal, "pthread_sigmask")  # not on Windows
    if masked:
        resource_tracker.ensure_running()
        joblib_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING) if masked else set()
    try:
        Parallel(n_jobs=count)(delayed(abs)(0) for _ in range(count))
    finally:
        if masked:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
