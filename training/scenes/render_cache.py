"""Many renders at once: drawn on all cores, and cached on disk, because drawing takes longer than using them."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from einops import reduce
from joblib import Parallel, delayed
from tqdm import tqdm

from files import atomic_path
from training.scenes.render import render
from training.scenes.scenes import Scene, attribute_values, sample_scene

CHUNK = 128  # renders a task
Kind = Literal["augmented", "drifting", "canonical"]
"""Augmented renders; the same with drifting colours; canonical renders, drawn at twice the size and halved."""


def halve(image: np.ndarray) -> np.ndarray:
    """Halve height and width of an image uint8 [H, W, 3]; each pixel is the mean of four."""
    return reduce(image.astype(np.float32), "(h p) (w q) c -> h w c", "mean", p=2, q=2).round().astype(np.uint8)


def render_kind(scene: Scene, size: int, kind: Kind) -> np.ndarray:
    """Draw a scene as uint8 [size, size, 3]."""
    if kind == "canonical":
        return halve(render(scene, 2 * size, canonical=True))
    return render(scene, size, drifting=kind == "drifting")


def render_chunks(
    first_seed: int,
    count: int,
    size: int,
    kind: Kind = "augmented",
    scene_of: Callable[[int], Scene] = sample_scene,
) -> Iterator[np.ndarray]:
    """Draw the scenes of seeds `first_seed`, `first_seed` + 1, … in chunks [≤ CHUNK, size, size, 3] uint8.

    Args:
        scene_of: gives the scene of a seed.
    """

    def chunk(start: int) -> np.ndarray:
        seeds = range(start, min(start + CHUNK, first_seed + count))
        return np.stack([render_kind(scene_of(seed), size, kind) for seed in seeds])

    starts = range(first_seed, first_seed + count, CHUNK)
    yield from Parallel(n_jobs=-1, return_as="generator")(delayed(chunk)(start) for start in starts)


def fingerprint(renders: Iterable[np.ndarray]) -> str:
    """Hash a few renders (SHA-256, hexadecimal), to tell versions of the drawing code apart."""
    return hashlib.sha256(b"".join(image.tobytes() for image in renders)).hexdigest()


def cached_renders(folder: Path, first_seed: int, count: int, size: int, kind: Kind = "augmented") -> np.memmap:
    """Return `count` renders as [count, size, size, 3] uint8, mapped from a file in `folder` that is made if missing.

    The file's name tells all arguments, and a fingerprint of the first few renders. So a change of the drawing code
    makes a new file.

    Raises:
        OSError: the folder cannot be written to.
    """
    code = fingerprint(render_kind(sample_scene(seed), 64, kind) for seed in range(first_seed, first_seed + 4))
    path = folder / f"{code[:8]}-{first_seed}-{count}x{size}px-{kind}.npy"
    if not path.is_file():
        with atomic_path(path) as temporary, tqdm(total=count, desc=f"rendering {size} px") as bar:
            renders = np.lib.format.open_memmap(temporary, "w+", np.uint8, (count, size, size, 3))
            for chunk in render_chunks(first_seed, count, size, kind):
                renders[bar.n : bar.n + len(chunk)] = chunk
                bar.update(len(chunk))
            renders.flush()
    return np.load(path, mmap_mode="r")


def scene_labels(first_seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return attribute values [count, attributes] and variants [count] of scenes `first_seed`, `first_seed` + 1, …"""

    def chunk(start: int) -> tuple[list[list[int]], list[int]]:
        scenes = [sample_scene(seed) for seed in range(start, min(start + 64 * CHUNK, first_seed + count))]
        return [attribute_values(scene) for scene in scenes], [scene.variant for scene in scenes]

    starts = range(first_seed, first_seed + count, 64 * CHUNK)
    values, variants = zip(*Parallel(n_jobs=-1)(delayed(chunk)(start) for start in starts), strict=True)
    return np.concatenate(values), np.concatenate(variants)
