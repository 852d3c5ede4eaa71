"""Measure images of few steps against those of 20: python -m benchmarks.few_steps [--voices SOURCE] [--count 50]

For each of some prompts, the same x_T become images with the default settings and with 20 guided steps of
DPM-Solver++(2M). Prints the cosine of their 16×16 thumbnails, from which the mean image of the prompt is subtracted:
the median, and the cosine that 95 % of the images exceed; then how smooth walks from each x_T to the next are: the
largest change from image to image over the mean one; then the seconds of an image, one at a time, and their ratio.
With --voices x_T come from recordings (SOURCE as for benchmarks/voice.py), else from seeds.

With --search it moves the timesteps of the four steps one by one until the latents come no nearer to those of 20 steps,
and prints each trial. `few_timesteps` comes from such a search.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cli
import config
from audio.initial_noise import walk
from benchmarks.builtin_model import BuiltinModel, thumbnails
from benchmarks.model import UNSEEN, x_T_of_recordings
from ldm.models.diffusion import sampling
from ldm.models.diffusion.dpm_solver import DPMSolverSampler, FewStepSampler
from ldm.models.diffusion.sampling import SamplingSettings, seeded_noise
from painting.image_spec import ImageSpec
from training.scenes.captions import caption
from training.scenes.scenes import sample_scene

PROMPTS = (
    ImageSpec.prompt,
    "a golden spiral on purple",
    "a blue butterfly",
    "calm blue and turquoise waves",
    "kaleidoscope, magenta, yellow, black",
    "mandala, orange and teal",
)
DEFAULT: dict[str, Any] = {}
MANY: dict[str, Any] = {"sampler": "dpmpp", "steps": 20}
WALKS, FRAMES = 6, 16  # walks, and the images of each
TIMED = 6  # images, of which the first one warms up
MOVES = (60, 30)  # timesteps


def compare(model: BuiltinModel, x_T: torch.Tensor) -> None:
    """Print how alike the images of few and of 20 steps are."""
    print(f"| {len(x_T)} images each | median cosine | 95 % are above |\n| --- | --- | --- |")
    for prompt in PROMPTS:
        few, many = (thumbnails(model.paint([prompt] * len(x_T), x_T, **settings)) for settings in (DEFAULT, MANY))
        mean = many.mean(axis=0)
        a, b = ((small - mean).reshape(len(x_T), -1) for small in (few, many))
        cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        print(f"| {prompt} | {np.median(cosines):.3f} | {np.quantile(cosines, 0.05):.3f} |", flush=True)


def compare_walks(model: BuiltinModel, x_T: torch.Tensor) -> None:
    """Print how much larger the largest change of a walk is than the mean one, for few and for 20 steps."""
    shares = torch.tensor(walk(2, FRAMES)).sqrt()
    jumps: dict[str, list[float]] = {"few": [], "many": []}
    for pair in zip(x_T[:WALKS], x_T[1 : WALKS + 1], strict=False):
        frames = torch.einsum("f v, v c h w -> f c h w", shares, torch.stack(pair))
        for name, settings in (("few", DEFAULT), ("many", MANY)):
            images = model.paint([ImageSpec.prompt] * FRAMES, frames, **settings).astype(float)
            changes = np.abs(np.diff(images, axis=0)).mean(axis=(1, 2, 3))
            jumps[name].append(changes.max() / changes.mean())
    few, many = (statistics.median(found) for found in jumps.values())
    print(f"walks: the largest change is {few:.2f} times the mean one with few steps, {many:.2f} times with 20")


def seconds_of(model: BuiltinModel) -> None:
    """Print the median seconds of an image of few and of 20 steps, made by turns."""
    times: dict[str, list[float]] = {"few": [], "many": []}
    for seed in range(TIMED):
        for name, settings in (("few", DEFAULT), ("many", MANY)):
            start = time.perf_counter()
            model.paint_from_noise(PROMPTS[:1], seed, **settings)
            times[name].append(time.perf_counter() - start)
    few, many = (statistics.median(seconds[1:]) for seconds in times.values())
    print(f"an image: {few:.3f} s; of 20 steps {many:.3f} s; ratio {few / many:.3f} ({model.painter.precision})")


@torch.inference_mode()
def search(model: BuiltinModel, count: int) -> None:
    """Print the distance of latents to those of 20 steps for other timesteps, and move towards the least one."""
    network = model.painter.model
    rng = np.random.default_rng(0)
    prompts = [caption(sample_scene(UNSEEN + i), rng) for i in range(count)]
    c, uc = (network.get_learned_conditioning(texts) for texts in (prompts, [""]))
    x_T = seeded_noise(range(count), config.LATENT_SHAPE)
    rescale, interval = config.BUILTIN_RESCALE, config.BUILTIN_SAMPLING["guidance_interval"]
    settings = SamplingSettings(20, ImageSpec.scale, guidance_rescale=rescale)
    wanted = DPMSolverSampler(network).run(x_T, settings, c, uc)
    settings = SamplingSettings(4, ImageSpec.scale, guidance_interval=interval, guidance_rescale=rescale)
    known: dict[tuple[int, ...], float] = {}

    def distance(knots: tuple[int, ...]) -> float:
        if knots not in known:
            sampling.FEW_KNOTS = knots
            found = FewStepSampler(network).run(x_T, settings, c, uc)
            known[knots] = (found - wanted).square().mean().item()
            print(f"timesteps {', '.join(map(str, knots[:-1]))}: mean square {known[knots]:.4f}", flush=True)
        return known[knots]

    best: tuple[int, ...] = (999, 749, 500, 250, 0)  # even steps
    for move in MOVES:
        while True:
            ways = [(i, step) for i in range(1, 4) for step in (-move, move)]
            around = [tuple(t + step * (i == place) for place, t in enumerate(best)) for i, step in ways]
            nearest = min([best, *(knots for knots in around if list(knots) == sorted(knots)[::-1])], key=distance)
            if nearest == best:
                break
            best = nearest
    print(f"least: {', '.join(map(str, best[:-1]))}")


def main() -> None:
    """Run the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--voices", type=cli.existing_folder, metavar="SOURCE", help="recordings, for x_T (default: seeds)")
    add("--count", type=cli.bounded(int, 2), default=50, metavar="N", help="images of each prompt (default: 50)")
    add("--search", action="store_true", help="search the timesteps, and do nothing else")
    args = parser.parse_args()
    model = BuiltinModel()
    if args.search:
        search(model, args.count)
        return
    source: Path | None = args.voices
    x_T = (
        x_T_of_recordings(source.resolve(), args.count)
        if source
        else seeded_noise(range(args.count), config.LATENT_SHAPE)
    )
    compare(model, x_T)
    compare_walks(model, x_T)
    seconds_of(model)


if __name__ == "__main__":
    cli.run(main)
