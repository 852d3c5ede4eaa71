"""The image viewer of the system."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def find_viewer() -> str:
    """Return the program that opens files with the user's preferred application; "" on Windows, which needs none.

    Raises:
        OSError: it is not installed.
    """
    if sys.platform == "win32":
        return ""
    program = "open" if sys.platform == "darwin" else "xdg-open"
    if not shutil.which(program):
        raise OSError(f"--open needs {program}, which is not installed; on Debian: sudo apt install xdg-utils")
    return program


def open_in_viewer(image: Path) -> None:
    """Open an image; return at once.

    Raises:
        OSError: there is no viewer.
    """
    if program := find_viewer():
        quiet = subprocess.DEVNULL
        subprocess.Popen([program, image], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    elif sys.platform == "win32":
        os.startfile(image)
