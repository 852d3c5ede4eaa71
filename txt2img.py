"""Make images from a prompt and start noise: the latents of a voice, or Gaussian noise.

examples:
  python txt2img.py --prompt "a golden spiral on purple" --init_latents live_latent.pt
  python txt2img.py --prompt "calm blue waves" --init_latents data/latents/audio_latents_batch.pt --subject_idx 0,3,5-9
  python txt2img.py --prompt "calm blue waves" --mix ann.pt bob.pt --weights 0.3 0.7
  python txt2img.py --prompt "calm blue waves" --walk ann.pt bob.pt --frames 24
  python txt2img.py --prompt "a red flower" --seed 3 --n_samples 4 --save_x_T noise.pt
  python txt2img.py --prompts prompts.txt --init_latents live_latent.pt --size 512x256
  python txt2img.py --prompt "a golden spiral on purple" --init_latents song.pt --film song.mp3
  python txt2img.py --replay outputs/txt2img-samples/samples/sample_a-red-flower_0000.png
"""

import argparse
import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cli
import config
import standby
from files import check_writable
from painting.options import latent_files, parse_options, parse_request

if TYPE_CHECKING:
    import torch

    from painting.generate import PaintAll
    from painting.image_spec import ImageSpec
    from painting.inputs import Inputs
    from painting.model_files import ModelFiles
    from painting.painter import Painter

parse = functools.partial(parse_options, __doc__)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    cli.show_warnings()
    if args.standby:
        return standby.serve(parse_request, args, answer, lambda emit: warm_up(args, emit))
    make_film(args) if args.film else paint(args)
    return 0


class Painted(NamedTuple):
    """Images that a command line has asked for."""

    paths: list[Path]
    places: list[dict[str, float]]  # of the voice of each image, for an answer; see `Inputs.places`


def answer(args: argparse.Namespace, emit: standby.Emit) -> dict[str, Any]:
    """Make the images of one request, or its film."""
    if args.film:
        return {"films": [str(make_film(args, emit))]}
    painted = paint(args, emit)
    return {"pictures": [str(path) for path in painted.paths], "voices": painted.places}


