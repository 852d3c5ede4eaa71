"""Measure what the painter adds to a pipeline of diffusers: python -m benchmarks.diffusers_overhead [--small]

Builds Stable Diffusion 1.5 in its real shape with random weights, in bfloat16 where the processor has it. Paints the
same image by turns: by the pipeline itself, and by `DiffusersPainter` with progress, as txt2img.py has it. Prints the
medians of whole images and of single steps, their ratios, and the limit. On two cores it takes about ten minutes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import cli
from ldm.checkpoint import DTYPES
from ldm.devices import choose_device, choose_precision
from painting.image_spec import ImageSpec
from painting.pipelines.families import FAMILIES
from painting.pipelines.files import LAYOUTS, read_json
from painting.pipelines.loading import clip_tokenizer, import_diffusers
from painting.pipelines.painter import DiffusersPainter, later_noise

LIMIT = 1.02  # of the time of the pipeline itself
PROMPT = "a lighthouse in a storm"
SMALL: dict[str, dict[str, Any]] = {  # few parameters in the same structure, to try this program
    "unet": {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 64},
    "vae": {"block_out_channels": [32, 32, 32, 32]},
    "text_encoder": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
}


@dataclass
class Times:
    """Seconds of whole images, and of single steps."""

    images: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)


def build(precision: str, device: torch.device, small: bool) -> Any:
    """Build the pipeline by the configs of single files, with random weights."""
    diffusers = import_diffusers()
    from transformers import CLIPTextConfig, CLIPTextModel

    configs = {part: read_json(LAYOUTS / "sd1" / part / "config.json") for part in ("unet", "vae", "text_encoder")}
    for part, changes in SMALL.items() if small else ():
        configs[part].update(changes)
    scheduler = read_json(LAYOUTS / "sd1" / "scheduler" / "scheduler_config.json")
    torch.manual_seed(0)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_config(configs["vae"]),
        text_encoder=CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        tokenizer=clip_tokenizer("<|endoftext|>"),
        unet=diffusers.UNet2DConditionModel.from_config(configs["unet"]),
        scheduler=diffusers.PNDMScheduler.from_config(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, DTYPES[precision])


class Clock:
    """Takes the time of images, and of their steps: from one call of the network to the next."""

    def __init__(self, network: Any, device: torch.device) -> None:
        self._device = device
        self._calls: list[float] = []
        network.register_forward_pre_hook(lambda *_: self._calls.append(self._now()))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def take(self, work: Callable[[], np.ndarray]) -> tuple[float, list[float], np.ndarray]:
        """Return the seconds of an image, those of its steps, and the image."""
        self._calls.clear()
        start = self._now()
        image = work()
        taken = self._now() - start
        return taken, np.diff(self._calls).tolist(), image


def measure(painter: DiffusersPainter, spec: ImageSpec, repeat: int, device: torch.device) -> list[Times]:
    """Paint by turns, in another order each time; the images must be the same bit for bit."""
    x_T = torch.randn(1, *painter.latent_shape(spec.height, spec.width), generator=torch.Generator().manual_seed(1))
    latents, pipeline = x_T.to(device, DTYPES[painter.precision]), painter.pipeline

    def alone() -> np.ndarray:
        output = pipeline(prompt=PROMPT, height=spec.height, width=spec.width, num_inference_steps=spec.steps,
            guidance_scale=spec.scale, latents=latents, generator=later_noise(x_T[0]))  # fmt: skip
        return np.stack([np.asarray(image) for image in output.images])

    def painted() -> np.ndarray:
        return painter.paint([spec], x_T, lambda step: None)

    ways = (alone, painted)
    times = [Times(), Times()]
    clock, expected = Clock(pipeline.unet, device), alone()  # the first image also warms up
    for turn in range(repeat):
        for way in (turn % 2, 1 - turn % 2):
            image, steps, pixels = clock.take(ways[way])
            assert np.array_equal(pixels, expected), "the painter gives another image than the pipeline"
            times[way].images.append(image)
            times[way].steps += steps
    return times


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=cli.bounded(int, 1, 100), default=5, help="images of each kind (default: 5)")
    parser.add_argument("--steps", type=cli.bounded(int, 2, 100), default=4, help="sampling steps (default: 4)")
    parser.add_argument("--size", type=cli.bounded(int, 64, 2048), default=512, help="side in pixels (default: 512)")
    parser.add_argument("--small", action="store_true", help="few parameters, to try this program")
    args = parser.parse_args(argv)
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    size = 64 if args.small else args.size
    pipeline = build(precision, device, args.small)
    painter = DiffusersPainter(lambda _: pipeline, FAMILIES["StableDiffusionPipeline"], precision)
    spec = ImageSpec(PROMPT, steps=args.steps, scale=7.5, sampler="plms", height=size, width=size, precision=precision)
    alone, painted = measure(painter, spec, args.repeat, device)
    print(f"{size}×{size}, {args.steps} steps, {precision} on {device.type}, medians of {args.repeat} images each")
    print("| | the pipeline itself | the painter | ratio |\n| --- | --- | --- | --- |")
    for name, of_one, of_other in (("a step", alone.steps, painted.steps), ("in all", alone.images, painted.images)):
        before, after = statistics.median(of_one), statistics.median(of_other)
        print(f"| {name} | {before:.4f} s | {after:.4f} s | {after / before:.4f} |")
    print(f"limit of the ratio: {LIMIT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
