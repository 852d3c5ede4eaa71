"""What can be known before anyone is asked to speak."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import config

ROOM = 20_000_000  # bytes: three minutes of sound at 48 kHz, or two hundred pictures


def check_all(another_model: bool) -> None:
    """Find out whether calibration and model are there, and files can be written.

    Whether they also work is told by the scripts, which load them; `another_model` than the built-in one only there.

    Raises:
        OSError, ValueError: not so.
    """
    config.calibration_dirs()
    if not another_model:
        check_weights(config.BUILTIN_MODEL_WEIGHTS)
    for folder in (config.ROOT_DIR, config.OUTPUT_DIR):
        check_writable(folder)


def check_files(*paths: Path) -> None:
    """Whether a show can write its recording and its latent: nothing but an older file may have their names.

    Raises:
        OSError: not so.
    """
    for path in paths:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a device"
            raise OSError(f"{path} is {kind}, and the show needs a file of that name: move it away")


def check_weights(path: Path) -> None:
    """Whether a safetensors file is there as long as its header says; nothing is loaded.

    Raises:
        OSError: it is not there, or not whole.
    """
    if not path.is_file():
        raise OSError(f"there is no model {path}; clone the repository again")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy"):
            pass
    except SafetensorError as error:
        raise OSError(f"the model {path} is not whole ({error}); clone the repository again") from error


def check_writable(folder: Path) -> None:
    """Whether files can be made in a folder, or in the nearest one above it that there is, and there is room for them.

    Raises:
        OSError: not so.
    """
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = os.strerror(error.errno or errno.EACCES).lower()
        raise OSError(
            f"{folder} cannot be written to ({reason}); set VOICETOIMG_DATA_DIR to a folder that can"
        ) from error
    free = shutil.disk_usage(nearest).free
    if free < ROOM:
        raise OSError(
            f"{folder}: {free / 1e6:.0f} MB are free on its disk, {ROOM / 1e6:.0f} MB at least are needed; "
            "free some space, or set VOICETOIMG_DATA_DIR to a folder on another disk"
        )
