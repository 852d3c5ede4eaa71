"""Measure films: python -m benchmarks.film [--only path,time,follow,moment,kill] [--films 10] [--size 256] [--steps 20]

path    how alike the start noise of neighbouring windows is, and how often the best shape changes along a path
time    a film of 20 s of speech, and its draft, against as many single images in the batch that is fastest here
follow  over several films: the correlation of the speed of the image with the spectral flux of the sound, of this film
        and of another one; and the largest change from frame to frame over the median
moment  the frames of a film without smoothing, against the images of the windows that are cut out of the recording
kill    a film whose process is killed at 20 random moments, against one that is not

The recordings are those in examples/, one after the other from another one on for each film. --size and --steps are for
`follow`, where smaller images are quicker and move alike.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import av
import numpy as np
import soundfile
import soxr
import torch
from PIL import Image

import cli
import config
import film.making
import process_live_audio
import txt2img
from audio.initial_noise import Voices
from audio.motion import measure_motion
from audio.provenance import find_whitening, read_heard
from audio.windows import read_windows
from film.frames import JOURNAL
from film.pace import frames_of_sound
from film.path import Path as NoisePath
from film.scenario import FilmSettings
from ldm.models.diffusion.sampling import seeded_noise
from painting.image_spec import ImageSpec
from painting.ldm_painter import LatentDiffusionPainter

SECONDS, WINDOW, HOP, FPS = 20.0, 3.0, 0.25, 24
PROMPT = "a golden spiral on purple"
BATCHES = (1, 2, 4, 8)
KILLS = 20


def main(argv: list[str] | None = None) -> int:
    parser = cli.CommandParser(__doc__)
    parts = {"path": measure_path, "time": measure_time, "follow": measure_following}
    parts |= {"moment": measure_moments, "kill": measure_kills}
    parser.add_argument("--only", default=",".join(parts), help="some of path,time,follow,moment,kill (default: all)")
    parser.add_argument("--films", type=cli.bounded(int, 2, 8 * 8), default=10, help="films of follow (default: 10)")
    parser.add_argument("--seconds", type=cli.bounded(float, 4, 60), default=SECONDS, help="of each film (default: 20)")
    parser.add_argument("--size", default="256", help="of images of follow, in pixels (default: 256)")
    parser.add_argument("--steps", type=cli.bounded(int, 1, 100), default=20, help="of follow (default: 20)")
    parser.add_argument("--pulse", type=cli.bounded(float, 0, 1), default=0.0, help="of follow (default: 0)")
    args = parser.parse_args(argv)
    if unknown := set(args.only.split(",")) - parts.keys():
        parser.error(f"--only: {', '.join(sorted(unknown))}: one or more of {', '.join(parts)} are needed")
    with tempfile.TemporaryDirectory() as name:
        for part in args.only.split(","):
            folder = Path(name, part)
            folder.mkdir()
            parts[part](folder, args)
    return 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Print nothing of what the scripts print."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


# --- recordings and films --------------------------------------------------------------------------------------------
def recording(folder: Path, number: int, seconds: float) -> Path:
    """Write a recording of real voices, and the latents along it beside it."""
    paths = sorted(path for path in config.EXAMPLES_DIR.iterdir() if path.suffix in (".wav", ".ogg"))
    order = [paths[(number + place) % len(paths)] for place in range(len(paths))]
    rate = config.RECIPE.sample_rate
    read = (soundfile.read(path, dtype="float32", always_2d=True) for path in order)
    voices = np.concatenate([soxr.resample(samples.mean(axis=1), own, rate) for samples, own in read])
    path = folder / f"voices{number}.wav"
    shift = number // len(paths) * rate  # after one round, another second of each
    soundfile.write(path, np.resize(np.roll(voices, -shift), round(seconds * rate)), rate)
    words = [f"--input_file={path}", f"--output_file={path.with_suffix('.pt')}", f"--windows={WINDOW}", f"--hop={HOP}"]
    with quiet():
        process_live_audio.main(words)
    return path


def words_of(voice: Path, outdir: Path, *more: object) -> list[str]:
    """Return the arguments of txt2img.py for a film."""
    words = ["--init_latents", voice.with_suffix(".pt"), "--film", voice, "--prompt", PROMPT, "--outdir", outdir, *more]
    return [str(word) for word in words]


@contextlib.contextmanager
def kept_frames() -> Iterator[list[np.ndarray]]:
    """Keep the frames of films in place of encoding them."""
    frames: list[np.ndarray] = []

    class Keeper(contextlib.AbstractContextManager["Keeper"]):
        def __init__(self, path: Path, *_: object) -> None:
            path.touch()
            frames.clear()  # of the film that tries the encoder

        def __exit__(self, *_: object) -> None:
            pass

        def add(self, frame: np.ndarray) -> None:
            frames.append(frame)

    with mock.patch.object(film.making, "FilmWriter", Keeper):
        yield frames


# --- the path ---------------------------------------------------------------------------------------------------------
def measure_path(folder: Path, args: argparse.Namespace) -> None:
    """Compare neighbouring windows, and count how often the shape with the best score changes."""
    latents = recording(folder, 0, args.seconds).with_suffix(".pt")
    windows = read_windows(latents)
    _, whitening = find_whitening(windows.latents[:1], None, config.calibration_dirs())
    noise, centres = seeded_noise([42], (4, 32, 32))[0].numpy(), windows.times + windows.window / 2
    voices = Voices(windows.latents, whitening, heard=read_heard(latents, len(windows.latents)))
    painter = LatentDiffusionPainter()
    for smooth in (0.0, FilmSettings.smooth):
        path = NoisePath(voices, centres, args.seconds, noise, 0.9, 0.0, smooth)
        moments = np.arange(centres[0], centres[-1], 1 / 16)
        at_windows, between = (np.stack([path.x_T(moment) for moment in each]) for each in (centres, moments))
        unit = at_windows.reshape(len(centres), -1) / np.linalg.norm(noise)
        best = painter.shape_scores(torch.from_numpy(between)).argmax(axis=1)
        print(
            f"path: --smooth {smooth:g}: median cosine of neighbouring windows "
            f"{np.median((unit[1:] * unit[:-1]).sum(axis=1)):.2f}; the best shape changes "
            f"{(np.diff(best) != 0).sum() / (moments[-1] - moments[0]):.1f} times a second"
        )


# --- time ------------------------------------------------------------------------------------------------------------
def measure_time(folder: Path, args: argparse.Namespace) -> None:
    """Compare a film and its draft with single images."""
    voice = recording(folder, 0, args.seconds)
    painter = LatentDiffusionPainter()
    x_T = torch.randn(max(BATCHES), 4, 32, 32, generator=torch.Generator().manual_seed(0))
    each = {}
    for size in BATCHES:
        specs = [ImageSpec(PROMPT, precision=painter.precision, **painter.defaults)] * size
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            painter.paint(specs, x_T[:size])
            times.append((time.perf_counter() - begun) / size)
        each[size] = statistics.median(times)
        print(f"time: {each[size]:.3f} s an image in batches of {size}", flush=True)
    del painter
    batch = min(each, key=each.__getitem__)
    images = round(args.seconds * FPS) * each[batch]
    seconds = {}
    for name, more in (("film", ()), ("draft", ("--draft",))):
        words = words_of(voice, folder / name, "--batch_size", batch, *more)
        begun = time.perf_counter()
        subprocess.run([sys.executable, config.REPO_DIR / "txt2img.py", *words], check=True, capture_output=True)
        seconds[name] = time.perf_counter() - begun
    print(
        f"time: a film of {args.seconds:g} s in {seconds['film']:.1f} s, {seconds['film'] / images:.2f} × the "
        f"{images:.1f} s of its images; the draft in {seconds['draft']:.1f} s, "
        f"1/{seconds['film'] / seconds['draft']:.1f} of the film"
    )


# --- how a film follows its sound ------------------------------------------------------------------------------------
def measure_following(folder: Path, args: argparse.Namespace) -> None:
    """Compare the speed of films with the flux of their sound, and of another one."""
    speeds, fluxes = [], []
    for number in range(args.films):
        voice = recording(folder, number, args.seconds)
        more = ("--size", args.size, "--steps", args.steps, "--pulse", args.pulse)
        with quiet():
            txt2img.main(words_of(voice, folder, *more))
        speed = changes(folder / "films" / f"{voice.stem}.mp4")
        motion = measure_motion(voice)
        speeds.append(speed)
        fluxes.append(frames_of_sound(motion.flux, motion.rate, len(speed) + 1, FPS)[:-1])
        print(
            f"follow: film {number}: correlation {correlation(speed, fluxes[-1]):.2f}, largest change "
            f"{speed.max() / np.median(speed):.1f} × the median, least {speed.min() / np.median(speed):.2f}",
            flush=True,
        )
    own = [correlation(speed, flux) for speed, flux in zip(speeds, fluxes, strict=True)]
    other = [correlation(speed, flux) for speed, flux in zip(speeds, fluxes[1:] + fluxes[:1], strict=True)]
    jerks = [speed.max() / np.median(speed) for speed in speeds]
    print(
        f"follow: {len(own)} films: correlation {np.mean(own):.2f} ({min(own):.2f} to {max(own):.2f}), with another "
        f"sound {np.mean(other):.2f} ({min(other):.2f} to {max(other):.2f}); largest change {max(jerks):.1f} "
        "× the median"
    )


def changes(path: Path) -> np.ndarray:
    """Return the mean absolute change [F − 1] from each frame of a film to the next, in levels of 256."""
    before, found = None, []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="rgb24").astype(np.int16)
            if before is not None:
                found.append(np.abs(image - before).mean())
            before = image
    return np.array(found)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Pearson's correlation."""
    return float(np.corrcoef(one, other)[0, 1])


