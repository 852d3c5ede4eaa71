"""How near x_T is to noise, and to the voice: on recordings that the built-in calibration has never heard.

    python benchmarks/voice.py SOURCE [--pictures 100]

SOURCE holds the unpacked Debian packages that models/calibration/README.md names. Prints properties of x_T beside those
of N(0, I); how often a recording that was changed is found again among all by its direction alone; how near one
speaker's or one word's recordings are to each other; and with --pictures how often the *picture* of a changed recording
is found again among as many. A picture takes about two seconds on one core, and ten are made for each recording.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sounds
from einops import rearrange, reduce
from sounds import RECIPE, Change
from tqdm import tqdm

import cli
import config
from audio.calibration import Calibration
from audio.features import log_mel_vector
from audio.gaussianity import correlation, spatial_power
from audio.initial_noise import mix_with_noise
from audio.orthogonal_map import SQUARES
from audio.whitening import WHITENING_NAME, Whitening
from painting.options import parse_options

if TYPE_CHECKING:
    from painting.image_spec import ImageSpec

DEFAULTS = parse_options(None, [])  # of txt2img.py
STRENGTH, PROMPT, SEED = DEFAULTS.voice_strength, DEFAULTS.prompt, DEFAULTS.seed
SHOWN = (0, 1, 2, 4, 8, 12, 16)  # cycles over the latent's width
THUMBNAIL = 16  # pixels
CHANGES_OF_PICTURES = (
    "white noise at 20 dB SNR",
    "white noise at 10 dB SNR",
    "50 ms later",
    "300 ms of silence at both ends",
)


class Codes:
    """From sound to latents, and from latents to what decides x_T, both [N, C, h, w]."""

    def __init__(self) -> None:
        self.calibration = Calibration.load(config.BUILTIN_CALIBRATION_DIR, RECIPE)
        self.whitening = Whitening.load(config.BUILTIN_CALIBRATION_DIR / WHITENING_NAME)

    def raw(self, recordings: list[np.ndarray]) -> np.ndarray:
        z_scores = np.stack([self.calibration.z_score(log_mel_vector(sound, RECIPE)) for sound in recordings])
        return rearrange(z_scores, "n (c h w) -> n c h w", c=config.LATENT_CHANNELS, h=config.LATENT_SIZE)

    def voices(self, raw: np.ndarray) -> np.ndarray:
        return self.whitening.whiten(raw)


# --- how near to N(0, I) ---------------------------------------------------------------------------------------------
def channel_correlation(x: np.ndarray) -> float:
    """The largest absolute correlation of two channels of [B, C, h, w], over all recordings."""
    channels = rearrange(x, "b c h w -> c (b h w)")
    return float(np.abs(np.corrcoef(channels)[np.triu_indices(len(channels), 1)]).max())


def properties(x: np.ndarray) -> list[str]:
    """A column of the first table for latents [B, C, h, w]."""
    norms = np.linalg.norm(rearrange(x, "b c h w -> b (c h w)"), axis=1) / np.sqrt(x[0].size)
    power, standard = spatial_power(x), (x - x.mean()) / x.std()
    right, lower = correlation(x[..., :-1], x[..., 1:]), correlation(x[..., :-1, :], x[..., 1:, :])
    return [
        ", ".join(f"{power[frequency]:.2f}" for frequency in SHOWN),
        f"{power.min():.2f}–{power.max():.2f}",
        f"{right.mean():.3f}, {lower.mean():.3f}",
        f"{channel_correlation(x):.3f}",
        f"{norms.min():.2f}–{norms.max():.2f}",
        f"{np.mean(standard**4):.1f}",
    ]


def print_properties(raw: np.ndarray, voices: np.ndarray) -> None:
    noise = np.random.default_rng(0).standard_normal(raw.shape, np.float32)
    columns = [properties(x) for x in (noise, raw, mix_with_noise(voices, noise, STRENGTH), mix_with_noise(voices, noise, 1.0))]
    names = [
        "power at " + ", ".join(map(str, SHOWN)),
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
    """[N, ...], [M, ...] -> cosine of each with each, [N, M]."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


def found_again(known: np.ndarray, changed: np.ndarray) -> tuple[float, float, float]:
    """Share of `changed` [N, ...] whose nearest by cosine in `known` [N, ...] is their own; the mean cosine to it; the
    mean cosine to others."""
    cosines = cosines_of(changed, known)
    own = cosines.diagonal()
    others = (cosines.sum() - own.sum()) / (cosines.size - own.size)
    return float((cosines.argmax(axis=1) == np.arange(len(known))).mean()), float(own.mean()), float(others)


