"""Measure the built-in model, for the table of its card: python -m benchmarks.model [--voices SOURCE]

Prints the PSNR of the first stage on unseen renders; how often images show the colours and the pattern that the prompt
names; which colour words that no caption used have the right effect; the Fréchet distance between images and renders,
in the features of benchmarks/pattern_classifier.py; the distance to the nearest training render, which shows copies;
and the time to load the model and to make an image. With --voices also the same from voices, and how much images of one
prompt differ; SOURCE as for benchmarks/voice.py.
"""

import itertools
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.spatial.distance import cdist
from tqdm import tqdm

import cli
import config
from benchmarks import sounds, voice
from benchmarks.builtin_model import BuiltinModel, thumbnails
from benchmarks.pattern_classifier import PatternClassifier, single_pattern, trained_classifier
from ldm.models.diffusion.sampling import seeded_noise
from painting.image_spec import ImageSpec
from painting.painter import spec_for
from training.compute import to_tensor
from training.first_stage import psnr
from training.scenes.captions import HELD_OUT_SYNONYMS, caption
from training.scenes.palette import COLOURS, srgb_to_oklab
from training.scenes.render import render
from training.scenes.render_cache import render_chunks
from training.scenes.scenes import PATTERNS, Scene, recoloured, sample_scene

UNSEEN = 2**31  # seeds from here on are in no training data
# Seeds of the U-Net's training scenes in its first stages, and those of them in drifting colours; see the model's card.
UNET_SEEDS, DRIFTING_SEEDS = range(10_000_000, 10_024_576), range(10_016_384, 10_022_528)
# The same of its later stages; their scenes combine no pattern and colours that the first ones did not combine.
LATER_SEEDS, LATER_DRIFTING_SEEDS = range(20_000_000, 20_192_000), range(30_000_000, 30_063_936)
NAMES = tuple(COLOURS)
NAMED_LAB = srgb_to_oklab(np.array([COLOURS[name] for name in NAMES]) / 255)
CLUSTERS = 6
DOMINANT = 0.05  # share of the image's pixels
SYNONYM_SEEDS = 4
VARIED = 16  # images of one prompt

# Settings to compare, as fields of `ImageSpec` that differ from the defaults.
SETTINGS: tuple[dict[str, Any], ...] = (
    *({"scale": scale} for scale in (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)),
    *({"guidance_rescale": phi} for phi in (0.0, 0.5, 0.7)),
    *({"guidance_rescale": 0.0, "guidance_interval": (0.0, high)} for high in (0.7, 0.8, 0.9)),
    *({"steps": steps} for steps in (8, 12, 30)),
    *({"sampler": "ddim", "steps": steps} for steps in (20, 50)),
    {"sampler": "plms"},
)


def seconds_an_image(model: BuiltinModel) -> float:
    """Measure the median time of five images at batch 1, decoding included."""
    times = []
    for seed in range(6):
        start = time.perf_counter()
        model.paint_from_noise(["a red flower"], seed)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first one warms up


def first_stage_psnr(model: BuiltinModel, images: np.ndarray) -> float:
    """Compute the mean PSNR in dB of the first stage's reconstructions of images [N, H, W, 3]."""
    values, network = [], model.painter.model
    for image in tqdm(images, "first stage"):
        x = to_tensor(image[None]).to(model.painter.device)
        with torch.inference_mode():
            y = network.decode_first_stage(network.encode_first_stage(x.to(network.dtype))).clamp(-1, 1)
        values.append(psnr(x, y).item())
    return statistics.mean(values)


# --- prompts ---------------------------------------------------------------------------------------------------------


def new_scenes(count: int) -> list[Scene]:
    """Find scenes of one pattern whose combination of pattern and first two colours the U-Net was not trained on.

    The prior, which learns shapes and colours separately, was trained on nearly all of the 12,000 combinations.
    """

    def combination(scene: Scene) -> tuple[str, frozenset[str]]:
        return scene.pattern, frozenset(scene.colours[:2])

    known = {combination(sample_scene(seed)) for seed in UNET_SEEDS}
    known |= {combination(recoloured(sample_scene(seed))) for seed in DRIFTING_SEEDS}
    scenes = (single_pattern(seed) for seed in range(UNSEEN, UNSEEN + 100 * count))
    return list(itertools.islice((scene for scene in scenes if combination(scene) not in known), count))


def prompt_of(scene: Scene) -> str:
    """Name the first two colours and the pattern."""
    return f"a {scene.colours[0]} and {scene.colours[1]} {scene.pattern}"


def dominant_colours(image: np.ndarray) -> set[str]:
    """Name the colours nearest to the k-means centres, in Oklab, with 5 % or more of the pixels of [H, W, 3] uint8."""
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
    pixels = srgb_to_oklab(small.reshape(-1, 3) / 255).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 1e-3)
    cv2.setRNGSeed(0)
    start = np.zeros((len(pixels), 1), np.int32)  # unused, but OpenCV's types require it
    _, labels, centres = cv2.kmeans(pixels, CLUSTERS, start, criteria, 3, cv2.KMEANS_PP_CENTERS)
    shares = np.bincount(labels.ravel(), minlength=CLUSTERS) / len(pixels)
    nearest = np.linalg.norm(centres[:, None] - NAMED_LAB, axis=2).argmin(axis=1)
    return {NAMES[name] for name, share in zip(nearest, shares, strict=True) if share >= DOMINANT}