def warm_up(args: argparse.Namespace, emit: standby.Emit) -> None:
    """Load the model, and make one image of the mean voice in a temporary folder."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        mean = Path(folder, "mean.pt")
        torch.save(torch.zeros(1, *config.LATENT_SHAPE), mean)
        options = vars(args) | {"mix": None, "walk": None, "weights": None, "init_latents": mean, "subject_idx": [0]}
        options |= {"x_T": "auto", "steps": 2, "n_samples": 1, "n_iter": 1, "save_x_T": None}
        # a preview fits its colours to the model when it is drawn first
        options |= {"outdir": Path(folder), "preview_every": 1 if args.preview_every else None}
        try:
            paint(argparse.Namespace(**options), emit)
        except ValueError:  # the smallest images cannot hold a voice; any other error comes again
            paint(argparse.Namespace(**{**options, "init_latents": None}), emit)


def paint(args: argparse.Namespace, emit: standby.Emit | None = None) -> Painted:
    """Make the images that a command line asks for.

    Args:
        emit: takes progress and previews as events; None: draw a bar in the terminal, and print the paths.

    Raises:
        ValueError: latents, model and options do not go together, or one of them is broken.
        OSError: a file cannot be read or written.
    """
    from painting.generate import Journal, generate_images, stem
    from painting.progress import Progress

    device = device_of(args)
    specs, inputs = asked_for(args, device)
    samples = args.outdir / "samples"
    check_writable(samples)
    journal = Journal(args.outdir, specs, inputs.identity(specs))
    if journal.finished:
        print(f"resuming: {len(journal.finished)} of {len(specs)} images are finished")
    painter = painter_of(inputs.model, specs[0].precision, device)
    shape = shape_of(painter, inputs, specs)
    print_readings(painter, specs)
    start_noise = functools.partial(inputs.start_noise, shape=shape)
    if args.save_x_T:
        save_x_T(args.save_x_T, start_noise(specs), [inputs.recordings(spec) for spec in specs])
    text_of = None if args.no_metadata else inputs.text_of
    preview = args.outdir / "preview.png" if args.preview_every else None
    images = dict(journal.finished)
    missing = [index for index in range(len(specs)) if index not in journal.finished]
    with (
        Progress(specs[0].steps, preview, args.preview_every, emit, args.preview_pause) as progress,
        cli.keeping("finished images are kept; the same command resumes" if len(specs) > 1 else ""),
        painted_elsewhere(args, inputs.model, specs[0].precision, device) as paint_all,
    ):
        name = functools.partial(stem, walk=bool(args.walk), words=not args.no_metadata)
        made = generate_images(
            specs, painter, start_noise, text_of, journal, samples, args.batch_size, progress, name, paint_all
        )
        for index, path in zip(missing, made, strict=True):
            if emit is None:  # in standby the answer names the images
                print_image(path, [f"{index + 1} of {len(specs)}", *inputs.recordings(specs[index])], len(specs))
            images[index] = path
    paths = [images[index] for index in range(len(specs))]
    others = [*([preview] if preview and preview.is_file() else []), *save_overviews(args, paths)]
    if emit is None and len(paths) + len(others) > 1:
        others = [*paths, *others]
    if others:
        print("written:", *others)
    return Painted(paths, [inputs.places(spec) for spec in specs] if emit else [])


def asked_for(args: argparse.Namespace, device: "torch.device") -> tuple[list["ImageSpec"], "Inputs"]:
    """Return what decides each image that a command line asks for, and the files that they are made from.

    Raises:
        ValueError: latents and options do not go together, or a file is broken.
        OSError: a file cannot be read.
    """
    from audio.provenance import read_latents, read_names
    from painting.inputs import Inputs
    from painting.model_files import model_files
    from painting.plan import check_subjects, plan, rows_of
    from painting.png_text import OtherModel, read_chunks

    with cli.blaming("--replay"):
        replayed, made_from = read_chunks(args.replay) if args.replay else (None, None)
    files = [(path, read_latents(path)) for path in latent_files(args)]
    named = [(path, read_names(path, len(latents))) for path, latents in files]
    args = argparse.Namespace(**vars(args) | {"subject_idx": rows_of(args.subject_idx, named)})
    specs = [replayed] if replayed else plan(args, [len(latents) for _, latents in files], device)
    check_subjects(specs, files)
    inputs = Inputs(model_files(args), files, specs)
    if args.verbose:
        print_whitening(inputs)
    if made_from:
        try:
            inputs.check_replay(made_from, specs[0])
        except OtherModel as error:
            raise ValueError(f"{error}{_how_to_name(made_from.model, inputs.model.name)}") from error
    return specs, inputs


def _how_to_name(model: str, here: str) -> str:
    """Say which option names the model of an image, unless another version of it is here."""
    if model == here:
        return ""
    known = Path(model).name == model and (config.MODELS_DIR / model).is_dir()
    return f"; add --model {model}" if known else "; name it with --model, if it is in models/, or with --ckpt"


def make_film(args: argparse.Namespace, emit: standby.Emit | None = None) -> Path:
    """Make the film that a command line asks for; return its path.

    Args:
        emit: takes progress as events; None: draw bars in the terminal, and print the path.

    Raises:
        ValueError: recording, latents, model and options do not go together, or one of them is broken.
        OSError: a file cannot be read or written.
    """
    from film.command import Film
    from painting.progress import Progress

    device = device_of(args)
    film = Film(args, device)
    check_writable(film.folder)
    painter = painter_of(film.inputs.model, film.settings.image.precision, device)
    shape = shape_of(painter, film.inputs, film.specs)
    print_readings(painter, film.prompted)
    with (
        Progress(film.settings.image.steps, emit=emit) as progress,
        cli.keeping("painted frames are kept; the same command resumes"),
        painted_elsewhere(args, film.inputs.model, film.settings.image.precision, device) as paint_all,
    ):
        path = film.make(painter, shape, progress, paint_all)
    if emit is None:
        print(f"film: {path}")
    return path


@contextlib.contextmanager
def painted_elsewhere(
    args: argparse.Namespace, model: "ModelFiles", precision: str, device: "torch.device"
) -> Iterator["PaintAll | None"]:
    """Connect to the cluster of --dask_scheduler, which paints batches; None: they are painted here.

    Raises:
        RuntimeError: Dask is not installed, or the cluster cannot be used.
    """
    if not args.dask_scheduler:
        yield None
        return
    from tqdm import tqdm

    from painting.cluster import WantedModel, connect

    wanted = WantedModel.of(model, precision, device.type)
    with connect(args.dask_scheduler, wanted, functools.partial(tqdm.write, file=sys.stderr)) as pool:
        yield pool


def device_of(args: argparse.Namespace) -> "torch.device":
    """Return the device of --device.

    Raises:
        cli.WrongOption: this machine does not have it.
    """
    from ldm.devices import UnavailableError, choose_device

    with cli.blaming("--device", UnavailableError):
        return choose_device(args.device)


def shape_of(painter: "Painter", inputs: "Inputs", specs: list["ImageSpec"]) -> tuple[int, int, int]:
    """Return the shape [C, h, w] of x_T for images, which are all of one size.

    Raises:
        cli.WrongOption: the model has no images of this size, or latents that are used as they are do not fit it.
    """
    from ldm.devices import UnavailableError

    with cli.blaming("--size", UnavailableError):
        shape = painter.latent_shape(specs[0].height, specs[0].width)
    with cli.blaming("--size"):
        inputs.check_shape(specs, shape)
    return shape


def print_whitening(inputs: "Inputs") -> None:
    """Print which calibration whitens which files."""
    for whitening, paths in inputs.whitened_by.items():
        whose = "the built-in" if whitening.parent == config.BUILTIN_CALIBRATION_DIR else "your"
        names = ", ".join(dict.fromkeys(map(str, paths)))
        print(f"start noise: {names}, whitened by {whose} calibration (--x_T raw leaves that out)")


def print_readings(painter: "Painter", specs: list["ImageSpec"]) -> None:
    """Print what is drawn for each prompt, and which of its words have no effect."""
    prompts = {spec.prompt: spec for spec in specs}
    for prompt, spec in prompts.items():
        for line in painter.describe(spec):
            print(f"{prompt}: {line}" if len(prompts) > 1 else line)


def print_image(path: Path, which: list[str], count: int) -> None:
    """Print where an image is, above the bar; of several, also `which`: its number, and its recordings."""
    from tqdm import tqdm

    tqdm.write(f"image: {path} ({', '.join(which)})" if count > 1 else f"image: {path}", file=sys.stdout)
    sys.stdout.flush()


def save_x_T(path: Path, x_T: "torch.Tensor", recordings: list[tuple[str, ...]]) -> None:
    """Write x_T [N, C, h, w] of images as latents, with the names of the recordings that each is of."""
    from audio.provenance import save_latents

    save_latents(path, x_T, None, [" + ".join(names) for names in recordings])
    print(f"x_T {tuple(x_T.shape)}: {path}")


def save_overviews(args: argparse.Namespace, made: list[Path]) -> list[Path]:
    """Write all images side by side, on several pages if they are many, and an animation of each walk."""
    from painting.images import save_animation, save_grids

    grids = save_grids(made, args.outdir) if len(made) > 1 and not args.skip_grid else []
    starts = range(0, len(made), args.frames) if args.walk and len(made) > 1 else ()
    return [*grids, *(save_animation(made[start : start + args.frames], args.outdir, "walk") for start in starts)]


def painter_of(model: "ModelFiles", precision: str, device: "torch.device") -> "Painter":
    """Load a model, and keep it for the next request."""
    wanted = (model.weights, model.yaml, model.loras, model.vae, model.offload, precision, device)
    if wanted not in _painters:
        _painters.clear()  # two models together might not fit into memory
        if model.pipeline:
            from painting.pipelines.loading import what_is_loaded

            print(what_is_loaded(model.pipeline, precision), flush=True)
        _painters[wanted] = model.load(precision, device)
    return _painters[wanted]


_painters: "dict[tuple[Any, ...], Painter]" = {}


if __name__ == "__main__":
    cli.run(main)
