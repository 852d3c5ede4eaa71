"""Speak, and your voice becomes a picture: microphone -> recording -> latent -> picture.

Asks for ENTER, records until the next ENTER, then has process_live_audio.py and txt2img.py make the picture, which
were loaded while you were reading. The recording is kept in temp_live_audio.wav until the next one; a recording that
gave no picture is set aside rather than replaced. --discard_audio deletes each once its picture is made.

examples:
  python run_live_workflow.py --mic_test
  python run_live_workflow.py --prompt "calm blue waves"
  python run_live_workflow.py --prompt "calm blue waves" --loop --keep --card
  python run_live_workflow.py --prompt "calm blue waves" --input_file examples/voice_it.wav
"""

import argparse
import sys
import time
from typing import TYPE_CHECKING

import cli
import config
from painting.options import add_model, add_whitening, given, is_another_model, parse_options

if TYPE_CHECKING:
    from live.capture import Capture
    from live.pipeline import Show
    from live.run_files import RunFiles
    from live.terminal import Screen

PAINTING = (  # what txt2img.py is started with
    "prompt", "negative_prompt", "scale", "seed", "x_T", "voice_strength", "layout_strength", "model", "ckpt", "config",
    "precision", "device",
)  # fmt: skip
MICROPHONE_ONLY = ("list_mics", "mic_test", "mic", "seconds", "auto_stop", "loop", "discard_audio")


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    picture = parser.add_argument_group("picture")
    add = picture.add_argument
    add("--prompt", type=cli.text, metavar="TEXT", help="what the picture shows")
    add("--negative_prompt", type=cli.text, metavar="TEXT", help="what to keep away from")
    duration = picture.add_mutually_exclusive_group()
    duration.add_argument(
        "--steps",
        type=cli.bounded(int, 1, 1000),
        default=20,
        metavar="N",
        help="sampling steps: more take longer (default: %(default)s)",
    )
    duration.add_argument(
        "--budget",
        type=cli.bounded(float, 0.1, 3600),
        metavar="S",
        help="as many steps as let the picture be ready S seconds after the recording",
    )
    add("--scale", type=cli.bounded(float, 0, 100), default=config.GUIDANCE_SCALE, metavar="S", help="how closely the "
        "picture follows the prompt (default: %(default)s)")  # fmt: skip
    add("--seed", type=cli.bounded(int, 0, 2**62), default=42, metavar="K", help="seed of the noise that is mixed in "
        "(default: %(default)s)")  # fmt: skip
    add_whitening(add)
    add_model(parser)

    add = parser.add_argument_group("recording").add_argument
    add("--mic", default="", metavar="NAME|INDEX", help="the microphone, by its number or a part of its name (default: "
        "the system's)")  # fmt: skip
    add("--list_mics", action="store_true", help="list the microphones")
    add("--mic_test", action="store_true", help="five seconds of level meter, then a verdict")
    add("--seconds", type=cli.bounded(float, config.SHORT_SECONDS, 36_000), metavar="N", help="end a recording after N "
        "seconds")  # fmt: skip
    add("--auto_stop", type=cli.bounded(float, 0.2, 60), metavar="S", help="end a recording after S seconds of silence "
        "that follow speech")  # fmt: skip
    add("--input_file", type=cli.existing_file, action="append", metavar="F", help="a recording in place of the "
        "microphone; may be given several times")  # fmt: skip

    add = parser.add_argument_group("show").add_argument
    add("--loop", action="store_true", help="one recording after another, the next while a picture is made, until "
        "q ENTER")  # fmt: skip
    add("--open", action="store_true", help="show each picture in the system's viewer")
    add("--card", action="store_true", help="also make one image of waveform, spectrogram, picture and prompt")
    add("--keep", action="store_true", help=f"keep all recordings, latents and pictures in {config.SESSIONS_DIR}, with "
        "a page that shows them")  # fmt: skip
    add("--discard_audio", action="store_true", help="delete each recording once its picture is made")
    add("--no_standby", action="store_true", help="start each script when it is needed, and end it after that: slower, "
        "less memory, the same pictures")  # fmt: skip
    add("--timeout", type=cli.bounded(float, 1, 86_400), default=120.0, metavar="S", help="seconds without any sign of "
        "life, after which a script is taken to hang (default: %(default)g)")  # fmt: skip
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, with what one option forbids another."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.prompt is None and not options.list_mics and not options.mic_test:
        parser.error("the following arguments are required: --prompt")
    if options.prompt is not None and not options.prompt.strip():
        parser.error("--prompt is empty: say what the picture shows")
    chosen = [f"--{name}" for name in ("prompt", "list_mics", "mic_test") if getattr(options, name)]
    if len(chosen) > 1:
        parser.error(f"{' and '.join(chosen)} ask for different things: give one of them")
    for name in MICROPHONE_ONLY if options.input_file else ():
        if getattr(options, name):
            parser.error(f"--{name} is about the microphone, and --input_file replaces that: leave one out")
    if options.budget and options.no_standby:
        parser.error("--budget needs the speed of a loaded model, which --no_standby does without: leave one out")
    asked = given(parser, argv)
    options.painting = [f"--{name}={getattr(options, name)}" for name in PAINTING if name in asked]
    parse_options(None, ["--standby", *options.painting])  # says what does not go together
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)

    from live.terminal import Screen, debounce_interrupts

    if options.list_mics:
        from audio.recorder import list_microphones

        print("\n".join(list_microphones()))
        return 0
    from live.checks import check_all, check_files
    from live.run_files import claim_run_files

    screen = Screen()
    debounce_interrupts()
    if options.mic_test:
        return 0 if capture_of(options, screen).test() else 1
    check_all(is_another_model(options))
    if options.open:
        options.open = has_viewer(screen)
    with claim_run_files() as folder:
        check_files(folder.wav, folder.latent)
        return run_show(options, screen, folder)


