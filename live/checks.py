"""Checks before a live run: nobody should speak first and read then that nothing can be made of it."""

import errno
import os
import shutil
from pathlib import Path

import config
import files

MIN_FREE = 20_000_000  # bytes: three minutes of sound at 48 kHz, or two hundred images


def check_all(another_model: bool, images: Path) -> None:
    """Check that there is a calibration and a model, and that files can be written.

    The scripts check the contents when they load them.

    Args:
        another_model: than the built-in one; it is left to the scripts altogether.
        images: the folder that they go into.

    Raises:
        OSError: something is missing, or a folder cannot be written to.
    """
    config.calibration_dirs()
    if not another_model:
        check_weights(config.BUILTIN_MODEL_WEIGHTS)
    for folder in (config.ROOT_DIR, images):
        check_folder(folder)


def check_files(*paths: Path) -> None:
    """Check that a run can replace these files.

    Raises:
        OSError: a folder or a device has one of the names.
    """
    for path in paths:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a device"
            raise OSError(f"{path} is {kind}; a file of that name is to be written, so move it away")


def check_weights(path: Path) -> None:
    """Check that a safetensors file exists and is as long as its header says; nothing is loaded.

    Raises:
        OSError: it is missing, or incomplete.
    """
    if not path.is_file():
        raise OSError(f"there is no model {path}; clone the repository again")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy"):
            pass
    except SafetensorError as error:
        raise OSError(f"the model {path} is incomplete ({error}); clone the repository again") from error


def check_folder(folder: Path) -> None:
    """Check that a folder, or the nearest one above it that exists, can be written to and has room.

    Raises:
        OSError: it cannot, or has not.
    """
    try:
        nearest = files.check_writable(folder)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EACCES).lower()
        raise OSError(f"{folder} cannot be written to ({reason}); set VOICETOIMG_DATA_DIR to another folder") from error
    free = shutil.disk_usage(nearest).free
    if free < MIN_FREE:
        raise OSError(
            f"{folder}: its disk has {free / 1e6:.0f} MB free, at least {MIN_FREE / 1e6:.0f} MB are needed; "
            "free some space, or set VOICETOIMG_DATA_DIR to a folder on another disk"
        )
