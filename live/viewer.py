"""The images of a run on the screen of the computer: the system's viewer, or one page that shows the newest."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from files import atomic_path

GRACE = 1.0  # seconds in which a viewer that cannot open a file says so
# The page looks each second which image is the newest. It loads a script, because a page without a server may not read
# other files.
PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>voicetoimg</title>
<style>
html, body { margin: 0; height: 100%; background: #000; }
img { display: block; width: 100%; height: 100%; object-fit: contain; }
</style>
<img alt="the newest image">
<script>
const shown = document.querySelector("img");
let newest = "";
function show(address) {
  if (address !== newest) shown.src = newest = address;
}
function look() {
  const script = document.createElement("script");
  script.src = "SCRIPT?" + Date.now();
  script.onload = script.onerror = () => script.remove();
  document.body.append(script);
}
look();
setInterval(look, 1000);
document.onclick = () => document.documentElement.requestFullscreen();
</script>
</html>
"""


class Viewer:
    """One window: of a single image, or of a page that always shows the newest of several."""

    def __init__(self, page: Path | None, tell: Callable[[str], None]) -> None:
        """Open nothing yet.

        Args:
            page: .html file that shows the newest image, with a .js file beside it; None: there is one image only.
            tell: is given a line if the viewer cannot open a file.
        """
        self._page, self._tell = page, tell
        self._opened = False
        self._watching: threading.Thread | None = None

    def show(self, image: Path) -> None:
        """Show an image; return at once.

        Raises:
            OSError: there is no viewer, or the page cannot be written.
        """
        if self._page is None:
            self._open(image)
            return
        script = self._page.with_suffix(".js")
        with atomic_path(script) as temporary:
            temporary.write_text(f"show({json.dumps(image.resolve().as_uri())});\n", encoding="utf-8")
        if not self._opened:
            with atomic_path(self._page) as temporary:
                temporary.write_text(PAGE.replace("SCRIPT", script.name), encoding="utf-8")
            self._open(self._page)
            self._opened = True

    def settle(self) -> None:
        """Wait shortly for a viewer that was just started, so that its failure is told before the program ends."""
        if self._watching:
            self._watching.join(GRACE)
            self._watching = None

    def _open(self, path: Path) -> None:
        if program := find_viewer():
            # a file, because a viewer that goes on after this program would be ended by a pipe that nobody reads
            errors = tempfile.TemporaryFile()  # noqa: SIM115
            nothing = subprocess.DEVNULL
            process = subprocess.Popen(
                [program, path], stdin=nothing, stdout=nothing, stderr=errors, start_new_session=True
            )

            def watch() -> None:
                status = process.wait()
                with errors:
                    errors.seek(0)
                    lines = errors.read().decode(errors="replace").split("\n") if status > 0 else []
                if status > 0:
                    why = "".join(f": {line.strip()}" for line in lines[:-1][-1:])
                    self._tell(f"warning: {program} cannot open {path} (status {status}){why}")

            self._watching = threading.Thread(target=watch, daemon=True)
            self._watching.start()
        elif sys.platform == "win32":
            os.startfile(path)


def find_viewer() -> str:
    """Return the program that opens files with the user's preferred application; "" on Windows, which needs none.

    Raises:
        OSError: it is not installed, or there is no desktop.
    """
    if sys.platform == "win32":
        return ""
    program = "open" if sys.platform == "darwin" else "xdg-open"
    if not shutil.which(program):
        raise OSError(f"--open needs {program}, which is not installed; on Debian: sudo apt install xdg-utils")
    if program == "xdg-open" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise OSError("--open needs a desktop, and neither DISPLAY nor WAYLAND_DISPLAY is set")
    return program
