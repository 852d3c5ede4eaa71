"""Phase 1, step 2: turn vectors into mean, standard deviation and z-scores.

Computes mean and standard deviation of each of the 4,096 elements over the calibration recordings, and the z-scores of
each recording. The standard deviation is at least 2.5 dB, so that an element that is constant in the calibration stays
bounded in a new recording. Beside the statistics: whitening.npz, with which txt2img.py turns a z-score into x_T;
calibration.json, how all this was made; and calibration.png, a plot of mean and standard deviation. Beside the
z-scores: .csv, the recording of each row.

examples:
  python z_transformation_with_stats.py
  python z_transformation_with_stats.py --input_file vectors.npy --output_file z_scores.npy --stats_dir stats
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cli
import config

if TYPE_CHECKING:
    from audio.calibration import CalibrationReport
    from audio.recipe import Recipe


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--input_file",
        type=cli.existing_file,
        default=config.SIMILARITY_VECTOR_NPY,
        metavar="F",
        help="vectors, a .npy file (default: %(default)s)",
    )
    parser.add_argument(
        "--output_file",
        type=cli.new_file(".npy"),
        default=config.ZSCORE_VECTOR_NPY,
        metavar="F",
        help="the z-scores, a .npy file (default: %(default)s)",
    )
    parser.add_argument(
        "--stats_dir",
        type=cli.new_folder,
        default=config.STATS_DIR,
        metavar="DIR",
        help="folder for the statistics (default: %(default)s, where the other scripts look for them)",
    )
    parser.add_argument(
        "--max_damage",
        type=cli.bounded(float, 0, 100),
        metavar="PERCENT",
        help="leave out damaged recordings of which more is missing, or it is not known how much (default: use all)",
    )
    return parser


def tell(report: "CalibrationReport", stats_dir: Path, output: Path, recipe: "Recipe") -> None:
    """Print the statistics of the recordings, and advice on them."""
    from audio import calibration

    if report.recordings < calibration.FEW:
        print(
            f"warning: {report.recordings} recordings; with fewer than {calibration.FEW} the statistics describe these "
            "few recordings rather than voices in general, and other voices will look alike: add recordings",
            file=sys.stderr,
        )
    sound = "" if report.seconds is None else f", {cli.duration(report.seconds)} of sound"
    print(f"{report.recordings} recordings{sound}: {stats_dir}")
    if report.left_out:
        print(f"{cli.counted(report.left_out, 'damaged recording')} left out")
    if report.sample_rates:
        print("sample rates: " + ", ".join(f"{count} of {rate} Hz" for rate, count in report.sample_rates.items()))
    if report.floored:
        print(
            f"{report.floored} of {recipe.vector_size} elements hardly vary; their standard deviation was raised to "
            f"{calibration.STD_FLOOR_DB} dB"
        )
    if report.band_hz:
        print(
            f"hint: these recordings hold nothing above {report.band_hz:.0f} Hz; voices from a microphone that records "
            "higher frequencies will all look alike there: calibrate with recordings from the microphone you will use"
        )
    own = round(100 * report.own_share)
    other = f" and {100 - own}% from the built-in calibration" if own < 100 else ""
    print(f"whitening: {report.axes} principal axes, {own}% from these recordings{other}")
    print(
        f"z-scores: mean {report.z_mean:.3f}, std {report.z_std:.3f}, largest {report.z_largest:.1f}, "
        f"kurtosis {report.z_kurtosis:.1f}, neighbour correlation {report.z_neighbour:.2f} "
        f"(noise would have 0, 1, 5, 3, 0): {output}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(argv)
    output: Path = options.output_file
    if output.resolve() == options.input_file.resolve():
        parser.error(f"argument --output_file: {output} is the input; name another")
    if output.resolve().parent == options.stats_dir.resolve() and output.stem in ("mean", "std", "calibration"):
        parser.error(f"argument --output_file: {output} is one of the files of --stats_dir; name another")
    if options.stats_dir.resolve() == config.BUILTIN_CALIBRATION_DIR:
        parser.error(f"argument --stats_dir: {options.stats_dir} is the built-in calibration; name another")
    if not options.input_file.is_file():
        raise OSError(f"there is no file {options.input_file}; run prep_audio_spectrograms.py first")

    from audio import calibration, plots
    from audio.whitening import Whitening

    recipe = config.RECIPE
    builtin = config.BUILTIN_CALIBRATION_DIR / calibration.WHITENING_NAME
    prior = Whitening.load(builtin) if builtin.is_file() else None
    most_missing = None if options.max_damage is None else options.max_damage / 100
    made, report = calibration.calibrate(options.input_file, output, options.stats_dir, recipe, prior, most_missing)
    plot = options.stats_dir / "calibration.png"
    plots.save_calibration(plot, made.mean_db, made.std_db, recipe)
    tell(report, options.stats_dir, output, recipe)
    print(f"plot of mean and standard deviation: {plot}")
    elsewhere = "" if output == config.ZSCORE_VECTOR_NPY else f" --input_file {shlex.quote(str(output))}"
    print(f"next: python prep_ldm.py{elsewhere}")
    return 0


if __name__ == "__main__":
    cli.run(main)
