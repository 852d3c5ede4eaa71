"""Measure how long the audience waits: python -m benchmarks.enter_to_image [--recordings 10] [--steps 4]

Needs PulseAudio as the tests do (tests/sound.py). Plays five seconds of real speech into a microphone, and drives
run_live_workflow.py through a terminal. Prints the time from the second ENTER to the image on disk, with and without
scripts in standby, beside that of the plain scripts one after the other, and the parts of that time.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cli
import config
from live.client import ScriptClient, end
from live.keyboard import ONE_PRESS
from tests import sound
from tests.person import Person

ROOT = config.REPO_DIR
VOICE = config.EXAMPLES_DIR / "voice_it.wav"  # 5.0 s
PROMPT = "--prompt=calm blue and turquoise waves"
OTHER_RUNS = 3  # of the slower variants, whose times vary less
SETTLED = 3.0  # seconds in which everything is loaded, while a person would read the prompt


def images_in(folder: Path) -> set[Path]:
    """Return the images that the scripts have written to a data folder."""
    return set((folder / "outputs" / "txt2img-samples" / "samples").glob("*.png"))


def speak_once(person: Person, server: sound.SoundServer, folder: Path, voice: Path = VOICE) -> float:
    """Record a voice; return the seconds from the second ENTER to the image's last byte."""
    before = images_in(folder)
    time.sleep(ONE_PRESS)  # an image comes so soon that ENTER at once would count as a key that is still held
    person.presses("\n")
    person.waits_for("Press ENTER to stop.")
    server.speak(voice)
    pressed = time.time()
    person.presses("\n")
    person.waits_for("image: ")
    (image,) = images_in(folder) - before
    return image.stat().st_mtime - pressed


def workflow(server: sound.SoundServer, steps: int, recordings: int, *options: str) -> list[float]:
    """Measure the seconds of each of some recordings in one live run."""
    with tempfile.TemporaryDirectory() as name:
        environment = server.environment | {"VOICETOIMG_DATA_DIR": name}
        script = ROOT / "run_live_workflow.py"
        person = Person(environment, PROMPT, f"--steps={steps}", "--loop", *options, script=script)
        person.waits_for("Press ENTER to start recording...")
        time.sleep(SETTLED)
        seconds = [speak_once(person, server, Path(name)) for _ in range(recordings)]
        person.presses("q\n")
        person.sees_the_end()
        return seconds


def plain_scripts(steps: int) -> float:
    """Measure the seconds of process_live_audio.py followed by txt2img.py."""
    with tempfile.TemporaryDirectory() as name:
        environment = os.environ | {"VOICETOIMG_DATA_DIR": name}
        latent = Path(name) / "live_latent.pt"
        started = time.time()
        for script, *options in (
            ("process_live_audio.py", f"--input_file={VOICE}"),
            ("txt2img.py", PROMPT, f"--init_latents={latent}", f"--ddim_steps={steps}"),
        ):
            command = [sys.executable, str(ROOT / script), *options]
            subprocess.run(command, env=environment, check=True, capture_output=True)
        (image,) = images_in(Path(name))
        return image.stat().st_mtime - started


def parts(steps: int, runs: int) -> tuple[float, float, float]:
    """Measure median seconds of: recording to latents, an image of one step, each further step."""
    with tempfile.TemporaryDirectory() as name:
        latent = str(Path(name) / "latent.pt")
        listener = ScriptClient(ROOT / "process_live_audio.py", [], 600)
        painter = ScriptClient(ROOT / "txt2img.py", [PROMPT, f"--outdir={name}"], 600)
        try:
            listener.await_ready()
            painter.await_ready()
            times: dict[str, list[float]] = {"listen": [], "one": [], "all": []}
            for _ in range(runs):
                for part, script, request in (
                    ("listen", listener, {"input_file": str(VOICE), "output_file": latent}),
                    ("one", painter, {"init_latents": latent, "ddim_steps": 1}),
                    ("all", painter, {"init_latents": latent, "ddim_steps": steps}),
                ):
                    started = time.perf_counter()
                    script.ask(request)
                    times[part].append(time.perf_counter() - started)
        finally:
            end([listener, painter])
    listen, one, every = (statistics.median(times[part]) for part in times)
    return listen, one, (every - one) / max(1, steps - 1)


def main() -> None:
    """Run the command line."""
    parser = cli.CommandParser(__doc__)
    parser.add_argument("--recordings", type=cli.bounded(int, 1), default=10, metavar="N")
    parser.add_argument("--steps", type=cli.bounded(int, 1), default=config.BUILTIN_SAMPLING["steps"], metavar="N")
    args = parser.parse_args()
    if lacking := sound.missing():
        cli.fail(lacking)
    with sound.sound_server() as server:
        standby = workflow(server, args.steps, args.recordings)
        alone = workflow(server, args.steps, min(OTHER_RUNS, args.recordings), "--no_standby")
    plain = [plain_scripts(args.steps) for _ in range(min(OTHER_RUNS, args.recordings))]
    print(f"from the second ENTER to the image, {args.steps} steps, {os.cpu_count()} cores, median (least to most):")
    for name, seconds in (("standby", standby), ("--no_standby", alone), ("plain scripts", plain)):
        spread = f"({min(seconds):.2f} to {max(seconds):.2f}, n = {len(seconds)})"
        print(f"  {name:14}{statistics.median(seconds):6.2f} s  {spread}")
    print(f"  plain scripts / standby: {statistics.median(plain) / statistics.median(standby):.1f}")
    listen, one, step = parts(args.steps, args.recordings)
    print(
        f"of which recording to latents {listen:.3f} s, image of one step {one:.3f} s, each further step {step:.3f} s"
    )


if __name__ == "__main__":
    cli.run(main)
