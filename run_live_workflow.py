"""Speak, and a picture comes of it: microphone -> recording -> latent -> picture.

Asks for ENTER, records until the next ENTER, then runs process_live_audio.py and txt2img.py. The recording stays in
temp_live_audio.wav, whatever happens after it. Without a microphone, or to use a recording again: --input_file F.
"""

import argparse
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cli
import config

if TYPE_CHECKING:
    from audio.recorder import Microphone, Recording

CHILD_ENDS = 0.5  # seconds that a script has to clean up after Ctrl-C, before it is killed
PICTURE = "picture: "  # how txt2img.py names a file it wrote


def build_parser() -> cli.CommandParser:
    parser = cli.CommandParser(__doc__)
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what the picture shows")
    parser.add_argument(
        "--steps",
        type=cli.bounded(int, 1, 1000),
        default=20,
        metavar="N",
        help="sampling steps: more take longer (default: %(default)s)",
    )
    parser.add_argument(
        "--scale",
        type=cli.bounded(float, 0, 100),
        default=4.0,
        metavar="S",
        help="how closely the picture follows the prompt (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=cli.bounded(int, 0, 2**62),
        default=42,
        metavar="K",
        help="of the noise that is mixed in (default: %(default)s)",
    )
    parser.add_argument(
        "--x_T",
        choices=("auto", "whitened", "raw"),
        help="how the latent becomes the start of sampling (default: as txt2img.py chooses, auto)",
    )
    parser.add_argument(
        "--input_file", type=cli.existing_file, metavar="F", help="a recording in place of the microphone"
    )
    return parser


@dataclass
class Take:
    """The recording that the picture is made of."""

    path: Path
    worth_keeping: bool  # there is something in it, so that whoever is interrupted is told where


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    check_folders()
    take = Take(options.input_file or config.TEMP_AUDIO_WAV, worth_keeping=bool(options.input_file))
    try:
        started = time.monotonic() if options.input_file else record_voice(take)
        for picture, written in make_pictures(take, options):
            print(f"{PICTURE}{picture} ({written - started:.1f} s from sound to picture)")
    except RuntimeError as error:
        if not take.worth_keeping:
            raise
        raise RuntimeError(f"{error}; the recording is kept: {take.path}") from error
    except KeyboardInterrupt:
        if take.worth_keeping:
            print(f"\nthe recording is kept: {take.path}", file=sys.stderr)
        raise
    return 0


def make_pictures(take: Take, options: argparse.Namespace) -> list[tuple[Path, float]]:
    """Run the scripts; return what `run_script` does."""
    run_script("process_live_audio.py", f"--input_file={take.path}", f"--output_file={config.LIVE_LATENT_PT}")
    chosen = [f"--x_T={options.x_T}"] if options.x_T else []
    pictures = run_script(
        "txt2img.py",
        f"--prompt={options.prompt}",
        f"--init_latents={config.LIVE_LATENT_PT}",
        "--subject_idx=0",
        f"--ddim_steps={options.steps}",
        f"--scale={options.scale}",
        f"--seed={options.seed}",
        *chosen,
    )
    if not pictures:
        raise RuntimeError("txt2img.py ended without naming a picture")
    return pictures


def check_folders() -> None:
    """Find out before anyone speaks whether calibration and model are there, and the files can be written.

    Raises:
        OSError: not so.
    """
    if not config.calibration_dirs():
        raise OSError(f"no statistics in {config.STATS_DIR}; run prep_audio_spectrograms.py first")
    if not config.BUILTIN_MODEL_WEIGHTS.is_file():
        raise OSError(f"there is no model {config.BUILTIN_MODEL_WEIGHTS}; clone the repository again")
    for folder in (config.ROOT_DIR, config.OUTPUT_DIR):
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise OSError(f"{folder} cannot be written to; set VOICETOIMG_DATA_DIR to a folder that can")


# --- the recording ---------------------------------------------------------------------------------------------------
def record_voice(take: Take) -> float:
    """Record until there is something to make a picture of; return the time.monotonic() at which ENTER ended it.

    Raises:
        RuntimeError: no microphone, or nobody there to press ENTER.
    """
    if sys.stdin is None:
        raise nobody_there()
    from audio import recorder

    try:
        microphone = recorder.find_microphone()
        keyboard = Keyboard(sys.stdin.fileno())
        while True:
            recording = record_once(take, microphone, keyboard)
            fault = fault_of(recording)
            if not fault:
                break
            take.worth_keeping = False
            print(f"{fault}: once more, please.", file=sys.stderr)
    except recorder.MicrophoneError as error:
        raise RuntimeError(f"{error}; or give a recording: --input_file F") from error
    print(
        f"recorded {recording.seconds:.1f} s at {recording.sample_rate} Hz, "
        f"level {recording.rms_dbfs:.0f} dBFS: {recording.path}"
    )
    return recording.stopped