def has_viewer(screen: "Screen") -> bool:
    """Whether pictures can be shown; if not, that is no reason to make none."""
    from live.viewer import find_viewer

    try:
        find_viewer()
    except OSError as error:
        screen.warn(f"warning: {error}; pictures are not shown")
        return False
    return True


def run_show(options: argparse.Namespace, screen: "Screen", folder: "RunFiles") -> int:
    """Make pictures until there are no more voices."""
    from live.pipeline import EARLIER_KEPT, KEPT, Show

    if folder.number > 1:
        screen.say(
            f"another show is at work in this folder: the files of this one are {folder.wav} and {folder.latent}"
        )
    for path in folder.rescue():
        screen.say(f"{EARLIER_KEPT}: {path}")
    with Show(options, screen, folder) as show:
        try:
            show.start()
            if options.input_file:
                play_files(options, show)
            else:
                record_voices(options, show)
            show.finish()
        except BaseException:
            for path in show.abandon():
                screen.warn(f"{KEPT}: {path}")
            raise
        return 1 if show.failed else 0


def play_files(options: argparse.Namespace, show: "Show") -> None:
    """Make pictures of recordings that are there."""
    from live.pipeline import Take

    show.await_calibration()
    for path in options.input_file:
        show.take(Take(path, own=False, stopped=time.monotonic()))
        show.finish()


def record_voices(options: argparse.Namespace, show: "Show") -> None:
    """Make a picture of a voice, or, in a loop, of one after another."""
    from audio.recorder import MicrophoneError
    from live.capture import NoKeyboard

    if sys.stdin is None and not options.seconds:
        raise NoKeyboard
    try:
        booth = capture_of(options, show.screen)
        booth.prepare()
        show.await_calibration()
        if options.loop:
            show.screen.say("One recording after another, the next while a picture is made: q ENTER ends.")
        while take := booth.record(show):
            show.take(take)
            if not options.loop:
                break
    except MicrophoneError as error:
        raise RuntimeError(f"{error}; or give a recording: --input_file F") from error


def capture_of(options: argparse.Namespace, screen: "Screen") -> "Capture":
    from live.capture import Capture
    from live.terminal import Keyboard

    screen.hush_libraries()
    return Capture(options, screen, Keyboard(None if sys.stdin is None else sys.stdin.fileno()))


if __name__ == "__main__":
    cli.run(main)
