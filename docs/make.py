"""Make the images of the documentation, and its film: python -m docs.make (some minutes on two cores)."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from PIL import Image

import config
from audio.provenance import read_heard, read_note, save_latents
from audio.qualities import Heard
from benchmarks.sounds import white_noise
from painting.images import grid

ROOT = config.REPO_DIR
VOICES = (
    "voice_en.wav",
    "voice_es.wav",
    "voice_fr.wav",
    "voice_it.wav",
    "voice_ru.wav",
    "word_de.ogg",
    "letter_hu.ogg",
    "syllable_ml.ogg",
)
PROMPTS = (
    "a golden spiral on purple",
    "a blue butterfly",
    "a psychedelic visualization of a voice",
    "a red flower, green background",
    "psychedelic mandala, orange and teal",
    "kaleidoscope, magenta, yellow, black",
    "cyan and navy rings",
    "calm blue and turquoise waves",
)
STRIP = 3  # prompts in voices.png
FILMED = "voice_it.wav"  # five seconds
FILM_STEPS = "5"
SNR_DB = 20
WIDTH = 160  # pixels a side of an image in a sheet


def paint(latents: Path, prompt: str, folder: Path, *arguments: str) -> list[np.ndarray]:
    """Make an image from each row of a file of latents."""
    command = ["txt2img.py", "--init_latents", str(latents), "--subject_idx", "all", "--prompt", prompt, "--skip_grid"]
    subprocess.run([sys.executable, *command, "--outdir", str(folder), *arguments], cwd=ROOT, check=True)
    return read_small(folder)


def read_small(folder: Path) -> list[np.ndarray]:
    """Read the images of a folder, at the size that they have in a sheet."""
    files = sorted((folder / "samples").iterdir())
    return [np.asarray(Image.open(file).resize((WIDTH, WIDTH), Image.Resampling.LANCZOS)) for file in files]


def walk(start: Path, end: Path, folder: Path) -> list[np.ndarray]:
    """Make as many images as there are voices, between two of them."""
    command = ["txt2img.py", "--walk", str(start), str(end), "--frames", str(len(VOICES)), "--prompt", PROMPTS[0]]
    subprocess.run([sys.executable, *command, "--skip_grid", "--outdir", str(folder)], cwd=ROOT, check=True)
    return read_small(folder)


def latents_of(recordings: list[Path], folder: Path) -> Path:
    """Write the latents of each recording to a file, and those of all [N, 4, 32, 32] to the file that is returned."""
    folder.mkdir(exist_ok=True)
    rows: list[torch.Tensor] = []
    heard: list[Heard] = []
    for recording in recordings:
        path = folder / f"{recording.stem}.pt"
        command = ["process_live_audio.py", "--input_file", str(recording), "--output_file", str(path)]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        rows.append(torch.load(path, weights_only=True))
        heard += read_heard(path, 1)
    save_latents(folder / "voices.pt", torch.cat(rows), read_note(path), heard=heard)
    return folder / "voices.pt"


def with_noise(recording: Path, folder: Path) -> Path:
    """Write the recording with white noise 20 dB below it, and return the file."""
    sound, rate = soundfile.read(recording, always_2d=True)
    noisy = white_noise(SNR_DB)(sound.mean(axis=1), np.random.default_rng(0))
    soundfile.write(folder / f"{recording.stem}.wav", noisy, rate)
    return folder / f"{recording.stem}.wav"


def film(recording: Path, folder: Path) -> list[np.ndarray]:
    """Write a film of a recording to docs/film.mp4, and return as many of its frames as there are voices."""
    latents = folder / "windows.pt"
    command = [
        "process_live_audio.py",
        "--input_file",
        str(recording),
        "--windows",
        "3.0",
        "--output_file",
        str(latents),
    ]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    command = ["txt2img.py", "--init_latents", str(latents), "--film", str(recording), "--prompt", PROMPTS[0]]
    subprocess.run(
        [sys.executable, *command, "--steps", FILM_STEPS, "--outdir", str(folder / "film")], cwd=ROOT, check=True
    )
    (path,) = (folder / "film" / "films").iterdir()
    shutil.copyfile(path, ROOT / "docs" / "film.mp4")
    return frames_of(path)


def frames_of(path: Path) -> list[np.ndarray]:
    """Read as many frames of a film, evenly spaced, as there are voices, at the size that they have in a sheet."""
    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    chosen = np.linspace(0, len(frames) - 1, len(VOICES)).round().astype(int)
    return [np.asarray(frames[place].resize((WIDTH, WIDTH), Image.Resampling.LANCZOS)) for place in chosen]


def main() -> None:
    """Write all sheets to docs/."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recordings = [ROOT / "examples" / voice for voice in VOICES]
        latents = latents_of(recordings, folder / "quiet")
        noisy = latents_of([with_noise(recording, folder) for recording in recordings], folder / "noisy")
        rows = [paint(latents, prompt, folder / str(i)) for i, prompt in enumerate(PROMPTS)]
        raw = [paint(file, PROMPTS[0], folder / f"raw {i}", "--x_T", "raw") for i, file in enumerate((latents, noisy))]
        x_T = [*raw, rows[0], paint(noisy, PROMPTS[0], folder / "noise")]
        shapes = paint(latents, PROMPTS[0], folder / "layout", "--layout_strength", "0.5")
        start, end = (folder / "quiet" / f"{Path(voice).stem}.pt" for voice in VOICES[:2])
        way = walk(start, end, folder / "walk")
        moving = film(ROOT / "examples" / FILMED, folder)
    sheets = {"voices.png": rows[:STRIP], "sheet.jpg": rows, "x_T.png": x_T, "walk.png": [way, shapes]}
    sheets["film.jpg"] = [moving]
    for file, chosen in sheets.items():
        sheet = Image.fromarray(grid([image for row in chosen for image in row], len(VOICES)))
        sheet.save(ROOT / "docs" / file, quality=88)  # of the JPEG; ignored for PNG


if __name__ == "__main__":
    main()
