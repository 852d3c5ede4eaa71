"""Make pictures from a prompt and from latents: those of a voice, or Gaussian noise.

examples:
  python txt2img.py --prompt "a golden spiral on purple" --init_latents live_latent.pt
  python txt2img.py --prompt "calm blue waves" --init_latents data/latents/audio_latents_batch.pt --subject_idx 0,3,5-9
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

    from ldm.painter import Painter
    from ldm.spec import PictureSpec, Provenance

# what a replayed picture says of itself, so that no option may say otherwise
DECIDED_BY_PICTURE = (
    "negative_prompt", "H", "W", "subject_idx", "x_T", "voice_strength", "seed", "n_samples", "n_iter", "ddim_steps",
    "sampler", "ddim_eta", "scale", "guidance_interval", "precision",
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

    add = parser.add_argument_group("start noise").add_argument
    add("--init_latents", type=cli.existing_file, metavar="F", help="latents [N, 4, H/8, W/8], a .pt file (default: "
        "Gaussian noise)")  # fmt: skip
    add("--subject_idx", type=subjects, default="0", metavar="I", help="which of the N latents: 7, or 0,3,5-9, or all "
        "(default: 0)")  # fmt: skip
    add("--x_T", choices=["auto", "whitened", "raw"], default="auto", help="whitened: latents become noise that the "
        "voice decides; raw: they are sampled from as they are; auto: whitened, unless they are like noise already "
        "(default: auto)")  # fmt: skip
    add("--voice_strength", type=cli.bounded(float, 0, 1), default=0.9, metavar="V", help="share of the voice in "
        "whitened latents, the rest is the seed's noise (default: %(default)s)")  # fmt: skip
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
    if problem := without_effect(args, given):
        parser.error(problem)
    return args


def without_effect(args: argparse.Namespace, given: set[str]) -> str | None:
    """What is wrong if an option that was `given` would be ignored beside the others."""
    for name in DECIDED_BY_PICTURE if args.replay else ():
        if name in given:
            return f"--{name} is decided by the picture that --replay makes again: leave it out"
    for name in ("subject_idx", "x_T", "voice_strength") if not (args.init_latents or args.standby) else ():
        if name in given:
            return f"--{name} is about latents: name a file with --init_latents, or leave it out"
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
    from ldm.pictures import read_latents, save_grid
    from ldm.preview import Preview
    from ldm.spec import read_chunks

    device = choose_device(args.device)
    replayed, made_from = read_chunks(args.replay) if args.replay else (None, None)
    height, width = (replayed.height, replayed.width) if replayed else (args.H, args.W)
    latents = None
    if args.init_latents:
        latents = read_latents(args.init_latents, (config.LATENT_CHANNELS, height // 8, width // 8))
    specs = [replayed] if replayed else plan(args, latents, device)
    check_subjects(specs, latents, args.init_latents)
    inputs = Inputs(*model_files(args), latents, specs)
    if made_from:
        made_from.check(inputs.provenance(specs[0]))

    make_writable(args.outdir / "samples")
    chosen = inputs.latents_sha256(*{spec.subject for spec in specs})
    journal = Journal(args.outdir, specs, f"{inputs.weights} {chosen}")
    if journal.finished:
        print(f"going on: {len(journal.finished)} of {len(specs)} pictures are there already")
    painter = painter_of(inputs.weights, inputs.yaml, specs[0].precision, device)
    pictures = list(journal.finished.values())
    text_of = None if args.no_metadata else inputs.text_of
    preview = Preview(args.outdir / "preview.png", args.preview_every) if args.preview_every else None
    samples = args.outdir / "samples"
    for path in run_job(specs, painter, inputs.start_noise, text_of, journal, samples, args.batch_size, preview):
        tqdm.write(f"picture: {path}", file=sys.stdout)  # above the progress bar
        sys.stdout.flush()
        pictures.append(path)
    files = [*pictures, *([preview.path] if preview and preview.path.is_file() else [])]
    if len(pictures) > 1 and not args.skip_grid:
        files.append(save_grid(pictures, args.outdir))
    if len(files) > 1:
        print("written:", *files)
    return pictures


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


def plan(args: argparse.Namespace, latents: "Tensor | None", device: "torch.device") -> "list[PictureSpec]":
    """The pictures that a command line asks for: for each prompt each subject in each variation.

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
    rows: Sequence[int | None] = [None]
    if latents is not None:
        rows = range(len(latents)) if args.subject_idx is None else args.subject_idx
    precision = choose_precision({"full": "fp32"}.get(args.precision, args.precision), device)
    return [
        PictureSpec(
            prompt, args.negative_prompt, args.seed + variation, row, args.sampler, args.ddim_steps, args.scale,
            args.ddim_eta, tuple(args.guidance_interval), args.H, args.W, args.x_T, args.voice_strength, precision,
        )
        for prompt in prompts
        for row in rows
        for variation in range(args.n_iter * args.n_samples)
    ]  # fmt: skip


