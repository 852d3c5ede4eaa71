"""Many renders at once: on all cores, and kept on disk, since drawing takes longer than much that is done with them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from einops import reduce
from joblib import Parallel, delayed
from tqdm import tqdm

from files import atomic_path
from training.scenes.render import render
from training.scenes.scenes import attribute_values, sample_scene

CHUNK = 128  # pictures a task
Kind = Literal["views", "drifting", "whole"]
"""Scenes as they are seen; the same with colours that drift; all of each scene, drawn twice as large and halved."""


def halved(picture: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] at half the height and width, each pixel the mean of four."""
    return reduce(picture.astype(np.float32), "(h p) (w q) c -> h w c", "mean", p=2, q=2).round().astype(np.uint8)


def drawn(seed: int, size: int, kind: Kind) -> np.ndarray:
    """The scene of `seed`, uint8 [size, size, 3]."""
    scene = sample_scene(seed)
    if kind == "whole":
        return halved(render(scene, 2 * size, whole=True))
    return render(scene, size, drifting=kind == "drifting")


def rendered(first_seed: int, count: int, size: int, kind: Kind = "views") -> Iterator[np.ndarray]:
    """Renders of the scenes `first_seed`, `first_seed` + 1, …: chunks [≤ CHUNK, size, size, 3] uint8."""

    def chunk(start: int) -> np.ndarray:
        return np.stack([drawn(seed, size, kind) for seed in range(start, min(start + CHUNK, first_seed + count))])

    starts = range(first_seed, first_seed + count, CHUNK)
    yield from Parallel(n_jobs=-1, return_as="generator")(delayed(chunk)(start) for start in starts)


def pool(folder: Path, first_seed: int, count: int, size: int, kind: Kind = "views") -> np.ndarray:
    """All of `rendered`, [count, size, size, 3] uint8: made once, kept in `folder`, and read from there as needed.

    The file is named after what the first few look like, so that other drawing code makes another.

    Raises:
        OSError: the folder cannot be written to.
    """
    first = b"".join(drawn(seed, 64, kind).tobytes() for seed in range(first_seed, first_seed + 4))
    path = folder / f"{hashlib.sha256(first).hexdigest()[:8]}-{first_seed}-{count}x{size}px-{kind}.npy"
    if not path.is_file():
        with atomic_path(path) as temporary, tqdm(total=count, desc=f"rendering {size} px") as bar:
            pictures = np.lib.format.open_memmap(temporary, "w+", np.uint8, (count, size, size, 3))
            for chunk in rendered(first_seed, count, size, kind):
                pictures[bar.n : bar.n + len(chunk)] = chunk
                bar.update(len(chunk))
            pictures.flush()
    return np.load(path, mmap_mode="r")


def told(first_seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Attributes' values [count, attributes] and variants [count] of the scenes `first_seed`, `first_seed` + 1, …"""

    def chunk(start: int) -> tuple[list[list[int]], list[int]]:
        scenes = [sample_scene(seed) for seed in range(start, min(start + 64 * CHUNK, first_seed + count))]
        return [attribute_values(scene) for scene in scenes], [scene.variant for scene in scenes]

    starts = range(first_seed, first_seed + count, 64 * CHUNK)
    values, variants = zip(*Parallel(n_jobs=-1)(delayed(chunk)(start) for start in starts), strict=True)
    return np.concatenate(values), np.concatenate(variants)
