"""One recording -> one latent, for `txt2img.py --init_latents`.

Uses your own statistics if phase 1 has been run, else the built-in calibration. Writes a tensor (1, 4, 32, 32), the
plain z-score of the recording.

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
    from audio.features import AudioInfo, Recipe

PICTURE_COLUMNS = 960  # pixels


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--input_file",
        type=cli.existing_file,
        metavar="F",
        help="the recording: wav, flac, ogg, mp3, aiff, ...; with ffmpeg installed also m4a and video",
    )
    parser.add_argument(
        "--output_file",
        type=cli.new_file(".pt"),
        default=config.LIVE_LATENT_PT,
        metavar="F",
        help="the latent, a .pt file (default: %(default)s)",
    )
    parser.add_argument("--standby", action="store_true", help=standby.HELP)
    parser.add_argument(
        "--save_picture",
        type=cli.new_file(".png"),
        metavar="F.png",
        help="also draw the recording as it was heard: waveform and spectrogram",
    )
    return parser


def parse(argv: Sequence[str] | None, held: argparse.Namespace | None = None) -> argparse.Namespace:
    """What a command line asks for; a request in standby beside the options that it is `held` to already."""
    parser = build_parser()
    options = parser.parse_args(argv, held)
    if not options.input_file and not options.standby:
        parser.error("the following arguments are required: --input_file")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.standby:
        return standby.serve(parse, options, answer, lambda _: warm_up())
    make_latent(options)
    return 0


def answer(request: argparse.Namespace, _: standby.Emit) -> dict[str, str]:
    """Write the latent of one request."""
    return {"latent": str(make_latent(request))}


def warm_up() -> None:
    """Do once, with noise in place of a voice, what `make_latent` does; what it warns of is about that noise alone."""
    import numpy as np
    import soundfile

    with tempfile.TemporaryDirectory() as folder:
        recording, latent = Path(folder, "noise.wav"), Path(folder, "noise.pt")
        soundfile.write(recording, np.random.default_rng(0).normal(0, 0.1, 48_000), 48_000)  # 1 s, to be resampled
        with contextlib.redirect_stderr(io.StringIO()):
            make_latent(parse([f"--input_file={recording}", f"--output_file={latent}"]))


def make_latent(options: argparse.Namespace) -> Path:
    """Write the latent of a recording.

    Raises:
        ValueError: the recording, or the calibration, is none.
        OSError: a file cannot be read or written.
    """
    from audio import features, provenance
    from audio.calibration import Calibration

    recipe = features.Recipe(**config.RECIPE)
    folder = config.calibration_dirs()[0]
    calibration = Calibration.load(folder, recipe)
    if folder == config.BUILTIN_CALIBRATION_DIR:
        print("built-in calibration used: run phase 1 to make your own")
    try:
        recording = features.listen(options.input_file, recipe)
        if options.save_picture:
            save_picture(options.input_file, options.save_picture, recording.seconds, recipe)
    except features.AudioError as error:
        raise features.AudioError(f"{options.input_file}: {error}") from error
    warn(recording)
    if calibration.reaches_beyond(recording.vector, recipe):
        print(
            f"warning: the recording has sound above {calibration.band_hz(recipe):.0f} Hz, where the calibration has "
            "none; calibrate with recordings from this microphone (phase 1)",
            file=sys.stderr,
        )

    import torch
    from einops import rearrange

    channels, height, _ = config.LATENT_SHAPE
    z_score = torch.from_numpy(calibration.z_score(recording.vector))
    latent = rearrange(z_score, "(c h w) -> 1 c h w", c=channels, h=height)
    made_by = provenance.statistics_sha256(calibration.mean_db, calibration.std_db)
    provenance.save_latents(options.output_file, latent, made_by)
    print(f"latent {tuple(latent.shape)} from {recording.seconds:.1f} s of sound: {options.output_file}")
    print(f'next: python txt2img.py --init_latents {shlex.quote(str(options.output_file))} --prompt "..."')
    return options.output_file


def save_picture(recording: Path, picture: Path, seconds: float, recipe: "Recipe") -> None:
    """Draw a recording."""
    from audio import features, plots

    waveform, decibels = features.overview(recording, PICTURE_COLUMNS, seconds, recipe)
    plots.save_recording(picture, waveform, decibels, seconds, recipe)
    print(f"drawn: {picture}")


def warn(recording: "AudioInfo") -> None:
    """Say on stderr what makes a recording a poor start for a picture; it is used all the same."""
    if recording.seconds < config.SHORT_SECONDS:
        print(
            f"warning: {recording.seconds:.2f} s of sound; speak for {config.SHORT_SECONDS} s at least", file=sys.stderr
        )
    if recording.damage:
        print(f"warning: the recording is {recording.damage}; record again", file=sys.stderr)
    if recording.clipped > config.CLIPPED_SHARE:
        print(f"warning: {recording.clipped:.1%} of the samples are clipped; speak softer", file=sys.stderr)
    if recording.peak < config.QUIET_PEAK:
        print(f"warning: the loudest sample is {recording.peak:.4f} of full scale; speak louder", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