# --- the same moment, the same image ---------------------------------------------------------------------------------
def measure_moments(folder: Path, args: argparse.Namespace) -> None:
    """Compare frames in the middle of windows with the images of the windows."""
    fps, rate = round(1 / HOP), config.RECIPE.sample_rate
    voice = recording(folder, 0, 6.0)
    with kept_frames() as frames, quiet():
        txt2img.main(words_of(voice, folder, "--smooth", 0, "--fps", fps))
    samples, _ = soundfile.read(voice, dtype="float32")
    largest = []
    for row in range(0, 12, 3):
        cut, latents = folder / f"cut{row}.wav", folder / f"cut{row}.pt"
        begin = round(row * HOP * rate)
        soundfile.write(cut, samples[begin : begin + round(WINDOW * rate)], rate, subtype="FLOAT")
        with quiet():
            process_live_audio.main([f"--input_file={cut}", f"--output_file={latents}"])
            words = ["--init_latents", latents, "--prompt", PROMPT, "--outdir", folder / f"cut{row}"]
            (path,) = txt2img.paint(txt2img.parse(list(map(str, words)))).paths
        still = np.asarray(Image.open(path)).astype(int)
        largest.append(int(np.abs(still - frames[round((row * HOP + WINDOW / 2) * fps)]).max()))
    print(f"moment: frames and images of {len(largest)} windows differ by at most {max(largest)} of 256 levels")


