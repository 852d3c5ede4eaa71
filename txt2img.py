"""Make pictures from a prompt and from latents: those of a voice, or Gaussian noise.

examples:
  python txt2img.py --prompt "a golden spiral on purple" --init_latents live_latent.pt
  python txt2img.py --prompt "calm blue waves" --init_latents data/latents/audio_latents_batch.pt --subject_idx 7
  python txt2img.py --prompt "a red flower" --seed 3 --n_samples 4
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cli
import config

if TYPE_CHECKING:
    from torch import Tensor

    from audio.whitening import Whitening

SAMPLERS = ("ddim", "plms", "dpmpp")


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__, config.VERSION)
    add = parser.add_argument
    positive = cli.bounded(int, 1)
    add("--prompt", default="a psychedelic visualization of a voice", help="what to paint (default: %(default)s)")
    add("--init_latents", type=cli.existing_file, metavar="F", help="latents [N, 4, H/8, W/8], a .pt file (default: "
        "Gaussian noise)")  # fmt: skip
    add("--subject_idx", type=cli.bounded(int, 0), default=0, metavar="I", help="which of the N latents (default: 0)")
    add("--x_T", choices=["auto", "whitened", "raw"], default="auto", help="whitened: latents become noise that the "
        "voice decides; raw: they are sampled from as they are; auto: whitened, unless they are like noise already "
        "(default: auto)")  # fmt: skip
    add("--voice_strength", type=cli.bounded(float, 0, 1), default=0.9, metavar="V", help="share of the voice in "
        "whitened latents, the rest is the seed's noise (default: %(default)s)")  # fmt: skip
    add("--ddim_steps", type=cli.bounded(int, 1, 1000), default=20, metavar="N", help="sampling steps, whatever the "
        "sampler (default: %(default)s)")  # fmt: skip
    add("--sampler", choices=SAMPLERS, default="dpmpp", help="DDIM, PLMS or DPM-Solver++(2M) (default: %(default)s)")
    add("--plms", action="store_const", const="plms", dest="sampler", help="the same as --sampler plms")
    add("--ddim_eta", type=cli.bounded(float, 0, 1), default=0.0, metavar="E", help="noise that DDIM adds at each step "
        "(default: 0)")  # fmt: skip
    add("--scale", type=cli.bounded(float, 0, 100), default=4.0, help="guidance to the prompt (default: %(default)s)")
    add("--seed", type=cli.bounded(int, 0, 2**62), default=42, metavar="K", help="of all noise (default: %(default)s)")
    add("--n_samples", type=positive, default=1, metavar="N", help="pictures in a batch, with seeds that count up")
    add("--n_iter", type=positive, default=1, metavar="N", help="batches, with seeds that count on (default: 1)")
    add("--H", type=multiple_of_8, default=256, help="height in pixels (default: %(default)s)")
    add("--W", type=multiple_of_8, default=256, help="width in pixels (default: %(default)s)")
    add("--outdir", type=Path, default=config.OUTPUT_DIR, metavar="D", help="where pictures go (default: %(default)s)")
    add("--config", type=cli.existing_file, metavar="F", help="yaml of the model in --ckpt (default: beside it)")
    add("--ckpt", type=cli.existing_file, metavar="F", help="weights (default: the built-in model)")
    return parser


def multiple_of_8(text: str) -> int:
    """An argparse type: a side that the first stage, which shrinks by 8, can make."""
    value = int(cli.bounded(int, 64, 2048)(text))
    if value % 8:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 8")
    return value


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.ddim_eta and args.sampler != "ddim":
        parser.error(f"--ddim_eta is for DDIM's steps, not for {args.sampler}'s: add --sampler ddim")
    if args.config and not args.ckpt:
        parser.error("--config says what the weights in --ckpt are: give both, or neither for the built-in model")

    from ldm.models.diffusion.sampling import SamplerOptions, seeded_noise
    from ldm.painter import Painter
    from ldm.pictures import grid, save_numbered

    latents = select_latents(args)
    painter = Painter.load(args.ckpt or config.BUILTIN_MODEL_WEIGHTS, args.config)
    options = SamplerOptions(args.ddim_steps, args.scale, args.ddim_eta)
    stem = "sample" if latents is None else f"subject_{args.subject_idx:03d}_sample"
    pictures = []
    for first in range(args.seed, args.seed + args.n_iter * args.n_samples, args.n_samples):
        seeds = list(range(first, first + args.n_samples))
        x_T = seeded_noise(seeds, latent_shape(args))
        if latents is not None:
            x_T = shape_x_T(latents, x_T, args, say=first == args.seed)
        for picture in painter.paint(args.prompt, x_T, seeds, args.sampler, options, stem):
            print(f"picture: {save_numbered(picture, args.outdir / 'samples', stem)}", flush=True)
            pictures.append(picture)
    if len(pictures) > 1:
        columns = args.n_samples if args.n_samples > 1 else args.n_iter
        print(f"grid: {save_numbered(grid(pictures, columns), args.outdir, 'grid')}")
    return 0


def latent_shape(args: argparse.Namespace) -> tuple[int, int, int]:
    return (config.LATENT_CHANNELS, args.H // 8, args.W // 8)


def select_latents(args: argparse.Namespace) -> "Tensor | None":
    """The chosen subject's latents [1, C, h, w], or None if pictures start from noise.

    Raises:
        ValueError: the file holds no such latents.
    """
    if args.init_latents is None:
        return None
    from ldm.pictures import read_latents

    latents = read_latents(args.init_latents, latent_shape(args))
    if args.subject_idx >= len(latents):
        held = "latents 0" if len(latents) == 1 else f"latents 0 to {len(latents) - 1}"
        raise ValueError(f"--subject_idx {args.subject_idx} is out of range: {args.init_latents} holds {held}")
    return latents[args.subject_idx : args.subject_idx + 1]


def shape_x_T(latents: "Tensor", noise: "Tensor", args: argparse.Namespace, say: bool) -> "Tensor":
    """Start noise [B, C, h, w] from latents [1, C, h, w] and the seeds' Gaussian noise [B, C, h, w].

    Raises:
        ValueError: --x_T whitened, and no calibration here is the one that the latents were made with.
    """
    import torch
    from einops import repeat

    from audio.whitening import is_gaussian, mix

    as_they_are = repeat(latents, "1 c h w -> b c h w", b=len(noise))
    if args.x_T == "raw" or (args.x_T == "auto" and is_gaussian(latents.numpy())[0]):
        return as_they_are
    whitening, folder = find_whitening(latents)
    if whitening is None:
        problem = "no calibration here made these latents, so they cannot be whitened"
        remedy = "make them again with process_live_audio.py, or run phase 1"
        if args.x_T == "whitened":
            raise ValueError(f"{problem}: {remedy}")
        if say:
            print(f"warning: {problem}, and raw ones make flat pictures; {remedy}", file=sys.stderr)
        return as_they_are
    if say:
        whose = "the built-in" if folder == config.BUILTIN_CALIBRATION_DIR else "your"
        print(f"x_T: the voice's latents, whitened by {whose} calibration (--x_T raw leaves them as they are)")
    voice = repeat(whitening.voice_noise(latents.numpy()), "1 c h w -> b c h w", b=len(noise))
    return torch.from_numpy(mix(voice, noise.numpy(), args.voice_strength))


def find_whitening(latents: "Tensor") -> "tuple[Whitening, Path] | tuple[None, None]":
    """The whitening, and its folder, of the calibration that `latents` [1, C, h, w] were made with; None, None if
    there is none."""
    from audio.whitening import WHITENING_NAME, Whitening

    for folder in config.calibration_dirs():
        if (folder / WHITENING_NAME).is_file():
            whitening = Whitening.load(folder / WHITENING_NAME)
            if latents[0].numel() == whitening.mean_db.size and whitening.fits(latents.numpy())[0]:
                return whitening, folder
    return None, None


if __name__ == "__main__":
    cli.run(main)
