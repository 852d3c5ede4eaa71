"""Files that say how the files beside them were made: .json with the recipe and the sha256 of each file.

Parts of two calibrations, or vectors of two recipes, are never mixed unnoticed, because every step checks what the one
before has written down.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .files import sha256_of
from .recipe import CONSTANTS, Recipe, first_difference

AGAIN = "run prep_audio_spectrograms.py and z_transformation_with_stats.py again"


def write_manifest(path: Path, content: dict[str, Any], sort_keys: bool = False) -> None:
    """Write a manifest.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_text(json.dumps(content, indent=2, sort_keys=sort_keys) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a .json file with a recipe in it.

    Raises:
        ValueError: it is something else.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {AGAIN}") from error
    parts = (content.get(part, {}) for part in ("constants", "sha256")) if isinstance(content, dict) else ()
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("recipe"), dict)
        or not all(isinstance(part, dict) for part in parts)
    ):
        raise ValueError(f"{path} does not say which recipe was used; {AGAIN}")
    return content


def check_recipe(manifest: dict[str, Any], recipe: Recipe, path: Path) -> None:
    """Raise ValueError naming the first parameter in which the manifest read from `path` differs from `recipe`."""
    difference = first_difference(manifest["recipe"], recipe.to_json())
    difference = difference or first_difference(manifest.get("constants", CONSTANTS), CONSTANTS)
    if difference:
        name, was, now = difference
        raise ValueError(f"{path} was made with {name} {was}, the recipe now says {now}; {AGAIN}")


def check_files(manifest: dict[str, Any], path: Path, names: Iterable[str] | None = None) -> None:
    """Check the files beside `path` by their sha256: all that the manifest read from it lists, or those of `names`.

    Raises:
        ValueError: a file is another one.
        OSError: a file cannot be read.
    """
    for name, digest in manifest.get("sha256", {}).items():
        if (names is None or name in names) and sha256_of(path.with_name(name)) != digest:
            raise ValueError(f"{path.with_name(name)} is not the file that {path} describes; {AGAIN}")
