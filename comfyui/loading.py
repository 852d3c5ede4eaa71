"""The code of `audio/` and the built-in calibration, wherever this pack lies.

`audio/` is loaded as a part of this package. So no other pack's `audio`, `files` or `config` is touched, none of them
touches ours, and two copies of this pack do not share code.
"""

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent  # of a link: the folder that it leads to
CODE, CALIBRATION = "audio", "models/calibration"


def place(name: str) -> Path:
    """Return the path of a folder that lies in this one, as in an exported pack, or beside it, as in the repository.

    Raises:
        ValueError: this folder was copied without them.
    """
    for folder in (HERE, HERE.parent):
        if all((folder / part).is_dir() for part in (CODE, CALIBRATION)):
            return folder / name
    raise ValueError(
        f"{HERE} is only a part of voicetoimg; remove it, and link that folder instead of copying it, or let "
        "python -m comfyui PATH write a whole one"
    )


def audio_module(name: str) -> ModuleType:
    """Import a module of `audio/`, such as "whitening". Nothing heavy is imported before this is called.

    Raises:
        ImportError: a package that it needs is missing, or broken.
        ValueError: this folder was copied without `audio/`.
    """
    package = _audio_package()
    try:
        return importlib.import_module(f"{package}.{name}")
    except OSError as error:  # soundfile raises it where the library libsndfile is missing
        raise ImportError(str(error)) from error


@functools.cache
def _audio_package() -> str:
    """Load the package of `audio/` under this package's name, and return the name."""
    name = f"{__package__}.{CODE}"
    spec = importlib.util.spec_from_file_location(name, place(CODE) / "__init__.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return name
