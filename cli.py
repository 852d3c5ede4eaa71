"""Shared parts of the command lines: argument types, exit statuses, and errors as one line for the user."""

import argparse
import codecs
import contextlib
import errno
import io
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

import config

VERSION = "0.2.0"
VERBOSE = "also print which calibration is used"  # help of --verbose
MOST_CHANNELS = 1024  # of a recording, as libsndfile allows
REMEDIES = {
    errno.EACCES: "choose another place, or change its permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space, or set VOICETOIMG_DATA_DIR to a folder on another disk",
    errno.ENOTDIR: "there is a file where a folder is needed",
    errno.EEXIST: "there is a file where a folder is needed",
    errno.ENAMETOOLONG: "choose a shorter name; most systems allow 255 bytes",
    errno.EPIPE: "the reader of this output closed the pipe; files already written are kept",
}
# Turns for which threads of libgomp (OpenMP of GCC, which torch has on Linux) wait for each other awake: 50 µs. Its own
# 5 ms keep a core busy whenever the system takes another one away, so that images take ten times as long beside other
# programs.
SPIN_COUNT = "5000"
USER_ERRORS = (ValueError, OSError, RuntimeError, MemoryError)  # the rooms raise them with messages for the user


class WrongOption(ValueError):
    """An option's value is well-formed but not available with this model, machine or input (exit status 2)."""


class Note(UserWarning):
    """A warning of something that a user may want to know, and that is no fault; printed as a note."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser that shows the script's docstring, has `--version`, and reports errors as one line."""

    def __init__(self, description: str | None) -> None:
        """Set the text above the options; its line breaks are kept."""
        how: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(program(), description=description, **how)
        self.add_argument("--version", action="version", version=f"voicetoimg {VERSION}")

    def error(self, message: str) -> NoReturn:
        """Leave with status 2 and one line, in place of the whole usage: the problem, and where to read more."""
        if re.match("unrecognized arguments: [^-]", message):
            message += "; put a text of several words in quotes"
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_channel(add: Callable[..., argparse.Action]) -> None:
    """Add the option that chooses one channel of recordings."""
    channel = bounded(int, 1, MOST_CHANNELS)
    add("--channel", type=channel, metavar="N", help="use channel N of each recording, from 1 (default: all, or those "
        "that have sound)")  # fmt: skip


def add_no_trim(add: Callable[..., argparse.Action]) -> None:
    """Add the option that keeps silence at both ends of recordings."""
    add("--no_trim", action="store_true", help="keep silence, clicks and coughs before and after the voice (default: "
        "they are left out of the spectrogram)")  # fmt: skip


def bounded(kind: type[int] | type[float], low: float, high: float = float("inf")) -> Callable[[str], int | float]:
    """Return an argparse type for finite numbers of `kind` from `low` to `high`, both included."""

    def parse(text: str) -> int | float:
        what, digits = ("a whole number", "") if kind is int else ("a number", "g")
        allowed = f"{what} from {low:{digits}}" + (f" to {high:{digits}}" if high != float("inf") else " up")
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}") from None
        if not low <= value <= high or value == float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not {allowed}")
        return value

    return parse


def text(words: str) -> str:
    """Check, as an argparse type, that text can be written to a file as UTF-8."""
    try:
        words.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{words!r} is not text in UTF-8") from None
    return words


def _written(text: str) -> Path:
    """Return where a file or folder is written; a default name means its place below VOICETOIMG_DATA_DIR."""
    return config.own_place(text) or _path(text)


def _path(text: str) -> Path:
    """Return a path; a "~" at its beginning is the home folder, which not every shell replaces after "--option="."""
    return Path(os.path.expanduser(text))


def _read(text: str) -> Path:
    """Return where a file or folder is read: a default name below VOICETOIMG_DATA_DIR, or else as it is given.

    A note tells of a file of the same name that was not taken.
    """
    path, own = _path(text), config.own_place(text)
    if own is None or own == path or not path.exists():
        return own or path
    if not own.exists():
        _note(f"{path} of the current folder is taken: there is no {own}, where VOICETOIMG_DATA_DIR puts it")
        return path
    if not path.samefile(own):
        _note(f"{own} is taken, where VOICETOIMG_DATA_DIR puts it; write ./{path} for that of the current folder")
    return own


def _note(text: str) -> None:
    """Print a note once: a command line may be parsed several times."""
    if text not in _noted:
        _noted.add(text)
        print(f"note: {text}", file=sys.stderr)


_noted: set[str] = set()


def new_file(suffix: str) -> Callable[[str], Path]:
    """Return an argparse type for the path of a file to write, whose name must end in `suffix`."""

    def parse(text: str) -> Path:
        path = _written(text)
        if path.suffix.lower() != suffix:
            raise argparse.ArgumentTypeError(f"{text} must end in {suffix}")
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"{text} is a folder, a file is needed")
        return path

    return parse


def existing_file(text: str) -> Path:
    """Return, as an argparse type, the path of an existing file."""
    path = _read(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder, a file is needed")
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{path} is a device, a file is needed")
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    return path


def existing_folder(text: str) -> Path:
    """Return, as an argparse type, the path of an existing folder."""
    path = _folder(text, _read)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path}")
    return path


