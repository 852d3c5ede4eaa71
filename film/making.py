"""Make a film: choose what each frame shows, paint the frames that are missing, and write them with the sound."""

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import cli
from audio.motion import Motion
from files import alternatives, atomic_path, reserve
from film.film_file import FilmWriter
from film.frames import FrameStore, encoded
from film.pace import frames_of_sound, pace_of
from film.pulse import zoomed, zooms
from film.scenario import FilmSettings, Scenario
from painting.generate import OneByOne, PaintAll
from painting.painter import OnStep

PLAN = "plan.npz"
LONG = 5000  # frames: three minutes and a half at 24 a second
SPARE = 1.1  # of the disk that the frames need, which must be free
FILM_SHARE = 0.5  # of the size of the frames, at most, that the film itself needs


@dataclass(frozen=True)
class Recording:
    """The sound of a film."""

    path: Path
    motion: Motion


def make_film(
    scenario: Scenario,
    recording: Recording,
    store: FrameStore,
    path: Path,
    pulse: float,
    record: Mapping[str, object] | None,
    on_step: OnStep,
    say: Callable[[str], None],
    paint_all: PaintAll | None = None,
) -> Path:
    """Paint what is missing of a film, write it, and remove its frames.

    Args:
        scenario: its frames.
        recording: its sound.
        store: its frames that are painted already; removed at the end.
        path: of the film, whose name gets a number if it is taken.
        pulse: see `pulse.zooms`.
        record: what the film is made of, for its metadata; None: no metadata.
        on_step: called after each sampling step; it counts the steps of all batches.
        say: takes lines for people.
        paint_all: see `painting.generate.generate_images`.

    Returns:
        Its path.

    Raises:
        ValueError: the recording or the start noise cannot be used.
        OSError: there is no room, or a file cannot be read or written.
    """
    settings = scenario.settings
    if store.missing:
        try_encoder(store.folder / path.name, settings, recording.path)
        if settings.frames >= LONG and not store.painted and paint_all is None:
            forecast_by_trial(scenario, store, say)
        plan(scenario, recording.motion, store.folder / PLAN)
        paint(scenario, store, on_step, say, paint_all or OneByOne(scenario.painter))
    loudness = frames_of_sound(recording.motion.loudness, recording.motion.rate, settings.frames, settings.fps)
    near = zooms(loudness, settings.fps, pulse, settings.loop)
    metadata = {"title": path.stem, "comment": json.dumps(record, ensure_ascii=False)} if record else {}
    finished = store.folder / path.name
    size = (settings.image.width, settings.image.height)
    with FilmWriter(finished, settings.fps, size, recording.path, metadata) as film:
        frames = tqdm(store.frames(), "writing", settings.frames, unit="frame", disable=None, leave=False)
        for frame, zoom in zip(frames, near, strict=True):
            film.add(zoomed(frame, zoom))
    made = reserve(path.parent, alternatives(path.name))
    os.replace(finished, made)
    store.remove()
    return made


def try_encoder(path: Path, settings: FilmSettings, sound: Path) -> None:
    """Write one frame of a film with its sound, and remove it, so that a missing encoder is known before painting.

    Raises:
        RuntimeError: PyAV is not installed, or has no such encoder.
        ValueError: the recording cannot be used.
        OSError: a file cannot be read or written.
    """
    size = (settings.image.width, settings.image.height)
    with FilmWriter(path, settings.fps, size, sound) as film:
        film.add(np.zeros((size[1], size[0], 3), np.uint8))
    path.unlink()


def forecast_by_trial(scenario: Scenario, store: FrameStore, say: Callable[[str], None]) -> None:
    """Paint a batch of a long film, which is planned for minutes, only to say before what all of it takes."""
    begun, frames = time.monotonic(), store.batch(store.batches // 2)
    images = scenario.paint(frames)
    each = (time.monotonic() - begun) / len(frames)
    _forecast(scenario, store, each, len(encoded(images)) / len(frames), say)


def plan(scenario: Scenario, motion: Motion, path: Path) -> None:
    """Choose what each frame shows, and keep it in a file; or read it there, if an earlier run has chosen.

    Raises:
        OSError: the file cannot be written.
    """
    # a damaged file makes zipfile and NumPy raise nearly any error; then all is chosen again, and the same
    with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as kept:
        scenario.recall(kept)
        return
    prepare(scenario, motion)
    with atomic_path(path) as temporary:
        arrays: dict[str, Any] = scenario.plan()
        np.savez(temporary, **arrays)


def prepare(scenario: Scenario, motion: Motion) -> None:
    """Choose the shapes of a film, and its pace after the sound."""
    settings = scenario.settings
    with tqdm(desc="planning", total=100, unit="%", delay=1, disable=None, leave=False) as bar:
        half = 0.0
        for share in scenario.prepare():
            bar.update(50 * share - half)
            half = 50 * share
        if not settings.smooth or settings.frames < 2:
            return
        lengths = np.empty(settings.frames - 1)
        for frame, length in enumerate(scenario.lengths()):
            lengths[frame] = length
            bar.update(50 / len(lengths))
    changes = frames_of_sound(motion.flux, motion.rate, settings.frames, settings.fps)
    scenario.follow(lengths, pace_of(changes[:-1]))


def paint(
    scenario: Scenario, store: FrameStore, on_step: OnStep, say: Callable[[str], None], paint_all: PaintAll
) -> None:
    """Paint the batches that are missing."""
    missing, settings = store.missing, scenario.settings
    if len(missing) < store.batches:
        done = sum(len(store.batch(number)) for number in store.painted)
        say(f"resuming: {done} of {settings.frames} frames are painted")
    begun = time.monotonic()
    jobs = (scenario.job(store.batch(number)) for number in missing)
    for number, frames in zip(missing, paint_all(jobs, on_step, len(missing)), strict=True):
        store.add(number, frames)
        if number == missing[0]:
            size = store.size() / sum(len(store.batch(painted)) for painted in store.painted)
            # a cluster has painted about as many other batches meanwhile as it has other workers
            each = (time.monotonic() - begun) / (len(frames) * min(paint_all.at_once, len(missing)))
            _forecast(scenario, store, each, size, say)


def _forecast(scenario: Scenario, store: FrameStore, each: float, size: float, say: Callable[[str], None]) -> None:
    """Say what a film takes, if a frame takes `each` seconds and `size` bytes.

    Raises:
        OSError: there is not so much room on the disk.
    """
    settings = scenario.settings
    left = sum(len(store.batch(number)) for number in store.missing)
    rest = f": {cli.duration(each * left)} for the {left} that are left" if left else ""
    say(
        f"film: {cli.counted(settings.frames, 'frame')} of {settings.image.width}x{settings.image.height}, "
        f"{settings.fps} a second; {each:.2f} s a frame{rest}, and "
        f"{_megabytes(size * settings.frames)} of disk until it is made"
    )
    needed, free = (left + FILM_SHARE * settings.frames) * size * SPARE, shutil.disk_usage(store.folder).free
    if needed > free:
        raise OSError(
            f"{store.folder.parent}: the frames need {_megabytes(needed)}, and {_megabytes(free)} are free; free some "
            "space, or choose another folder"
        )


def _megabytes(size: float) -> str:
    return f"{math.ceil(size / 1e6)} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
