"""A script that stands by and the program that asks it: two real processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import config
from live.client import ClientDied, ClientError, ScriptClient, end

PATIENCE = 15.0  # seconds, in which the busiest machine starts a small script
SCRIPT = """
import os, sys, time
import cli
import standby

def parse(argv, held=None):
    parser = cli.CommandParser("a script")
    parser.add_argument("--do", choices=["add", "raise", "die", "break", "sleep", "wait", "litter"], default="add")
    parser.add_argument("--numbers", type=float, nargs="+", default=[])
    parser.add_argument("--flag", action="store_true")
    parser.add_argument("--standby", action="store_true")
    return parser.parse_args(argv, held)

def answer(options):
    print("said")
    print("warned", file=sys.stderr)
    print("\\rsampling: 50%|##  |", end="", file=sys.stderr, flush=True)
    while options.do == "wait" and not os.path.exists("seen"):
        time.sleep(0.05)
        print("\\rsampling: 50%|##  |", end="", file=sys.stderr, flush=True)
    if options.do == "raise":
        raise ValueError("of\\n no use")
    if options.do == "die":
        os.write(2, b"lost\\nlast words\\n")
        os._exit(3)
    if options.do == "break":
        raise KeyError("unexpected")
    if options.do == "sleep":
        time.sleep(60)
    if options.do == "litter":
        os.write(1, b"this is no JSON\\n")
    return {"sum": sum(options.numbers), "flag": options.flag, "process": os.getpid()}

def warm_up():
    print("loading")
    print("rehearsed", file=sys.stderr)

cli.run(lambda: standby.serve(parse, parse(None), answer, warm_up))
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def worker(script, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(config.REPO_DIR))
    monkeypatch.chdir(script.parent)
    bars.clear()
    worker = ScriptClient(script, ["--numbers", "1", "2"], show, PATIENCE)
    yield worker
    end([worker])


bars: list[str] = []


def show(bar: str) -> None:
    bars.append(bar)
    if bar:
        Path("seen").touch()


def test_requests_are_options(worker):
    worker.await_ready()
    answer = worker.ask(numbers=[3, 4.5], flag=True)
    assert (answer.content["sum"], answer.content["flag"]) == (7.5, True)
    assert (answer.said, answer.warned) == (["said"], ["rehearsed", "warned"])
    again = worker.ask(flag=False)
    assert (again.content["sum"], again.content["flag"]) == (3, False)
    assert again.content["process"] == answer.content["process"]
    assert again.warned == ["warned"]


def test_progress_is_shown_as_it_comes_and_taken_away(worker):
    worker.ask(do="wait")
    *shown, last = bars
    assert {*shown} == {"sampling: 50%|##  |"} and last == ""


def test_what_is_wrong_with_a_request_is_said_and_the_script_goes_on(worker):
    with pytest.raises(ClientError, match=r"^script.py: of no use$"):
        worker.ask(do="raise")
    with pytest.raises(ClientError, match=r"^script.py: argument --do: invalid choice: 'x'.*--help\)$"):
        worker.ask(do="x")
    with pytest.raises(ClientError, match="unrecognized arguments: --new=1"):
        worker.ask(new=1)
    assert worker.ask(do="litter").content["sum"] == 3


def test_a_script_that_died_says_its_last_words_and_can_be_started_again(worker):
    with pytest.raises(ClientDied, match=r"^script.py failed with status 3: last words$") as death:
        worker.ask(do="die")
    assert death.value.had_worked
    assert worker.ask().content["sum"] == 3
    with pytest.raises(ClientDied, match=r"^script.py failed with status 1: KeyError: 'unexpected'$"):
        worker.ask(do="break")


def test_a_script_that_hangs_is_ended(worker):
    process = worker.ask().content["process"]
    started = time.monotonic()
    with pytest.raises(ClientDied, match=f"no sign of life for {PATIENCE:g} s"):
        worker.ask(do="sleep")
    assert PATIENCE < time.monotonic() - started < 3 * PATIENCE
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_script_that_cannot_load_is_noticed_before_it_is_asked(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("import sys; sys.exit('no colours')")
    worker = ScriptClient(path, [], bars.append, PATIENCE)
    worker.start()
    with pytest.raises(ClientDied, match=r"^script.py failed with status 1: no colours$"):
        for _ in range(1000):
            worker.check()
            time.sleep(0.01)


def test_requests_in_a_pipe_are_all_answered(script):
    requests = '{"numbers": [5]}\n[]\nnonsense\n{"do": "raise"}\n'
    environment = os.environ | {"PYTHONPATH": str(config.REPO_DIR)}
    finished = subprocess.run(
        [sys.executable, script, "--standby"],
        input=requests,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    ready, good, *bad = finished.stdout.splitlines()
    assert finished.returncode == 0 and ready == '{"ready": true}'
    answer = {"sum": 5.0, "flag": False, "said": ["said"], "warned": ["rehearsed", "warned"]}
    assert json.loads(good).items() >= answer.items()
    assert all('"error": ' in line for line in bad) and len(bad) == 3
    assert json.loads(bad[1])["error"] == "a request is one line of JSON, and this is none"


def test_a_script_at_work_ends_with_the_program_that_asked(script, tmp_path):
    asker = (
        "import sys, pathlib; from live.client import ScriptClient\n"
        f"worker = ScriptClient(pathlib.Path({str(script)!r}), [], print, 60)\n"
        "print(worker.ask().content['process'], flush=True); worker.ask(do='sleep')"
    )
    environment = os.environ | {"PYTHONPATH": str(config.REPO_DIR)}
    with subprocess.Popen([sys.executable, "-c", asker], env=environment, stdout=subprocess.PIPE, text=True) as process:
        while not (line := process.stdout.readline()).strip().isdecimal():
            assert process.poll() is None
        time.sleep(0.3)
        process.kill()
    stat = Path(f"/proc/{int(line)}/stat")
    deadline = time.monotonic() + 5.0
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)
