"""Turn your voice into an image, live: microphone -> recording -> latent -> image.

Press ENTER, speak, press ENTER again. While you read and speak, process_live_audio.py and txt2img.py load; then they
make the image. The recording stays in temp_live_audio.wav until the next one. A recording that gave no image is renamed
and never replaced. With --discard_audio each recording is deleted once its image is made.

examples:
  python run_live_workflow.py --mic_test
  python run_live_workflow.py --prompt "calm blue waves"
  python run_live_workflow.py --prompt "calm blue waves" --loop --keep --card
  python run_live_workflow.py --prompts prompts.txt --loop
  python run_live_workflow.py --stage --prompt "calm blue waves"
  python run_live_workflow.py --prompt "calm blue waves" --input_file examples/voice_it.wav
"""

import argparse
import sys
import time
from typing import TYPE_CHECKING

import cli
import config
import standby
from painting.options import (
    add_image,
    add_model,
    add_output,
    add_sampling,
    add_voice,
    explicit_options,
    is_another_model,
    parse_options,
    useful_steps,
)
from stage.options import add_stage, check_stage

if TYPE_CHECKING:
    from live.capture import Capture
    from live.display import Display
    from live.pipeline import Pipeline
    from live.run_files import RunFiles
    from live.terminal import Terminal

PAINTING = (  # what txt2img.py is started with; each request has a prompt and a number of steps
    "negative_prompt", "reading", "size", "H", "W", "x_T", "voice_strength", "layout_strength", "seed", "sampler",
    "eta", "scale", "guidance_interval", "guidance_rescale", "model", "ckpt", "hub", "lora", "vae", "offload",
    "config", "precision", "device", "outdir", "preview_every", "preview_pause",
    "no_metadata", "verbose",
)  # fmt: skip
STAGE_PREVIEW_PAUSE = 0.5  # seconds; browsers draw on the processor that paints
MICROPHONE_ONLY = ("list_mics", "mic_test", "mic", "seconds", "auto_stop", "loop", "discard_audio")


def build_parser() -> cli.CommandParser:
    """Return the parser of this command line."""
    parser = cli.CommandParser(__doc__)
    add_image(parser)
    add_recording(parser)
    add_run(parser)
    add_output(parser)
    add_voice(parser.add_argument_group("start noise").add_argument)
    add_sampling(parser)("--budget", type=cli.bounded(float, 0.1, 3600), metavar="S", help="take as many steps as fit: "
        "the image is ready S seconds after the recording")  # fmt: skip
    add_model(parser)
    add_stage(parser)
    return parser


def add_recording(parser: cli.CommandParser) -> None:
    """Add the options of the microphone, and of recordings in place of it."""
    add = parser.add_argument_group("recording").add_argument
    add("--mic", default="", metavar="NAME|INDEX", help="the microphone: its number, or a part of its name (default: "
        "that of the system)")  # fmt: skip
    cli.add_channel(add)
    cli.add_no_trim(add)
    add("--list_mics", action="store_true", help="list the microphones")
    add("--mic_test", action="store_true", help="show the input level for five seconds, then give advice")
    add("--seconds", type=cli.bounded(float, config.SHORT_SECONDS, 36_000), metavar="N", help="end each recording "
        "after N seconds")  # fmt: skip
    add("--auto_stop", type=cli.bounded(float, 0.2, 60), metavar="S", help="end each recording after speech and S "
        "seconds of silence")  # fmt: skip
    add("--input_file", type=cli.existing_file, action="append", metavar="F", help="use this recording instead of the "
        "microphone; may be given several times")  # fmt: skip


