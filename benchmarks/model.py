"""What the built-in model can do: python benchmarks/model.py [--voices SOURCE]; --help lists the sizes

Prints the table of the model card: how well the first stage gives back unseen renders, how often pictures show the
colours and the pattern that the prompt names, what words do that no caption used, how near pictures are to renders as a
whole (Fréchet distance in the features of the judge, benchmarks/judge.py), whether they are copies of training
pictures, and how long loading and painting take. With --voices also from voices, and how much pictures of one prompt
differ; SOURCE as for benchmarks/voice.py.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import sounds
import torch
import voice
from judge import Judge, single_pattern, trained_judge
from scipy.spatial.distance import cdist
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cli  # noqa: E402
import config  # noqa: E402
from audio.initial_noise import mix_with_noise  # noqa: E402
from ldm.devices import choose_device, choose_precision  # noqa: E402
from ldm.models.diffusion.sampling import seeded_noise  # noqa: E402
from painting.image_spec import ImageSpec
from painting.ldm_painter import LatentDiffusionPainter  # noqa: E402
from training.scenes.captions import HELD_OUT_SYNONYMS, caption  # noqa: E402
from training.scenes.palette import COLOURS, srgb_to_oklab  # noqa: E402
from training.scenes.render import render  # noqa: E402
from training.scenes.render_cache import render_chunks  # noqa: E402
from training.scenes.scenes import PATTERNS, Scene, recoloured, sample_scene  # noqa: E402
from training.compute import to_tensor  # noqa: E402

UNSEEN = 2**31  # seeds from here on are in no training
UNET_SEEDS = range(10_000_000, 10_024_576)  # of the scenes that the U-Net saw first: models/chladni/README.md
DRIFTING_SEEDS = range(10_016_384, 10_022_528)  # of those that it has also seen in drifting colours
LATER_SEEDS = range(20_000_000, 20_192_000)  # seen then: those in which nothing comes together that had not before
LATER_DRIFTING_SEEDS = range(30_000_000, 30_063_936)  # and those of these, in drifting colours
NAMES = tuple(COLOURS)
NAMED_LAB = srgb_to_oklab(np.array([COLOURS[name] for name in NAMES]) / 255)
CLUSTERS = 6
DOMINANT = 0.05  # share of the picture
BATCH = 8
SYNONYM_SEEDS = 4
THUMBNAIL = 16
VARIED = 16  # pictures of one prompt


class Way(NamedTuple):
    """How a picture is sampled."""

    sampler: str = "dpmpp"
    steps: int = 20
    scale: float = ImageSpec.scale
    rescale: float = config.BUILTIN_RESCALE
    interval: tuple[float, float] = (0.0, 1.0)


DEFAULT = Way()
WAYS = (
    *(Way(scale=scale) for scale in (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)),
    *(Way(rescale=rescale) for rescale in (0.0, 0.5, 0.7)),
    *(Way(rescale=0.0, interval=(0.0, high)) for high in (0.7, 0.8, 0.9)),
    *(Way(steps=steps) for steps in (8, 12, 30)),
    *(Way("ddim", steps) for steps in (20, 50)),
    Way("plms", 20),
)


class Studio:
    """The built-in model, and pictures from it."""

    def __init__(self) -> None:
        device = choose_device("auto")
        self.precision = choose_precision("auto", device)
        start = time.perf_counter()
        self.painter = LatentDiffusionPainter(config.BUILTIN_MODEL_WEIGHTS, None, self.precision, device)
        self.loading = time.perf_counter() - start

    def paint(self, prompts: list[str], x_T: torch.Tensor, way: Way = DEFAULT) -> np.ndarray:
        """Pictures [N, 256, 256, 3] uint8 of N prompts from `x_T` [N, 4, 32, 32]."""
        pictures = []
        for first in range(0, len(prompts), BATCH):
            rows = slice(first, first + BATCH)
            specs = [
                voice.spec_of(
                    prompt,
                    self.precision,
                    sampler=way.sampler,
                    steps=way.steps,
                    scale=way.scale,
                    guidance_interval=way.interval,
                    guidance_rescale=way.rescale,
                )
                for prompt in prompts[rows]
            ]
            pictures.append(self.painter.paint(specs, x_T[rows]))
        return np.concatenate(pictures)

    def from_noise(self, prompts: list[str], first_seed: int = 0, way: Way = DEFAULT) -> np.ndarray:
        seeds = list(range(first_seed, first_seed + len(prompts)))
        return self.paint(prompts, seeded_noise(seeds, config.LATENT_SHAPE), way)

    def seconds_a_picture(self) -> float:
        """Median of five at batch 1, decoding included."""
        times = []
        for seed in range(6):
            start = time.perf_counter()
            self.from_noise(["a red flower"], seed)
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    def psnr(self, pictures: np.ndarray) -> float:
        """Mean peak signal-to-noise ratio, dB, of the first stage's reconstructions of [N, H, W, 3]."""
        values, model = [], self.painter.model
        for picture in tqdm(pictures, "first stage"):
            x = to_tensor(picture[None]).to(self.painter.device)
            with torch.inference_mode():
                y = model.decode_first_stage(model.encode_first_stage(x.to(model.dtype))).clamp(-1, 1)
            values.append(-10 * ((x - y) / 2).pow(2).mean().log10().item())
        return statistics.mean(values)


