"""The command line of txt2img.py: its options, and which of them exclude or ignore each other.

Defaults, ranges and choices of an image's settings come from `ImageSpec`. The live workflow has the same options of an
image: `add_image`, `add_voice`, `add_sampling`, `add_model` and `add_output` add them to either parser.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cli
import config
import standby
from painting.image_spec import FEW_STEPS, FIELDS, OF_FEW, SAMPLERS, STOCHASTIC, ImageSpec, defaults_beside
from painting.pipelines.files import PipelineFiles, few_steps, find_pipeline, find_pipeline_in

Add = Callable[..., object]  # add_argument of a parser, a group or an exclusive group


class Size(NamedTuple):
    """Size of an image in pixels, written as 512x256."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Lora(NamedTuple):
    """File of a LoRA and its weight, written as F:0.8."""

    path: Path
    weight: float

    def __str__(self) -> str:
        return f"{self.path}:{self.weight:g}"


# an option of a standby request (first) cancels these start-up options (second)
REPLACED_BY = (
    (("init_latents", "mix", "walk"), ("init_latents", "mix", "walk", "weights", "subject_idx")),
    (("model", "ckpt"), ("model", "ckpt", "config", "hub", "lora", "vae")),
)
DECIDED_BY_IMAGE = (
    "negative_prompt", "reading", "size", "H", "W", "subject_idx", "weights", "x_T", "voice_strength",
    "layout_strength", "seed", "n_samples", "n_iter", "steps", "sampler", "eta", "scale", "guidance_interval",
    "guidance_rescale", "precision", "batch_size",
)  # fmt: skip
# options for which a pipeline of diffusers has defaults of its own, by the names of their fields in `ImageSpec`
SETTINGS = {"steps": "steps", "scale": "scale", "sampler": "sampler", "H": "height", "W": "width"}
ABOUT_PIPELINES = ("lora", "vae", "offload")
MOST_STEPS = 50  # of most samplers; more of them hardly change an image
ABOUT_LATENTS = ("subject_idx", "x_T", "voice_strength", "layout_strength")
ABOUT_WHITENING = ("voice_strength", "layout_strength")
ABOUT_FILMS = ("fps", "smooth", "pulse", "loop_film", "draft", "film_format")
DRAFT_FPS = 8
BUILTIN_DRAFT_STEPS, DRAFT_STEPS = 1, 2  # the prior of the built-in model settles what its images show
NOT_IN_FILMS = (
    "mix", "walk", "replay", "subject_idx", "n_samples", "n_iter", "save_x_T", "skip_grid", "preview_every",
    "preview_pause",
)  # fmt: skip
ABOUT_GUIDANCE = ("negative_prompt", "guidance_interval", "guidance_rescale")


