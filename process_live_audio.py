"""Turn one recording into latents, the start noise for `txt2img.py --init_latents`.

The z-scores are made by your own calibration if phase 1 has been run, else by the built-in one. They are saved as a
tensor (1, 4, 32, 32). With --windows, each window of the recording becomes latents (N, 4, 32, 32), for a film.

examples:
  python process_live_audio.py --input_file examples/voice_it.wav
  python process_live_audio.py --input_file ann.m4a --output_file ann.pt --save_picture ann.png
  python process_live_audio.py --input_file song.mp3 --windows 3.0 --hop 0.25 --output_file song.pt
"""

import argparse
import contextlib
import io
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli
import config
import standby

if TYPE_CHECKING:
    from audio.calibration import VoiceLatents
    from audio.windows import WindowsReport

PLOT_COLUMNS = 960  # pixels
SECONDS = (0.1, 60.0)  # a window's length
HOPS = (0.01, 60.0)  # seconds from one window to the next
HOP = 0.25  # seconds, if none is given
FIRST, TRIED = 32, 96  # windows: from the first of these to the second it is measured how long all take
LONG = 20.0  # seconds; what takes less is not announced


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
    parser.add_argument(
        "--windows",
        type=cli.bounded(float, *SECONDS),
        metavar="S",
        help="make latents along the recording, of windows of S seconds each, for a film",
    )
    parser.add_argument(
        "--hop",
        type=cli.bounded(float, *HOPS),
        metavar="S",
        help=f"with --windows: seconds from one window to the next (default: {HOP:g})",
    )
    cli.add_no_trim(parser.add_argument)
    parser.add_argument("--standby", action="store_true", help=standby.HELP)
    parser.add_argument("--verbose", action="store_true", help=f"{cli.VERBOSE}, which part of the recording, and what "
        "is seen of the voice")  # fmt: skip
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
    if options.hop and not options.windows:
        parser.error("--hop is from one window to the next: add --windows S")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.standby:
        return standby.serve(parse, options, answer, lambda _: warm_up())
    latents = make_latents(options)
    film = f" --film {shlex.quote(str(options.input_file))}" if options.windows else ""
    print(f'next: python txt2img.py --init_latents {shlex.quote(str(latents))}{film} --prompt "..."')
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
    if options.windows:
        return make_latents_along(options, folder)
    how = {"channel": options.channel, "trim": not options.no_trim}
    voice = voice_latents(options.input_file, folder, config.RECIPE, **how)
    if options.save_picture:
        spoken = None if options.no_trim else (voice.info.begin, min(voice.info.end, voice.info.seconds))
        plot(options.input_file, options.save_picture, voice.info.seconds, options.channel, spoken)
    name = recording_name(options.input_file)
    warn(voice, name)

    import torch

    latents = torch.from_numpy(voice.latents)
    save_latents(options.output_file, latents, voice.statistics, [name], [voice.heard])
    print(f"latent {tuple(latents.shape)} from {voice.info.seconds:.1f} s of sound: {options.output_file}")
    if options.verbose:
        print_qualities(voice, folder)
    return options.output_file


def print_qualities(voice: "VoiceLatents", folder: Path) -> None:
    """Print which part of a recording is used, and what of its voice is clearly not as usual in a calibration.

    Raises:
        ValueError, OSError: the whitening of the calibration in `folder` is broken, or cannot be read.
    """
    from audio.description import describe, places_of
    from audio.provenance import load_whitening
    from audio.whitening import WHITENING_NAME

    print(f"used: from {voice.info.begin:.1f} s to {voice.info.end:.1f} s")
    if (path := folder / WHITENING_NAME).is_file():  # else txt2img.py says that it is missing
        whitening = load_whitening(path, voice.statistics)
        print(f"voice: {describe(places_of(whitening, voice.latents, [voice.heard])[0])}")