# --- prompts ---------------------------------------------------------------------------------------------------------


def new_scenes(count: int) -> list[Scene]:
    """Scenes of one pattern in which pattern and first two colours come together as in no picture of the U-Net's.

    The layout, which learns shapes and colours apart, has met nearly all of the 12,000 that there are.
    """

    def combination(scene: Scene) -> tuple[str, frozenset[str]]:
        return scene.pattern, frozenset(scene.colours[:2])

    seen = {combination(sample_scene(seed)) for seed in UNET_SEEDS}
    seen |= {combination(recoloured(sample_scene(seed))) for seed in DRIFTING_SEEDS}
    scenes: list[Scene] = []
    for seed in range(UNSEEN, UNSEEN + 100 * count):
        scene = single_pattern(seed)
        if len(scenes) < count and combination(scene) not in seen:
            scenes.append(scene)
    return scenes


def prompt_of(scene: Scene) -> str:
    return f"a {scene.colours[0]} and {scene.colours[1]} {scene.pattern}"


def dominant_colours(picture: np.ndarray) -> set[str]:
    """Names of the colours nearest to the k-means centres, in Oklab, that hold 5 % or more of [H, W, 3] uint8."""
    small = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)
    pixels = srgb_to_oklab(small.reshape(-1, 3) / 255).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 1e-3)
    cv2.setRNGSeed(0)
    start = np.zeros((len(pixels), 1), np.int32)  # not looked at, but OpenCV's types ask for it
    _, labels, centres = cv2.kmeans(pixels, CLUSTERS, start, criteria, 3, cv2.KMEANS_PP_CENTERS)
    shares = np.bincount(labels.ravel(), minlength=CLUSTERS) / len(pixels)
    nearest = np.linalg.norm(centres[:, None] - NAMED_LAB, axis=2).argmin(axis=1)
    return {NAMES[name] for name, share in zip(nearest, shares, strict=True) if share >= DOMINANT}


def followed(scenes: list[Scene], pictures: np.ndarray, judge: Judge) -> str:
    """A table row's cells: both colours dominant, pattern recognised."""
    pairs = list(zip(scenes, pictures, strict=True))
    colours = statistics.mean(set(scene.colours[:2]) <= dominant_colours(picture) for scene, picture in pairs)
    recognised = judge.look(pictures)[1]
    patterns = statistics.mean(PATTERNS[r] == scene.pattern for r, scene in zip(recognised, scenes, strict=True))
    return f"{colours:.0%} | {patterns:.0%}"


def synonyms_that_steer(studio: Studio) -> list[str]:
    """Of the words for colours that no caption used, those that bring pictures nearer to the colour they mean."""
    words = {word: colour for word, colour in HELD_OUT_SYNONYMS.items() if colour in COLOURS}
    plain = studio.from_noise(["a pattern"] * SYNONYM_SEEDS)
    steering = []
    for word, colour in tqdm(words.items(), "synonyms"):
        target = NAMED_LAB[NAMES.index(colour)]
        named = studio.from_noise([f"a {word} pattern"] * SYNONYM_SEEDS)
        before, after = (np.linalg.norm(srgb_to_oklab(p / 255) - target, axis=-1).mean() for p in (plain, named))
        if after < before:
            steering.append(word)
    print(f"colour words that no caption used and that steer right: {len(steering)} of {len(words)}", end="")
    print(f"; not: {', '.join(sorted(words.keys() - set(steering)))}")
    return steering


