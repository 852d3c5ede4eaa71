"""From a command line to the pictures that it asks for."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from audio.initial_noise import shares, walk
from cli import WrongOption
from ldm.devices import choose_precision
from painting.image_spec import ImageSpec
from painting.options import guidance_rescale_of


def plan(args: argparse.Namespace, held: list[int], device: torch.device) -> list[ImageSpec]:
    """The pictures that a command line asks for: for each prompt each subject in each variation; of a walk one by one.

    `held` says how many latents each file holds.

    Raises:
        ValueError: a file of prompts without any, or that is no text.
    """
    prompts = [args.prompt]
    if args.from_file:
        lines = (line.strip() for line in _text(args.from_file).splitlines())
        prompts = [line for line in lines if line and not line.startswith("#")]
        if not prompts:
            raise ValueError(f"{args.from_file} holds no prompts: write one a line")
    variations, starts = range(args.n_iter * args.n_samples), starts_of(args, held)
    if args.walk:
        jobs = [(prompt, start, variation) for prompt in prompts for variation in variations for start in starts]
    else:
        jobs = [(prompt, start, variation) for prompt in prompts for start in starts for variation in variations]
    precision = choose_precision({"full": "fp32"}.get(args.precision, args.precision), device)
    return [
        ImageSpec(
            prompt, args.negative_prompt, args.seed + variation, row, args.sampler, args.ddim_steps, args.scale,
            args.ddim_eta, tuple(args.guidance_interval), args.H, args.W, args.x_T, args.voice_strength, precision,
            layout_strength=args.layout_strength, blend=blend, guidance_rescale=guidance_rescale_of(args),
        )
        for prompt, (row, blend), variation in jobs
    ]  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows likes to begin with a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: save it as that") from error


def starts_of(args: argparse.Namespace, held: list[int]) -> list[tuple[int | None, tuple[tuple[int, float], ...]]]:
    """What pictures start from: `subject` and `blend` of a ImageSpec for each."""
    if not held:
        return [(None, ())]
    if args.init_latents:
        return [(row, ()) for row in (range(held[0]) if args.subject_idx is None else args.subject_idx)]
    rows = args.subject_idx * len(held) if len(args.subject_idx) == 1 else args.subject_idx
    weights = walk(len(held), args.frames) if args.walk else [shares(args.weights or [1.0] * len(held))]
    return [(None, tuple(zip(rows, each, strict=True))) for each in weights]


def check_subjects(specs: Sequence[ImageSpec], files: Sequence[tuple[Path, Tensor]]) -> None:
    """Raises WrongOption if a spec starts from latents that are not there."""
    for parts in {spec.parts for spec in specs}:
        if files and not parts:
            raise WrongOption("this picture was made from noise: leave out --init_latents, --mix and --walk")
        if parts and len(parts) != len(files):
            same = (
                "the same with --init_latents"
                if len(parts) == 1
                else f"the same {len(parts)} files with --mix or --walk"
            )
            raise WrongOption(f"this picture was made from latents: give {same}")
        for (row, _), (path, latents) in zip(parts, files, strict=False):
            if row >= len(latents):
                held = "one latent, 0" if len(latents) == 1 else f"latents 0 to {len(latents) - 1}"
                remedy = _one_for_each(parts, files)
                raise WrongOption(f"--subject_idx {row} is out of range: {path} holds {held}{remedy}")


def _one_for_each(parts: Sequence[tuple[int, float]], files: Sequence[tuple[Path, Tensor]]) -> str:
    """How to choose latents of several files, where one number was given for all of them; else ""."""
    if len(parts) == 1 or len({row for row, _ in parts}) > 1:
        return ""
    nearest = [min(row, len(latents) - 1) for (row, _), (_, latents) in zip(parts, files, strict=True)]
    return f"; give one for each: --subject_idx {','.join(map(str, nearest))}"
