"""Make the pictures of the README: python docs/make.py (three minutes on two cores)."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from painting.images import grid  # noqa: E402

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
STRIP = 3  # prompts of the README's first picture
WIDTH = 160  # pixels of one picture in the README


def painted(latents: Path, prompt: str, folder: Path, *arguments: str) -> list[np.ndarray]:
    """One picture for each latent of a file."""
    command = ["txt2img.py", "--init_latents", str(latents), "--subject_idx", "all", "--prompt", prompt, "--skip_grid"]
    subprocess.run([sys.executable, *command, "--outdir", str(folder), *arguments], cwd=ROOT, check=True)
    return read_small(folder)


def read_small(folder: Path) -> list[np.ndarray]:
    files = sorted((folder / "samples").iterdir())
    return [np.asarray(Image.open(file).resize((WIDTH, WIDTH), Image.Resampling.LANCZOS)) for file in files]


def walked(start: Path, end: Path, folder: Path) -> list[np.ndarray]:
    """As many pictures as there are voices, on the way between two of them."""
    command = ["txt2img.py", "--walk", str(start), str(end), "--frames", str(len(VOICES)), "--prompt", PROMPTS[0]]
    subprocess.run([sys.executable, *command, "--skip_grid", "--outdir", str(folder)], cwd=ROOT, check=True)
    return read_small(folder)


def latents_of(recordings: list[Path], folder: Path) -> Path:
    """A file with the latents [N, 4, 32, 32] of recordings, each of which also has one of its own."""
    folder.mkdir(exist_ok=True)
    rows = []
    for recording in recordings:
        path = folder / f"{recording.stem}.pt"
        command = ["process_live_audio.py", "--input_file", str(recording), "--output_file", str(path)]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        rows.append(torch.load(path, weights_only=True))
    torch.save(torch.cat(rows), folder / "voices.pt")
    return folder / "voices.pt"


def in_noise(recording: Path, folder: Path) -> Path:
    """The recording with white noise 20 dB below it."""
    sound, rate = soundfile.read(recording)
    noise = np.random.default_rng(0).normal(0, 0.1 * np.sqrt(np.mean(sound**2)), sound.shape)
    soundfile.write(folder / f"{recording.stem}.wav", sound + noise, rate)
    return folder / f"{recording.stem}.wav"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recordings = [ROOT / "examples" / voice for voice in VOICES]
        latents = latents_of(recordings, folder / "quiet")
        noisy = latents_of([in_noise(recording, folder) for recording in recordings], folder / "noisy")
        rows = [painted(latents, prompt, folder / str(i)) for i, prompt in enumerate(PROMPTS)]
        raw = [
            painted(file, PROMPTS[0], folder / f"raw {i}", "--x_T", "raw") for i, file in enumerate((latents, noisy))
        ]
        x_T = [*raw, rows[0], painted(noisy, PROMPTS[0], folder / "noise")]
        shapes = painted(latents, PROMPTS[0], folder / "layout", "--layout_strength", "0.5")
        start, end = (folder / "quiet" / f"{Path(voice).stem}.pt" for voice in VOICES[:2])
        way = walked(start, end, folder / "walk")
    pictures = {"voices.png": rows[:STRIP], "sheet.jpg": rows, "x_T.png": x_T, "walk.png": [way, shapes]}
    for file, chosen in pictures.items():
        sheet = Image.fromarray(grid([picture for row in chosen for picture in row], len(VOICES)))
        sheet.save(ROOT / "docs" / file, quality=88)  # PNG has no such thing, and leaves it alone


if __name__ == "__main__":
    main()
