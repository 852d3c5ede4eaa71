"""Draw a contact sheet of the scenes that the built-in model is trained on, and print a caption of each.

python -m training.scenes --sheet sheet.png
"""

import cli


def build_parser() -> cli.CommandParser:
    """Build the parser of the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--sheet", type=cli.new_file(".png"), required=True, metavar="F.png", help="new file for the contact sheet")
    add(
        "--seed",
        type=cli.bounded(int, 0),
        default=0,
        metavar="K",
        help="seed of the first (default: %(default)s)",
    )
    add("--count", type=cli.bounded(int, 1), default=48, metavar="N", help="number of scenes (default: %(default)s)")
    add("--size", type=cli.bounded(int, 16), default=128, metavar="N", help="pixels a side (default: %(default)s)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    if args.sheet.exists():
        raise FileExistsError(f"{args.sheet} exists and is not overwritten: name another file")

    # imported here, so that --help and a wrong option answer at once
    import numpy as np

    from painting.images import save_png
    from training.scenes.captions import caption
    from training.scenes.render import contact_sheet
    from training.scenes.scenes import sample_scene

    scenes = [sample_scene(args.seed + i) for i in range(args.count)]
    save_png(contact_sheet(scenes, args.size), args.sheet)
    for scene in scenes:
        print(f"{scene.seed}\t{caption(scene, np.random.default_rng([scene.seed, 3]))}")
    return 0


if __name__ == "__main__":
    cli.run(main)