def record_once(take: Take, microphone: "Microphone", keyboard: "Keyboard") -> "Recording":
    """From one ENTER to the next."""
    from audio import recorder

    def started() -> None:
        take.worth_keeping = True
        print("Recording... Press ENTER to stop.", flush=True)

    print("Press ENTER to start recording...", flush=True)
    if not keyboard.wait():
        raise nobody_there()
    recording = recorder.record(take.path, microphone, keyboard.pressed, started)
    if recording.ended_by:
        print(f"warning: {recording.ended_by}; what was recorded is used", file=sys.stderr)
    if recording.overflows:
        print(f"warning: {recording.overflows} gaps in the recording, the machine was too busy", file=sys.stderr)
    return recording


def fault_of(recording: "Recording") -> str:
    """Why no picture can be made of a recording, or ""."""
    if recording.seconds < config.SHORT_SECONDS:
        return f"That was {recording.seconds:.2f} s, at least {config.SHORT_SECONDS} s are needed"
    if recording.peak < config.QUIET_PEAK:
        return "Nothing was to be heard, is the microphone on"
    return ""


def nobody_there() -> RuntimeError:
    return RuntimeError("standard input is closed, so nobody can press ENTER; give a recording: --input_file F")


class Keyboard:
    """ENTERs on standard input, noticed by a thread of its own while the main thread records."""

    def __init__(self, descriptor: int) -> None:
        self._enters: queue.SimpleQueue[bool] = queue.SimpleQueue()  # False: standard input has ended
        # os.read, since a thread that waits in sys.stdin.readline makes the interpreter abort at its end
        threading.Thread(target=self._listen, args=(descriptor,), daemon=True).start()

    def _listen(self, descriptor: int) -> None:
        try:
            while typed := os.read(descriptor, 1024):
                for _ in range(typed.count(b"\n")):
                    self._enters.put(True)
        except OSError:  # the terminal was closed
            pass
        self._enters.put(False)

    def wait(self) -> bool:
        """Wait for ENTER; False if standard input has ended."""
        while self._enters.empty():
            time.sleep(0.02)  # not a blocking get: on Windows Ctrl-C would not end it
        return self._take()

    def pressed(self) -> bool:
        """Whether ENTER was pressed since the last call, or standard input has ended."""
        if self._enters.empty():
            return False
        self._take()
        return True

    def _take(self) -> bool:
        enter = self._enters.get()
        if not enter:
            self._enters.put(False)  # the end stays the end
        return enter


# --- the scripts -----------------------------------------------------------------------------------------------------
def run_script(name: str, *arguments: str) -> list[tuple[Path, float]]:
    """Run a script of this folder, show what it prints, and return the pictures it names, each with its time.

    The times are time.monotonic(). What the script says its user should do next is left out: it is being done.

    Raises:
        RuntimeError: it failed; its own message is on stderr already.
    """
    pictures = []
    with subprocess.Popen(
        [sys.executable, "-u", str(config.REPO_DIR / name), *arguments],  # -u: lines come as they are printed
        stdin=subprocess.DEVNULL,  # ENTER is for this process
        stdout=subprocess.PIPE,
        encoding=sys.getfilesystemencoding(),
        errors="surrogateescape",  # a folder may have any name
        start_new_session=True,  # so that Ctrl-C reaches this process alone, which then ends the script
    ) as script:
        try:
            for line in script.stdout or ():
                if line.startswith(PICTURE):
                    pictures.append((Path(line.removeprefix(PICTURE).rstrip("\n")), time.monotonic()))
                elif not line.startswith("next: "):
                    print(line, end="", flush=True)
            status = script.wait()
        except BaseException:
            end(script)
            raise
    if status:
        how = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
        raise RuntimeError(f"{name} {how}")
    return pictures


def end(script: "subprocess.Popen[str]") -> None:
    """Ask a script to end, and see to it."""
    script.terminate()
    try:
        script.wait(CHILD_ENDS)
    except subprocess.TimeoutExpired:
        script.kill()


if __name__ == "__main__":
    cli.run(main)
