"""How long the audience waits: python benchmarks/enter_to_picture.py [--recordings 10] [--steps 20]

Needs PulseAudio as the tests do (tests/sound.py). Five seconds of real speech are spoken into a microphone, and
run_live_workflow.py is driven through a terminal. Prints the time from the second ENTER to the picture on disk, the
scripts in standby or not, beside that of the plain scripts one after the other, and what it is made of.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import sound  # noqa: E402
from person import Person  # noqa: E402

import cli  # noqa: E402
import config  # noqa: E402
from live.client import ScriptClient, end  # noqa: E402

VOICE = config.EXAMPLES_DIR / "voice_it.wav"  # 5.0 s
PROMPT = "--prompt=calm blue and turquoise waves"
OTHER_RUNS = 3  # of what takes longer, and varies less
SETTLED = 3.0  # seconds after which everything has been loaded that is loaded while the prompt is read


def pictures_in(folder: Path) -> set[Path]:
    return set((folder / "outputs" / "txt2img-samples" / "samples").glob("*.png"))


def speak_once(person: Person, server: sound.SoundServer, folder: Path) -> float:
    """ENTER, five seconds of speech, ENTER; seconds from that to the picture's last byte."""
    before = pictures_in(folder)
    person.presses("\n")
    person.waits_for("Press ENTER to stop.")
    server.speak(VOICE)
    pressed = time.time()
    person.presses("\n")
    person.waits_for("picture: ")
    (picture,) = pictures_in(folder) - before
    return picture.stat().st_mtime - pressed


def workflow(server: sound.SoundServer, steps: int, recordings: int, *options: str) -> list[float]:
    """Seconds for each of some recordings in one show."""
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
    """Seconds for process_live_audio.py, then txt2img.py."""
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
        (picture,) = pictures_in(Path(name))
        return picture.stat().st_mtime - started


def parts(steps: int, runs: int) -> tuple[float, float, float]:
    """Median seconds of: recording to latent, a picture of one step, each further step."""
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
    parser = cli.CommandParser(__doc__)
    parser.add_argument("--recordings", type=cli.bounded(int, 1), default=10, metavar="N")
    parser.add_argument("--steps", type=cli.bounded(int, 1), default=20, metavar="N")
    args = parser.parse_args()
    if lacking := sound.missing():
        cli.fail(lacking)
    with sound.sound_server() as server:
        standby = workflow(server, args.steps, args.recordings)
        alone = workflow(server, args.steps, min(OTHER_RUNS, args.recordings), "--no_standby")
    plain = [plain_scripts(args.steps) for _ in range(min(OTHER_RUNS, args.recordings))]
    print(f"from the second ENTER to the picture, {args.steps} steps, {os.cpu_count()} cores, median (least to most):")
    for name, seconds in (("standby", standby), ("--no_standby", alone), ("plain scripts", plain)):
        spread = f"({min(seconds):.2f} to {max(seconds):.2f}, n = {len(seconds)})"
        print(f"  {name:14}{statistics.median(seconds):6.2f} s  {spread}")
    print(f"  plain scripts / standby: {statistics.median(plain) / statistics.median(standby):.1f}")
    listen, one, step = parts(args.steps, args.recordings)
    print(
        f"of which recording to latent {listen:.3f} s, picture of one step {one:.3f} s, each further step {step:.3f} s"
    )


if __name__ == "__main__":
    cli.run(main)
