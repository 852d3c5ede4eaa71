"""From a command line to the images that it asks for."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from audio.initial_noise import normalised_weights, walk
from cli import WrongOption
from ldm.devices import choose_precision
from painting.image_spec import ImageSpec
from painting.options import guidance_rescale_of

PRECISION_OF = {"full": "fp32"}  # --precision to `ImageSpec.precision`, where the names differ

Parts = tuple[tuple[int, float], ...]


def plan(args: argparse.Namespace, rows: list[int], device: torch.device) -> list[ImageSpec]:
    """Expand a command line into image specs: prompts × rows × variations; the frames of a walk stay in order.

    Args:
        rows: how many latents each file holds.
    """
    prompts = args.prompts or [args.prompt]
    variations, starts = range(args.n_iter * args.n_samples), starts_of(args, rows)
    if args.walk:
        jobs = [(prompt, start, variation) for prompt in prompts for variation in variations for start in starts]
    else:
        jobs = [(prompt, start, variation) for prompt in prompts for start in starts for variation in variations]
    precision = choose_precision(PRECISION_OF.get(args.precision, args.precision), device)
    return [
        ImageSpec(
            prompt=prompt,
            negative_prompt=args.negative_prompt,
            seed=args.seed + variation,
            subject=row,
            blend=blend,
            sampler=args.sampler,
            steps=args.steps,
            scale=args.scale,
            eta=args.eta,
            guidance_interval=tuple(args.guidance_interval),
            guidance_rescale=guidance_rescale_of(args),
            height=args.H,
            width=args.W,
            x_T=args.x_T,
            voice_strength=args.voice_strength,
            layout_strength=args.layout_strength,
            precision=precision,
        )
        for prompt, (row, blend), variation in jobs
    ]


def starts_of(args: argparse.Namespace, rows: list[int]) -> list[tuple[int | None, Parts]]:
    """Return `subject` and `blend` of an ImageSpec for everything that images start from."""
    if not rows:
        return [(None, ())]
    if args.init_latents:
        return [(row, ()) for row in (range(rows[0]) if args.subject_idx is None else args.subject_idx)]
    chosen = args.subject_idx * len(rows) if len(args.subject_idx) == 1 else args.subject_idx
    weights = walk(len(rows), args.frames) if args.walk else [normalised_weights(args.weights or [1.0] * len(rows))]
    return [(None, tuple(zip(chosen, each, strict=True))) for each in weights]


def check_subjects(specs: Sequence[ImageSpec], files: Sequence[tuple[Path, Tensor]]) -> None:
    """Raise WrongOption if a spec starts from latents that are not in `files`."""
    for parts in {spec.parts for spec in specs}:
        if files and not parts:
            raise WrongOption("this image was made from noise: leave out --init_latents, --mix and --walk")
        if parts and len(parts) != len(files):
            same = (
                "the same with --init_latents"
                if len(parts) == 1
                else f"the same {len(parts)} files with --mix or --walk"
            )
            raise WrongOption(f"this image was made from latents: give {same}")
        for (row, _), (path, latents) in zip(parts, files, strict=False):
            if row >= len(latents):
                there = "one latent, 0" if len(latents) == 1 else f"latents 0 to {len(latents) - 1}"
                remedy = _row_for_each(parts, files)
                raise WrongOption(f"--subject_idx {row} is out of range: {path} holds {there}{remedy}")


def _row_for_each(parts: Parts, files: Sequence[tuple[Path, Tensor]]) -> str:
    """Suggest one row for each file, if one number was given for all of several; else return ""."""
    if len(parts) == 1 or len({row for row, _ in parts}) > 1:
        return ""
    nearest = [min(row, len(latents) - 1) for (row, _), (_, latents) in zip(parts, files, strict=True)]
    return f"; give one for each: --subject_idx {','.join(map(str, nearest))}"
