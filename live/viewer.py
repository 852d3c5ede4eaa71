"""The system's viewer of pictures."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def find_viewer() -> str:
    """The program that opens a file with what the person has chosen for its kind; "" on Windows, which needs none.

    Raises:
        OSError: there is none.
    """
    if sys.platform == "win32":
        return ""
    program = "open" if sys.platform == "darwin" else "xdg-open"
    if not shutil.which(program):
        raise OSError(f"--open needs {program}, which is not installed; on Debian: sudo apt install xdg-utils")
    return program


def open_in_viewer(picture: Path) -> None:
    """Show a picture; return at once.

    Raises:
        OSError: there is no viewer.
    """
    if program := find_viewer():
        quiet = subprocess.DEVNULL
        subprocess.Popen([program, picture], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    elif sys.platform == "win32":
        os.startfile(picture)