def lowest(x: np.ndarray) -> np.ndarray:
    """Means of the last channel of [N, C, h, w], which choose what a picture shows, over 4×4 squares: [N, 4, 4]."""
    return reduce(x[:, -1], "n (y h) (x w) -> n y x", "mean", y=SQUARES, x=SQUARES)


def print_found_again(codes: Codes, recordings: list[np.ndarray], changes: dict[str, Change]) -> None:
    raw = codes.raw(recordings)
    voices = codes.voices(raw)
    print("\n| found again (mean cosine) | raw z-score | x_T | 16 numbers of x_T |\n| --- | --- | --- | --- |")
    rng = np.random.default_rng(1)
    for name, change in tqdm(changes.items(), "changes", disable=None):
        changed = codes.raw([change(sound, rng) for sound in recordings])
        changed_voices = codes.voices(changed)
        pairs = ((raw, changed), (voices, changed_voices), (lowest(voices), lowest(changed_voices)))
        cells = [found_again(known, again) for known, again in pairs]
        print(f"| {name} | " + " | ".join(f"{share:.1%} ({cosine:.2f})" for share, cosine, _ in cells) + " |")


# --- one speaker, one word -------------------------------------------------------------------------------------------
def nearer(same: np.ndarray, other: np.ndarray) -> str:
    """How two sets of cosines compare: their means, and how often one of `same` is above one of `other`."""
    above = np.searchsorted(np.sort(other), same).mean() / len(other)
    return f"{same.mean():.3f} | {other.mean():.3f} | {above:.0%} |"


def print_speakers(voices: np.ndarray, raw: np.ndarray, speakers: list[str]) -> None:
    """Pairs of one speaker against pairs of two; a speaker is a language's folder, telephone and wide-band apart."""
    first, second = np.triu_indices(len(speakers), 1)
    half = np.array([speaker.partition("/")[0] for speaker in speakers])
    name = np.array(speakers)
    comparable = half[first] == half[second]
    same = name[first] == name[second]
    for kind, x in (("raw", raw), ("x_T", voices)):
        cosines = cosines_of(x, x)[first, second]
        print(f"| one speaker, {kind} | {nearer(cosines[comparable & same], cosines[comparable & ~same])}")


def words(source: Path) -> dict[tuple[str, str], list[Path]]:
    """Names of letters, by language and letter: one recording of each speaker who says it."""
    said: dict[tuple[str, str], list[Path]] = {}
    folders = itertools.chain((source / "usr/share/klettres").glob("*/alpha"), source.rglob("sounds/*/letters"))
    for path in itertools.chain.from_iterable(sorted(folder.iterdir()) for folder in sorted(folders)):
        if len(path.stem) == 1 and path.suffix in (".wav", ".ogg"):
            said.setdefault((path.parts[-3][:2], path.stem.lower()), []).append(path)
    return {word: paths for word, paths in said.items() if len(paths) > 1}


def print_words(codes: Codes, source: Path) -> None:
    """Pairs of two speakers of one language who name the same letter against pairs of the same who name two."""
    entries = [(language, letter, path) for (language, letter), paths in words(source).items() for path in paths]
    raw = codes.raw(sounds.read([path for *_, path in entries]))
    for kind, x in (("raw", raw), ("x_T", codes.voices(raw))):
        cosines = cosines_of(x, x)
        same: list[float] = []
        other: list[float] = []
        for (i, a), (j, b) in itertools.combinations(enumerate(entries), 2):
            if a[0] == b[0] and a[2].parent != b[2].parent:
                (same if a[1] == b[1] else other).append(cosines[i, j])
        print(f"| one word, two speakers, {kind} | {nearer(np.array(same), np.array(other))}")
    print(f"\n{len(entries)} names of letters; most are in the calibration, as few are said by two speakers")


# --- pictures --------------------------------------------------------------------------------------------------------
def spec_of(prompt: str, precision: str, **changes: object) -> "ImageSpec":
    """A picture of the built-in model from x_T as it is, by txt2img.py's defaults but for `changes`."""
    from painting.image_spec import ImageSpec

    usual: dict[str, Any] = {
        "negative_prompt": "", "seed": 0, "subject": None, "sampler": "dpmpp", "steps": 20,
        "scale": ImageSpec.scale, "eta": 0.0, "guidance_interval": (0.0, 1.0),
        "guidance_rescale": config.BUILTIN_RESCALE, "height": 256, "width": 256, "x_T": "raw", "voice_strength": 1.0,
    }  # fmt: skip
    return ImageSpec(prompt=prompt, precision=precision, **{**usual, **changes})


