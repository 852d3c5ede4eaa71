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
import hashlib
import re
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import cli
import config
from files import sha256_of
from live import standby

if TYPE_CHECKING:
    import torch
    from PIL.PngImagePlugin import PngInfo
    from torch import Tensor

    from audio.start_noise import Voices
    from ldm.painter import Painter
    from ldm.spec import PictureSpec, Provenance

# what a replayed picture says of itself, so that no option may say otherwise
DECIDED_BY_PICTURE = (
    "negative_prompt", "H", "W", "subject_idx", "weights", "x_T", "voice_strength", "layout_strength", "seed",
    "n_samples", "n_iter", "ddim_steps", "sampler", "ddim_eta", "scale", "guidance_interval", "precision",
)  # fmt: skip
UNSET = object()


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument_group("what").add_argument
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument(
        "--prompt", default="a psychedelic visualization of a voice", help="what to paint (default: %(default)s)"
    )
    prompts.add_argument("--from_file", type=cli.existing_file, metavar="F", help="prompts, one a line: one job, which "
        "goes on where it stopped if it was interrupted")  # fmt: skip
    prompts.add_argument("--replay", type=cli.existing_file, metavar="PNG", help="make this picture again, from what "
        "it says of itself; needs --init_latents if it was made from them")  # fmt: skip
    add("--negative_prompt", default="", metavar="TEXT", help="what to keep away from")
    add("--H", type=multiple_of_8, default=256, help="height in pixels (default: %(default)s)")
    add("--W", type=multiple_of_8, default=256, help="width in pixels (default: %(default)s)")

    starts = parser.add_mutually_exclusive_group()
    starts.add_argument("--init_latents", type=cli.existing_file, metavar="F", help="latents [N, 4, H/8, W/8], a .pt "
        "file (default: Gaussian noise)")  # fmt: skip
    starts.add_argument("--mix", type=cli.existing_file, nargs="+", metavar="F", help="one picture of several voices, "
        "each a file of latents")  # fmt: skip
    starts.add_argument("--walk", type=cli.existing_file, nargs="+", metavar="F", help="pictures from one voice to the "
        "next, each a file of latents, and an animation of them")  # fmt: skip
    add = parser.add_argument_group("start noise").add_argument
    add("--weights", type=cli.bounded(float, 0), nargs="+", metavar="V", help="of the voices of --mix (default: all "
        "the same)")  # fmt: skip
    add("--frames", type=cli.bounded(int, 2, 10_000), default=24, metavar="N", help="pictures of --walk (default: "
        "%(default)s)")  # fmt: skip
    add("--subject_idx", type=subjects, default="0", metavar="I", help="which of the N latents: 7, or 0,3,5-9, or all; "
        "for --mix and --walk one for all files, or one for each (default: 0)")  # fmt: skip
    add("--x_T", choices=["auto", "whitened", "raw"], default="auto", help="whitened: latents become noise that the "
        "voice decides; raw: they are sampled from as they are; auto: whitened, unless they are like noise already "
        "(default: auto)")  # fmt: skip
    add("--voice_strength", type=cli.bounded(float, 0, 1), default=0.9, metavar="V", help="share of the voice in "
        "whitened latents, the rest is the seed's noise (default: %(default)s)")  # fmt: skip
    add("--layout_strength", type=cli.bounded(float, 0, 1), default=0.0, metavar="V", help="share of the sound's "
        "shape, time across and pitch upwards, in the lowest frequencies of whitened latents (default: 0)")  # fmt: skip
    add("--seed", type=cli.bounded(int, 0, 2**62), default=42, metavar="K", help="of all noise (default: %(default)s)")
    add("--n_samples", type=cli.bounded(int, 1, 10_000), default=1, metavar="N", help="variations, with seeds that "
        "count up from K (default: 1)")  # fmt: skip
    add("--n_iter", type=cli.bounded(int, 1, 10_000), default=1, metavar="N", help="times N variations, with seeds "
        "that count on (default: 1)")  # fmt: skip

    sampling = parser.add_argument_group("sampling")
    add, either = sampling.add_argument, sampling.add_mutually_exclusive_group().add_argument
    add("--ddim_steps", type=cli.bounded(int, 1, 1000), default=20, metavar="N", help="sampling steps, whatever the "
        "sampler (default: %(default)s)")  # fmt: skip
    either("--sampler", choices=["ddim", "plms", "dpmpp"], default="dpmpp", help="DDIM, PLMS or DPM-Solver++(2M) "
        "(default: %(default)s)")  # fmt: skip
    either("--plms", action="store_const", const="plms", dest="sampler", help="the same as --sampler plms")
    add("--ddim_eta", type=cli.bounded(float, 0, 1), default=0.0, metavar="E", help="noise that DDIM adds at each step "
        "(default: 0)")  # fmt: skip
    add("--scale", type=cli.bounded(float, 0, 100), default=4.0, metavar="S", help="guidance to the prompt; 1 is none, "
        "and twice as fast (default: %(default)s)")  # fmt: skip
    add("--guidance_interval", type=cli.bounded(float, 0, 1), nargs=2, default=(0.0, 1.0), metavar=("LO", "HI"),
        help="guide only at these parts of the noise schedule, 1 is pure noise (default: 0 1)")  # fmt: skip
    add("--batch_size", type=cli.bounded(int, 1, 256), default=4, metavar="N", help="pictures sampled together; more "
        "need more memory (default: %(default)s)")  # fmt: skip

    add = parser.add_argument_group("model").add_argument
    add("--model", metavar="NAME", help="a folder in models/ (default: the built-in chladni)")
    add("--ckpt", type=cli.existing_path, metavar="F", help="weights, or a folder as diffusers saves it, in place of "
        "--model")  # fmt: skip
    add("--config", type=cli.existing_file, metavar="F", help="yaml of the model (default: the one beside the weights)")
    add("--precision", choices=["auto", "full", "bf16", "fp16"], default="auto", help="auto: bf16 where the processor "
        "has it, else full, which is float32 (default: auto)")  # fmt: skip
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="(default: auto)")

    add = parser.add_argument_group("output").add_argument
    add("--outdir", type=Path, default=config.OUTPUT_DIR, metavar="D", help="where pictures go (default: %(default)s)")
    add("--preview_every", type=cli.bounded(int, 1, 1000), metavar="K", help="every K steps write what the pictures "
        "become, small and in rough colours, to D/preview.png")  # fmt: skip
    add("--skip_grid", action="store_true", help="no overview of several pictures")
    add("--no_metadata", action="store_true", help="leave out of the pictures how they were made")
    add("--standby", action="store_true", help=standby.HELP)
    return parser


