"""The command line of txt2img.py: its options, and which of them forbid or ignore each other."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cli
import config
import standby

# what a replayed picture says of itself, so that no option may say otherwise
DECIDED_BY_PICTURE = (
    "negative_prompt", "H", "W", "subject_idx", "weights", "x_T", "voice_strength", "layout_strength", "seed",
    "n_samples", "n_iter", "ddim_steps", "sampler", "ddim_eta", "scale", "guidance_interval",
    "guidance_rescale", "precision",
)  # fmt: skip
# what an option of a request in standby replaces of what was given at the start
REPLACED_BY = (
    (("init_latents", "mix", "walk"), ("init_latents", "mix", "walk", "weights", "subject_idx")),
    (("model", "ckpt"), ("model", "ckpt", "config")),
)
MADE_BY = {config.LATENT_TENSOR_PT: "prep_ldm.py", config.LIVE_LATENT_PT: "process_live_audio.py"}


def parse_options(description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """What a command line asks for; `description` heads the help.

    Raises:
        SystemExit: it is wrong, also where one option forbids another, or would have no effect beside it.
    """
    parser = build_parser(description)
    return _checked(parser, parser.parse_args(argv), given(parser, argv))


def parse_request(words: Sequence[str], held: argparse.Namespace) -> argparse.Namespace:
    """What a request in standby asks for: its `words`, and of the options that are `held` those it does not replace.

    Raises:
        SystemExit: as of `parse_options`; but an option that was given at the start may have no effect.
    """
    parser = build_parser(None)
    asked = given(parser, words)
    replaced = {name for names, others in REPLACED_BY if asked & {*names} for name in others}
    defaults = vars(parser.parse_args([]))
    kept = {name: defaults[name] if name in replaced else value for name, value in vars(held).items()}
    return _checked(parser, parser.parse_args(words, argparse.Namespace(**kept)), asked)


def given(parser: cli.CommandParser, words: Sequence[str] | None) -> set[str]:
    """Names of the options that `words` holds: no default takes the place of what a namespace has already."""
    unset: list[object] = []  # a list, for options that are collected in one
    blank = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([])), unset))
    return {name for name, value in vars(parser.parse_args(words, blank)).items() if value is not unset}


def _checked(parser: cli.CommandParser, args: argparse.Namespace, given: set[str]) -> argparse.Namespace:
    if args.ddim_eta and args.sampler != "ddim":
        if "ddim_eta" in given:
            parser.error(f"--ddim_eta is for DDIM's steps, not for {args.sampler}'s: add --sampler ddim")
        args.ddim_eta = 0.0
    if args.model and args.ckpt:
        parser.error("--model names a folder in models/, --ckpt a file: give one of them")
    if args.standby and (args.replay or args.from_file):
        parser.error("--standby waits for requests, and takes --replay or --from_file in them: leave it out here")
    if args.guidance_interval[0] > args.guidance_interval[1]:
        parser.error("--guidance_interval: LO must not be above HI")
    if problem := problem_of_size(args) or problem_of_voices(args) or without_effect(args, given):
        parser.error(problem)
    return args


def is_another_model(args: argparse.Namespace) -> bool:
    return bool(args.ckpt) or args.model not in (None, config.BUILTIN_MODEL_WEIGHTS.parent.name)


def guidance_rescale_of(args: argparse.Namespace) -> float:
    if args.guidance_rescale is not None:
        return args.guidance_rescale
    return 0.0 if is_another_model(args) else config.BUILTIN_RESCALE


def problem_of_size(args: argparse.Namespace) -> str:
    """What is wrong with --H and --W, or ""; what another model can paint is known once it is loaded."""
    multiple, whose = (
        (8, "models need") if is_another_model(args) else (config.BUILTIN_MULTIPLE, "the built-in model needs")
    )
    for name in ("H", "W") if not args.replay else ():
        if getattr(args, name) % multiple:
            return f"--{name} {getattr(args, name)}: {whose} multiples of {multiple}, for instance 256"
    return ""


def without_effect(args: argparse.Namespace, given: set[str]) -> str | None:
    """What is wrong if an option that was `given` would be ignored beside the others."""
    for name in DECIDED_BY_PICTURE if args.replay else ():
        if name in given:
            return f"--{name} is decided by the picture that --replay makes again: leave it out"
    about_latents = ("subject_idx", "x_T", "voice_strength", "layout_strength")
    for name in about_latents if not (latent_files(args) or args.standby) else ():
        if name in given:
            return f"--{name} is about latents: name a file with --init_latents, or leave it out"
    if "frames" in given and not (args.walk or args.standby):
        return "--frames is for --walk: leave it out"
    if "weights" in given and not (args.mix or args.standby):
        return "--weights is for the voices of --mix: leave it out"
    for name in ("voice_strength", "layout_strength") if args.x_T == "raw" else ():
        if name in given:
            return f"--{name} is for whitened latents, and --x_T raw leaves them as they are: leave one of them out"
    for name in ("negative_prompt", "guidance_interval", "guidance_rescale") if args.scale == 1 else ():
        if name in given:
            return f"--{name} is about guidance, and --scale 1 is none: leave one of them out"
    if args.config and not (args.ckpt or args.model):
        return "--config is the yaml of another model: name its weights with --ckpt or --model"
    if "preview_every" in given and not args.replay and args.preview_every > args.ddim_steps:
        return f"--preview_every {args.preview_every} is never reached in {args.ddim_steps} steps"
    return None


def problem_of_voices(args: argparse.Namespace) -> str:
    """What is wrong with the options of --mix and --walk, or ""."""
    option, files = ("--mix", args.mix) if args.mix else ("--walk", args.walk)
    if files and len(files) < 2:
        return f"{option} needs two files of latents at least, one came"
    if args.mix and args.weights and (len(args.weights) != len(args.mix) or not sum(args.weights)):
        return f"--weights needs {len(args.mix)} numbers, one for each file of --mix, and one of them above 0"
    if files and (args.subject_idx is None or len(args.subject_idx) not in (1, len(files))):
        return f"--subject_idx: one number for all files of {option}, or {len(files)}, one for each, are needed"
    return ""


def latent_files(args: argparse.Namespace) -> list[Path]:
    return args.mix or args.walk or ([args.init_latents] if args.init_latents else [])


# --- the options ------------------------------------------------------------------------------------------------------


def build_parser(description: str | None) -> cli.CommandParser:
    parser = cli.CommandParser(description)
    for add_options in (_add_what, _add_start_noise, _add_sampling, add_model, _add_output):
        add_options(parser)
    return parser


def _add_what(parser: cli.CommandParser) -> None:
    what = parser.add_argument_group("what")
    add, prompts = what.add_argument, what.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", type=cli.text, default="a psychedelic visualization of a voice", metavar="TEXT",
        help="what the picture shows; \"\" is abstract art with the built-in model (default: %(default)s)")  # fmt: skip
    prompts.add_argument("--from_file", type=cli.existing_file, metavar="F", help="prompts, one a line (# begins "
        "a comment): one job, which goes on where it stopped if it was interrupted")  # fmt: skip
    prompts.add_argument("--replay", type=cli.existing_file, metavar="PNG", help="make this picture again, from what "
        "it says of itself; needs --init_latents if it was made from them")  # fmt: skip
    add("--negative_prompt", type=cli.text, default="", metavar="TEXT", help="what to keep away from")
    multiple = f"a multiple of {config.BUILTIN_MULTIPLE} with the built-in model (default: %(default)s)"
    add("--H", type=cli.bounded(int, 64, 2048), default=256, metavar="N", help=f"height in pixels, {multiple}")
    add("--W", type=cli.bounded(int, 64, 2048), default=256, metavar="N", help=f"width in pixels, {multiple}")


def _add_start_noise(parser: cli.CommandParser) -> None:
    start_noise = parser.add_argument_group("start noise")
    add, starts = start_noise.add_argument, start_noise.add_mutually_exclusive_group()
    starts.add_argument("--init_latents", type=latents_file, metavar="F", help="latents [N, 4, H/8, W/8], a .pt "
        "file (default: Gaussian noise)")  # fmt: skip
    starts.add_argument("--mix", type=latents_file, nargs="+", metavar="F", help="one picture of several voices, "
        "each a file of latents")  # fmt: skip
    starts.add_argument("--walk", type=latents_file, nargs="+", metavar="F", help="pictures from one voice to the "
        "next, each a file of latents, and an animation of them")  # fmt: skip
    add("--weights", type=cli.bounded(float, 0, 1e6), nargs="+", metavar="V", help="weight of each voice in --mix "
        "(default: all the same)")  # fmt: skip
    add("--frames", type=cli.bounded(int, 2, 10_000), default=24, metavar="N", help="number of pictures in --walk "
        "(default: %(default)s)")  # fmt: skip
    add("--subject_idx", type=subjects, default="0", metavar="I", help="which of the N latents: 7, or 0,3,5-9, or all; "
        "for --mix and --walk one for all files, or one for each (default: 0)")  # fmt: skip
    add_whitening(add)
    add("--seed", type=cli.bounded(int, 0, 2**62), default=42, metavar="K", help="seed of all noise (default: "
        "%(default)s)")  # fmt: skip
    add("--n_samples", type=cli.bounded(int, 1, 10_000), default=1, metavar="N", help="variations, with seeds that "
        "count up from K (default: 1)")  # fmt: skip
    add("--n_iter", type=cli.bounded(int, 1, 10_000), default=1, metavar="N", help="repeat --n_samples this many "
        "times, with further seeds (default: 1)")  # fmt: skip


def add_whitening(add: Callable[..., object]) -> None:
    """How latents become x_T: also for the live workflow."""
    add("--x_T", choices=["auto", "whitened", "raw"], default="auto", help="whitened: latents become noise that the "
        "voice decides; raw: they are sampled from as they are; auto: whitened, unless they are like noise already "
        "(default: auto)")  # fmt: skip
    add("--voice_strength", type=cli.bounded(float, 0, 1), default=0.9, metavar="V", help="share of the voice in "
        "whitened latents, the rest is the seed's noise (default: %(default)s)")  # fmt: skip
    add("--layout_strength", type=cli.bounded(float, 0, 1), default=0.0, metavar="V", help="share of the sound's "
        "shape, time across and pitch upwards, in the lowest frequencies of whitened latents (default: 0)")  # fmt: skip


def _add_sampling(parser: cli.CommandParser) -> None:
    sampling = parser.add_argument_group("sampling")
    add, either = sampling.add_argument, sampling.add_mutually_exclusive_group().add_argument
    add("--ddim_steps", type=cli.bounded(int, 1, 1000), default=20, metavar="N", help="sampling steps, whatever the "
        "sampler (default: %(default)s)")  # fmt: skip
    either("--sampler", choices=["ddim", "plms", "dpmpp"], default="dpmpp", help="DDIM, PLMS or DPM-Solver++(2M) "
        "(default: %(default)s)")  # fmt: skip
    either("--plms", action="store_const", const="plms", dest="sampler", help="the same as --sampler plms")
    add("--ddim_eta", type=cli.bounded(float, 0, 1), default=0.0, metavar="E", help="noise that DDIM adds at each step "
        "(default: 0)")  # fmt: skip
    add("--scale", type=cli.bounded(float, 0, 100), default=config.GUIDANCE_SCALE, metavar="S", help="guidance to the "
        "prompt; 1 means none, and is twice as fast (default: %(default)s)")  # fmt: skip
    add("--guidance_interval", type=cli.bounded(float, 0, 1), nargs=2, default=(0.0, 1.0), metavar=("LO", "HI"),
        help="guide only at these parts of the noise schedule, 1 is pure noise (default: 0 1)")  # fmt: skip
    add("--guidance_rescale", type=cli.bounded(float, 0, 1), metavar="PHI", help="how much of the contrast that "
        f"guidance adds is taken back (default: {config.BUILTIN_RESCALE}, for other models than the built-in one 0)"
        )  # fmt: skip
    add("--batch_size", type=cli.bounded(int, 1, 256), default=4, metavar="N", help="pictures sampled together; more "
        "need more memory (default: %(default)s)")  # fmt: skip


def add_model(parser: cli.CommandParser) -> None:
    """Which model paints, and how: also for the live workflow."""
    add = parser.add_argument_group("model").add_argument
    add("--model", type=model_name, metavar="NAME", help="a folder in models/ (default: the built-in chladni)")
    add("--ckpt", type=cli.existing_path, metavar="F", help="weights, or a folder as diffusers saves it, in place of "
        "--model")  # fmt: skip
    add("--config", type=cli.existing_file, metavar="F", help="yaml of the model (default: the one beside the weights)")
    add("--precision", choices=["auto", "full", "bf16", "fp16"], default="auto", help="auto: bf16 where the processor "
        "has it, else full, which is float32 (default: auto)")  # fmt: skip
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="auto: a GPU if there is one "
        "(default: auto)")  # fmt: skip


def _add_output(parser: cli.CommandParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add(
        "--outdir",
        type=cli.new_folder,
        default=config.OUTPUT_DIR,
        metavar="DIR",
        help="where pictures go (default: %(default)s)",
    )
    add("--preview_every", type=cli.bounded(int, 1, 1000), metavar="K", help="every K steps write what the pictures "
        "become, small and in rough colours, to DIR/preview.png")  # fmt: skip
    add("--skip_grid", action="store_true", help="no overview of several pictures")
    add("--no_metadata", action="store_true", help="leave out of the pictures how they were made")
    add("--standby", action="store_true", help=standby.HELP)


def model_name(text: str) -> str:
    """An argparse type: the name of a folder in models/."""
    if Path(text).name != text:
        raise argparse.ArgumentTypeError(f"{text} is no folder of {config.MODELS_DIR}; a path goes to --ckpt")
    if not (config.MODELS_DIR / text).is_dir():
        from ldm.checkpoint import find_model  # only to tell which there are: importing torch takes a second

        try:
            find_model(config.MODELS_DIR / text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return text


def latents_file(text: str) -> Path:
    """An argparse type: a file that is there; of one that a script makes, which script."""
    try:
        return cli.existing_file(text)
    except argparse.ArgumentTypeError as error:
        if (script := MADE_BY.get(Path(text))) and not Path(text).exists():
            raise argparse.ArgumentTypeError(f"{error}: run {script} first") from None
        raise


def subjects(text: str) -> list[int] | None:
    """An argparse type: rows of latents from "7", "0,3,5-9" or "all" (None)."""
    if text == "all":
        return None
    chosen: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 7, a list such as 0,3,5-9, or all")
        chosen += range(int(match[1]), int(match[2] or match[1]) + 1)
    return chosen
