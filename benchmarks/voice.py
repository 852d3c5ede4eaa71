"""Compare x_T with Gaussian noise and with the voice, on recordings that are not in the built-in calibration.

    python -m benchmarks.voice SOURCE [--images 100]

SOURCE holds the unpacked Debian packages that models/calibration/README.md names. Prints properties of x_T beside those
of N(0, I); how often a changed recording is found again among all, by the direction of x_T alone; and how similar
recordings of one speaker or one word are. With --images it also prints how often the image of a changed recording is
found again among all images. An image takes about half a second on one core, and ten are made of each recording.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from tqdm import tqdm

import cli
import config
from audio.calibration import voice_latents
from audio.gaussianity import correlation, spatial_power
from audio.initial_noise import with_noise
from audio.orthogonal_map import SQUARES
from audio.whitening import WHITENING_NAME, Whitening
from benchmarks import sounds
from benchmarks.builtin_model import BuiltinModel, thumbnails
from benchmarks.sounds import RECIPE, Change
from ldm.models.diffusion.sampling import seeded_noise
from painting.image_spec import ImageSpec

STRENGTH = ImageSpec.voice_strength
FREQUENCIES = (0, 1, 2, 4, 8, 12, 16)  # cycles over the latent's width
CHANGES_OF_IMAGES = (
    "white noise at 20 dB SNR",
    "white noise at 10 dB SNR",
    "50 ms later",
    "300 ms of silence at both ends",
)


class VoiceLatents:
    """Makes the latents of recordings as the program makes them, with the built-in calibration."""

    def __init__(self) -> None:
        self.whitening = Whitening.load(config.BUILTIN_CALIBRATION_DIR / WHITENING_NAME)

    def __call__(self, recordings: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return z-scores, and what the voices contribute to x_T, both [N, C, h, w]."""
        made = [voice_latents(one, config.BUILTIN_CALIBRATION_DIR, RECIPE, RECIPE.sample_rate) for one in recordings]
        raw = np.concatenate([one.latents for one in made])
        return raw, self.whitening.whiten(raw, heard=[one.heard for one in made])


def with_seed(x: np.ndarray) -> np.ndarray:
    """Add the seed's part to what voices contribute, [N, C, h, w], as initial_noise.py does."""
    noise = seeded_noise([ImageSpec.seed], config.LATENT_SHAPE).numpy()
    return with_noises(x, np.broadcast_to(noise, x.shape), STRENGTH)


def with_noises(voices: np.ndarray, noise: np.ndarray, strength: float) -> np.ndarray:
    """Mix each of voices [N, C, h, w] with its own noise, [N, C, h, w], as initial_noise.py does."""
    return np.stack([with_noise(*pair, strength) for pair in zip(voices, noise, strict=True)])


# --- compared with N(0, I) --------------------------------------------------------------------------------------------
def channel_correlation(x: np.ndarray) -> float:
    """Compute the largest absolute correlation between two channels of [B, C, h, w], over all recordings."""
    channels = rearrange(x, "b c h w -> c (b h w)")
    return float(np.abs(np.corrcoef(channels)[np.triu_indices(len(channels), 1)]).max())


def properties(x: np.ndarray) -> list[str]:
    """Return a column of the first table for latents [B, C, h, w]."""
    norms = np.linalg.norm(rearrange(x, "b c h w -> b (c h w)"), axis=1) / np.sqrt(x[0].size)
    power, standard = spatial_power(x), (x - x.mean()) / x.std()
    right, lower = correlation(x[..., :-1], x[..., 1:]), correlation(x[..., :-1, :], x[..., 1:, :])
    return [
        ", ".join(f"{power[frequency]:.2f}" for frequency in FREQUENCIES),
        f"{power.min():.2f}–{power.max():.2f}",
        f"{right.mean():.3f}, {lower.mean():.3f}",
        f"{channel_correlation(x):.3f}",
        f"{norms.min():.2f}–{norms.max():.2f}",
        f"{np.mean(standard**4):.1f}",
    ]


