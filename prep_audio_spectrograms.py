"""Phase 1, step 1: turn calibration recordings into one matrix of mel spectrogram vectors.

Reads every recording below the input folder (wav, flac, ogg, opus, mp3, m4a, webm, video, ...) and writes float32
(N, 4096), one row for each recording in the order of the paths. Beside the matrix: .csv (the recording of each row),
_skipped.csv (files without a row, and why) and .json (the recipe). A bad file never stops the rest. An interrupted run
continues where it stopped; recordings that were done before are not done again.

examples:
  python prep_audio_spectrograms.py
  python prep_audio_spectrograms.py --input_dir ~/recordings --workers 4 --verbose
"""

import shlex
import warnings
from pathlib import Path

import cli
import config


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--input_dir",
        type=cli.existing_folder,
        default=config.AUDIO_INPUT_DIR,
        metavar="DIR",
        help="folder with recordings, also in folders below it (default: %(default)s)",
    )
    parser.add_argument(
        "--output_file",
        type=cli.new_file(".npy"),
        default=config.SIMILARITY_VECTOR_NPY,
        metavar="F",
        help="the matrix, a .npy file (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=cli.bounded(int, 1, 1024),
        metavar="N",
        help="number of processes; the result is the same for any number (default: the number of cores, at least 2)",
    )
    parser.add_argument(
        "--dask_scheduler",
        metavar="ADDRESS",
        help="use the workers of a Dask cluster, for instance tcp://10.0.0.1:8786 (see docs/calibration.md)",
    )
    cli.add_channel(parser.add_argument)
    cli.add_no_trim(parser.add_argument)
    parser.add_argument("--verbose", action="store_true", help="print the speed and the slowest file")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(argv)
    output: Path = options.output_file
    if options.workers and options.dask_scheduler:
        parser.error("argument --workers: the cluster has its own workers; leave it out with --dask_scheduler")

    if not options.input_dir.is_dir():
        raise OSError(f"there is no folder {options.input_dir}; put recordings there, or name another with --input_dir")

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*joblib will operate in serial mode")  # prepare_batch says it
        from joblib import cpu_count
    from tqdm import tqdm

    from audio.batch import plural, prepare_batch

    workers = options.workers or max(2, cpu_count())
    with cli.keeping("what is done is kept, the same command continues"):
        say = tqdm.write  # above the progress bar
        how = {"channel": options.channel, "trim": not options.no_trim}
        report = prepare_batch(options.input_dir, output, config.RECIPE, workers, options.dask_scheduler, say, **how)
    recordings, sound = plural(report.rows, "recording"), cli.duration(report.seconds)
    print(f"{recordings}, {sound} of sound, {report.new} of them done now: {output}")
    print(f"{plural(report.skipped, 'file')} skipped: {output.with_name(output.stem + '_skipped.csv')}")
    if report.damaged:
        damaged = plural(report.damaged, "damaged recording")
        print(f"{damaged}, used as far as they could be read: {output.with_suffix('.csv')}")
    if report.copies:
        copies = (
            "1 recording is a copy of another"
            if report.copies == 1
            else f"{report.copies} recordings are copies of others"
        )
        print(f"{copies}, with the same sha256: {output.with_suffix('.csv')}")
    if options.verbose and not report.new:
        print(f"{report.wall:.1f} s: no new recordings")
    elif options.verbose:
        took, path = report.slowest
        print(
            f"{report.wall:.1f} s: {report.new / report.wall:.1f} files/s, "
            f"{report.new_seconds / 3600 / report.wall:.3f} hours of sound per second"
            + (f"; slowest {path!a}, {took:.2f} s" if path else "")
        )
    elsewhere = "" if output == config.SIMILARITY_VECTOR_NPY else f" --input_file {shlex.quote(str(output))}"
    print(f"next: python z_transformation_with_stats.py{elsewhere}")
    return 0


if __name__ == "__main__":
    cli.run(main)