def add_run(parser: cli.CommandParser) -> None:
    """Add the options of what happens around the images."""
    add = parser.add_argument_group("run").add_argument
    add("--loop", action="store_true", help="make one image after another, until q ENTER; you may record the next "
        "voice while an image is made")  # fmt: skip
    add("--open", action="store_true", help="open the image in the system's viewer; of several "
        "images open a page that always shows the newest")  # fmt: skip
    add("--card", action="store_true", help="also make a card: waveform, spectrogram, image, prompt and "
        "what is seen of the voice, in one file")  # fmt: skip
    add("--keep", action="store_true", help=f"keep all recordings, latents and images in {config.SESSIONS_DIR}, with a "
        "web page that shows them")  # fmt: skip
    add("--session", type=cli.existing_folder, metavar="DIR", help="go on with the folder of an earlier --keep")
    add("--title", type=cli.text, default="", help="title of the web page (default: the time)")
    add("--discard_audio", action="store_true", help="delete each recording once its image is made")
    add("--no_standby", action="store_true", help="start each script only when it is needed, and end it after that: "
        "slower, needs less memory, makes the same images")  # fmt: skip
    add("--timeout", type=cli.bounded(float, 1, 86_400), default=120.0, metavar="S", help="seconds without output "
        "after which a script is considered hung, and ended (default: %(default)g)")  # fmt: skip


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the checked command line.

    Its `painting` holds the words that txt2img.py is started with, and its `prompts` one prompt or more.
    """
    parser = build_parser()
    options = parser.parse_args(argv)
    explicit = explicit_options(parser, argv)
    chosen = [f"--{name}" for name in ("prompt", "prompts", "list_mics", "mic_test") if name in explicit]
    if len(chosen) > 1:
        parser.error(f"{' and '.join(chosen)} cannot be combined: give only one of them")
    for name in MICROPHONE_ONLY if options.input_file else ():
        if getattr(options, name):
            parser.error(f"--{name} needs the microphone, which --input_file replaces: leave one of them out")
    if options.budget and options.no_standby:
        parser.error("--budget needs a model that stays loaded, --no_standby ends it: leave one of them out")
    if options.budget and "steps" in explicit:
        parser.error("--budget takes as many steps as fit, --steps says how many: leave one of them out")
    check_stage(parser, options, explicit)
    if options.stage:  # what is shown there is kept, and previews are shown
        options.keep = options.card = options.loop = True
        explicit |= {"preview_every", "preview_pause"}
        options.preview_every = options.preview_every or 1
        options.preview_pause = options.preview_pause or STAGE_PREVIEW_PAUSE
    if options.title and not (options.keep or options.session):
        parser.error("--title is for the web page of --keep or --session: add one of them")
    options.prompts = options.prompts or [options.prompt]
    words = [standby.words_of(name, getattr(options, name)) for name in PAINTING if name in explicit]
    options.painting = [word for option in words for word in option]
    first = [f"--steps={options.steps}"] if "steps" in explicit else []
    # refuses what txt2img.py would refuse, and has the steps that are the model's own
    painting = parse_options(None, ["--standby", *first, *options.painting])
    options.steps, options.useful_steps = painting.steps, useful_steps(painting)
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)

    from live.terminal import Terminal, debounce_interrupts

    if options.list_mics:
        from audio.recorder import list_microphones

        print("\n".join(list_microphones()))
        return 0
    from live.checks import check_all, check_files
    from live.run_files import claim_run_files

    terminal = Terminal()
    debounce_interrupts()
    if options.mic_test:
        return 0 if capture_of(options, terminal).test() else 1
    check_all(is_another_model(options), options.outdir)
    if options.open:
        options.open = has_viewer(terminal)
    with claim_run_files() as files:
        check_files(files.wav, files.latent)
        return run(options, terminal, files)


def has_viewer(terminal: "Terminal") -> bool:
    """Return whether images can be opened; if not, warn, because they can still be made."""
    from live.viewer import find_viewer

    try:
        find_viewer()
    except OSError as error:
        terminal.warn(f"warning: {error}; images are not opened")
        return False
    return True


def run(options: argparse.Namespace, terminal: "Terminal", files: "RunFiles") -> int:
    """Make images until there are no more recordings; return the exit status."""
    from live.pipeline import EARLIER_KEPT, KEPT, Pipeline

    if files.number > 1:
        terminal.say(f"another run is active in this folder; this one uses {files.wav} and {files.latent}")
    for path in files.rescue():
        terminal.say(f"{EARLIER_KEPT}: {path}")
    display = display_of(options, terminal)
    with Pipeline(options, display, files) as pipeline:
        try:
            if options.stage:
                serve_pages(options, display, pipeline)
                return 0
            pipeline.start()
            if options.input_file:
                use_files(options, pipeline)
            else:
                record_voices(options, terminal, pipeline)
            pipeline.finish()
        except BaseException:
            for path in pipeline.abandon():
                terminal.warn(f"{KEPT}: {path}")
            raise
        return 1 if pipeline.failed else 0


def display_of(options: argparse.Namespace, terminal: "Terminal") -> "Display":
    """Return the display of a run: the terminal, and the web pages of a stage."""
    if not options.stage:
        return terminal
    from stage.display import StageDisplay

    if options.mic:
        terminal.silence_libraries()
    return StageDisplay(terminal)


def use_files(options: argparse.Namespace, pipeline: "Pipeline") -> None:
    """Make images of the recordings in --input_file, one after the other."""
    from live.pipeline import Take

    pipeline.await_encoder()
    count = len(options.input_file)
    for number, path in enumerate(options.input_file, start=1):
        which = [f"{number} of {count}, {path.name}"] if count > 1 else []
        which += [str(pipeline.prompts)] if len(options.prompts) > 1 else []
        if which:
            pipeline.display.say(", ".join(which))
        pipeline.submit(Take(path, own=False, stopped=time.monotonic()))
        pipeline.finish()


def serve_pages(options: argparse.Namespace, display: "Display", pipeline: "Pipeline") -> None:
    """Let visitors speak on web pages until Ctrl-C.

    Raises:
        RuntimeError: packages of the stage are not installed.
    """
    from stage.display import StageDisplay

    try:
        from stage.run import run_stage
    except ModuleNotFoundError as error:
        raise RuntimeError(f"--stage needs the package {error.name}: make stage installs it") from error
    assert isinstance(display, StageDisplay)
    run_stage(options, display, pipeline)


def record_voices(options: argparse.Namespace, terminal: "Terminal", pipeline: "Pipeline") -> None:
    """Make an image of one voice or, in a loop, of one voice after another."""
    from audio.recorder import MicrophoneError
    from live.capture import NoKeyboard

    if sys.stdin is None and not options.seconds:
        raise NoKeyboard
    try:
        capture = capture_of(options, terminal)
        capture.prepare()
        pipeline.await_encoder()
        if len(options.prompts) > 1:
            for number, prompt in enumerate(options.prompts, start=1):
                terminal.say(f"{number:4} {prompt}")
        if options.loop:
            terminal.say("You may record the next voice while an image is made. Press q and ENTER to end.")
        while take := capture.record(pipeline):
            pipeline.submit(take)
            if not options.loop:
                break
    except MicrophoneError as error:
        raise RuntimeError(f"{error}; or give a recording: --input_file F") from error


def capture_of(options: argparse.Namespace, terminal: "Terminal") -> "Capture":
    """Return the microphone and the keyboard of this terminal."""
    from live.capture import Capture
    from live.keyboard import Keyboard

    terminal.silence_libraries()
    return Capture(options, terminal, Keyboard(None if sys.stdin is None else sys.stdin.fileno()))


if __name__ == "__main__":
    cli.run(main)
