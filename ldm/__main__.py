"""Describe the weights of a latent diffusion model, or convert them.

    python -m ldm FILE                          describes a weights file or a diffusers folder
    python -m ldm FILE --to OUT.safetensors     converts it, so that later starts are fast

FILE is a .safetensors or .ckpt file with its yaml beside it, or a folder as diffusers saves it.
"""

import argparse

import cli
from ldm.devices import PRECISIONS


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with status 2 if it is wrong."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("weights", metavar="FILE", type=cli.existing_path, help="a .safetensors or .ckpt file, or a model folder")
    add("--config", type=cli.existing_file, metavar="F", help="the yaml of the model (default: the one beside FILE)")
    add("--to", metavar="OUT.safetensors", type=cli.new_file(".safetensors"), help="convert; never overwrites a file")
    add("--dtype", choices=PRECISIONS, help="element type of the weights in OUT (default: the one in FILE)")
    args = parser.parse_args(argv)
    if args.dtype and not args.to:
        parser.error("--dtype is the element type of a converted file: add --to OUT.safetensors")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    args = parse(argv)
    # torch takes a second to import, so only after the arguments are checked
    from ldm.checkpoint import DTYPES, find_model
    from ldm.conversion import convert, describe
    from ldm.diffusers_folder import is_diffusers_folder

    weights, config = args.weights, args.config
    if weights.is_dir() and not is_diffusers_folder(weights):
        weights, found = find_model(weights)
        config = config or found
    if args.to is None:
        print("\n".join(describe(weights, config)))
        return 0
    for path in convert(weights, args.to, DTYPES.get(args.dtype), config):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    cli.run(main)
