"""Make pictures from a prompt and from latents: those of a voice, or Gaussian noise.

examples:
  python txt2img.py --prompt "a golden spiral on purple" --init_latents live_latent.pt
  python txt2img.py --prompt "calm blue waves" --init_latents data/latents/audio_latents_batch.pt --subject_idx 0,3,5-9
  python txt2img.py --prompt "calm blue waves" --mix ann.pt bob.pt --weights 0.3 0.7
  python txt2img.py --prompt "calm blue waves" --walk ann.pt bob.pt --frames 24
  python txt2img.py --prompt "a red flower" --seed 3 --n_samples 4
  python txt2img.py --from_file prompts.txt --init_latents live_latent.pt
  python txt2img.py --replay outputs/txt2img-samples/samples/sample_0000.png
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import cli
import config
import standby
from painting.options import latent_files, parse_options, parse_request

if TYPE_CHECKING:
    import torch

    from painting.painter import Painter

parse = functools.partial(parse_options, __doc__)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.standby:
        return standby.serve(parse_request, args, answer, lambda: warm_up(args))
    paint(args)
    return 0


def answer(asked: argparse.Namespace) -> dict[str, list[str]]:
    """The pictures of one request. The bar goes to whoever asked, as a sign of life, through a pipe."""
    return {"pictures": [str(path) for path in paint(asked, always_bar=True)]}


def warm_up(args: argparse.Namespace) -> None:
    """Load, and paint once to nowhere: what the mean of all voices gives or, at a size that voices lack, noise."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        mean = None
        if config.LATENT_SHAPE[1:] == (args.H // 8, args.W // 8):
            mean = Path(folder, "mean.pt")
            torch.save(torch.zeros(1, *config.LATENT_SHAPE), mean)
        start = {"init_latents": mean, "mix": None, "walk": None, "weights": None, "subject_idx": [0]}
        changes = {**start, "ddim_steps": 2, "n_samples": 1, "n_iter": 1}
        paint(argparse.Namespace(**{**vars(args), **changes, "outdir": Path(folder)}), always_bar=True)


def paint(args: argparse.Namespace, always_bar: bool = False) -> list[Path]:
    """Make the pictures that a command line asks for; print and return where they are.

    `always_bar`: draw the progress bar also where standard error is no terminal.

    Raises:
        ValueError: latents, model and options do not go together, or one of them is broken.
        OSError: a file cannot be read or written.
    """
    from tqdm import tqdm

    from ldm.devices import choose_device
    from painting.generate import Journal, generate_images
    from painting.image_spec import read_chunks
    from painting.images import read_latents
    from painting.inputs import Inputs, model_files
    from painting.plan import check_subjects, plan
    from painting.preview import Preview

    device = choose_device(args.device)
    replayed, made_from = read_chunks(args.replay) if args.replay else (None, None)
    height, width = (replayed.height, replayed.width) if replayed else (args.H, args.W)
    shape = (config.LATENT_CHANNELS, height // 8, width // 8)
    files = [(path, read_latents(path, shape)) for path in latent_files(args)]
    specs = [replayed] if replayed else plan(args, [len(latents) for _, latents in files], device)
    check_subjects(specs, files)
    inputs = Inputs(*model_files(args), files, specs)
    if made_from:
        made_from.check(inputs.provenance(specs[0]))

    make_writable(args.outdir / "samples")
    journal = Journal(args.outdir, specs, inputs.identity(specs))
    if journal.finished:
        print(f"going on: {len(journal.finished)} of {len(specs)} pictures are there already")
    painter = painter_of(inputs.weights, inputs.yaml, specs[0].precision, device)
    painter.check_size(specs[0].height, specs[0].width)
    pictures = dict(journal.finished)
    missing = (index for index in range(len(specs)) if index not in journal.finished)
    text_of = None if args.no_metadata else inputs.text_of
    preview = Preview(args.outdir / "preview.png", args.preview_every) if args.preview_every else None
    samples, size = args.outdir / "samples", args.batch_size
    job = generate_images(specs, painter, inputs.start_noise, text_of, journal, samples, size, preview, always_bar)
    with cli.keeping("finished pictures are kept, the same command goes on" if len(specs) > 1 else ""):
        for path in job:
            tqdm.write(f"picture: {path}", file=sys.stdout)  # above the progress bar
            sys.stdout.flush()
            pictures[next(missing)] = path
    made = [pictures[index] for index in range(len(specs))]
    written = [*made, *([preview.path] if preview and preview.path.is_file() else []), *save_overviews(args, made)]
    if len(written) > 1:
        print("written:", *written)
    return made


def save_overviews(args: argparse.Namespace, made: list[Path]) -> list[Path]:
    """All pictures side by side, and of walks an animation each, if there is more than one picture."""
    from painting.images import save_animation, save_grid

    grids = [save_grid(made, args.outdir)] if len(made) > 1 and not args.skip_grid else []
    starts = range(0, len(made), args.frames) if args.walk and len(made) > 1 else ()
    return [*grids, *(save_animation(made[start : start + args.frames], args.outdir, "walk") for start in starts)]


def painter_of(weights: Path, yaml: Path | None, precision: str, device: "torch.device") -> "Painter":
    """The model, kept for the next request; another one is let go first: together they might not fit."""
    from painting.painter import Painter

    wanted = (weights, yaml, precision, device)
    if wanted not in _painters:
        _painters.clear()
        _painters[wanted] = Painter(*wanted)
    return _painters[wanted]


_painters: dict[tuple[Path, Path | None, str, "torch.device"], "Painter"] = {}


def make_writable(folder: Path) -> None:
    """Find out before the work, not after it, that a folder cannot be made or written to (OSError)."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


if __name__ == "__main__":
    cli.run(main)
