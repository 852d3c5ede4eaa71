"""The command line of the stage. This module imports nothing heavy."""

import argparse
import re

import cli
from stage.network import is_loopback

PORT = 8765
ACCENT = "#e8b04a"
LONGEST_TITLE = 80
ONLY_HERE = (
    "stage_host", "stage_port", "https", "certfile", "keyfile", "insecure_http", "free_prompt", "max_seconds", "accent",
)  # fmt: skip
# options that make no sense beside a stage, and why
NOT_BESIDE = {
    "list_mics": "lists microphones and ends",
    "mic_test": "tests a microphone and ends",
    "input_file": "takes recordings in place of voices",
    "seconds": "is for the terminal: --max_seconds limits a recording on the stage",
    "auto_stop": "is for the terminal: on the stage the button ends a recording",
    "open": "opens a window here: show /screen instead",
    "no_standby": "ends the scripts, which the stage needs loaded",
}


def add_stage(parser: cli.CommandParser) -> None:
    """Add the options of the stage."""
    add = parser.add_argument_group("stage").add_argument
    add("--stage", action="store_true", help="serve web pages: / for visitors, who speak, /screen for a projector, "
        "/gallery, and /operator; goes on until Ctrl-C (docs/stage.md)")  # fmt: skip
    add("--stage_host", default="127.0.0.1", metavar="HOST", help="address to serve: 0.0.0.0 for other devices, too "
        "(default: %(default)s, this machine alone)")  # fmt: skip
    add("--stage_port", type=cli.bounded(int, 1, 65_535), default=PORT, metavar="N", help="default: %(default)s")
    add("--https", action="store_true", help="serve https with a certificate made here; browsers give other devices "
        "the microphone only so")  # fmt: skip
    add("--certfile", type=cli.existing_file, metavar="F", help="serve https with this certificate (PEM)")
    add("--keyfile", type=cli.existing_file, metavar="F", help="its private key (PEM)")
    add("--insecure_http", action="store_true", help="serve other devices without https: anybody in the network can "
        "listen, and only this machine has a microphone")  # fmt: skip
    add("--free_prompt", action="store_true", help="let visitors type what the image shows")
    add("--max_seconds", type=cli.bounded(float, 1, 300), default=30.0, metavar="S", help="longest recording of a "
        "visitor (default: %(default)g)")  # fmt: skip
    add("--accent", type=colour, default=ACCENT, metavar="#RRGGBB", help="colour of the button (default: %(default)s)")


def colour(text: str) -> str:
    """Check, as an argparse type, a colour such as #e8b04a."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise argparse.ArgumentTypeError(f"{text} is not a colour such as {ACCENT}")
    return text.lower()


def check_stage(parser: cli.CommandParser, options: argparse.Namespace, explicit: set[str]) -> None:
    """Leave with one line if options do not go together."""
    if not options.stage:
        if given := sorted(explicit.intersection(ONLY_HERE)):
            parser.error(f"--{given[0]} has no effect without --stage: add it, or leave this out")
        return
    for name, why in NOT_BESIDE.items():
        if getattr(options, name):
            parser.error(f"--{name} {why}: leave it or --stage out")
    if bool(options.certfile) != bool(options.keyfile):
        parser.error("--certfile and --keyfile belong together: give both")
    if options.https and options.certfile:
        parser.error("--https makes a certificate, --certfile names one: leave one of them out")
    secure = options.https or options.certfile
    if secure and options.insecure_http:
        parser.error("--insecure_http is for a stage without https: leave it out")
    if not is_loopback(options.stage_host) and not secure and not options.insecure_http:
        parser.error(
            f"--stage_host {options.stage_host} serves the network: add --https, or --certfile and --keyfile, or "
            "--insecure_http if everybody in the network may listen"
        )
