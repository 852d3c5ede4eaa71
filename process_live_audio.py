"""One recording -> one latent, for `txt2img.py --init_latents`.

Uses your own statistics if phase 1 has been run, else the built-in calibration. Writes a tensor (1, 4, 32, 32), the
plain z-score of the recording.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cli
import config

if TYPE_CHECKING:
    from audio.features import Recording

CLIPPED = 0.001  # share of the samples at full scale that can be heard as distortion


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--input_file",
        type=cli.existing_file,
        required=True,
        metavar="F",
        help="the recording: wav, flac, ogg, mp3, aiff, ...",
    )
    parser.add_argument(
        "--output_file",
        type=Path,
        default=config.LIVE_LATENT_PT,
        metavar="F",
        help="the latent, a .pt file (default: %(default)s)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)

    from audio import features
    from audio.calibration import Calibration

    recipe = features.Recipe(**config.RECIPE)
    directories = config.calibration_dirs()
    if not directories:
        raise OSError(f"no statistics in {config.STATS_DIR}; run prep_audio_spectrograms.py first")
    calibration = Calibration.load(directories[0], recipe)
    if directories[0] == config.BUILTIN_CALIBRATION_DIR:
        print("built-in calibration used: run phase 1 to make your own")
    try:
        recording = features.load_audio(options.input_file, recipe)
        vector = features.samples_to_vector(recording.samples, recipe)
    except features.AudioError as error:
        raise features.AudioError(f"{options.input_file}: {error}") from error
    warn(recording)

    import torch
    from einops import rearrange

    from files import atomic_path

    channels, height, _ = config.LATENT_SHAPE
    latent = rearrange(torch.from_numpy(calibration.z_score(vector)), "(c h w) -> 1 c h w", c=channels, h=height)
    with atomic_path(options.output_file) as temporary, temporary.open("wb") as file:
        torch.save(latent, file)
    print(f"latent {tuple(latent.shape)} from {recording.seconds:.1f} s of sound: {options.output_file}")
    print(f'next: python txt2img.py --init_latents {options.output_file} --prompt "..."')
    return 0


def warn(recording: "Recording") -> None:
    """Say on stderr what makes a recording a poor start for a picture; it is used all the same."""
    if recording.seconds < config.SHORT_SECONDS:
        print(
            f"warning: {recording.seconds:.2f} s of sound; speak for {config.SHORT_SECONDS} s at least", file=sys.stderr
        )
    if recording.clipped > CLIPPED:
        print(f"warning: {recording.clipped:.1%} of the samples are clipped; speak softer", file=sys.stderr)
    if recording.peak < config.QUIET_PEAK:
        print(f"warning: the loudest sample is {recording.peak:.4f} of full scale; speak louder", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
