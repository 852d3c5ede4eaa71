"""From a command line to the images that it asks for."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from audio.initial_noise import normalised_weights, walk
from audio.provenance import recording_name
from cli import WrongOption
from ldm.devices import choose_precision
from painting.image_spec import ImageSpec
from painting.options import guidance_rescale_of

NAMES_SHOWN = 5  # of the recordings in a file, if one is asked for that it does not hold
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
            reading=args.reading,
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


def rows_of(subject_idx: list[int | str] | None, files: Sequence[tuple[Path, Sequence[str]]]) -> list[int] | None:
    """Return the rows that --subject_idx means: numbers as they are, names of recordings as the rows of these.

    Args:
        subject_idx: rows and names; None: all rows.
        files: files of latents, each with the names of its rows.

    Raises:
        WrongOption: no recording has such a name, or several have.
    """
    if subject_idx is None or all(isinstance(one, int) for one in subject_idx):
        return [one for one in subject_idx if isinstance(one, int)] if subject_idx else None
    if len(files) == 1:
        whole = ",".join(map(str, subject_idx))  # a name may hold commas
        return [_row_of(one, *files[0]) for one in ([whole] if whole in files[0][1] else subject_idx)]
    each = subject_idx * len(files) if len(subject_idx) == 1 else subject_idx
    return [_row_of(one, *file) for one, file in zip(each, files, strict=True)]


def _row_of(one: int | str, path: Path, names: Sequence[str]) -> int:
    if isinstance(one, int):
        return one
    name = recording_name(Path(one.strip()))
    rows = [row for row, other in enumerate(names) if other == name]
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise WrongOption(
            f"--subject_idx {one}: {path} holds {len(rows)} recordings of this name; give one of the rows "
            f"{', '.join(map(str, rows))}"
        )
    known = list(dict.fromkeys(filter(None, names)))
    there = f"it holds {', '.join(known[:NAMES_SHOWN])}{', ...' * (len(known) > NAMES_SHOWN)}"
    raise WrongOption(
        f"--subject_idx {one}: {path} holds no recording of this name; "
        + (there if known else f"it names none: give a row, 0 to {len(names) - 1}")
    )


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
