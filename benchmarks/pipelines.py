"""Try every kind of pipeline of diffusers, and voices at every shape of their latents.

    python -m benchmarks.pipelines [SOURCE]

The first table is of tiny pipelines with random weights: whether x_T gives the same image, bit for bit, as the pipeline
itself when its own generator draws that x_T; after 1, 2 and 20 steps.

The second table needs SOURCE, the unpacked Debian packages that models/calibration/README.md names. For each shape of x_T
it tells of how many of 150 recordings the x_T differs from Gaussian noise by the measures of `python -m audio`, beside
as many draws of noise; and how many are found again among all, by x_T alone, with white noise at 20 dB SNR. Both
recordings of a pair have another seed.
"""

from collections.abc import Iterator

import numpy as np
import torch
from tqdm import tqdm

import cli
from audio.gaussianity import complaints, examine
from audio.initial_noise import Voices, initial_noise
from benchmarks import sounds
from benchmarks.voice import STRENGTH, VoiceLatents
from ldm.models.diffusion.sampling import seeded_noise
from painting.pipelines.families import FAMILIES, Shape
from tests.painting.test_pipelines import painted_twice, painter_of, spec_of

STEPS = (1, 2, 20)
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


def cosines(known: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Return the cosine of `one` [C, h, w] with each of `known` [N, C·h·w]."""
    flat = one.ravel()
    norms = np.sqrt(np.einsum("nk,nk->n", known, known))
    return known @ flat / (norms * np.linalg.norm(flat))


def print_shapes(known: Voices, changed: Voices) -> bool:
    """Print the second table; return whether 99 % are found again at every shape."""
    count = len(known.latents)
    print(
        f"\n| x_T of {count} recordings | kinds | unlike noise | of draws of noise | found again | cosine | of others |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    enough = True
    for shape, kinds in tqdm(SHAPES.items(), "shapes", disable=None):
        noise = (seeded_noise([3 * count + row], shape)[0].numpy() for row in range(count))
        unlike = [sum(bool(complaints(examine(x))) for x in some) for some in (start_noise(known, shape, 0), noise)]
        all_known = np.stack([x.ravel() for x in start_noise(known, shape, 0)])
        table = np.stack([cosines(all_known, x) for x in start_noise(changed, shape, count)])
        own = table.diagonal()
        found = float((table.argmax(axis=1) == np.arange(count)).mean())
        enough = enough and found >= 0.99
        others = (table.sum() - own.sum()) / (table.size - count)
        print(
            f"| {list(shape)} | {kinds} | {unlike[0]} | {unlike[1]} | {found:.1%} | {own.mean():.2f} | {others:.2f} |",
            flush=True,
        )
    return enough


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
        good = print_shapes(*(Voices(latents.raw(some), latents.whitening) for some in both)) and good
    return 0 if good else 1


if __name__ == "__main__":
    cli.run(main)