def make_latents_along(options: argparse.Namespace, folder: Path) -> Path:
    """Write the latents of a recording's windows; return their file. Errors are those of `make_latents`."""
    from tqdm import tqdm

    from audio.provenance import recording_name
    from audio.windows import make_windows

    name, hop, began = recording_name(options.input_file), options.hop or HOP, 0.0
    with tqdm(desc="windows", unit="window", delay=1.0, disable=None) as bar:

        def each(done: int, expected: int) -> None:
            nonlocal began
            bar.total = expected or None
            bar.update(1)
            if done == FIRST:
                began = time.monotonic()
            seconds = (time.monotonic() - began) / (TRIED - FIRST) * (expected - TRIED)
            if done == TRIED and seconds > LONG:
                size = expected * 4 * config.VECTOR_SIZE / 1e6
                tqdm.write(f"{name}: {expected} windows, {size:.0f} MB; this takes about {cli.duration(seconds)}")

        report = make_windows(
            options.input_file, options.output_file, folder, options.windows, hop, config.RECIPE,
            options.channel, each, not options.no_trim,
        )  # fmt: skip
    if options.save_picture:
        plot(options.input_file, options.save_picture, report.seconds, options.channel)
    warn_along(report, name, options.windows, hop)
    pauses = f", {report.pauses} of them pauses" if report.pauses else ""
    windows = cli.counted(report.windows, "window")
    print(f"latents of {windows}{pauses}, from {cli.duration(report.seconds)} of sound: {options.output_file}")
    return options.output_file


def plot(
    recording: Path, path: Path, seconds: float, channel: int | None, spoken: tuple[float, float] | None = None
) -> None:
    """Plot waveform and spectrogram of a recording that lasts so many seconds; mark where what is spoken lies."""
    from audio import features, plots

    waveform, decibels = features.overview(recording, PLOT_COLUMNS, (0.0, seconds), config.RECIPE, channel)
    plots.save_recording(path, waveform, decibels, seconds, config.RECIPE, spoken)
    print(f"drawn: {path}")


def warn(voice: "VoiceLatents", name: str) -> None:
    """Print on stderr the problems of the recording `name`, which is used all the same, and other notes on it."""
    recording = voice.info
    problems = problems_of(recording.seconds, recording.damage, recording.clipped, recording.peak)
    if not voice.heard.pitch_hz:
        problems.append("nothing in it is periodic, as in noise or a whisper; if somebody spoke, speak closer")
    if voice.beyond_hz:
        problems.append(beyond(voice.beyond_hz))
    for problem in problems:
        print(f"warning: {name}: {problem}", file=sys.stderr)
    if recording.note:
        print(f"note: {name}: {recording.note}", file=sys.stderr)


def warn_along(report: "WindowsReport", name: str, window: float, hop: float) -> None:
    """Do as `warn`, for a recording of which each window of so many seconds has become latents."""
    problems = problems_of(report.seconds, report.damage, report.clipped, report.peak)
    if report.beyond_hz and report.beyond > report.windows / 2:
        problems.append(beyond(report.beyond_hz))
    for problem in problems:
        print(f"warning: {name}: {problem}", file=sys.stderr)
    if report.windows == 1:
        print(f"note: {name}: a film of one window stands still; choose a shorter --windows or --hop", file=sys.stderr)
    elif hop > window:
        print(f"note: {name}: windows of {window:g} s every {hop:g} s leave out {1 - window / hop:.0%} of the sound; "
              "choose a shorter --hop", file=sys.stderr)  # fmt: skip
    for note, windows in report.notes.most_common():
        where = "" if windows == report.windows else f" (in {windows} of {report.windows} windows)"
        print(f"note: {name}: {note}{where}", file=sys.stderr)


def problems_of(seconds: float, damage: str, clipped: float, peak: float) -> list[str]:
    """Describe what is wrong with a recording; see `features.AudioInfo`."""
    problems = []
    if seconds < config.SHORT_SECONDS:
        problems.append(f"{seconds:.2f} s of sound; speak for at least {config.SHORT_SECONDS} s")
    if damage:
        problems.append(f"the recording is {damage}; record again")
    if clipped > config.CLIPPED_SHARE:
        problems.append(f"{clipped:.1%} of the samples are clipped; speak softer")
    if peak < config.QUIET_PEAK:
        problems.append(f"the loudest sample is {peak:.4f} of full scale; speak louder")
    return problems


def beyond(hertz: float) -> str:
    """Describe a recording with sound above what the calibration has."""
    return (
        f"the recording has sound above {hertz:.0f} Hz, where the calibration has none; calibrate with recordings from "
        "this microphone (phase 1)"
    )


if __name__ == "__main__":
    cli.run(main)