def multiple_of_8(text: str) -> int:
    """An argparse type: a side that the first stage, which shrinks by 8, can make."""
    value = int(cli.bounded(int, 64, 2048)(text))
    if value % 8:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 8")
    return value


def subjects(text: str) -> list[int] | None:
    """An argparse type: rows of latents from "7", "0,3,5-9" or "all" (None)."""
    if text == "all":
        return None
    chosen: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip())
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 7, a list such as 0,3,5-9, or all")
        chosen += range(int(match[1]), int(match[2] or match[1]) + 1)
    return chosen


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, with what one option forbids another."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.ddim_eta and args.sampler != "ddim":
        parser.error(f"--ddim_eta is for DDIM's steps, not for {args.sampler}'s: add --sampler ddim")
    if args.model and args.ckpt:
        parser.error("--model names a folder in models/, --ckpt a file: give one of them")
    if args.standby and (args.replay or args.from_file):
        parser.error("--standby waits for requests, and takes --replay or --from_file in them: leave it out here")
    if args.guidance_interval[0] > args.guidance_interval[1]:
        parser.error("--guidance_interval: LO must not be above HI")
    # parsed again into a namespace that is not empty, no default takes the place of what was not given
    blank = argparse.Namespace(**dict.fromkeys(vars(args), UNSET))
    given = {name for name, value in vars(parser.parse_args(argv, blank)).items() if value is not UNSET}
    if problem := problem_of_voices(args) or without_effect(args, given):
        parser.error(problem)
    return args


