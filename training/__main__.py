"""Train the built-in model, stage after stage, and the embedding of voices.

    python -m training words          # fixed word vectors, from a sentence encoder
    python -m training renders        # optional: draw all training data now, not when a stage first needs it
    python -m training first_stage    # the autoencoder
    python -m training prior          # the text encoder and the prior
    python -m training diffusion      # the U-Net
    python -m training export         # write the model folder
    python -m training embedding --repeats FOLDER --recordings FOLDER    # what tells voices apart, for all models

Each stage keeps its checkpoint, loss.csv and sample sheets in --dir, and resumes where it was stopped. Every random
number follows from the seed and the step, so a resumed run gives the same weights. A stage starts from random weights,
or with --from from those of an existing model:

    python -m training diffusion --from models/chladni
    python -m training export --from models/chladni --out DIR
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli
from training.settings import CONFIG

if TYPE_CHECKING:
    from training.settings import TrainingOptions

STAGES = ("words", "renders", "first_stage", "prior", "diffusion", "export", "embedding")
ONLY = {"encoder": "words", "out": "export", "repeats": "embedding", "recordings": "embedding"}  # options of one stage
NEEDED = ("repeats", "recordings")  # by the stage embedding


def build_parser() -> cli.CommandParser:
    """Build the parser of the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("stage", choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    add("--config", type=cli.existing_file, default=CONFIG, metavar="F", help="yaml (default: %(default)s)")
    add("--dir", type=cli.new_folder, default=Path("runs"), metavar="DIR", help="working folder (default: %(default)s)")
    add("--from", type=cli.existing_folder, dest="start", metavar="MODEL", help="model folder to start from")
    add("--encoder", type=cli.existing_folder, metavar="DIR", help="words: sentence encoder (default: MiniLM)")
    add("--out", type=cli.new_folder, metavar="DIR", help="export: model folder to write (default: models/chladni)")
    add(
        "--repeats",
        type=cli.existing_folder,
        metavar="FOLDER",
        help="embedding: words said several times, named SPEAKER-WORD-TAKE, such as ann-yes-3.wav",
    )
    add("--recordings", type=cli.existing_folder, metavar="FOLDER", help="embedding: recordings of many voices")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; leaves with status 2 if an option does not belong to the stage."""
    parser = build_parser()
    args = parser.parse_args(argv)
    for option, stage in ONLY.items():
        if getattr(args, option) is not None and args.stage != stage:
            parser.error(f"--{option} belongs to the stage {stage}, not to {args.stage}")
    if args.stage == "embedding":
        if lacking := [f"--{option}" for option in NEEDED if getattr(args, option) is None]:
            parser.error(f"the stage embedding needs {' and '.join(lacking)}")
        if args.start is not None:
            parser.error("--from names a model that draws images; the stage embedding starts from random weights")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    args = parse(argv)
    words = args.dir / "words"
    # imported here, so that --help and a wrong option answer at once
    if args.stage == "words":
        from training.word_vectors import make_word_vectors

        make_word_vectors(words, args.encoder)
        return 0

    import torch
    from omegaconf import OmegaConf

    from ldm.checkpoint import read_config
    from training.parts import copy_vocabulary, model_node
    from training.settings import options_of

    read_config(args.config)  # raises ValueError if it is no yaml, or describes no model
    config = OmegaConf.load(args.config)
    options = options_of(config)
    torch.manual_seed(options.seed)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True  # the shapes of batches stay the same
    if args.stage == "embedding":
        from training.embedding.stage import train_embedding

        folder = args.dir / args.stage
        train_embedding(options.embedding, args.repeats, args.recordings, folder, options.seed)
        return 0

    if args.start is not None:
        copy_vocabulary(args.start, words)
    node = model_node(config, words)
    if args.stage == "renders":
        draw_renders(options, node, args.dir / "renders")
    elif args.stage == "export":
        export_model(node, args)
    else:
        train(node, options, args)
    return 0


def draw_renders(options: "TrainingOptions", node: dict[str, Any], renders: Path) -> None:
    """Draw the renders of all stages."""
    from training import diffusion, first_stage, prior
    from training.scenes.render_cache import cached_renders

    cached_renders(renders, options.seed, options.first_stage.renders, first_stage.RENDER_SIZE)
    latent_size = node["params"]["image_size"]
    cached_renders(renders, prior.FIRST_SEED, options.prior.renders, latent_size, "canonical")
    for number, stage in enumerate(options.diffusion.stages):
        diffusion.stage_renders(stage, diffusion.first_seed_of(number), renders)


def train(node: dict[str, Any], options: "TrainingOptions", args: argparse.Namespace) -> None:
    """Train the stage `args.stage`."""
    from training import diffusion, first_stage, parts, prior

    folder, renders = args.dir / args.stage, args.dir / "renders"
    if args.stage == "first_stage":
        model = parts.build(node, args.dir, trained=(), start=args.start)
        autoencoder = parts.first_stage_of(model)
        first_stage.train_first_stage(autoencoder, options.first_stage, folder, renders, options.seed)
    elif args.stage == "prior":
        model = parts.build(node, args.dir, trained=["first_stage"], start=args.start)
        prior.train_prior(model, options.prior, folder, renders, options.seed)
    else:
        model, average = (parts.build(node, args.dir, start=args.start) for _ in range(2))
        average.load_state_dict(model.state_dict())
        diffusion.train_diffusion(model, average, options.diffusion, folder, renders, options.seed)


def export_model(node: dict[str, Any], args: argparse.Namespace) -> None:
    """Write the trained model to `args.out`."""
    from training import parts
    from training.export import export
    from training.run import CHECKPOINT, load_parts

    folder = args.dir / "diffusion"
    model = parts.build(node, args.dir, start=args.start)
    with parts.unchanged_prior(model, folder):
        load_parts(folder / CHECKPOINT, {"average_unet": model.model})
    export(model, node, args.dir / "words", args.out or Path("models/chladni"))


if __name__ == "__main__":
    cli.run(main)
