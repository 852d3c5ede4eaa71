"""Make the pictures of the README: python docs/make.py (two minutes on two cores)."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ldm.pictures import grid  # noqa: E402

VOICES = ("voice_en.wav", "voice_es.wav", "voice_fr.wav", "voice_it.wav", "voice_ru.wav", "word_de.ogg")
PROMPTS = ("a golden spiral on purple", "calm blue and turquoise waves", "a red flower, green background")
WIDTH = 192  # pixels of one picture in the README


def paint(latents: list[Path], prompt: str, folder: Path, *arguments: str) -> list[np.ndarray]:
    """One picture for each latent."""
    pictures = []
    for path in latents:
        out = folder / path.stem
        command = ["txt2img.py", "--init_latents", str(path), "--prompt", prompt, "--outdir", str(out), *arguments]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        (picture,) = (out / "samples").iterdir()
        pictures.append(np.asarray(Image.open(picture).resize((WIDTH, WIDTH), Image.Resampling.LANCZOS)))
    return pictures


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        latents = [folder / f"{voice}.pt" for voice in VOICES]
        for voice, path in zip(VOICES, latents, strict=True):
            command = ["process_live_audio.py", "--input_file", f"examples/{voice}", "--output_file", str(path)]
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        rows = [picture for i, prompt in enumerate(PROMPTS) for picture in paint(latents, prompt, folder / str(i))]
        Image.fromarray(grid(rows, len(VOICES))).save(ROOT / "docs" / "voices.png")
        raw = paint(latents, PROMPTS[0], folder / "raw", "--x_T", "raw")
        Image.fromarray(grid(raw + rows[: len(VOICES)], len(VOICES))).save(ROOT / "docs" / "x_T.png")


if __name__ == "__main__":
    main()
