"""Measure the 1.45 B text-to-image model beside diffusers: python -m benchmarks.large_model [--repeat 3] [--small]

Makes a checkpoint of that shape with random weights (6.2 GB, and 3.1 GB converted) in a temporary folder, and removes
it at the end. Measures in fresh processes: the time and the peak anonymous memory of loading it; one guided step of the
U-Net at 256×256 and of diffusers' U-Net, by turns in one process; a whole image by txt2img.py. Prints medians beside
limits. Needs 14 GB of memory; with 10 GB more, the files are in the page cache when they are loaded.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

import cli
import config
from benchmarks.memory import anonymous_memory, run_command
from ldm.checkpoint import DTYPES, build_model, load_model, read_config
from ldm.conversion import convert
from ldm.devices import choose_precision

YAML = config.CONFIGS_DIR / "latent-diffusion" / "txt2img-1p4B-eval.yaml"
STEPS = 20
TOKENS = 77
GIGA = 1e9  # bytes
SMALL = {  # few parameters in the same structure, to try this program
    "unet_config": {"model_channels": 32, "context_dim": 64},
    "cond_stage_config": {"n_embed": 64, "n_layer": 2},
}
HEAD = "cond_stage_model.transformer.to_logits"  # in published checkpoints, but unused


# --- the model -------------------------------------------------------------------------------------------------------


def node_of(small: bool) -> dict[str, Any]:
    """Return the model node of the published yaml, or one of the same structure with few parameters."""
    node: Any = OmegaConf.create(dict(read_config(YAML)))
    for part, changes in SMALL.items() if small else ():
        node.params[part].params.update(changes)
    plain: Any = OmegaConf.to_container(node)
    return plain


def random_weights(node: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Draw all tensors of the model in float32, scaled so that activations keep their size from layer to layer."""
    shapes = {name: tensor.shape for name, tensor in build_model(node, str(YAML)).state_dict().items()}
    words, width = shapes["cond_stage_model.transformer.token_emb.weight"]
    shapes |= {f"{HEAD}.weight": torch.Size((words, width)), f"{HEAD}.bias": torch.Size((words,))}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            state[name] = torch.empty(shape).normal_(0.0, shape[1:].numel() ** -0.5, generator=generator)
        else:
            state[name] = torch.full(shape, 1.0 if name.endswith("weight") else 0.0)
    return state


def make_files(folder: Path, small: bool) -> tuple[Path, Path]:
    """Write the model as CompVis saves it, a .ckpt in float32, and converted: a .safetensors in bfloat16."""
    node = node_of(small)
    ckpt, converted = folder / "model.ckpt", folder / "converted" / "model.safetensors"
    OmegaConf.save(OmegaConf.create({"model": node}), ckpt.with_suffix(".yaml"))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(30_522 - 5))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.save({"state_dict": random_weights(node), "epoch": 0}, ckpt)
    convert(ckpt, converted, torch.bfloat16)
    return ckpt, converted


