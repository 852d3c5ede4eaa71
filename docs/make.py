"""Make the pictures of the README: python docs/make.py (two minutes on two cores)."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ldm.pictures import grid  # noqa: E402

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
    "calm blue and turquoise waves",
    "a red flower, green background",
    "psychedelic mandala, orange and teal",
    "kaleidoscope, magenta, yellow, black",
    "cyan and navy rings",
    "pink and white marble",
    "a psychedelic visualization of a voice",
)
STRIP = 3  # prompts of the README's first picture
WIDTH = 160  # pixels of one picture in the README


def painted(latents: Path, prompt: str, folder: Path, *arguments: str) -> list[np.ndarray]:
    """One picture for each latent of a file."""
    command = ["txt2img.py", "--init_latents", str(latents), "--subject_idx", "all", "--prompt", prompt, "--skip_grid"]
    subprocess.run([sys.executable, *command, "--outdir", str(folder), *arguments], cwd=ROOT, check=True)
    files = sorted((folder / "samples").iterdir())
    return [np.asarray(Image.open(file).resize((WIDTH, WIDTH), Image.Resampling.LANCZOS)) for file in files]


def latents_of(voices: tuple[str, ...], folder: Path) -> Path:
    """A file with the latents [N, 4, 32, 32] of recordings in examples/."""
    rows = []
    for voice in voices:
        path = folder / f"{voice}.pt"
        command = ["process_live_audio.py", "--input_file", f"examples/{voice}", "--output_file", str(path)]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        rows.append(torch.load(path, weights_only=True))
    torch.save(torch.cat(rows), folder / "voices.pt")
    return folder / "voices.pt"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        latents = latents_of(VOICES, folder)
        rows = [painted(latents, prompt, folder / str(i)) for i, prompt in enumerate(PROMPTS)]
        raw = painted(latents, PROMPTS[0], folder / "raw", "--x_T", "raw")
    for file, chosen in (("voices.png", rows[:STRIP]), ("sheet.png", rows), ("x_T.png", [raw, rows[0]])):
        Image.fromarray(grid([picture for row in chosen for picture in row], len(VOICES))).save(ROOT / "docs" / file)


if __name__ == "__main__":
    main()