def check_subjects(specs: "Sequence[PictureSpec]", latents: "Tensor | None", path: Path | None) -> None:
    """Raises ValueError if a spec starts from latents that are not there."""
    for row in {spec.subject for spec in specs} - {None}:
        if latents is None:
            raise ValueError("this picture was made from latents: give the same with --init_latents")
        if row >= len(latents):
            held = "latents 0 only" if len(latents) == 1 else f"latents 0 to {len(latents) - 1}"
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
    """What pictures are made from beside their specs: a model, latents [N, C, h, w], a calibration."""

    def __init__(
        self, weights: Path, yaml: Path | None, latents: "Tensor | None", specs: "Sequence[PictureSpec]"
    ) -> None:
        """Decide, and say, what latents are made into.

        Raises:
            ValueError: x_T is to be whitened, and no calibration here is the one that the latents were made with.
        """
        self.weights, self.yaml, self.latents = weights, yaml, latents
        self.whitening = self._calibration_sha256 = None
        self._model_sha256 = model_sha256(weights)
        if latents is not None and specs[0].x_T != "raw":
            self._choose_whitening(latents[sorted({spec.subject for spec in specs})], specs[0].x_T)

    def _choose_whitening(self, latents: "Tensor", x_T: str) -> None:
        from audio.whitening import WHITENING_NAME, Whitening, is_gaussian

        voices = latents.numpy()
        if x_T == "auto":
            voices = voices[~is_gaussian(voices)]
            if not len(voices):
                return
        paths = [folder / WHITENING_NAME for folder in config.calibration_dirs()]
        fitting = []
        for path in paths:
            whitening = Whitening.load(path) if path.is_file() else None
            if whitening and voices[0].size == whitening.mean_db.size and whitening.fits(voices).all():
                fitting.append((whitening.misfit(voices), path, whitening))
        if fitting:
            _, path, self.whitening = min(fitting, key=lambda candidate: candidate[0])
            self._calibration_sha256 = sha256_of(path)
            builtin = path.parent == config.BUILTIN_CALIBRATION_DIR
            whose = "the built-in" if builtin else "your"
            print(f"x_T: the voice's latents, whitened by {whose} calibration (--x_T raw leaves them as they are)")
            return
        problem = "no calibration here made these latents, so they cannot be whitened"
        remedy = "make them again with process_live_audio.py, or run phase 1"
        if x_T == "whitened":
            raise ValueError(f"{problem}: {remedy}")
        print(f"warning: {problem}, and raw ones make flat pictures; {remedy}", file=sys.stderr)

    def start_noise(self, specs: "Sequence[PictureSpec]") -> "Tensor":
        """x_T [B, C, h, w] float32: of the seeds' Gaussian noise, of latents, or of both."""
        import torch

        from audio.whitening import is_gaussian, mix
        from ldm.models.diffusion.sampling import seeded_noise

        shape = (config.LATENT_CHANNELS, specs[0].height // 8, specs[0].width // 8)
        noise = seeded_noise([spec.seed for spec in specs], shape)
        if self.latents is None:
            return noise
        rows = self.latents[[spec.subject for spec in specs]]
        if self.whitening is None:
            return rows
        voices = mix(self.whitening.voice_noise(rows.numpy()), noise.numpy(), specs[0].voice_strength)
        as_they_are = torch.from_numpy(is_gaussian(rows.numpy())) & (specs[0].x_T == "auto")
        return torch.where(as_they_are[:, None, None, None], rows, torch.from_numpy(voices))

    def latents_sha256(self, *rows: int | None) -> str | None:
        """Of the numbers in these rows: the same wherever the file lies, and whatever else is in it."""
        if self.latents is None:
            return None
        return hashlib.sha256(self.latents[sorted(rows)].numpy().tobytes()).hexdigest()

    def provenance(self, spec: "PictureSpec") -> "Provenance":
        from ldm.spec import Provenance

        return Provenance(
            model=self.weights.parent.name if self.weights.is_file() else self.weights.name,
            model_sha256=self._model_sha256.result(),
            latents_sha256=self.latents_sha256(spec.subject),
            calibration_sha256=self._calibration_sha256,
            recipe=config.RECIPE,
            version=cli.VERSION,
        )

    def text_of(self, spec: "PictureSpec") -> "PngInfo":
        from ldm.spec import text_chunks

        return text_chunks(spec, self.provenance(spec))


if __name__ == "__main__":
    cli.run(main)