# --- fresh processes -------------------------------------------------------------------------------------------------


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> tuple[Any, float]:
    """Return the result of `function`, and the peak anonymous memory of its process in bytes (0 without /proc)."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, arguments))
    process.start()
    peak = 0.0
    while not receiver.poll(0.005):
        peak = max(peak, anonymous_memory(process.pid))
        if not process.is_alive() and not receiver.poll():
            raise RuntimeError(f"{function.__name__} ended with status {process.exitcode}; out of memory?")
    result = receiver.recv()
    process.join()
    return result, peak


def _send(sender: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    sender.send(function(*arguments))


# --- measurements ----------------------------------------------------------------------------------------------------


def seconds_of(function: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def load(weights: Path, precision: str) -> float:
    """Time the loading of the model."""
    return seconds_of(lambda: load_model(weights, dtype=DTYPES[precision]))


def diffusers_unet(params: dict[str, Any]) -> torch.nn.Module:
    """Build diffusers' U-Net from the parameters of the yaml, channels last, with its own random weights."""
    from diffusers import UNet2DConditionModel
    from diffusers.utils.logging import set_verbosity_error

    set_verbosity_error()
    widths = [params["model_channels"] * mult for mult in params["channel_mult"]]
    attends = [2**level in params["attention_resolutions"] for level in range(len(widths))]
    unet: Any = UNet2DConditionModel(
        in_channels=params["in_channels"],
        out_channels=params["out_channels"],
        block_out_channels=widths,
        layers_per_block=params["num_res_blocks"],
        down_block_types=["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        up_block_types=["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        cross_attention_dim=params["context_dim"],
        attention_head_dim=params["num_heads"],
    )
    return unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def guided_step(weights: Path, params: dict[str, Any], precision: str, repeat: int) -> tuple[float, float]:
    """Measure one evaluation of the U-Net for a guided image of 256×256: median seconds of ours and of diffusers'."""
    dtype = DTYPES[precision]
    ours = load_model(weights, dtype=dtype)
    theirs = diffusers_unet(params).to(dtype)
    x, t = torch.randn(2, 4, 32, 32), torch.tensor([500, 500])
    c = torch.randn(2, TOKENS, params["context_dim"]).to(dtype)
    x_theirs = x.to(dtype).contiguous(memory_format=torch.channels_last)
    steps = (
        lambda: ours.apply_model(x, t, c),
        lambda: theirs(x_theirs, t, encoder_hidden_states=c),
    )
    with torch.inference_mode():
        seconds = [[seconds_of(step) for step in steps] for _ in range(repeat + 1)]
    return tuple(statistics.median(column) for column in zip(*seconds[1:], strict=True))  # the first ones warm up


def image(weights: Path, folder: Path) -> tuple[float, float]:
    """Measure txt2img.py as a whole: seconds, and peak anonymous memory in bytes."""
    command: list[str | Path] = [sys.executable, config.REPO_DIR / "txt2img.py", "--ckpt", weights, "--outdir", folder]
    return run_command([*command, "--ddim_steps", str(STEPS), "--scale", "5", "--prompt", "word1 word2"])


def print_loading(files: dict[str, Path], sizes: list[float], chosen: str, repeat: int) -> None:
    """Print time and memory of loading both files."""
    for (label, weights), precision, limit in zip(files.items(), (chosen, "bf16"), (10, 3), strict=True):
        in_fresh_process(load, weights, precision)  # so that the file is in the page cache
        runs = [in_fresh_process(load, weights, precision) for _ in range(repeat)]
        seconds, peak = (statistics.median(column) for column in zip(*runs, strict=True))
        held = sizes[1] * (1 if precision == "bf16" else 2)
        print(f"| load the {label} in {precision} | {seconds:.2f} s | – | {limit} s |")
        print(f"| … peak anonymous memory | {peak / GIGA:.2f} GB | – | {held + 1:.2f} GB |", flush=True)


def print_steps(files: dict[str, Path], params: dict[str, Any], repeat: int) -> None:
    """Print the time of one guided step in both precisions."""
    for precision, weights in zip(("fp32", "bf16"), files.values(), strict=True):
        (ours, theirs), _ = in_fresh_process(guided_step, weights, params, precision, repeat)
        limits = f"{theirs:.2f} s" + (" and 1.00 s" if precision == "bf16" else "")
        print(f"| one guided step, {precision} | {ours:.3f} s | {theirs:.3f} s | {limits} |", flush=True)


def print_images(files: dict[str, Path], folder: Path, repeat: int) -> None:
    """Print time and memory of a whole image from both files."""
    for label, weights in files.items():
        runs = [image(weights, folder) for _ in range(repeat)]
        seconds, peak = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| an image by txt2img.py, {STEPS} steps, from the {label} | {seconds:.1f} s | – | 35 s |")
        print(f"| … peak anonymous memory | {peak / GIGA:.2f} GB | – | – |", flush=True)


def main() -> None:
    """Run the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--repeat", type=cli.bounded(int, 1), default=3, metavar="N", help="measurements a figure (default: 3)")
    add("--small", action="store_true", help="a model with few parameters, to try this program")
    add("--folder", type=cli.existing_folder, default=Path(tempfile.gettempdir()), help="folder for 10 GB of files")
    args = parser.parse_args()
    chosen = choose_precision("auto", torch.device("cpu"))
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, chosen precision {chosen}", flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        (ckpt, converted), _ = in_fresh_process(make_files, folder, args.small)
        sizes = [path.stat().st_size / GIGA for path in (ckpt, converted)]
        print(f"files: .ckpt {sizes[0]:.2f} GB, converted {sizes[1]:.2f} GB\n\n| | ours | diffusers | limit |")
        print("| --- | --- | --- | --- |", flush=True)
        files = {".ckpt": ckpt, "converted bf16 file": converted}
        print_loading(files, sizes, chosen, args.repeat)
        print_steps(files, node_of(args.small)["params"]["unet_config"]["params"], args.repeat)
        print_images(files, folder / "out", args.repeat)


if __name__ == "__main__":
    cli.run(main)