def compare_ways(studio: Studio, judge: Judge, scenes: list[Scene]) -> None:
    """Print how samplers, steps and guidance scales do: what the defaults were chosen by."""
    prompts = [prompt_of(scene) for scene in scenes]
    print("| sampler | steps | scale | rescaled by | guided at | both colours dominant | pattern recognised |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way in WAYS:
        pictures = studio.from_noise(prompts, way=way)
        low, high = way.interval
        how = f"| {way.sampler} | {way.steps} | {way.scale} | {way.rescale} | {low:g} to {high:g} |"
        print(f"{how} {followed(scenes, pictures, judge)} |", flush=True)


def x_T_of_recordings(source: Path, count: int) -> torch.Tensor:
    """x_T [count, 4, 32, 32] of recordings that the calibration has never heard, with txt2img.py's share of noise.

    Where there are fewer recordings than pictures, they come again with other noise.
    """
    codes = voice.Codes()
    voices = codes.voices(codes.raw(sounds.read(sounds.held_out_paths(source))))
    noise = seeded_noise(list(range(count)), config.LATENT_SHAPE).numpy()
    return torch.from_numpy(mix_with_noise(np.resize(voices, noise.shape), noise, voice.STRENGTH))


# --- pictures as a whole ---------------------------------------------------------------------------------------------


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two Gaussians fitted to features [N, D] (Heusel et al. 2017, equation 6)."""
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # the trace of the root of a product of two covariances: its eigenvalues are real and not negative
    roots = np.sqrt(np.linalg.eigvals(covariance_a @ covariance_b).real.clip(0))
    mean = a.mean(axis=0) - b.mean(axis=0)
    return float(mean @ mean + np.trace(covariance_a) + np.trace(covariance_b) - 2 * roots.sum())


def realism(studio: Studio, judge: Judge, count: int) -> None:
    """Print the Fréchet distance of samples to renders, and that of two sets of renders."""
    scenes = [single_pattern(UNSEEN + 10**8 + i) for i in range(3 * count)]
    drawn = [render(scene, 128) for scene in tqdm(scenes[: 2 * count], "rendering")]
    first, second = (judge.look(part)[0] for part in (drawn[:count], drawn[count:]))
    rng = np.random.default_rng(0)
    painted = studio.from_noise([caption(scene, rng) for scene in scenes[2 * count :]], 10**6)
    to_renders, of_renders = frechet(judge.look(painted)[0], second), frechet(first, second)
    print(f"Fréchet distance, {count} pictures: to renders {to_renders:.2f}, between two sets of renders", end=" ")
    print(f"{of_renders:.2f}, ratio {to_renders / of_renders:.1f}")


def realism_of_voices(studio: Studio, judge: Judge, x_T: torch.Tensor) -> None:
    """Print the Fréchet distance of pictures from voices to those from noise, and that of two sets from noise."""
    rng = np.random.default_rng(0)
    prompts = [caption(single_pattern(UNSEEN + 2 * 10**8 + i), rng) for i in range(len(x_T))]
    noise, other_noise = (judge.look(studio.from_noise(prompts, seed))[0] for seed in (10**6, 2 * 10**6))
    to_noise = frechet(judge.look(studio.paint(prompts, x_T))[0], noise)
    of_noise = frechet(other_noise, noise)
    print(f"Fréchet distance, {len(x_T)} pictures of the same prompts: voices to noise {to_noise:.2f},", end=" ")
    print(f"noise to other noise {of_noise:.2f}, ratio {to_noise / of_noise:.2f}")


def thumbnails(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """[N, 768] float64 in 0…1."""
    small = [cv2.resize(p, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA) for p in pictures]
    return np.stack(small).reshape(len(small), -1) / 255


def copies(pictures: np.ndarray, unseen: np.ndarray) -> None:
    """Print how near pictures come to training pictures, beside unseen renders."""
    chunks = itertools.chain(
        *(render_chunks(seeds[0], len(seeds), 64) for seeds in (UNET_SEEDS, LATER_SEEDS)),
        *(render_chunks(seeds[0], len(seeds), 64, "drifting") for seeds in (DRIFTING_SEEDS, LATER_DRIFTING_SEEDS)),
    )
    known = [thumbnails(chunk) for chunk in tqdm(chunks, "training pictures, by 128")]

    def nearest(pictures: np.ndarray) -> np.ndarray:
        rows = thumbnails(pictures)
        least = [cdist(rows, chunk, "sqeuclidean").min(axis=1) for chunk in known]
        return np.sqrt(np.min(least, axis=0) / rows.shape[1])

    ours, others = nearest(pictures), nearest(unseen)
    print("distance to the nearest training picture (RMS of 16×16 thumbnails), least and median:", end=" ")
    print(f"{ours.min():.3f}, {np.median(ours):.3f}; unseen renders {others.min():.3f}, {np.median(others):.3f}")


def variety(pictures: np.ndarray) -> float:
    """Median distance (RMS of 16×16 thumbnails) between two of the pictures [N, H, W, 3]."""
    rows = thumbnails(pictures)
    pairs = itertools.combinations(range(len(rows)), 2)
    return statistics.median(float(np.sqrt(((rows[i] - rows[j]) ** 2).mean())) for i, j in pairs)


def varieties(studio: Studio, x_T: torch.Tensor) -> None:
    """Print how much pictures of one prompt differ, from Gaussian noise and from voices `x_T`."""
    prompts = ["psychedelic mandala, orange and teal"] * len(x_T)
    noise, voices = (variety(pictures) for pictures in (studio.from_noise(prompts), studio.paint(prompts, x_T)))
    print(f"distance between two of {len(x_T)} pictures of one prompt (RMS of 16×16 thumbnails), median:", end=" ")
    print(f"from noise {noise:.3f}, from voices {voices:.3f}")


def main() -> None:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--pictures", type=cli.bounded(int, 2), default=200, metavar="N", help="prompts that are painted"
    )
    parser.add_argument("--renders", type=cli.bounded(int, 1), default=500, metavar="N", help="for the first stage")
    parser.add_argument(
        "--frechet", type=cli.bounded(int, 0), default=2000, metavar="N", help="pictures in each set; 0: skip"
    )
    parser.add_argument("--voices", type=cli.existing_folder, metavar="SOURCE", help="recordings to paint from as well")
    parser.add_argument("--ways", action="store_true", help="compare samplers, steps and scales, and nothing else")
    args = parser.parse_args()
    judge, studio = trained_judge(), Studio()
    scenes = new_scenes(args.pictures)
    if args.ways:
        compare_ways(studio, judge, scenes)
        return
    drawn = np.stack([render(scene) for scene in scenes])
    prompts = [prompt_of(scene) for scene in scenes]

    print(f"{studio.precision}: loading {studio.loading:.2f} s, a picture {studio.seconds_a_picture():.2f} s")
    unseen = np.stack([render(sample_scene(UNSEEN + i)) for i in range(args.renders)])
    print(f"first stage: {studio.psnr(unseen):.1f} dB PSNR on {len(unseen)} unseen renders")
    painted = studio.from_noise(prompts)
    print(f"\n| {len(scenes)} prompts | both colours dominant | pattern recognised |\n| --- | --- | --- |")
    print(f"| renders | {followed(scenes, drawn, judge)} |")
    print(f"| from noise | {followed(scenes, painted, judge)} |")
    if args.voices:
        x_T = x_T_of_recordings(args.voices.resolve(), len(scenes))
        print(f"| from voices | {followed(scenes, studio.paint(prompts, x_T), judge)} |")
        varieties(studio, x_T[:VARIED])
    print()
    synonyms_that_steer(studio)
    copies(painted, drawn)
    if args.frechet:
        realism(studio, judge, args.frechet)
    if args.frechet and args.voices:
        realism_of_voices(studio, judge, x_T_of_recordings(args.voices.resolve(), args.frechet))


if __name__ == "__main__":
    cli.run(main)
