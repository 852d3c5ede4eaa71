"""Try every kind of pipeline of diffusers, and voices at every shape of their latents.

    python -m benchmarks.pipelines [SOURCE]

The first table is of tiny pipelines with random weights: whether x_T gives the same image, bit for bit, as the pipeline
itself when its own generator draws that x_T; after 1, 2 and 20 steps.

The second table needs SOURCE, the unpacked Debian packages that models/calibration/README.md names. It tells for each
shape of x_T of how many among 150 recordings x_T differs from Gaussian noise, by the measures of `python -m audio`,
and of how many draws of noise. Then it tells how many are found again by x_T alone, with white noise at 20 dB SNR and
another seed. Where one recording is there under two names, either counts.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from tqdm import tqdm

import cli
from audio.gaussianity import complaints, examine
from audio.initial_noise import Voices, initial_noise
from benchmarks import sounds
from benchmarks.voice import STRENGTH, VoiceLatents, cosines_of
from ldm.models.diffusion.sampling import seeded_noise
from painting.pipelines.families import FAMILIES, Shape
from tests.painting.test_pipelines import painted_twice, painter_of, spec_of

STEPS = (1, 2, 20)
ENOUGH = 0.99  # of the recordings must be found again
SAME = 0.999  # cosine of the latents of one recording under two names
# x_T at the default size of each kind: channels of its network's class in diffusers, sizes as in painting/pipelines/
SHAPES: dict[Shape, str] = {
    (4, 64, 64): "Stable Diffusion 1 and LCM (512×512), Kandinsky 2.2",
    (4, 96, 96): "Stable Diffusion 2 (768×768)",
    (4, 128, 128): "Stable Diffusion XL, Kolors, Kandinsky 3, PixArt, Hunyuan-DiT, Lumina, AuraFlow",
    (16, 64, 64): "PRX (512×512)",
    (16, 128, 128): "Stable Diffusion 3, FLUX.1, Chroma, Qwen-Image, Z-Image, Lumina 2, CogView, HiDream, Bria, "
    "Ovis-Image, Krea 2, LongCat-Image, Nucleus-Image",
    (16, 80, 176): "Kandinsky 5 (1408×640)",
    (16, 96, 160): "Kandinsky 5 (1280×768)",
    (16, 112, 144): "Kandinsky 5 (1152×896)",
    (16, 24, 24): "Stable Cascade",
    (32, 16, 16): "PRX with the autoencoder of Sana (512×512)",
    (32, 32, 32): "Sana, Sana-Sprint",
    (64, 64, 64): "HunyuanImage 2.1 (2048×2048)",
    (128, 64, 64): "FLUX.2, FLUX.2 klein, ERNIE-Image",
    (3, 1024, 1024): "PRX in pixels",
}


# --- the same image ---------------------------------------------------------------------------------------------------
def identity(name: str, steps: int) -> str:
    """Say whether x_T gives the image that the tiny pipeline of a class gives alone."""
    painter = painter_of(name)
    if steps < painter.family.least_steps:
        return "–"
    image, alone = painted_twice(painter, spec_of(painter, steps=steps))
    return "same" if np.array_equal(image, alone) else f"differs by {np.abs(image.astype(int) - alone).max()}"


def print_identities() -> bool:
    """Print the first table; return whether all images are the same."""
    print("| kind | " + " | ".join(f"{steps} step{'s' * (steps > 1)}" for steps in STEPS) + " |")
    print("| --- |" + " --- |" * len(STEPS))
    same = True
    for name, family in FAMILIES.items():
        cells = [identity(name, steps) for steps in STEPS]
        same = same and {*cells} <= {"same", "–"}
        print(f"| {family.text} | " + " | ".join(cells) + " |", flush=True)
    return same


# --- voices -----------------------------------------------------------------------------------------------------------
def start_noise(voices: Voices, shape: Shape, first_seed: int) -> Iterator[np.ndarray]:
    """Yield the x_T [C, h, w] of each voice, with a seed of its own."""
    for row in range(len(voices.latents)):
        noise = seeded_noise([first_seed + row], shape)[0].numpy()
        yield initial_noise([(voices, row, 1.0)], noise, STRENGTH)


def unlike_noise(latents: Iterable[np.ndarray]) -> int:
    """Count the latents [C, h, w] that differ from Gaussian noise."""
    return sum(bool(complaints(examine(x))) for x in latents)


def print_shape(shape: Shape, known: Voices, changed: Voices) -> float:
    """Print one row of the second table; return the share of recordings that are found again."""
    count = len(known.latents)
    x_T = np.stack(list(start_noise(known, shape, 0)))
    unlike = unlike_noise(x_T), unlike_noise(x for x in seeded_noise(list(range(3 * count, 4 * count)), shape).numpy())
    directions = x_T.reshape(count, -1)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = np.stack([directions @ (x.ravel() / np.linalg.norm(x)) for x in start_noise(changed, shape, count)])
    own = cosines.diagonal()
    others = (cosines.sum() - own.sum()) / (cosines.size - count)
    same = cosines_of(known.latents, known.latents) > SAME
    found = float(same[np.arange(count), cosines.argmax(axis=1)].mean())
    cells = (list(shape), SHAPES[shape], *unlike, f"{found:.1%}", f"{own.mean():.2f}", f"{others:.2f}")
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return found


def print_shapes(known: Voices, changed: Voices) -> bool:
    """Print the second table; return whether 99 % are found again at every shape."""
    names = (f"x_T of {len(known.latents)} recordings", "kinds", "unlike noise", "of draws of noise", "found again",
        "mean cosine", "of others")  # fmt: skip
    print("\n| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
    return min([print_shape(shape, known, changed) for shape in tqdm(SHAPES, "shapes", disable=None)]) >= ENOUGH


def main() -> int:
    """Run the command line."""
    parser = cli.CommandParser(__doc__)
    parser.add_argument("source", nargs="?", type=cli.existing_folder, metavar="SOURCE", help="folder of the packages")
    source = parser.parse_args().source
    torch.set_num_threads(1)  # sums of tiny networks are rounded alike on every machine with as many threads
    good = print_identities()
    if source:
        recordings = sounds.read(sounds.held_out_paths(source.resolve()))
        change, rng = sounds.white_noise(20), np.random.default_rng(1)
        latents = VoiceLatents()
        both = (recordings, [change(sound, rng) for sound in recordings])
        good = print_shapes(*(Voices(latents(some)[0], latents.whitening) for some in both)) and good
    return 0 if good else 1


if __name__ == "__main__":
    cli.run(main)
