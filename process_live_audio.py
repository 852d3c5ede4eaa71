"""Turn one recording into latents, the start noise for `txt2img.py --init_latents`.

The z-scores are made by your own calibration if phase 1 has been run, else by the built-in one. They are saved as a
tensor (1, 4, 32, 32).

examples:
  python process_live_audio.py --input_file examples/voice_it.wav
  python process_live_audio.py --input_file ann.m4a --output_file ann.pt --save_picture ann.png
"""

import argparse
import contextlib
import io
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli
import config
import standby

if TYPE_CHECKING:
    from audio.calibration import VoiceLatents

PLOT_COLUMNS = 960  # pixels


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--input_file",
        type=cli.existing_file,
        metavar="F",
        help="the recording: wav, flac, ogg, mp3, m4a, webm, ..., or a video",
    )
    parser.add_argument(
        "--output_file",
        type=cli.new_file(".pt"),
        default=config.LIVE_LATENT_PT,
        metavar="F",
        help="the latents, a .pt file (default: %(default)s)",
    )
    cli.add_channel(parser.add_argument)
    parser.add_argument("--standby", action="store_true", help=standby.HELP)
    parser.add_argument("--verbose", action="store_true", help=cli.VERBOSE)
    parser.add_argument(
        "--save_picture",
        type=cli.new_file(".png"),
        metavar="F.png",
        help="also plot the recording: waveform and spectrogram",
    )
    return parser


def parse(argv: Sequence[str] | None, held: argparse.Namespace | None = None) -> argparse.Namespace:
    """Parse a command line; of a request in standby, `held` are the options that it does not give itself."""
    parser = build_parser()
    options = parser.parse_args(argv, held)
    if not options.input_file and not options.standby:
        parser.error("the following arguments are required: --input_file")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.standby:
        return standby.serve(parse, options, answer, lambda _: warm_up())
    latents = make_latents(options)
    print(f'next: python txt2img.py --init_latents {shlex.quote(str(latents))} --prompt "..."')
    return 0


def answer(request: argparse.Namespace, _: standby.Emit) -> dict[str, str]:
    """Write the latents of one request."""
    return {"latent": str(make_latents(request))}


def warm_up() -> None:
    """Run `make_latents` on one second of noise, discard its warnings, and start the decoder of compressed files."""
    import numpy as np
    import soundfile

    from audio.av_decoder import start_decoder

    start_decoder()

    with tempfile.TemporaryDirectory() as folder:
        recording, latents = Path(folder, "noise.wav"), Path(folder, "noise.pt")
        soundfile.write(recording, np.random.default_rng(0).normal(0, 0.1, 48_000), 48_000)  # 48 kHz is resampled
        with contextlib.redirect_stderr(io.StringIO()):
            make_latents(parse([f"--input_file={recording}", f"--output_file={latents}"]))


def make_latents(options: argparse.Namespace) -> Path:
    """Write the latents of a recording; return their file.

    Raises:
        ValueError: the file is not a usable recording, or the calibration is invalid.
        OSError: a file cannot be read or written.
    """
    from audio.calibration import voice_latents
    from audio.provenance import recording_name, save_latents

    folder = config.calibration_dirs()[0]
    if options.verbose:
        print(f"calibration: {'built-in' if folder == config.BUILTIN_CALIBRATION_DIR else folder}")
    voice = voice_latents(options.input_file, folder, config.RECIPE, channel=options.channel)
    if options.save_picture:
        plot(options.input_file, options.save_picture, voice.info.seconds, options.channel)
    name = recording_name(options.input_file)
    warn(voice, name)

    import torch

    latents = torch.from_numpy(voice.latents)
    save_latents(options.output_file, latents, voice.statistics, [name])
    print(f"latent {tuple(latents.shape)} from {voice.info.seconds:.1f} s of sound: {options.output_file}")
    return options.output_file


def plot(recording: Path, path: Path, seconds: float, channel: int | None) -> None:
    """Plot waveform and spectrogram of a recording that lasts so many seconds."""
    from audio import features, plots

    waveform, decibels = features.overview(recording, PLOT_COLUMNS, seconds, config.RECIPE, channel)
    plots.save_recording(path, waveform, decibels, seconds, config.RECIPE)
    print(f"drawn: {path}")


def warn(voice: "VoiceLatents", name: str) -> None:
    """Print on stderr the problems of the recording `name`, which is used all the same, and other notes on it."""
    recording, problems = voice.info, []
    if recording.seconds < config.SHORT_SECONDS:
        problems.append(f"{recording.seconds:.2f} s of sound; speak for at least {config.SHORT_SECONDS} s")
    if recording.damage:
        problems.append(f"the recording is {recording.damage}; record again")
    if recording.clipped > config.CLIPPED_SHARE:
        problems.append(f"{recording.clipped:.1%} of the samples are clipped; speak softer")
    if recording.peak < config.QUIET_PEAK:
        problems.append(f"the loudest sample is {recording.peak:.4f} of full scale; speak louder")
    if voice.beyond_hz:
        problems.append(
            f"the recording has sound above {voice.beyond_hz:.0f} Hz, where the calibration has none; calibrate with "
            "recordings from this microphone (phase 1)"
        )
    for problem in problems:
        print(f"warning: {name}: {problem}", file=sys.stderr)
    if recording.note:
        print(f"note: {name}: {recording.note}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