def print_properties(raw: np.ndarray, voices: np.ndarray) -> None:
    """Print properties of Gaussian noise, of raw z-scores and of x_T."""
    noise = np.random.default_rng(0).standard_normal(raw.shape, np.float32)
    columns = [
        properties(x) for x in (noise, raw, with_noises(voices, noise, STRENGTH), with_noises(voices, noise, 1.0))
    ]
    names = [
        "power at " + ", ".join(map(str, FREQUENCIES)),
        "least and largest power, 0 to 16",
        "correlation with the right, the lower neighbour",
        "largest correlation of two channels",
        "norm / 64",
        "kurtosis",
    ]
    print(f"\n| {len(raw)} recordings | N(0, I) | raw z-score | x_T, strength {STRENGTH} | x_T, strength 1 |")
    print("| --- | --- | --- | --- | --- |")
    for row in zip(names, *columns, strict=True):
        print("| " + " | ".join(row) + " |")
    for name, x in (("raw", raw), ("x_T", voices)):
        cosines = np.abs(cosines_of(x, x)[np.triu_indices(len(x), 1)])
        print(f"\n{name}: median absolute cosine between different recordings {np.median(cosines):.3f}")


# --- found again -----------------------------------------------------------------------------------------------------
def cosines_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the cosine of each of [N, ...] with each of [M, ...]: [N, M]."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


def found_again(known: np.ndarray, changed: np.ndarray) -> tuple[float, float, float]:
    """Look up each of `changed` [N, ...] in `known` [N, ...] by its cosine.

    Returns:
        The share whose nearest in `known` is their own, the mean cosine to their own, and the mean cosine to others.
    """
    cosines = cosines_of(changed, known)
    own = cosines.diagonal()
    others = (cosines.sum() - own.sum()) / (cosines.size - own.size)
    return float((cosines.argmax(axis=1) == np.arange(len(known))).mean()), float(own.mean()), float(others)


def lowest(x: np.ndarray) -> np.ndarray:
    """Compute the means of 4×4 squares of the last channel of [N, C, h, w], which choose what an image shows."""
    return reduce(x[:, -1], "n (y h) (x w) -> n y x", "mean", y=SQUARES, x=SQUARES)


def print_found_again(latents: VoiceLatents, recordings: list[np.ndarray], changes: dict[str, Change]) -> None:
    """Print how often changed recordings are found again among all."""
    raw, voices = latents(recordings)
    print("\n| found again (mean cosine) | raw z-score | x_T | 16 numbers of x_T |\n| --- | --- | --- | --- |")
    rng = np.random.default_rng(1)
    for name, change in tqdm(changes.items(), "changes", disable=None):
        changed, changed_voices = latents([change(sound, rng) for sound in recordings])
        pairs = ((raw, changed), (voices, changed_voices), (lowest(voices), lowest(changed_voices)))
        cells = [found_again(known, again) for known, again in pairs]
        print(f"| {name} | " + " | ".join(f"{share:.1%} ({cosine:.2f})" for share, cosine, _ in cells) + " |")


# --- one speaker, one word -------------------------------------------------------------------------------------------
def nearer(same: np.ndarray, other: np.ndarray) -> str:
    """Compare two sets of cosines: their means, and how often one of `same` is above one of `other`."""
    above = np.searchsorted(np.sort(other), same).mean() / len(other)
    return f"{same.mean():.3f} | {other.mean():.3f} | {above:.0%} |"


def print_speakers(voices: np.ndarray, raw: np.ndarray, speakers: list[str]) -> None:
    """Print cosines of pairs of one speaker and of two; each language's folder of each half counts as a speaker."""
    first, second = np.triu_indices(len(speakers), 1)
    half = np.array([speaker.partition("/")[0] for speaker in speakers])
    name = np.array(speakers)
    comparable = half[first] == half[second]
    same = name[first] == name[second]
    for kind, x in (("raw", raw), ("x_T", voices)):
        cosines = cosines_of(x, x)[first, second]
        print(f"| one speaker, {kind} | {nearer(cosines[comparable & same], cosines[comparable & ~same])}")


def words(source: Path) -> dict[tuple[str, str], list[Path]]:
    """Find recordings of names of letters, by language and letter: one of each speaker."""
    said: dict[tuple[str, str], list[Path]] = {}
    folders = itertools.chain((source / "usr/share/klettres").glob("*/alpha"), source.rglob("sounds/*/letters"))
    for path in itertools.chain.from_iterable(sorted(folder.iterdir()) for folder in sorted(folders)):
        if len(path.stem) == 1 and path.suffix in (".wav", ".ogg"):
            said.setdefault((path.parts[-3][:2], path.stem.lower()), []).append(path)
    return {word: paths for word, paths in said.items() if len(paths) > 1}


