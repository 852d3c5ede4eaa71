"""Phase 1, step 1: calibration recordings -> one matrix of mel spectrogram vectors.

Reads every file below the input folder (wav, flac, ogg, mp3, aiff, ...) and writes float32 (N, 4096), one row for each
recording in the order of the paths. Beside it: .csv (what each row is), _skipped.csv (files that gave no row, and why)
and .json (the recipe). A bad file never stops the rest.
"""

from pathlib import Path

import cli
import config


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--input_dir",
        type=Path,
        default=config.AUDIO_INPUT_DIR,
        metavar="DIR",
        help="recordings, in any folders below it (default: %(default)s)",
    )
    parser.add_argument(
        "--output_file",
        type=Path,
        default=config.SIMILARITY_VECTOR_NPY,
        metavar="F",
        help="the matrix, a .npy file (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=cli.bounded(int, 1, 1024),
        metavar="N",
        help="processes, the result is the same for any number (default: one for each core)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(argv)
    output: Path = options.output_file
    if output.suffix != ".npy":
        parser.error(f"argument --output_file: {output} must end in .npy")
    if not options.input_dir.is_dir():
        raise OSError(f"there is no folder {options.input_dir}; put recordings there, or name another with --input_dir")

    from joblib import cpu_count

    from audio.features import Recipe, prepare_batch

    recipe = Recipe(**config.RECIPE)
    report = prepare_batch(options.input_dir, output, recipe, options.workers or cpu_count())
    print(f"{report.rows} recordings, {report.seconds / 3600:.2f} hours of sound: {output}")
    print(f"{report.skipped} files skipped: {output.with_name(output.stem + '_skipped.csv')}")
    elsewhere = "" if output == config.SIMILARITY_VECTOR_NPY else f" --input_file {output}"
    print(f"next: python z_transformation_with_stats.py{elsewhere}")
    return 0


if __name__ == "__main__":
    cli.run(main)
