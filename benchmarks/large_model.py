"""The 1.45 B text-to-image model beside its bars: python benchmarks/large_model.py [--repeat 3] [--small]

Makes a checkpoint of that shape with random weights (6.2 GB, and 3.1 GB converted) in a temporary folder and removes
it at the end. Measures, each in a fresh process: loading it and what anonymous memory that takes at its peak; one
guided step of the U-Net at 256×256 beside diffusers', turn by turn in one process; a finished picture by txt2img.py.
Prints medians. It needs 14 GB of memory; the files are in the page cache when they are loaded, if there is 10 GB more.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cli  # noqa: E402
import config  # noqa: E402
from ldm.checkpoint import DTYPES, build_model, load_model, read_config  # noqa: E402
from ldm.conversion import convert  # noqa: E402
from ldm.devices import choose_precision  # noqa: E402

YAML = config.CONFIGS_DIR / "latent-diffusion" / "txt2img-1p4B-eval.yaml"
STEPS = 20
TOKENS = 77
GIGA = 1e9  # bytes
SMALL = {  # the same parts, for a trial of this program
    "unet_config": {"model_channels": 32, "context_dim": 64},
    "cond_stage_config": {"n_embed": 64, "n_layer": 2},
}
HEAD = "cond_stage_model.transformer.to_logits"  # published, of no use here


# --- the model -------------------------------------------------------------------------------------------------------


def node_of(small: bool) -> dict[str, Any]:
    """The published yaml's model node, or one of the same structure and few parameters."""
    node: Any = OmegaConf.create(dict(read_config(YAML)))
    for part, changes in SMALL.items() if small else ():
        node.params[part].params.update(changes)
    plain: Any = OmegaConf.to_container(node)
    return plain


def random_weights(node: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors of the model in float32, such that activations keep their size from layer to layer."""
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
    """CompVis's way to save the model, and ours: a .ckpt in float32 and a .safetensors in bfloat16."""
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
    """What `function` returns, and the peak of its process's anonymous memory in bytes (0 where it is not told)."""
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


def anonymous_memory(pid: int | None) -> float:
    """Bytes in memory that no file backs; 0 where there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0.0)


# --- what is measured ------------------------------------------------------------------------------------------------


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def load(weights: Path, precision: str) -> float:
    return seconds_of(lambda: load_model(weights, dtype=DTYPES[precision]))


def diffusers_unet(params: dict[str, Any]) -> torch.nn.Module:
    """diffusers' U-Net by the yaml's parameters, channels last, with its own random weights."""
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
    """Seconds of one U-Net evaluation for a guided picture of 256×256, ours and diffusers': medians, turn by turn."""
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


def picture(weights: Path, folder: Path) -> tuple[float, float]:
    """Seconds of txt2img.py from its start to its end, and the peak of its anonymous memory in bytes."""
    command: list[str | Path] = [sys.executable, ROOT / "txt2img.py", "--ckpt", weights, "--outdir", folder]
    command += ["--ddim_steps", str(STEPS), "--scale", "5", "--prompt", "word1 word2"]
    start, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, anonymous_memory(process.pid))
        time.sleep(0.01)
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with status {process.returncode}")
    return time.perf_counter() - start, peak


def main() -> None:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--repeat", type=cli.bounded(int, 1), default=3, metavar="N", help="measurements a figure (default: 3)"
    )
    parser.add_argument("--small", action="store_true", help="a small shape, to try this program")
    parser.add_argument(
        "--folder", type=cli.existing_folder, default=Path(tempfile.gettempdir()), help="for 10 GB of files"
    )
    args = parser.parse_args()
    chosen = choose_precision("auto", torch.device("cpu"))
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, chosen precision {chosen}", flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        (ckpt, converted), _ = in_fresh_process(make_files, folder, args.small)
        sizes = [path.stat().st_size / GIGA for path in (ckpt, converted)]
        print(f"files: .ckpt {sizes[0]:.2f} GB, converted {sizes[1]:.2f} GB\n\n| | ours | diffusers | bar |")
        print("| --- | --- | --- | --- |", flush=True)
        for label, weights, precision, bar in (
            (".ckpt", ckpt, chosen, 10),
            ("converted bf16 file", converted, "bf16", 3),
        ):
            in_fresh_process(load, weights, precision)  # into the page cache
            runs = [in_fresh_process(load, weights, precision) for _ in range(args.repeat)]
            seconds, peak = (statistics.median(column) for column in zip(*runs, strict=True))
            held = sizes[1] * (1 if precision == "bf16" else 2)
            print(f"| load the {label} in {precision} | {seconds:.2f} s | – | {bar} s |")
            print(f"| … peak anonymous memory | {peak / GIGA:.2f} GB | – | {held + 1:.2f} GB |", flush=True)
        params = node_of(args.small)["params"]["unet_config"]["params"]
        for precision, weights in (("fp32", ckpt), ("bf16", converted)):
            (ours, theirs), _ = in_fresh_process(guided_step, weights, params, precision, args.repeat)
            bars = f"{theirs:.2f} s" + (" and 1.00 s" if precision == "bf16" else "")
            print(f"| one guided step, {precision} | {ours:.3f} s | {theirs:.3f} s | {bars} |", flush=True)
        for label, weights in ((".ckpt", ckpt), ("converted file", converted)):
            runs = [picture(weights, folder / "out") for _ in range(args.repeat)]
            seconds, peak = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"| a picture by txt2img.py, {STEPS} steps, from the {label} | {seconds:.1f} s | – | 35 s |")
            print(f"| … peak anonymous memory | {peak / GIGA:.2f} GB | – | – |", flush=True)


if __name__ == "__main__":
    cli.run(main)