def print_words(latents: VoiceLatents, source: Path) -> None:
    """Print cosines of pairs of two speakers of one language who name the same letter, and who name two letters."""
    entries = [(language, letter, path) for (language, letter), paths in words(source).items() for path in paths]
    for kind, x in zip(("raw", "x_T"), latents(sounds.read([path for *_, path in entries])), strict=True):
        cosines = cosines_of(x, x)
        same: list[float] = []
        other: list[float] = []
        for (i, a), (j, b) in itertools.combinations(enumerate(entries), 2):
            if a[0] == b[0] and a[2].parent != b[2].parent:
                (same if a[1] == b[1] else other).append(cosines[i, j])
        print(f"| one word, two speakers, {kind} | {nearer(np.array(same), np.array(other))}")
    print(f"\n{len(entries)} names of letters; most are in the calibration, as few are said by two speakers")


# --- images ----------------------------------------------------------------------------------------------------------
def thumbnails_of(model: BuiltinModel, prompt: str, steps: int, x_T: np.ndarray, label: str) -> np.ndarray:
    """Sample an image from each of `x_T` [N, C, h, w], one at a time, and shrink them to [N, 16, 16, 3]."""
    prompts = [prompt] * len(x_T)
    return thumbnails(model.paint(prompts, torch.from_numpy(x_T), batch=1, progress=label, steps=steps))


def print_images(
    latents: VoiceLatents, recordings: list[np.ndarray], changes: dict[str, Change], prompt: str, steps: int
) -> None:
    """Print how often the image of a changed recording is found again among all; the mean image is subtracted."""
    model = BuiltinModel()

    def images(voices: tuple[np.ndarray, np.ndarray], label: str) -> list[np.ndarray]:
        raw, whitened = voices
        return [thumbnails_of(model, prompt, steps, x, label) for x in (raw, with_seed(whitened))]

    known = images(latents(recordings), "images")
    print(f"\n| {len(recordings)} images: found again (mean cosine, others) | raw z-score | x_T |\n| --- | --- | --- |")
    rng = np.random.default_rng(1)
    for name in CHANGES_OF_IMAGES:
        changed = images(latents([changes[name](sound, rng) for sound in recordings]), name)
        cells = []
        for before, after in zip(known, changed, strict=True):
            mean = before.mean(axis=0)
            cells.append("{:.1%} ({:.2f}, {:.2f})".format(*found_again(before - mean, after - mean)))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def build_parser() -> cli.CommandParser:
    """Build the parser of the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("source", type=cli.existing_folder, metavar="SOURCE", help="folder of the unpacked packages")
    add("--images", type=cli.bounded(int, 0), default=0, metavar="N", help="recordings to make images of (default: 0)")
    add("--prompt", default=ImageSpec.prompt, metavar="TEXT", help="prompt of the images (default: %(default)s)")
    steps = config.BUILTIN_SAMPLING["steps"]
    add(
        "--steps", type=cli.bounded(int, 1, 1000), default=steps, metavar="N", help="of an image (default: %(default)d)"
    )
    return parser


def main() -> None:
    """Run the command line."""
    options = build_parser().parse_args()
    source = options.source.resolve()
    paths = sounds.held_out_paths(source)
    recordings = sounds.read(paths)
    if len(recordings) != len(paths):
        cli.fail("a held-out recording cannot be read")
    latents, changes = VoiceLatents(), sounds.changes(recordings)
    raw, voices = latents(recordings)
    print_properties(raw, voices)
    print_found_again(latents, recordings, changes)

    print("\n| nearer to each other than to others | mean cosine | of others | above |\n| --- | --- | --- | --- |")
    print_speakers(voices, raw, [sounds.speaker(path, source) for path in paths])
    print_words(latents, source)
    if options.images:
        few = recordings[:: max(1, len(recordings) // options.images)][: options.images]
        print_images(latents, few, changes, options.prompt, options.steps)


if __name__ == "__main__":
    cli.run(main)