def parse_options(description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; `description` heads the help.

    Raises:
        SystemExit: the command line is wrong, or one option excludes another or would have no effect beside it.
    """
    parser = build_parser(description)
    args, explicit = parser.parse_args(argv), explicit_options(parser, argv)
    if args.hub:
        if beside := sorted(explicit & {"model", "ckpt", "config"}):
            parser.error(f"--hub names the model already: leave out --{beside[0]}")
        from painting.pipelines.hub import fetch

        args.model = fetch(args.hub)
    return _checked(parser, args, explicit)


def parse_request(words: Sequence[str], start: argparse.Namespace) -> argparse.Namespace:
    """Parse one standby request: the start-up options, overridden by the request's own.

    Raises:
        SystemExit: as in `parse_options`; but a start-up option may have no effect.
    """
    parser = build_parser(None)
    explicit = explicit_options(parser, words)
    if "hub" in explicit:
        parser.error("--hub downloads a model: give it at the start, not in a request")
    replaced = {name for names, others in REPLACED_BY if explicit & {*names} for name in others}
    defaults = vars(parser.parse_args([]))
    # what was not given at the start are defaults, which may be those of another model
    unset = {name for name in (*SETTINGS, *OF_FEW) if name not in start.given} | replaced
    kept = {name: defaults[name] if name in unset else value for name, value in vars(start).items()}
    return _checked(parser, parser.parse_args(words, argparse.Namespace(**kept)), explicit)


def explicit_options(parser: cli.CommandParser, words: Sequence[str] | None) -> set[str]:
    """Return the names of the options that are given explicitly on the command line."""
    # argparse writes no default over an attribute that a namespace has; a list, because some options append to theirs
    unset: list[object] = []
    blank = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([])), unset))
    return {name for name, value in vars(parser.parse_args(words, blank)).items() if value is not unset}


def _checked(parser: cli.CommandParser, args: argparse.Namespace, explicit: set[str]) -> argparse.Namespace:
    """Return `args`, or leave with an error if options do not go together.

    An eta that was given at the start of standby is set to 0 for a request whose sampler has none.
    """
    args.given = frozenset(explicit | getattr(args, "given", frozenset()) | ({"H", "W"} if args.size else set()))
    args.pipeline = None if args.replay and not (args.model or args.ckpt) else pipeline_of(args)
    if problem := _model_problem(args, explicit):
        parser.error(problem)
    if args.eta and args.sampler not in STOCHASTIC.split(" and "):
        if "eta" in explicit:
            parser.error(f"--eta has no effect with the sampler {args.sampler}: add --sampler {STOCHASTIC}")
        args.eta = 0.0
    if args.standby and (args.replay or args.prompts):
        parser.error("--standby waits for requests; give --replay or --prompts in a request, not at the start")
    if args.guidance_interval[0] > args.guidance_interval[1]:
        parser.error("--guidance_interval: LO must not be above HI")
    if args.save_x_T and args.save_x_T.resolve() in [path.resolve() for path in latent_files(args)]:
        parser.error(f"--save_x_T {args.save_x_T} is the file of the latents: name another")
    problem = _size_problem(args, explicit) or _voices_problem(args) or _film_problem(args, explicit)
    if problem := problem or _ignored_option(args, explicit):
        parser.error(problem)
    args.size = None  # --H and --W hold it
    return args


def pipeline_of(args: argparse.Namespace) -> PipelineFiles | None:
    """Return the pipeline of diffusers that is asked for; None if it is a model for `ldm/`.

    Raises:
        ValueError: a pipeline that is unknown, incomplete, or would run code.
        OSError: a file cannot be read.
    """
    if args.config:
        return None
    if args.model:
        return find_pipeline_in(config.MODELS_DIR / args.model)
    return find_pipeline(args.ckpt) if args.ckpt else None


def is_another_model(args: argparse.Namespace) -> bool:
    """Tell whether a model other than the built-in one is asked for; its file may be named, too."""
    builtin = config.BUILTIN_MODEL_WEIGHTS
    weights = args.ckpt or config.MODELS_DIR / (args.model or builtin.parent.name) / builtin.name
    return not config.is_builtin_model(weights)


def guidance_rescale_of(args: argparse.Namespace) -> float:
    """Return the guidance rescale φ: as given, else the default of the model."""
    if args.guidance_rescale is not None:
        return args.guidance_rescale
    return ImageSpec.guidance_rescale if is_another_model(args) else config.BUILTIN_RESCALE


def useful_steps(args: argparse.Namespace) -> tuple[int, int]:
    """Return the least and the most steps that are of use with the model and its sampler."""
    if args.pipeline is None:
        return 1, FEW_STEPS if args.sampler == "few" else MOST_STEPS
    own = {**args.pipeline.defaults, **_defaults_of_loras(args.lora, args.pipeline)}["steps"]
    return args.pipeline.family.least_steps, own if own <= FEW_STEPS else MOST_STEPS


def latent_files(args: argparse.Namespace) -> list[Path]:
    """Return the files of latents that are named."""
    return args.mix or args.walk or ([args.init_latents] if args.init_latents else [])


# --- what does not go together ---------------------------------------------------------------------------------------


def _model_problem(args: argparse.Namespace, explicit: set[str]) -> str:
    """Set what was not given to the model's own defaults; say which options the model does not have, or return ""."""
    if args.model and args.ckpt:
        return "--model names a folder in models/, --ckpt a file: give one of them"
    pipeline: PipelineFiles | None = args.pipeline
    if pipeline is None:
        if args.sampler not in SAMPLERS:
            return f"--sampler {args.sampler}: this model has {', '.join(SAMPLERS)}"
        for name in ABOUT_PIPELINES:
            if getattr(args, name):
                return f"--{name} is for models of the library diffusers, which have a model_index.json: leave it out"
        if not is_another_model(args):
            _set_builtin_sampling(args)
        return ""
    family, own = pipeline.family, pipeline.defaults["sampler"]
    defaults = {**pipeline.defaults, **_defaults_of_loras(args.lora, pipeline)}
    for name, field in SETTINGS.items():
        if name not in args.given:
            setattr(args, name, defaults[field])
    lacking = {
        "eta": "eta" not in family.takes,
        "guidance_rescale": "guidance_rescale" not in family.takes,
        "guidance_interval": True,
        "negative_prompt": not family.negative,
        "scale": not family.guidance,
        "reading": True,
    }
    for name, lacks in lacking.items():
        if lacks and name in explicit:
            return f"--{name}: {family.text} has no such setting; leave it out"
    samplers = tuple(dict.fromkeys((own, *family.samplers)))
    if args.sampler not in samplers:
        return f"--sampler {args.sampler}: {family.text} has {', '.join(samplers)}"
    if args.steps < family.least_steps:
        return f"--steps {args.steps}: {family.text} needs {family.least_steps} or more"
    return ""


def _set_builtin_sampling(args: argparse.Namespace) -> None:
    """Set what was not given of sampler, steps and guidance interval to the defaults of the built-in model."""
    given = {name: getattr(args, name) for name in OF_FEW if name in args.given}
    own = defaults_beside(given, config.BUILTIN_SAMPLING)
    for name in OF_FEW:
        if name not in given:
            setattr(args, name, own.get(name, FIELDS[name].default))


def _defaults_of_loras(loras: list[Lora], pipeline: PipelineFiles) -> dict[str, Any]:
    """Return steps, scale and sampler of a LoRA that was made for few steps, by its name; {} if there is none."""
    few = next((few for lora in loras if (few := few_steps(lora.path.stem))), None)
    if few is None:
        return {}
    made: dict[str, Any] = {"steps": max(few[0], pipeline.family.least_steps), "scale": pipeline.family.unguided}
    return made | ({"sampler": few[1]} if few[1] in pipeline.family.samplers else {})


def unguided(args: argparse.Namespace) -> float:
    """Return the scale that means no guidance."""
    return args.pipeline.family.unguided if args.pipeline else 1.0


def _size_problem(args: argparse.Namespace, explicit: set[str]) -> str:
    """Let --size set --H and --W; say what is wrong with them, or return ""."""
    if args.replay:
        return ""
    if args.size:
        if explicit & {"H", "W"}:
            return "--size and --H or --W say the same: give --size alone, or --H and --W"
        args.W, args.H = args.size
    if args.pipeline:
        factor = args.pipeline.factor
        problem = args.pipeline.family.size_problem(factor, args.H, args.W) if factor else ""
        return f"--size: {problem}" if problem else ""
    for name in ("H", "W") if is_another_model(args) else ():  # the built-in model has any size
        if (side := getattr(args, name)) % 8:
            given = f"--size {args.size}" if args.size else f"--{name} {side}"
            return f"{given}: models need multiples of 8, for instance 256"
    return ""


def _voices_problem(args: argparse.Namespace) -> str:
    """Say what is wrong with the options of --mix and --walk, or return ""."""
    option, files = ("--mix", args.mix) if args.mix else ("--walk", args.walk)
    if files and len(files) < 2:
        return f"{option} needs two files of latents or more, one came"
    if args.mix and args.weights and (len(args.weights) != len(args.mix) or not sum(args.weights)):
        return f"--weights needs {len(args.mix)} numbers, one for each file of --mix, and one of them above 0"
    if files and (args.subject_idx is None or len(args.subject_idx) not in (1, len(files))):
        return f"--subject_idx: one number for all files of {option}, or {len(files)}, one for each, are needed"
    return ""


def _film_problem(args: argparse.Namespace, explicit: set[str]) -> str:
    """Set what was not given to the defaults of a draft; say what is wrong with the options of films, or return ""."""
    if not args.film:
        return ""
    if args.standby:
        return "--standby waits for requests; give --film in a request, not at the start"
    if not args.init_latents:
        return "--film needs the latents along the recording: name their file with --init_latents"
    for name in NOT_IN_FILMS:
        if name in explicit:
            return f"--{name} is not for films: leave it out"
    if args.draft and "fps" not in args.given:
        args.fps = DRAFT_FPS
    if args.draft and "steps" not in args.given:
        wanted = DRAFT_STEPS if is_another_model(args) else BUILTIN_DRAFT_STEPS
        least = args.pipeline.family.least_steps if args.pipeline else 1
        args.steps = min(args.steps, max(wanted, least))  # a model for few steps has fewer by default
    return ""


def _ignored_option(args: argparse.Namespace, explicit: set[str]) -> str:
    """Name the first explicit option that would be ignored, or return ""."""
    # in standby the option may be meant for later requests
    no_latents = not latent_files(args) and not args.standby
    rules: tuple[tuple[Any, tuple[str, ...], str], ...] = (
        (args.replay, DECIDED_BY_IMAGE, "is decided by the image that --replay makes again: leave it out"),
        (no_latents, ABOUT_LATENTS, "has no effect without latents: name a file with --init_latents, or leave it out"),
        (not args.walk and not args.standby, ("frames",), "is for --walk: leave it out"),
        (not args.film and not args.standby, ABOUT_FILMS, "is for --film: leave it out"),
        (not args.mix and not args.standby, ("weights",), "is for the voices of --mix: leave it out"),
        (args.x_T == "raw", ABOUT_WHITENING, "has no effect with --x_T raw, which keeps latents as they are: leave one "
            "of them out"),
        (args.scale == unguided(args), ABOUT_GUIDANCE, f"has no effect with --scale {args.scale:g} (no guidance): "
            "leave one of them out"),
        (not args.ckpt and not args.model, ("config",), "is the yaml of another model: name its weights with --ckpt or "
            "--model"),
        (args.preview_every and not args.replay and args.preview_every > args.steps, ("preview_every",),
            f"{args.preview_every} is never reached in {args.steps} steps"),
        (not args.preview_every and not args.standby, ("preview_pause",), "is for --preview_every: leave it out"),
        (args.dask_scheduler, ("preview_every",), "shows images that grow on this machine: leave it out with "
            "--dask_scheduler"),
        (args.standby, ("dask_scheduler",), "does not go with --standby, which loads the model here: leave one out"),
    )  # fmt: skip
    for applies, names, problem in rules:
        for name in names if applies else ():
            if name in explicit:
                return f"--{name} {problem}"
    return ""


# --- the options ------------------------------------------------------------------------------------------------------


def build_parser(description: str | None) -> cli.CommandParser:
    """Build the parser of txt2img.py."""
    parser = cli.CommandParser(description)
    add_image(parser).add_argument("--replay", type=cli.existing_file, metavar="PNG", help="make this image again, by "
        "the text in its file; needs --init_latents if it was made from latents")  # fmt: skip
    _add_start_noise(parser)
    _add_film(parser)
    add_setting(add_sampling(parser), "batch_size", default=4, help="images sampled together; more need more memory "
        "(default: %(default)s)")  # fmt: skip
    add_model(parser)
    add = add_output(parser)
    add("--skip_grid", action="store_true", help="no overview of several images")
    add("--standby", action="store_true", help=standby.HELP)
    add("--dask_scheduler", metavar="ADDR", help="paint batches of images, and films, on the workers of a Dask "
        "cluster, for instance tcp://10.0.0.1:8786 (see docs/images.md)")  # fmt: skip
    return parser


def add_setting(add: Add, name: str, flag: str | None = None, **changes: Any) -> None:
    """Add the option of one field of `ImageSpec`, with its default, range or choices, and help text.

    Args:
        flag: the option; None: two hyphens and the name of the field.
        changes: arguments of `add_argument` that replace those of the field.
    """
    field = FIELDS[name]
    allowed, default = field.metadata["allowed"], field.default
    how: dict[str, Any] = {"default": default, "metavar": field.metadata["metavar"]}
    how["help"] = f"{field.metadata['help']} (default: {'none' if default == '' else '%(default)s'})"
    if allowed is None:
        how["type"] = cli.text
    elif isinstance(allowed[0], str):
        how["choices"] = list(allowed)
    else:
        kind = int if isinstance(default, int) else float
        how["type"] = cli.bounded(kind, *allowed)
    add(flag or f"--{name}", **{**how, **changes})


def add_alias(add: Add, flag: str, dest: str, like: Callable[[str], Any]) -> None:
    """Add an older name of an option, which the help does not list."""
    add(flag, dest=dest, type=like, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_image(parser: cli.CommandParser) -> Any:
    """Add the options that say what an image shows, and its size.

    Returns the group of those of which only one may be given.
    """
    image = parser.add_argument_group("image")
    add, prompts = image.add_argument, image.add_mutually_exclusive_group()
    add_setting(prompts.add_argument, "prompt", help="what the image shows; \"\" is abstract art with the built-in "
        "model (default: %(default)s)")  # fmt: skip
    prompts.add_argument("--prompts", type=prompts_file, metavar="F", help="a file of prompts, one a line; # begins a "
        "comment")  # fmt: skip
    add_alias(prompts.add_argument, "--from_file", "prompts", prompts_file)
    add_setting(add, "negative_prompt")
    add_setting(add, "reading", default="near", help="words that the built-in model reads: near, those that it was "
        "trained on and those near them; all, every word that it has a vector of (default: %(default)s)")  # fmt: skip
    add_setting(add, "height", "--H", dest="H")
    add_setting(add, "width", "--W", dest="W")
    add("--size", type=size, metavar="N|WxH", help="width and height: 1024 is the same as --W 1024 --H 1024, and "
        "1920x1080 as --W 1920 --H 1080; the built-in model samples a size that it has learnt, and the image is "
        "enlarged with crisp edges")  # fmt: skip
    return prompts


def _add_start_noise(parser: cli.CommandParser) -> None:
    start_noise = parser.add_argument_group("start noise")
    add, starts = start_noise.add_argument, start_noise.add_mutually_exclusive_group()
    starts.add_argument("--init_latents", type=latents_file, metavar="F", help="latents [N, 4, 32, 32] of voices, a "
        ".pt file (default: Gaussian noise)")  # fmt: skip
    starts.add_argument("--mix", type=latents_file, nargs="+", metavar="F", help="one image of several voices, each a "
        "file of latents")  # fmt: skip
    starts.add_argument("--walk", type=latents_file, nargs="+", metavar="F", help="images from one voice to the next, "
        "each a file of latents, and an animation of them")  # fmt: skip
    add("--weights", type=cli.bounded(float, 0, 1e6), nargs="+", metavar="V", help="weight of each voice in --mix "
        "(default: all the same)")  # fmt: skip
    add("--frames", type=cli.bounded(int, 2, 10_000), default=24, metavar="N", help="number of images in --walk "
        "(default: %(default)s)")  # fmt: skip
    add("--subject_idx", type=subjects, default="0", metavar="I", help="rows of the file of latents: 7, or 0,3,5-9, or "
        "all, or names of recordings (ann.wav); for --mix and --walk one for all files, or one for each "
        "(default: 0)")  # fmt: skip
    add_voice(add)
    add("--n_samples", type=cli.bounded(int, 1, 10_000), default=1, metavar="N", help="variations, with seeds that "
        "count up from K (default: 1)")  # fmt: skip
    add("--n_iter", type=cli.bounded(int, 1, 10_000), default=1, metavar="N", help="repeat --n_samples this many "
        "times, with further seeds (default: 1)")  # fmt: skip
    add("--save_x_T", type=cli.new_file(".pt"), metavar="F", help="also write x_T of the images, as the sampler gets "
        "it: --init_latents F --x_T raw makes the same images again")  # fmt: skip


def _add_film(parser: cli.CommandParser) -> None:
    add = parser.add_argument_group("film").add_argument
    add("--film", type=cli.existing_file, metavar="F", help="a film of this recording with its sound; --init_latents "
        "names the latents along it, and a time such as 0:12.5 begins each line of --prompts")  # fmt: skip
    add("--fps", type=cli.bounded(int, 1, 60), default=24, metavar="N", help="frames a second (default: %(default)s)")
    add("--smooth", type=cli.bounded(float, 0, 30), default=1.5, metavar="S", help="seconds around a moment from which "
        "its image is made; with 0 it is that of the window around it (default: %(default)s)")  # fmt: skip
    add("--pulse", type=cli.bounded(float, 0, 1), default=0.0, metavar="V", help="how much nearer the image comes "
        "where the sound is loud (default: %(default)g)")  # fmt: skip
    add("--loop_film", action="store_true", help="let the end of the film pass into its beginning")
    add("--draft", action="store_true", help=f"a quick film without fine detail, with {DRAFT_FPS} frames a second "
        f"and {BUILTIN_DRAFT_STEPS} step ({DRAFT_STEPS} with other models), if these are not given")  # fmt: skip
    add("--film_format", choices=["mp4", "webm"], default="mp4", help="mp4: H.264 and AAC; webm: VP9 and Opus "
        "(default: %(default)s)")  # fmt: skip


def add_voice(add: Add) -> None:
    """Add the options that say how latents become x_T, and the seed of the noise."""
    for name in ("x_T", *ABOUT_WHITENING, "seed"):
        add_setting(add, name)


def add_sampling(parser: cli.CommandParser) -> Add:
    """Add the options of the sampler and of guidance; return what adds another one to this group."""
    sampling = parser.add_argument_group("sampling")
    add, either = sampling.add_argument, sampling.add_mutually_exclusive_group().add_argument
    few = config.BUILTIN_SAMPLING
    add_setting(add, "steps", help=f"sampling steps: more take longer (default: {few['steps']} with the built-in "
        "model, else 20, or the model's own)")  # fmt: skip
    add_alias(add, "--ddim_steps", "steps", cli.bounded(int, *FIELDS["steps"].metadata["allowed"]))
    add_setting(either, "sampler", help=f"{FIELDS['sampler'].metadata['help']} (default: few with the built-in model "
        f"up to {FEW_STEPS} steps, else dpmpp)")  # fmt: skip
    either("--plms", action="store_const", const="plms", dest="sampler", help="the same as --sampler plms")
    add_setting(add, "eta")
    add_alias(add, "--ddim_eta", "eta", cli.bounded(float, *FIELDS["eta"].metadata["allowed"]))
    add_setting(add, "scale")
    low, high = few["guidance_interval"]
    add_setting(add, "guidance_interval", nargs=2, metavar=("LO", "HI"), help="guide only in this part of the noise "
        f"schedule; 1 is pure noise (default: {low} {high} with --sampler few, else 0 1)")  # fmt: skip
    add_setting(add, "guidance_rescale", default=None, help="share of the contrast added by guidance that is taken "
        f"back (default: {config.BUILTIN_RESCALE}; for other models than the built-in one 0)")  # fmt: skip
    return add


def add_model(parser: cli.CommandParser) -> None:
    """Add the options that choose a model, its precision and its device."""
    add = parser.add_argument_group("model").add_argument
    add("--model", type=model_name, metavar="NAME", help="a folder in models/ (default: the built-in chladni)")
    add("--ckpt", type=cli.existing_path, metavar="F", help="weights, or a folder as diffusers saves it, in place of "
        "--model")  # fmt: skip
    add("--hub", type=hub_name, metavar="ORG/NAME", help="download this model of diffusers to models/NAME, once, and "
        "use it")  # fmt: skip
    add("--lora", type=lora_file, nargs="+", default=[], metavar="F[:WEIGHT]", help="files of LoRAs "
        "(.safetensors) for a model of diffusers, each with its weight (default: 1)")  # fmt: skip
    add("--vae", type=cli.existing_path, metavar="F", help="another autoencoder for a model of diffusers, a "
        ".safetensors file or a folder")  # fmt: skip
    add("--offload", choices=["model", "sequential"], help="keep in the memory of the GPU only the part that computes "
        "(model), or only the layer (sequential: least memory, slow)")  # fmt: skip
    add("--config", type=cli.existing_file, metavar="F", help="yaml of the model (default: the one beside the weights)")
    add("--precision", choices=["auto", "full", "bf16", "fp16"], default="auto", help="number format of the weights; "
        "full is float32; auto: bf16 where the processor computes in it, else full (default: auto)")  # fmt: skip
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="auto: a GPU if there is one "
        "(default: auto)")  # fmt: skip


def add_output(parser: cli.CommandParser) -> Add:
    """Add the options that say where images go; return what adds another one to this group."""
    add = parser.add_argument_group("output").add_argument
    add("--outdir", type=cli.new_folder, default=config.OUTPUT_DIR, metavar="DIR", help="where images go (default: "
        "%(default)s)")  # fmt: skip
    add("--preview_every", type=cli.bounded(int, *FIELDS["steps"].metadata["allowed"]), metavar="K", help="before "
        "the first step and every K steps, write how the images grow, small and rough, to DIR/preview.png")  # fmt: skip
    add("--preview_pause", type=cli.bounded(float, 0.0, 3600.0), default=0.0, metavar="S", help="leave out what would "
        "be written less than S seconds after the one before (default: %(default)g)")  # fmt: skip
    add("--no_metadata", action="store_true", help="do not write into image files how they were made")
    add("--verbose", action="store_true", help=cli.VERBOSE)
    return add


# --- types of arguments -----------------------------------------------------------------------------------------------


def model_name(text: str) -> str:
    """Check that an argument is the name of a folder in models/."""
    from painting.pipelines.hub import KNOWN

    if Path(text).name != text:
        raise argparse.ArgumentTypeError(f"{text} is not a folder of {config.MODELS_DIR}; give a path with --ckpt")
    if not (config.MODELS_DIR / text).is_dir() and text in KNOWN:
        raise argparse.ArgumentTypeError(f"models/{text} is not there; --hub {KNOWN[text]} downloads it")
    if not (config.MODELS_DIR / text).is_dir():
        from ldm.checkpoint import find_model  # only for the list of models: importing torch takes a second

        try:
            find_model(config.MODELS_DIR / text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return text


def hub_name(text: str) -> str:
    """Check that an argument is the name of a model on the hub, ORG/NAME."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a model on the hub, such as stabilityai/sd-turbo")
    return text


def lora_file(text: str) -> Lora:
    """Parse a LoRA and its weight from "F" (weight 1) or "F:0.8"."""
    path, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return Lora(cli.existing_file(text), 1.0)
    return Lora(cli.existing_file(path), float(cli.bounded(float, -10, 10)(weight)))


def size(text: str) -> Size:
    """Parse the size of an image in pixels from "512" (a square) or "512x256" (width and height)."""
    match = re.fullmatch(r"(\d{1,6})(?:[x×](\d{1,6}))?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number such as 512, nor width and height as 512x256")
    parse = cli.bounded(int, *FIELDS["width"].metadata["allowed"])
    return Size(int(parse(match[1])), int(parse(match[2] or match[1])))


def prompts_file(text: str) -> list[str]:
    """Read the prompts of a file, one a line, without blank lines and lines that begin with #."""
    path = cli.existing_file(text)
    try:
        content = path.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(f"{path} is not text in UTF-8: save it as that") from None
    except OSError as error:
        raise argparse.ArgumentTypeError(cli.describe(error)) from None
    lines = (line.strip() for line in content.splitlines())
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise argparse.ArgumentTypeError(f"{path} holds no prompts: write one a line")
    return prompts


def latents_file(text: str) -> Path:
    """Check that a file exists; if a script makes it, the error names the script."""
    try:
        return cli.existing_file(text)
    except argparse.ArgumentTypeError as error:
        path = config.own_place(text) or Path(text)
        made_by = {config.LATENT_TENSOR_PT: "prep_ldm.py", config.LIVE_LATENT_PT: "process_live_audio.py"}
        if (script := made_by.get(path)) and not path.exists():
            raise argparse.ArgumentTypeError(f"{error}: run {script} first") from None
        raise


def subjects(text: str) -> list[int | str] | None:
    """Parse rows of latents from "7", "0,3,5-9" or "all" (None), and names of recordings, which stay text."""
    if text == "all":
        return None
    chosen: list[int | str] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if match and not (match[2] and int(match[2]) < int(match[1])):
            chosen += range(int(match[1]), int(match[2] or match[1]) + 1)
        elif re.fullmatch(r"[\d\s-]*", part):  # a list that went wrong, and no name
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number such as 7, a list such as 0,3,5-9, the name of a recording, or all"
            )
        else:
            chosen.append(part)
    return chosen