def without_effect(args: argparse.Namespace, given: set[str]) -> str | None:
    """What is wrong if an option that was `given` would be ignored beside the others."""
    for name in DECIDED_BY_PICTURE if args.replay else ():
        if name in given:
            return f"--{name} is decided by the picture that --replay makes again: leave it out"
    about_latents = ("subject_idx", "x_T", "voice_strength", "layout_strength")
    for name in about_latents if not (latent_files(args) or args.standby) else ():
        if name in given:
            return f"--{name} is about latents: name a file with --init_latents, or leave it out"
    if "frames" in given and not args.walk:
        return "--frames is for --walk: leave it out"
    for name in ("negative_prompt", "guidance_interval") if args.scale == 1 else ():
        if name in given:
            return f"--{name} is about guidance, and --scale 1 is none: leave one of them out"
    if "voice_strength" in given and args.x_T == "raw":
        return "--voice_strength is for whitened latents, and --x_T raw leaves them as they are: leave one of them out"
    if args.config and not (args.ckpt or args.model):
        return "--config is the yaml of another model: name its weights with --ckpt or --model"
    if not args.replay and (args.preview_every or 0) > args.ddim_steps:
        return f"--preview_every {args.preview_every} is never reached in {args.ddim_steps} steps"
    return None


def problem_of_voices(args: argparse.Namespace) -> str:
    """What is wrong with the options of --mix, --walk and layout, or ""."""
    option, files = ("--mix", args.mix) if args.mix else ("--walk", args.walk)
    if files and len(files) < 2:
        return f"{option} needs two files of latents at least, one came"
    if args.weights and not args.mix:
        return "--weights is for the voices of --mix"
    if args.weights and (len(args.weights) != len(args.mix) or not sum(args.weights)):
        return f"--weights needs {len(args.mix)} numbers, one for each file of --mix, and one of them above 0"
    if files and (args.subject_idx is None or len(args.subject_idx) not in (1, len(files))):
        return f"--subject_idx: one number for all files of {option}, or {len(files)}, one for each, are needed"
    if args.layout_strength and args.x_T == "raw":
        return "--layout_strength is a share of whitened latents: leave out --x_T raw"
    return ""


def latent_files(args: argparse.Namespace) -> list[Path]:
    return args.mix or args.walk or ([args.init_latents] if args.init_latents else [])


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.standby:
        return standby.serve(parse, argv, lambda asked: {"pictures": [*map(str, paint(asked))]}, lambda: rehearse(args))
    paint(args)
    return 0