def prompt_following(scenes: list[Scene], images: np.ndarray, classifier: PatternClassifier) -> str:
    """Return two table cells: how often both colours are dominant, and how often the pattern is recognised."""
    pairs = list(zip(scenes, images, strict=True))
    colours = statistics.mean(set(scene.colours[:2]) <= dominant_colours(image) for scene, image in pairs)
    recognised = classifier.classify(images)[1]
    patterns = statistics.mean(PATTERNS[r] == scene.pattern for r, scene in zip(recognised, scenes, strict=True))
    return f"{colours:.0%} | {patterns:.0%}"


def print_synonyms(model: BuiltinModel) -> None:
    """Print which colour words that no caption used make images more like the colour that they mean."""
    words = {word: colour for word, colour in HELD_OUT_SYNONYMS.items() if colour in COLOURS}
    plain = model.paint_from_noise(["a pattern"] * SYNONYM_SEEDS)
    right = set()
    for word, colour in tqdm(words.items(), "synonyms"):
        target = NAMED_LAB[NAMES.index(colour)]
        named = model.paint_from_noise([f"a {word} pattern"] * SYNONYM_SEEDS)
        before, after = (np.linalg.norm(srgb_to_oklab(x / 255) - target, axis=-1).mean() for x in (plain, named))
        if after < before:
            right.add(word)
    print(f"colour words that no caption used and that steer right: {len(right)} of {len(words)}", end="")
    print(f"; not: {', '.join(sorted(words.keys() - right))}")