def new_folder(text: str) -> Path:
    """Return, as an argparse type, the path of a folder, which is made later if it does not exist."""
    return _folder(text, _written)


def _folder(text: str, place: Callable[[str], Path]) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name of the folder is empty; write . for the current folder")
    path = place(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file, a folder is needed")
    return path


def existing_path(text: str) -> Path:
    """Return, as an argparse type, the path of an existing file or folder."""
    path = _read(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no file or folder {path}")
    return path


@contextlib.contextmanager
def blaming(option: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Turn an error of some `kind` in the block into a WrongOption that names the option."""
    try:
        yield
    except kind as error:
        raise WrongOption(f"{option}: {error}") from error


@contextlib.contextmanager
def keeping(what: str) -> Iterator[None]:
    """Let `run` print `what` is kept if Ctrl-C ends the block."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(what) from None


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and exit with its status.

    The variable GOMP_SPINCOUNT is set before torch can be imported, unless the user has set it.

    The status is 0 if all is done, 1 after a failure with one line on stderr, 2 for a wrong command line (argparse,
    WrongOption), and 130 after Ctrl-C. USER_ERRORS become the line on stderr. VOICETOIMG_TRACEBACK=1 adds the
    traceback.
    """
    _open_closed_streams()
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    # As an exception, these signals run `finally` blocks, which remove temporary files; SIGHUP comes when a terminal is
    # closed, and nohup ignores it on purpose.
    for name in ("SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda received, _: sys.exit(128 + received))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit it ignored
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_replace_unencodable.__name__)
    try:
        sys.exit(main())
    except KeyboardInterrupt as interrupt:
        kept = f": {interrupt}" if str(interrupt) else ""
        print(f"\ninterrupted{kept}", file=sys.stderr)
        sys.exit(130)
    except USER_ERRORS as error:
        _trace()
        fail(describe(error), 2 if isinstance(error, WrongOption) else 1)
    except ModuleNotFoundError as error:
        _trace()
        fail(
            f"the package {error.name} is not installed for {sys.executable}: run make demo once, which installs all "
            "packages, then start scripts with .venv/bin/python instead of python"
        )
    except ImportError as error:
        _trace()
        fail(f"{error}; if a library is missing, on Debian: sudo apt install libgl1 libglib2.0-0")


def _open_closed_streams() -> None:
    """Open the null device in place of standard streams that the shell closed, as `2>&-` does.

    Otherwise the next file that is opened gets the descriptor, and what a library prints, or what silences it, goes
    into that file. `sys.stdin` stays None, which tells that nobody can type.
    """
    for number, name in ((0, ""), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
            if name:
                setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _replace_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace a character that the stream's encoding lacks, because the name of a file may hold any character."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(_replace_unencodable.__name__, _replace_unencodable)


def traceback_wanted() -> bool:
    """Return whether the user asks for the traceback of each error, with VOICETOIMG_TRACEBACK=1."""
    return bool(os.environ.get("VOICETOIMG_TRACEBACK"))


def _trace() -> None:
    if traceback_wanted():
        traceback.print_exc()


def read_lines(descriptor: int) -> Iterator[bytes]:
    """Yield the lines that arrive at a file descriptor, with their line ends; the last one may lack it.

    A daemon thread may wait here. If it waited in `sys.stdin.readline`, the interpreter would abort at its exit.
    """
    rest = b""
    with contextlib.suppress(OSError):  # the descriptor was closed
        while block := os.read(descriptor, 65_536):
            *lines, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def show_warnings() -> None:
    """Print warnings as one line each on stderr: those of this program every time, those of libraries once."""
    warnings.filterwarnings("always", category=UserWarning, module=r"(audio|film|ldm|painting|__main__)\b")
    warnings.showwarning = _print_warning


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Do as `warnings.showwarning`, but print neither place nor source."""
    text = f"{'note' if issubclass(category, Note) else 'warning'}: {' '.join(str(message).split())}"
    tqdm = sys.modules.get("tqdm")
    if tqdm:  # above a progress bar, if there is one
        tqdm.tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr)


def describe(error: BaseException) -> str:
    """Return one line about an error; of an error of the system also the file, and what to do."""
    if isinstance(error, OSError) and error.errno and error.filename:
        remedy = f": {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
        return f"{error.filename}: {(error.strerror or '').lower()}{remedy}"
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return f"{(error.strerror or '').lower()}: {REMEDIES[error.errno]}"
    return " ".join(str(error).split()) or type(error).__name__


def duration(seconds: float) -> str:
    """Format a duration, such as 8.3 s, 12.5 minutes or 1.06 hours."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.2f} hours"


def counted(number: int, noun: str) -> str:
    """Format a number of things, such as 1 image or 2 images."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def program() -> str:
    """Return the name of the running program as it was typed: txt2img.py, python -m audio."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name


def fail(message: str, status: int = 1) -> NoReturn:
    """Print one line on stderr, and exit with `status`."""
    print(f"{program()}: {message}", file=sys.stderr)
    sys.exit(status)
