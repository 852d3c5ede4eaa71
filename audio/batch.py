"""From a folder of recordings to one matrix of vectors: in parallel, incremental, and hard to break.

Each file is a job of its own, whose result is committed to a ledger (`audio/batch_state.py`) as it comes; at the end
the matrix and its tables are written in the order of the paths. So the bytes do not depend on the number of workers, on
the machines, or on how often the run was interrupted: they are those of one uninterrupted run.
"""

import contextlib
import faulthandler
import functools
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from .batch_state import Ledger, Measured, refuse_foreign
from .decoding import AudioError, NotAudio, ffmpeg_version, named_as_sound
from .features import CONSTANTS, LIBRARIES, RECIPE, Recipe, listen
from .files import sha256_of

CHUNK = 4096  # files handed to the workers at a time
FILES_A_TASK = 8  # files that go to a worker and come back together
WAITING_TASKS = "2*n_jobs"  # tasks under way: one in each worker, and one that it finds when it has done that
REASONS_SHOWN = 3  # where no file can be used
# the signals that end a program, as far as the system has them
ENDING = {number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))}
LOOK_EVERY = 0.5  # seconds between two looks whether the parent process is there
LEAST_SECONDS, BYTES_A_SECOND = 60, 100_000  # what a file may take before its decoder is held to hang


@dataclass
class BatchReport:
    """What a batch did."""

    rows: int = 0
    skipped: int = 0
    damaged: int = 0  # rows of files that could be read in part
    seconds: float = 0.0  # of sound in all rows
    copies: int = 0  # rows whose content is that of another one
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
) -> BatchReport:
    """Write the vectors of all recordings below `folder` to `output`, float32 [N, picture_size**2].

    Beside it, named after it: `.csv` (what each row is), `_skipped.csv` (which files gave no row, and why) and `.json`
    (recipe, libraries, digests). They are replaced together at the end, or not at all. Files whose content is in the
    older result are not done again. `workers` 1 is this process; otherwise a decoder that crashes or hangs takes a
    worker along, never the batch. `dask_scheduler` is the address of a Dask cluster that does the work in their place.

    Raises:
        ValueError: there are no recordings, or none that can be used; or `output` is a file of somebody else.
        RuntimeError: another run is at work on `output`, or the cluster is not fit for it.
        OSError: something cannot be written.
    """
    started = time.perf_counter()
    made_with = {"recipe": asdict(recipe), "constants": CONSTANTS, "libraries": LIBRARIES}
    report = BatchReport()
    found = find_recordings(folder)
    if (first := next(found, None)) is None:  # asked before anything is written
        raise ValueError(f"no files in {folder}; put recordings (wav, flac, ogg, mp3, ...) there, or name --input_dir")
    refuse_foreign(output)
    with Ledger(output) as ledger, _pool(workers, dask_scheduler, folder) as pool:
        if changed := ledger.begin(made_with, ffmpeg_version()):
            say(f"{changed}: all recordings are done afresh")
        files = ledger.enlist(itertools.chain([first], found))
        if ledger.knows_anything():
            for paths in ledger.open_files(CHUNK):
                ledger.identify((one.path, one.sha256) for one in pool.run(identify, paths))
        _measure_all(ledger, pool, recipe, files, report)
        ledger.commit()
        totals = ledger.totals()
        if not totals.rows and totals.skipped:
            raise ValueError(f"{folder} holds {counted(files, 'file')}, but none that can be used; {_why_not(ledger)}")
        if not totals.rows:
            raise ValueError(f"{folder} holds {counted(files, 'file')}, but no recording")
        ledger.finish(made_with, recipe.vector_size, totals)
    report.rows, report.skipped, report.damaged = totals.rows, totals.skipped, totals.damaged
    report.seconds, report.copies = totals.seconds, totals.copies
    report.wall = time.perf_counter() - started
    return report


def _why_not(ledger: Ledger) -> str:
    """Why no file can be used: where that can be read, and the commonest reasons."""
    noted = ledger.note_skipped()
    where = f"{noted} says why" if noted else f"what {ledger.output} holds stays"
    return f"{where}: " + ", ".join(f"{count} × {reason}" for reason, count in ledger.reasons(REASONS_SHOWN))