def print_settings(model: BuiltinModel, classifier: PatternClassifier, scenes: list[Scene]) -> None:
    """Print how well images follow prompts with other samplers, steps and guidance."""
    prompts = [prompt_of(scene) for scene in scenes]
    print("| sampler | steps | scale | rescaled by | guided at | both colours dominant | pattern recognised |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for settings in SETTINGS:
        images = model.paint_from_noise(prompts, **settings)
        spec = spec_for(model.painter, ImageSpec.prompt, **settings)
        low, high = spec.guidance_interval
        row = f"| {spec.sampler} | {spec.steps} | {spec.scale} | {spec.guidance_rescale} | {low:g} to {high:g} |"
        print(f"{row} {prompt_following(scenes, images, classifier)} |", flush=True)


def x_T_of_recordings(source: Path, count: int) -> torch.Tensor:
    """Make x_T [count, 4, 32, 32] of recordings that are not in the calibration, with the default share of noise.

    If there are fewer recordings than `count`, they are used again with other noise.
    """
    _, voices = voice.VoiceLatents()(sounds.read(sounds.held_out_paths(source)))
    noise = seeded_noise(list(range(count)), config.LATENT_SHAPE).numpy()
    return torch.from_numpy(voice.with_noises(np.resize(voices, noise.shape), noise, voice.STRENGTH))


# --- distributions of images -----------------------------------------------------------------------------------------


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the distance of two Gaussians fitted to features [N, D] (Heusel et al. 2017, equation 6)."""
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # the trace of the root of a product of two covariances: its eigenvalues are real and not negative
    roots = np.sqrt(np.linalg.eigvals(covariance_a @ covariance_b).real.clip(0))
    mean = a.mean(axis=0) - b.mean(axis=0)
    return float(mean @ mean + np.trace(covariance_a) + np.trace(covariance_b) - 2 * roots.sum())


def print_distance_to_renders(model: BuiltinModel, classifier: PatternClassifier, count: int) -> None:
    """Print the Fréchet distance of images to renders, and that between two sets of renders."""
    scenes = [single_pattern(UNSEEN + 10**8 + i) for i in range(3 * count)]
    renders = [render(scene, 128) for scene in tqdm(scenes[: 2 * count], "rendering")]
    first, second = (classifier.classify(part)[0] for part in (renders[:count], renders[count:]))
    rng = np.random.default_rng(0)
    images = model.paint_from_noise([caption(scene, rng) for scene in scenes[2 * count :]], 10**6)
    to_renders = frechet_distance(classifier.classify(images)[0], second)
    of_renders = frechet_distance(first, second)
    print(f"Fréchet distance, {count} images: to renders {to_renders:.2f}, between two sets of renders", end=" ")
    print(f"{of_renders:.2f}, ratio {to_renders / of_renders:.1f}")


def print_distance_to_noise(model: BuiltinModel, classifier: PatternClassifier, x_T: torch.Tensor) -> None:
    """Print the Fréchet distance of images from voices to those from noise, and that between two sets from noise."""
    rng = np.random.default_rng(0)
    prompts = [caption(single_pattern(UNSEEN + 2 * 10**8 + i), rng) for i in range(len(x_T))]
    noise, other = (classifier.classify(model.paint_from_noise(prompts, seed))[0] for seed in (10**6, 2 * 10**6))
    to_noise = frechet_distance(classifier.classify(model.paint(prompts, x_T))[0], noise)
    of_noise = frechet_distance(other, noise)
    print(f"Fréchet distance, {len(x_T)} images of the same prompts: voices to noise {to_noise:.2f},", end=" ")
    print(f"noise to other noise {of_noise:.2f}, ratio {to_noise / of_noise:.2f}")


def flat_thumbnails(images: Iterable[np.ndarray]) -> np.ndarray:
    """Shrink images to vectors [N, 768] in 0…1."""
    return thumbnails(images).reshape(-1, 3 * 16 * 16)


def print_nearest_renders(images: np.ndarray, unseen: np.ndarray) -> None:
    """Print the distance of images to their nearest training render, beside that of unseen renders."""
    chunks = itertools.chain(
        *(render_chunks(seeds[0], len(seeds), 64) for seeds in (UNET_SEEDS, LATER_SEEDS)),
        *(render_chunks(seeds[0], len(seeds), 64, "drifting") for seeds in (DRIFTING_SEEDS, LATER_DRIFTING_SEEDS)),
    )
    known = [flat_thumbnails(chunk) for chunk in tqdm(chunks, "training renders, by 128")]

    def nearest(images: np.ndarray) -> np.ndarray:
        rows = flat_thumbnails(images)
        least = [cdist(rows, chunk, "sqeuclidean").min(axis=1) for chunk in known]
        return np.sqrt(np.min(least, axis=0) / rows.shape[1])

    ours, others = nearest(images), nearest(unseen)
    print("distance to the nearest training render (RMS of 16×16 thumbnails), least and median:", end=" ")
    print(f"{ours.min():.3f}, {np.median(ours):.3f}; unseen renders {others.min():.3f}, {np.median(others):.3f}")


def variety(images: np.ndarray) -> float:
    """Compute the median distance (RMS of 16×16 thumbnails) between two of the images [N, H, W, 3]."""
    rows = flat_thumbnails(images)
    pairs = itertools.combinations(range(len(rows)), 2)
    return statistics.median(float(np.sqrt(((rows[i] - rows[j]) ** 2).mean())) for i, j in pairs)


def print_variety(model: BuiltinModel, x_T: torch.Tensor) -> None:
    """Print how much images of one prompt differ, from Gaussian noise and from voices `x_T`."""
    prompts = ["psychedelic mandala, orange and teal"] * len(x_T)
    noise, voices = (variety(images) for images in (model.paint_from_noise(prompts), model.paint(prompts, x_T)))
    print(f"distance between two of {len(x_T)} images of one prompt (RMS of 16×16 thumbnails), median:", end=" ")
    print(f"from noise {noise:.3f}, from voices {voices:.3f}")


def build_parser() -> cli.CommandParser:
    """Build the parser of the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--images", type=cli.bounded(int, 2), default=200, metavar="N", help="prompts (default: %(default)s)")
    add("--renders", type=cli.bounded(int, 1), default=500, metavar="N", help="for the first stage (default: 500)")
    add("--frechet", type=cli.bounded(int, 0), default=2000, metavar="N", help="images in each set; 0: skip")
    add("--voices", type=cli.existing_folder, metavar="SOURCE", help="recordings, for images from voices")
    add("--settings", action="store_true", help="compare samplers, steps and scales, and nothing else")
    return parser


def main() -> None:
    """Run the command line."""
    args = build_parser().parse_args()
    classifier, model = trained_classifier(), BuiltinModel()
    scenes = new_scenes(args.images)
    if args.settings:
        print_settings(model, classifier, scenes)
        return
    renders = np.stack([render(scene) for scene in scenes])
    prompts = [prompt_of(scene) for scene in scenes]

    print(f"{model.painter.precision}: loading {model.loading:.2f} s, an image {seconds_an_image(model):.2f} s")
    unseen = np.stack([render(sample_scene(UNSEEN + i)) for i in range(args.renders)])
    print(f"first stage: {first_stage_psnr(model, unseen):.1f} dB PSNR on {len(unseen)} unseen renders")
    images = model.paint_from_noise(prompts)
    print(f"\n| {len(scenes)} prompts | both colours dominant | pattern recognised |\n| --- | --- | --- |")
    print(f"| renders | {prompt_following(scenes, renders, classifier)} |")
    print(f"| from noise | {prompt_following(scenes, images, classifier)} |")
    if args.voices:
        x_T = x_T_of_recordings(args.voices.resolve(), len(scenes))
        print(f"| from voices | {prompt_following(scenes, model.paint(prompts, x_T), classifier)} |")
        print_variety(model, x_T[:VARIED])
    print()
    print_synonyms(model)
    print_nearest_renders(images, renders)
    if args.frechet:
        print_distance_to_renders(model, classifier, args.frechet)
    if args.frechet and args.voices:
        print_distance_to_noise(model, classifier, x_T_of_recordings(args.voices.resolve(), args.frechet))


if __name__ == "__main__":
    cli.run(main)
