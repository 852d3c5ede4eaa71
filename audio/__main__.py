"""Say how near the x_T of voices is to N(0, I), the noise that a sampler expects.

Reads latents, and turns them into x_T as txt2img.py does: by the whitening of the calibration that made them, unless
they are like noise already. The noise of a seed, which txt2img.py adds, is left out, so x_T is that of
--voice_strength 1.

For all latents together, and with --verbose for each: the power at spatial frequencies (P), 1 at all for N(0, I);
correlation with the right and the lower neighbour and of channels, 0; mean, 0; norm over that of N(0, I), 1; kurtosis,
3; with --verbose also the p-value of Jarque and Bera's test for a normal distribution.

Of one voice, or with --verbose of each, a line says what of it is clearly not as usual, with its place among the voices
of the calibration, 0 to 100 (docs/voice.md).

examples:
  python -m audio live_latent.pt
  python -m audio data/latents/audio_latents_batch.pt --verbose
  python -m audio data/latents/audio_latents_batch.pt --json --save_x_T x_T.pt
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli
import config

if TYPE_CHECKING:
    import numpy as np

AS_THEY_ARE = "used as they are"


def build_parser() -> cli.CommandParser:
    """Build the parser of the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("latents", type=cli.existing_file, metavar="LATENTS.pt", nargs="+", help="latents [N, C, H, W]")
    add("--stats_dir", type=cli.existing_folder, metavar="DIR", help="the calibration that made the latents (default: "
        "your own, if phase 1 was run, or the built-in one)")  # fmt: skip
    add("--raw", action="store_true", help="judge the latents as they are, in place of x_T")
    add("--verbose", action="store_true", help="also print a line for each latent")
    add("--json", action="store_true", help="print all figures as one JSON object a file, in place of the report")
    add("--save_x_T", type=cli.new_file(".pt"), metavar="F", help="write x_T [N, C, H, W], for txt2img.py --x_T raw")
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with status 2 if it is wrong."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.save_x_T and (options.raw or len(options.latents) > 1):
        parser.error("--save_x_T writes the x_T of one file: " + ("leave out --raw" if options.raw else "name one"))
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    options = parse(argv)
    for path in options.latents:
        examine_file(path, options)
    return 0


def examine_file(path: Path, options: argparse.Namespace) -> None:
    """Judge the latents of one file, and print the report.

    Raises:
        ValueError: the file holds no latents.
        OSError: a file cannot be read or written.
    """
    from tqdm import tqdm

    from .description import chart, describe
    from .gaussianity import as_json, examine, listing, summary
    from .provenance import read_latents, read_names, save_latents

    latents = read_latents(path).numpy()
    names = read_names(path, len(latents))
    places: list[dict[str, float]] = []
    x_T, treatment = latents, AS_THEY_ARE
    if not options.raw:
        x_T, treatment, places = start_noise(path, latents, options.stats_dir)
    found = [examine(one) for one in tqdm(x_T, "measuring", unit="latent", delay=0.5, disable=None)]
    voices = [describe(one) for one in places]
    if options.save_x_T:
        import torch

        save_latents(options.save_x_T, torch.from_numpy(x_T), None, names if any(names) else ())
    if options.json:
        rows = as_json(found, names)
        for row, one, voice in zip(rows, places, voices, strict=False):
            row |= {"qualities": one, "description": voice}
        print(json.dumps({"file": str(path), "shape": latents.shape, "x_T": treatment, "latents": rows}))
        return
    print(f"{path}: {cli.counted(len(latents), 'latent')} {list(latents.shape[1:])}, {treatment}")
    lines = summary(found, names)
    print("\n".join([*listing(found, names, voices), "", *lines] if options.verbose else lines))
    if len(voices) == 1 and voices[0]:
        print("\n".join([f"voice: {voices[0]}", *chart(places[0])]))
    if options.save_x_T:
        print(f"x_T {x_T.shape}: {options.save_x_T}")


def start_noise(
    path: Path, latents: "np.ndarray", stats_dir: Path | None
) -> tuple["np.ndarray", str, list[dict[str, float]]]:
    """Turn the latents [N, C, H, W] of a file into x_T of the same shape.

    Returns:
        x_T, how that was done, and the places of each voice, {} of a latent that is used as it is; see
        `description.places_of`.
    """
    import numpy as np
    from tqdm import tqdm

    from .description import places_of
    from .gaussianity import is_gaussian
    from .initial_noise import Voices
    from .provenance import find_whitening, read_heard, read_note

    voices = latents[~is_gaussian(latents)]
    if not len(voices):
        return latents, f"like noise, {AS_THEY_ARE}", []
    folders = [stats_dir] if stats_dir else config.calibration_dirs()
    found, whitening = find_whitening(voices, read_note(path), folders)
    if found is None or whitening is None:
        tried = ", ".join(map(str, folders))
        print(
            f"warning: the calibration that made {path} is not in {tried}: its latents cannot be whitened; name its "
            "folder with --stats_dir",
            file=sys.stderr,
        )
        return latents, AS_THEY_ARE, []
    whose = "the built-in calibration" if found.parent == config.BUILTIN_CALIBRATION_DIR else str(found.parent)
    made = Voices(latents, whitening, heard=read_heard(path, len(latents)))
    rows = tqdm(range(len(latents)), "whitening", unit="latent", delay=0.5, disable=None)
    x_T = np.stack([made.noise(row, latents.shape[1:]) for row in rows])
    places = [
        places_of(whitening, latents[row : row + 1], made.heard[row : row + 1])[0] if made.whitened(row) else {}
        for row in range(len(latents))
    ]
    used = f", {len(latents) - len(voices)} {AS_THEY_ARE}" if len(voices) < len(latents) else ""
    return x_T, f"{len(voices)} whitened by {whose}{used}", places


if __name__ == "__main__":
    cli.run(main)
