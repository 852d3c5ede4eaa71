"""Scripts in processes of their own that need not load their libraries: forks of a process that has.

A script spends most of its first seconds on `import torch` and `import scipy.signal`. Here a server does so once for
all workers of pytest-xdist. Each script is a fork of it, and from then on like a process that was started: it has its
own number, streams, signals, environment and folder, and imports this repository's modules anew. The workers are
such forks, too.
"""

import atexit
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import traceback
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "VOICETOIMG_TESTS_SERVER"  # variable with the path of the server's socket
# what scripts import of these differs: those of the painter are the most
LIBRARIES = ("torch", "scipy.signal", "soundfile", "soxr", "PIL.Image", "tqdm", "omegaconf", "einops",
    "safetensors.torch", "cv2", "uvicorn", "starlette.applications", "cryptography.x509", "segno")  # fmt: skip
MOST_BYTES = 1 << 20  # of a message
# asked for once: with thousands of modules, asking for each of them would take a second of every script
LIBRARY_FOLDERS = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class Forked:
    """A script in a forked process, with what tests use of `subprocess.Popen`."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], folder: Path, streams: tuple[int, int, int],
        in_terminal: bool = False,
    ) -> None:  # fmt: skip
        """Start a script.

        Args:
            words: its path, or -m and a module, or -c and code; and its options.
            streams: file descriptors that it gets as standard input, output and error.
            in_terminal: the standard input is the terminal of the session that it begins.
        """
        self.args, self.returncode = list(words), None
        self._keeper = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._keeper.connect(os.environ[ADDRESS])
        wanted = [list(words), dict(environment), str(folder), in_terminal]
        socket.send_fds(self._keeper, [json.dumps(wanted).encode()], list(streams))
        self.pid = int(self._keeper.recv(MOST_BYTES))

    returncode: int | None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, or minus the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        if self.returncode is None:
            self._keeper.settimeout(timeout)
            try:
                self.returncode = int(self._keeper.recv(MOST_BYTES))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self._keeper.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, streams: tuple[int, int, int],
    in_terminal: bool = False,
) -> "Forked | subprocess.Popen[bytes]":  # fmt: skip
    """Start a script as `Forked` does; without the server, in a Python that loads its libraries."""
    if ADDRESS in os.environ:
        return Forked(words, environment, folder, streams, in_terminal)
    stdin, stdout, stderr = streams
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        cwd=folder,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=_take_terminal if in_terminal else None,
    )


def run(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, timeout: float, text: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a script as `start` does, with `text` as its input, and wait for its end.

    Raises:
        subprocess.TimeoutExpired: it still runs after so many seconds; it was killed.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        begin, end = os.pipe()
        try:
            process = start(words, environment, folder, (begin, said.fileno(), complained.fileno()))
            os.close(begin)
            with suppress(BrokenPipeError):
                os.write(end, (text or "").encode())
        finally:
            os.close(end)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        said.seek(0)
        complained.seek(0)
        outputs = (stream.read().decode() for stream in (said, complained))
        return subprocess.CompletedProcess(list(words), status, *outputs)


def worker_program() -> list[str]:
    """Return the command that takes the place of `python` where a worker of pytest-xdist is started."""
    return [sys.executable, str(Path(__file__).resolve())]


def start_server(folder: Path) -> "subprocess.Popen[bytes]":
    """Start the server, and let `Forked` find it; it ends when its standard input is closed."""
    os.environ[ADDRESS] = str(folder / "forks")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(os.environ[ADDRESS])
    listener.listen(64)
    command = [sys.executable, str(Path(__file__).resolve()), str(listener.fileno())]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()], start_new_session=True, cwd=ROOT
        )
    finally:
        listener.close()


def _take_terminal() -> None:
    """Make the standard input the terminal of this session, so that Ctrl-C in it reaches the script."""
    os.close(os.open(os.ttyname(0), os.O_RDWR))


# --- in the server ----------------------------------------------------------------------------------------------------
def serve(listener: socket.socket) -> None:
    """Fork a process for each script that is asked for."""
    while True:
        ready, _, _ = select.select([listener.fileno(), 0], [], [])
        if 0 in ready:
            return
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # so that none is left as a zombie
                pass
        connection, _ = listener.accept()
        for name in LIBRARIES:  # with the first script, so that tests which start none need not wait
            with suppress(ImportError):  # the script says what it misses
                importlib.import_module(name)
        gc.freeze()  # so that a collection in a fork does not copy all memory
        if os.fork() == 0:
            listener.close()
            _keep(connection)
        connection.close()


def _keep(connection: socket.socket) -> NoReturn:
    """Fork the script, and tell its number and its exit status."""
    message, streams, *_ = socket.recv_fds(connection, MOST_BYTES, 3)
    words, environment, folder, in_terminal = json.loads(message)
    if (process := os.fork()) == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.setsid()
        if in_terminal:
            _take_terminal()
        os.chdir(folder)
        become(words, environment)
    for stream in streams:
        os.close(stream)
    with suppress(BrokenPipeError):
        connection.send(str(process).encode())
        _, status = os.waitpid(process, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


# --- in the script's process ------------------------------------------------------------------------------------------
class Forking(subprocess.Popen[bytes]):
    """A `Popen` that forks this process for a script in standby, so that it need not load libraries again."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> None:
        """Fork if the command has --standby, else start it."""
        if "--standby" in command:
            options["preexec_fn"] = functools.partial(
                self._become, list(command[1:]), os.environ if env is None else env
            )
        super().__init__(command, env=env, **options)

    @staticmethod
    def _become(words: list[str], environment: Mapping[str, str]) -> NoReturn:
        """Do as `become`, but leave what the starting script does at its exit to that script."""
        atexit._clear()
        become(words, environment)