# --- kills -----------------------------------------------------------------------------------------------------------
def measure_kills(folder: Path, args: argparse.Namespace) -> None:
    """Kill films at random moments, resume them, and compare them with one that was not killed."""
    voice, rng = recording(folder, 0, 5.0), random.Random(0)
    more = ("--size", 64, "--steps", 2, "--fps", 8, "--batch_size", 2)
    script = [sys.executable, str(config.REPO_DIR / "txt2img.py")]
    begun = time.perf_counter()
    subprocess.run([*script, *words_of(voice, folder / "whole", *more)], check=True, capture_output=True)
    whole, seconds = (folder / "whole" / "films" / f"{voice.stem}.mp4").read_bytes(), time.perf_counter() - begun
    kills = films = 0
    while kills < KILLS:
        outdir = folder / f"killed{films}"
        while True:
            begun = time.perf_counter()
            process = subprocess.Popen([*script, *words_of(voice, outdir, *more)], stdout=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                if process.wait(rng.uniform(0.2, 1.0) * seconds):
                    raise RuntimeError("a film failed")
                seconds = min(seconds, time.perf_counter() - begun)  # of whole films, and of the rest of killed ones
                break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            for journal in outdir.glob(f"films/.*/{JOURNAL}"):
                lines = [json.loads(line)[0] for line in journal.read_text().splitlines() if line.endswith("]")]
                if len(lines) != len(set(lines)):
                    raise RuntimeError(f"painted twice: {lines}")
        films += 1
        if (outdir / "films" / f"{voice.stem}.mp4").read_bytes() != whole:
            raise RuntimeError("a film that was killed and resumed differs")
    print(f"kill: {kills} kills in {films} films: the same bytes, no frame painted twice")


if __name__ == "__main__":
    cli.run(main)
