"""Say how near latents are to N(0, I), the noise that a sampler expects.

For each latent: P, its power at spatial frequencies, 1 at all for N(0, I); correlation with the right and the lower
neighbour and of channels, 0; mean, 0; norm over that of N(0, I), 1; kurtosis, 3; the p-value of Jarque and Bera's test
for a normal distribution; and what all this means for txt2img.py. If there are more than five latents, also the worst.
"""

import sys
from pathlib import Path

import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.CommandParser(__doc__)
    parser.add_argument("latents", type=cli.existing_file, metavar="LATENTS.pt", help="latents [N, C, H, W]")
    path: Path = parser.parse_args(argv).latents

    from .gaussianity import report
    from .provenance import read_latents, read_note

    print("\n".join(report(read_latents(path).numpy())))
    if statistics := read_note(path):
        print(f"made by the calibration whose mean and std have the sha256 {statistics[:10]}...")
    else:
        print("the file does not say which calibration made them", file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
