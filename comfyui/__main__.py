"""Make a folder for ComfyUI's custom_nodes that needs nothing else of this project: python -m comfyui PATH

A link to the folder comfyui/ does the same, as long as this project stays where it is (docs/comfyui.md).
"""

import argparse
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import cli
import config

from .loading import CALIBRATION, CODE

LEFT_OUT = {  # folder: what of it the nodes do not need
    "comfyui": ("__pycache__", "__main__.py"),
    CODE: ("__pycache__", "__main__.py"),
    CALIBRATION: ("__pycache__", "*.py"),
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with status 2 if it is wrong."""
    parser = cli.CommandParser(__doc__)
    parser.add_argument("path", metavar="PATH", type=Path, help="the new folder: …/ComfyUI/custom_nodes/voicetoimg")
    options = parser.parse_args(argv)
    options.path = options.path.expanduser().absolute()
    if options.path.exists() or options.path.is_symlink():
        parser.error(f"{options.path} exists; move it away, or name a new folder")
    if not options.path.parent.is_dir():
        parser.error(f"{options.path.parent} is not a folder; PATH is a new folder in ComfyUI's custom_nodes")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    path = parse(argv).path
    export(path)
    print(f"written: {path}")
    print(f'next: python -m pip install -r "{path / "requirements.txt"}" with ComfyUI\'s Python, and restart ComfyUI')
    return 0


def export(path: Path) -> None:
    """Write the nodes, the code of audio/ and the built-in calibration, or nothing.

    Raises:
        ValueError: there is a folder in the way.
        OSError: the folder cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.disabled")  # ComfyUI loads no folder of such a name, if it starts now
    if unfinished.exists():
        raise ValueError(
            f"{unfinished} exists; remove it: an export that was stopped has left it, or somebody has switched it off"
        )
    files = list(_files())  # before the first is written, which may be in one of these folders
    try:
        for file, place in files:
            (unfinished / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, unfinished / place)
        unfinished.rename(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _files() -> Iterator[tuple[Path, Path]]:
    """Yield each file of a pack, and its path in there."""
    yield config.REPO_DIR / "LICENSE", Path("LICENSE")
    for name, left_out in LEFT_OUT.items():
        for file in (config.REPO_DIR / name).rglob("*"):
            within = file.relative_to(config.REPO_DIR / name)
            if file.is_file() and not any(fnmatch(part, pattern) for part in within.parts for pattern in left_out):
                yield file, within if name == "comfyui" else name / within


if __name__ == "__main__":
    cli.run(main)
