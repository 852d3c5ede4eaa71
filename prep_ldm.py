"""Phase 1, step 3: turn z-scores into latents.

Reshapes float32 (N, 4096), row by row, to (N, 4, 32, 32), the shape of the diffusion model's initial latents, and saves
them as one tensor for `txt2img.py --init_latents`. The values do not change: they are the plain z-scores.

examples:
  python prep_ldm.py
  python prep_ldm.py --input_file z_scores.npy --output_file latents.pt
"""

import shlex

import cli
import config


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--input_file",
        type=cli.existing_file,
        default=config.ZSCORE_VECTOR_NPY,
        metavar="F",
        help="z-scores, a .npy file (default: %(default)s)",
    )
    parser.add_argument(
        "--output_file",
        type=cli.new_file(".pt"),
        default=config.LATENT_TENSOR_PT,
        metavar="F",
        help="the latents, a .pt file (default: %(default)s)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    if not options.input_file.is_file():
        raise OSError(f"there is no file {options.input_file}; run z_transformation_with_stats.py first")

    import warnings

    import numpy as np

    from audio import provenance
    from audio.calibration import check_z_scores, to_latents
    from audio.npy import BLOCK, load_array

    z_scores = load_array(options.input_file, (None, config.VECTOR_SIZE))
    check_z_scores(options.input_file, z_scores[:BLOCK], config.RECIPE)

    import torch

    with warnings.catch_warnings():  # torch warns about read-only memory; nothing writes to it
        warnings.simplefilter("ignore", UserWarning)
        # a memory map, which is saved without being read into memory first
        latents = torch.from_numpy(to_latents(z_scores.astype(np.float32, copy=False)))
    made_by = provenance.read_sidecar(options.input_file, len(z_scores))
    names = provenance.sidecar_names(options.input_file, len(z_scores))
    heard = provenance.sidecar_heard(options.input_file, len(z_scores))
    provenance.save_latents(options.output_file, latents, made_by, names, heard)
    print(f"latents {tuple(latents.shape)}: {options.output_file}")
    there = shlex.quote(str(options.output_file))
    print(f'next: python txt2img.py --init_latents {there} --subject_idx 0 --prompt "calm blue waves"')
    return 0


if __name__ == "__main__":
    cli.run(main)