def rehearse(args: argparse.Namespace) -> None:
    """Load, and paint once what the mean of all voices gives, to nowhere."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        mean = Path(folder, "mean.pt")
        torch.save(torch.zeros(1, config.LATENT_CHANNELS, args.H // 8, args.W // 8), mean)
        changes = {"init_latents": mean, "subject_idx": [0], "ddim_steps": 2, "n_samples": 1, "n_iter": 1}
        paint(argparse.Namespace(**{**vars(args), **changes, "outdir": Path(folder)}))


def paint(args: argparse.Namespace) -> list[Path]:
    """Make the pictures that a command line asks for; print and return where they are.

    Raises:
        ValueError: latents, model and options do not go together, or one of them is broken.
        OSError: a file cannot be read or written.
    """
    from tqdm import tqdm

    from ldm.job import Journal, run_job
    from ldm.painter import choose_device
    from ldm.pictures import read_latents, save_animation, save_grid
    from ldm.preview import Preview
    from ldm.spec import read_chunks

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
    chosen = inputs.latents_sha256(*specs)
    journal = Journal(args.outdir, specs, f"{inputs.weights} {chosen}")
    if journal.finished:
        print(f"going on: {len(journal.finished)} of {len(specs)} pictures are there already")
    painter = painter_of(inputs.weights, inputs.yaml, specs[0].precision, device)
    painter.check_size(specs[0].height, specs[0].width)
    pictures = dict(journal.finished)
    missing = (index for index in range(len(specs)) if index not in journal.finished)
    text_of = None if args.no_metadata else inputs.text_of
    preview = Preview(args.outdir / "preview.png", args.preview_every) if args.preview_every else None
    samples = args.outdir / "samples"
    for path in run_job(specs, painter, inputs.start_noise, text_of, journal, samples, args.batch_size, preview):
        tqdm.write(f"picture: {path}", file=sys.stdout)  # above the progress bar
        sys.stdout.flush()
        pictures[next(missing)] = path
    made = [pictures[index] for index in range(len(specs))]
    written = [*made, *([preview.path] if preview and preview.path.is_file() else [])]
    if len(made) > 1 and not args.skip_grid:
        written.append(save_grid(made, args.outdir))
    for start in range(0, len(made), args.frames) if args.walk and not replayed else ():
        written.append(save_animation(made[start : start + args.frames], args.outdir, "walk"))
    if len(written) > 1:
        print("written:", *written)
    return made


@functools.lru_cache(maxsize=1)
def painter_of(weights: Path, yaml: Path | None, precision: str, device: "torch.device") -> "Painter":
    """The model, kept for the next request."""
    from ldm.painter import Painter

    return Painter(weights, yaml, precision, device)


@functools.cache
def model_sha256(weights: Path) -> "Future[str]":
    """Of the weights, which are loaded meanwhile: hashing gigabytes takes seconds."""
    return ThreadPoolExecutor(1).submit(sha256_of, weights)


def make_writable(folder: Path) -> None:
    """Find out before the work, not after it, that a folder cannot be made or written to (OSError)."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def plan(args: argparse.Namespace, held: list[int], device: "torch.device") -> "list[PictureSpec]":
    """The pictures that a command line asks for: for each prompt each subject in each variation; of a walk one by one.

    `held` says how many latents each file holds.

    Raises:
        ValueError: a file of prompts without any.
    """
    from ldm.painter import choose_precision
    from ldm.spec import PictureSpec

    prompts = [args.prompt]
    if args.from_file:
        prompts = [line.strip() for line in args.from_file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not prompts:
            raise ValueError(f"{args.from_file} holds no prompts: write one a line")
    variations, starts = range(args.n_iter * args.n_samples), starts_of(args, held)
    if args.walk:
        jobs = [(prompt, start, variation) for prompt in prompts for variation in variations for start in starts]
    else:
        jobs = [(prompt, start, variation) for prompt in prompts for start in starts for variation in variations]
    precision = choose_precision({"full": "fp32"}.get(args.precision, args.precision), device)
    return [
        PictureSpec(
            prompt, args.negative_prompt, args.seed + variation, row, args.sampler, args.ddim_steps, args.scale,
            args.ddim_eta, tuple(args.guidance_interval), args.H, args.W, args.x_T, args.voice_strength, precision,
            layout_strength=args.layout_strength, blend=blend,
        )
        for prompt, (row, blend), variation in jobs
    ]  # fmt: skip


def starts_of(args: argparse.Namespace, held: list[int]) -> "list[tuple[int | None, tuple[tuple[int, float], ...]]]":
    """What pictures start from: `subject` and `blend` of a PictureSpec for each."""
    from audio.start_noise import shares, walk

    if not held:
        return [(None, ())]
    if args.init_latents:
        return [(row, ()) for row in (range(held[0]) if args.subject_idx is None else args.subject_idx)]
    rows = args.subject_idx * len(held) if len(args.subject_idx) == 1 else args.subject_idx
    weights = walk(len(held), args.frames) if args.walk else [shares(args.weights or [1.0] * len(held))]
    return [(None, tuple(zip(rows, each, strict=True))) for each in weights]


def check_subjects(specs: "Sequence[PictureSpec]", files: "Sequence[tuple[Path, Tensor]]") -> None:
    """Raises ValueError if a spec starts from latents that are not there."""
    for parts in {spec.parts for spec in specs}:
        if parts and len(parts) != len(files):
            option = "--init_latents" if len(parts) == 1 else f"--mix, {len(parts)} files"
            raise ValueError(f"this picture was made from latents: give the same with {option}")
        for (row, _), (path, latents) in zip(parts, files, strict=False):
            if row >= len(latents):
                held = "one latent, 0" if len(latents) == 1 else f"latents 0 to {len(latents) - 1}"
                raise ValueError(f"--subject_idx {row} is out of range: {path} holds {held}")


def model_files(args: argparse.Namespace) -> "tuple[Path, Path | None]":
    """Weights and yaml (None: as the weights say).

    Raises:
        ValueError: no such model.
    """
    from ldm.checkpoint import find_model

    weights, yaml = (args.ckpt, None) if args.ckpt else (config.BUILTIN_MODEL_WEIGHTS, None)
    if args.model:
        if Path(args.model).name != args.model:
            raise ValueError(f"--model {args.model} is no folder of {config.MODELS_DIR}; a path goes to --ckpt")
        weights, yaml = find_model(config.MODELS_DIR / args.model)
    return weights, args.config or yaml


class Inputs:
    """What pictures are made from beside their specs: a model, files of latents [N, C, h, w], calibrations."""

    def __init__(
        self,
        weights: Path,
        yaml: Path | None,
        files: "Sequence[tuple[Path, Tensor]]",
        specs: "Sequence[PictureSpec]",
    ) -> None:
        """Decide, and say, what latents are made into.

        Raises:
            ValueError: x_T is to be whitened, and no calibration here is the one that the latents were made with.
        """
        self.weights, self.yaml = weights, yaml
        self._whitened_by: set[Path] = set()
        self._model_sha256 = model_sha256(weights)
        rows = [sorted({spec.parts[i][0] for spec in specs if spec.parts}) for i in range(len(files))]
        self.voices = [self._voices(*file, chosen, specs[0].x_T) for file, chosen in zip(files, rows, strict=True)]
        self._calibration_sha256 = "+".join(sorted(map(sha256_of, self._whitened_by))) or None

    def _voices(self, path: Path, latents: "Tensor", rows: list[int], x_T: str) -> "Voices":
        """The latents of one file, of which `rows` are used, with their whitening if they are to be whitened."""
        from audio.origin import find_whitening, read_note
        from audio.start_noise import Voices, is_gaussian

        array = latents.numpy()
        chosen = array[rows]
        if x_T == "auto":
            chosen = chosen[~is_gaussian(chosen)]
        if x_T == "raw" or not len(chosen):
            return Voices(array, None)
        found, whitening = find_whitening(chosen, read_note(path), config.calibration_dirs())
        if found is None:
            problem = f"no calibration here made these latents ({path}), so they cannot be whitened"
            remedy = "make them again with process_live_audio.py, or run phase 1"
            if x_T == "whitened":
                raise ValueError(f"{problem}: {remedy}")
            print(f"warning: {problem}, and raw ones make flat pictures; {remedy}", file=sys.stderr)
        elif found not in self._whitened_by:
            self._whitened_by.add(found)
            whose = "the built-in" if found.parent == config.BUILTIN_CALIBRATION_DIR else "your"
            print(f"x_T: the latents of voices, whitened by {whose} calibration (--x_T raw leaves them as they are)")
        return Voices(array, whitening, keep_noise=x_T == "auto")

    def start_noise(self, specs: "Sequence[PictureSpec]") -> "Tensor":
        """x_T [B, C, h, w] float32: of the seeds' Gaussian noise, of latents, or of both."""
        import torch

        from audio.start_noise import x_T_of_voices
        from ldm.models.diffusion.sampling import seeded_noise

        shape = (config.LATENT_CHANNELS, specs[0].height // 8, specs[0].width // 8)
        noise = seeded_noise([spec.seed for spec in specs], shape)
        for index, spec in enumerate(specs):
            if spec.parts:
                parts = [(voices, *part) for voices, part in zip(self.voices, spec.parts, strict=True)]
                x_T = x_T_of_voices(parts, noise[index].numpy(), spec.voice_strength, spec.layout_strength)
                noise[index] = torch.from_numpy(x_T)
        return noise

    def latents_sha256(self, *specs: "PictureSpec") -> str | None:
        """Of the numbers these start from: the same wherever the files lie, and whatever else is in them."""
        used = sorted({(file, row) for spec in specs for file, (row, _) in enumerate(spec.parts)})
        digest = hashlib.sha256()
        for file, row in used:
            digest.update(self.voices[file].latents[row].tobytes())
        return digest.hexdigest() if used else None

    def provenance(self, spec: "PictureSpec") -> "Provenance":
        from ldm.spec import Provenance

        return Provenance(
            model=self.weights.parent.name if self.weights.is_file() else self.weights.name,
            model_sha256=self._model_sha256.result(),
            latents_sha256=self.latents_sha256(spec),
            calibration_sha256=self._calibration_sha256,
            recipe=config.RECIPE,
            version=cli.VERSION,
        )

    def text_of(self, spec: "PictureSpec") -> "PngInfo":
        from ldm.spec import text_chunks

        return text_chunks(spec, self.provenance(spec))


if __name__ == "__main__":
    cli.run(main)