def become(words: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Run a script in this forked process, whose standard streams and folder are those of the script.

    What a script, other than a module or code, starts in standby is a fork of it.
    """
    is_script = words[0] not in ("-c", "-m")
    with suppress(OSError):  # of other systems than Linux
        Path("/proc/self/comm").write_text(Path(words[0]).name[:15])  # by which tests find it
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # one of them tells a Popen that this process has started
    variables = dict(environment)
    os.environ.clear()
    os.environ.update(variables)
    _default_signals()
    _open_streams()
    kept = _forget_modules()
    sys.argv = words
    first = str(Path(words[0]).parent) if is_script else ""
    paths = [first, *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = [*paths, *filter(_is_library, sys.path)]
    if is_script:
        subprocess.Popen = Forking  # type: ignore[assignment, misc]
    status = _run(words)
    assert kept is not None
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(status)


def _run(words: list[str]) -> int:
    """Run a script, a module or code as Python does; return its exit status."""
    try:
        if words[0] == "-c":
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            sys.argv = ["-c", *words[2:]]
            exec(words[1], main.__dict__)
        elif words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 255
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _default_signals() -> None:
    """Let signals do what they do when Python starts."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _open_streams() -> None:
    """Open the standard streams, with the encoding of PYTHONIOENCODING."""
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    encoding, errors = encoding or "utf-8", errors or "strict"
    files = [open(number, "wb" if number else "rb", closefd=False) for number in range(3)]  # noqa: SIM115
    sys.stdin = io.TextIOWrapper(files[0], encoding, errors)
    sys.stdout = io.TextIOWrapper(files[1], encoding, errors, line_buffering=os.isatty(1))
    sys.stderr = io.TextIOWrapper(files[2], encoding, "backslashreplace", line_buffering=True)


def _forget_modules() -> list[object]:
    """Let modules that are of no library, and sounddevice, be imported anew; return them, so that none is finalised."""
    ours = [
        name
        for name, module in sys.modules.items()
        if name == "sounddevice" or (name != "__main__" and not _is_library(getattr(module, "__file__", None)))
    ]
    return [sys.modules.pop(name) for name in ours]


def _is_library(path: str | None) -> bool:
    """Tell whether a path is in one of Python's own folders; modules without one are."""
    return path is None or path.startswith(LIBRARY_FOLDERS)


if __name__ == "__main__":
    if "-c" in sys.argv:  # `worker_program`
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker ends when pytest does
        worker = Forked(sys.argv[sys.argv.index("-c") :], os.environ, Path.cwd(), (0, 1, 2))
        sys.exit(worker.wait())
    serve(socket.socket(fileno=int(sys.argv[1])))