def counted(number: int, noun: str) -> str:
    """1 file, 2 files."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _measure_all(ledger: Ledger, pool: "_Pool", recipe: Recipe, files: int, report: BatchReport) -> None:
    """Do what is not done, with a progress bar where somebody watches."""
    from tqdm import tqdm

    open_files = sum(len(paths) for paths in ledger.open_files(CHUNK))
    with tqdm(total=files, initial=files - open_files, unit="file", disable=None) as bar:
        for paths in ledger.open_files(CHUNK):
            for one in pool.run(functools.partial(measure, recipe=recipe), paths):
                ledger.record(one)
                bar.update()
                report.new += one.vector is not None
                report.new_seconds += one.seconds
                report.slowest = max(report.slowest, (one.took, one.path))


def find_recordings(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file below `folder` but hidden ones: its relative path, and the reason why it cannot be used, or "".

    Links to folders are followed, each folder is read once. What has the name of a recording and is none, such as a
    folder or a link to nothing, comes with its reason.
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
def measure(folder: str, path: str, limited: bool, recipe: Recipe) -> Measured:
    """Do one file of a batch. Whatever is wrong with the file becomes a reason, so that a batch goes on."""
    started = time.perf_counter()
    file, digest = Path(folder, path), ""
    try:
        with _time_limit(file if limited else None):
            before = file.stat()
            digest = sha256_of(file)
            heard = listen(file, recipe)
            after = file.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise OSError("the file changed while it was read; run this again")
    except NotAudio as error:
        return Measured(path, reason=_why(error) if named_as_sound(path) else "", took=time.perf_counter() - started)
    except AudioError as error:
        took = time.perf_counter() - started
        return Measured(path, decoder=ffmpeg_version(), sha256=digest, reason=_why(error), took=took)
    except (OSError, MemoryError) as error:
        return Measured(path, reason=_why(error), took=time.perf_counter() - started)
    took = time.perf_counter() - started
    return Measured(path, heard.vector, heard.seconds, heard.source_rate, heard.decoder, digest, "", took, heard.damage)


def identify(folder: str, path: str, limited: bool) -> Measured:
    """Only the digest of one file's content, "" if it cannot be read."""
    try:
        with _time_limit(Path(folder, path) if limited else None):
            return Measured(path, sha256=sha256_of(Path(folder, path)))
    except OSError:
        return Measured(path)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _time_limit(path: Path | None) -> Iterator[None]:
    """End this process if the block takes far too long for the size of a file: nothing else stops a decoder."""
    if path is None:
        yield
        return
    _end_after(LEAST_SECONDS + path.stat().st_size / BYTES_A_SECOND)
    try:
        yield
    finally:
        _end_after(0)


def _end_after(seconds: float) -> None:
    """End this process so much later, whatever it does then; 0: do not."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM, which nothing here handles
    elif seconds:  # Windows: a thread that has to be started, and later waited for while all cores are busy
        faulthandler.dump_traceback_later(seconds, exit=True, file=_nowhere())
    else:
        faulthandler.cancel_dump_traceback_later()


@functools.cache
def _nowhere() -> Any:
    return open(os.devnull, "w")  # noqa: SIM115 (open as long as the process lives)


# --- many files ------------------------------------------------------------------------------------------------------
class _Pool:
    """This process, workers of this machine, or those of a Dask cluster."""

    def __init__(self, folder: Path, n_jobs: int, died: tuple[type[Exception], ...] = ()) -> None:
        self.folder, self.n_jobs, self.died = str(folder.absolute()), n_jobs, died

    def run(self, function: Callable[..., Measured], paths: list[str]) -> Iterator[Measured]:
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
                # one of those under way ended its worker: each of them once more, alone
                for path in itertools.chain(*under_way):
                    if path in waiting:
                        del waiting[path]
                        yield self._alone(function, path)

    def _alone(self, function: Callable[..., Measured], path: str) -> Measured:
        try:
            return next(self._parallel(function, [[path]]))
        except self.died:
            return Measured(path, reason="its decoder crashed or came to no end; convert it to wav")

    def _parallel(self, function: Callable[..., Measured], tasks: Iterable[list[str]]) -> Iterator[Measured]:
        from joblib import Parallel, delayed

        # not joblib's batches: it counts WAITING_TASKS in files, so that workers would wait for their next batch
        settings = {"batch_size": 1, "pre_dispatch": WAITING_TASKS}
        parallel = Parallel(n_jobs=self.n_jobs, return_as="generator_unordered", **settings)
        return itertools.chain.from_iterable(parallel(delayed(_task)(function, self.folder, task) for task in tasks))


def _task(function: Callable[..., Measured], folder: str, paths: list[str]) -> list[Measured]:
    """Runs in a worker."""
    return [function(folder, path, limited=True) for path in paths]


def _noted(tasks: Iterable[list[str]], under_way: list[list[str]]) -> Iterator[list[str]]:
    for task in tasks:
        under_way.append(task)
        yield task


@contextlib.contextmanager
def _pool(workers: int, dask_scheduler: str | None, folder: Path) -> Iterator[_Pool]:
    """The workers, each with one thread, so that neither they nor their bits disturb each other."""
    from joblib import parallel_config
    from threadpoolctl import threadpool_limits

    if dask_scheduler:
        from .cluster import connect

        with connect(dask_scheduler, folder) as died, parallel_config(backend="dask"):
            yield _Pool(folder, -1, died)
    elif workers == 1:
        with threadpool_limits(limits=1):
            yield _Pool(folder, 1)
    else:
        begins = {"initializer": _worker_start(), "initargs": (os.getpid(),)}
        with parallel_config(backend="loky", inner_max_num_threads=1, **begins):
            _start_workers(workers)
            yield _Pool(folder, workers, (BrokenProcessPool,))


def _worker_start() -> Callable[[int], None]:
    """Make the function that each worker begins with.

    It makes this package importable under the name that it has here, which another program may have given it. So it is
    pickled by value, as all inner functions are by joblib, and names nothing of this module.
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
    """Start them with signals held back, for good in the workers: Ctrl-C would end one that starts with a traceback.

    One that comes meanwhile reaches this process once they have been started. The trackers, which remove what workers
    leave behind, come first, since starting one lets signals through again.
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