class Artist:
    """The built-in model with one prompt and one seed."""

    def __init__(self, prompt: str, steps: int) -> None:
        from ldm.devices import choose_device, choose_precision
        from ldm.models.diffusion.sampling import seeded_noise
        from painting.ldm_painter import LatentDiffusionPainter

        device = choose_device("auto")
        precision = choose_precision("auto", device)
        self.painter = LatentDiffusionPainter(config.BUILTIN_MODEL_WEIGHTS, None, precision, device)
        self.spec = spec_of(prompt, precision, steps=steps, seed=SEED, x_T="auto", voice_strength=STRENGTH)
        self.noise = seeded_noise([SEED], config.LATENT_SHAPE).numpy()

    def thumbnails(self, x_T: np.ndarray, name: str) -> np.ndarray:
        """[N, C, h, w] -> pictures of 16x16 pixels, [N, 16, 16, 3]."""
        return np.concatenate([*self._thumbnails(x_T, name)])

    def _thumbnails(self, x_T: np.ndarray, name: str) -> Iterator[np.ndarray]:
        import torch

        for one in tqdm(x_T, name, disable=None):
            picture = self.painter.paint([self.spec], torch.from_numpy(one[None]))
            factor = picture.shape[1] // THUMBNAIL
            yield reduce(picture.astype(np.float64), "b (h i) (w j) c -> b h w c", "mean", i=factor, j=factor)


def print_pictures(codes: Codes, recordings: list[np.ndarray], changes: dict[str, Change], artist: Artist) -> None:
    """How often the picture of a changed recording is found again among those of all, the mean picture removed."""

    def x_T(raw: np.ndarray, whitened: bool) -> np.ndarray:
        return mix_with_noise(codes.voices(raw), np.repeat(artist.noise, len(raw), axis=0), STRENGTH) if whitened else raw

    raw, kinds = codes.raw(recordings), (False, True)
    known = {kind: artist.thumbnails(x_T(raw, kind), "pictures") for kind in kinds}
    print(f"\n| {len(raw)} pictures: found again (mean cosine, others) | raw z-score | x_T |\n| --- | --- | --- |")
    rng = np.random.default_rng(1)
    for name in CHANGES_OF_PICTURES:
        changed = codes.raw([changes[name](sound, rng) for sound in recordings])
        cells = []
        for kind in kinds:
            mean = known[kind].mean(axis=0)
            found = found_again(known[kind] - mean, artist.thumbnails(x_T(changed, kind), name) - mean)
            cells.append("{:.1%} ({:.2f}, {:.2f})".format(*found))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = cli.CommandParser(__doc__)
    parser.add_argument("source", type=cli.existing_folder, metavar="SOURCE", help="where the packages were unpacked")
    parser.add_argument(
        "--pictures", type=cli.bounded(int, 0), default=0, metavar="N", help="recordings that are painted (default: 0)"
    )
    parser.add_argument("--prompt", default=PROMPT, metavar="TEXT", help="what is painted (default: %(default)s)")
    parser.add_argument(
        "--steps", type=cli.bounded(int, 1, 1000), default=20, metavar="N", help="sampling steps (default: %(default)s)"
    )
    options = parser.parse_args()
    source = options.source.resolve()
    paths = sounds.held_out_paths(source)
    recordings = sounds.read(paths)
    if len(recordings) != len(paths):
        cli.fail("a held-out recording cannot be read")
    codes, changes = Codes(), sounds.changes(recordings)
    raw = codes.raw(recordings)
    print_properties(raw, codes.voices(raw))
    print_found_again(codes, recordings, changes)

    print("\n| nearer to each other than to others | mean cosine | of others | above |\n| --- | --- | --- | --- |")
    print_speakers(codes.voices(raw), raw, [sounds.speaker(path, source) for path in paths])
    print_words(codes, source)
    if options.pictures:
        few = recordings[:: max(1, len(recordings) // options.pictures)][: options.pictures]
        print_pictures(codes, few, changes, Artist(options.prompt, options.steps))


if __name__ == "__main__":
    cli.run(main)
