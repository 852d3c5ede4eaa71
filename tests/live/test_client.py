"""The client of a script in standby, and `standby.serve`: two real processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import config
from live.client import ClientDied, ClientError, ScriptClient, close, end
from tests.display import RecordingDisplay
from tests.programs import PATIENCE, is_running, wait_until

HANG_TIMEOUT = PATIENCE
SCRIPT = """
import os, sys, time
import cli
import standby

def parse(argv, held=None):
    parser = cli.CommandParser("a script")
    parser.add_argument("--do", choices=["add", "raise", "die", "break", "sleep", "paint", "litter"], default="add")
    parser.add_argument("--numbers", type=float, nargs="+", default=[])
    parser.add_argument("--flag", action="store_true")
    parser.add_argument("--standby", action="store_true")
    return parser.parse_args(argv, held)

def answer(options, emit):
    print("said")
    print("warned at 50%|##", file=sys.stderr)
    if options.do == "raise":
        raise ValueError("of\\n no use")
    if options.do == "die":
        os.write(2, b"lost\\nlast words\\n")
        os._exit(3)
    if options.do == "break":
        raise KeyError("unexpected")
    if options.do == "sleep":
        time.sleep(60)
    if options.do == "paint":
        for step in range(1, 4):
            emit({"progress": [step, 3]})
            emit({"preview": "preview.png"})
        emit({"progress": "nonsense"})
    if options.do == "litter":
        os.write(1, b"this is no JSON\\n")
    return {"sum": sum(options.numbers), "flag": options.flag, "process": os.getpid()}

def warm_up(emit):
    emit({"progress": [1, 1]})
    print("loading")
    print("warmed up", file=sys.stderr)

cli.run(lambda: standby.serve(parse, parse(None), answer, warm_up))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def client(script: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptClient]:
    monkeypatch.setenv("PYTHONPATH", str(config.REPO_DIR))
    client = ScriptClient(script, ["--numbers", "1", "2"], HANG_TIMEOUT)
    yield client
    end([client])


def test_requests_are_options(client):
    client.await_ready()
    answer = client.ask({"numbers": [3, 4.5], "flag": True})
    assert (answer.content["sum"], answer.content["flag"]) == (7.5, True)
    assert answer.output == ["said"] and answer.warnings == ["warmed up", "warned at 50%|##"]
    again = client.ask({"flag": False})
    assert (again.content["sum"], again.content["flag"]) == (3, False)
    assert again.content["process"] == answer.content["process"]
    assert again.warnings == ["warned at 50%|##"]


def test_events_between_request_and_answer_reach_the_display(client):
    display = RecordingDisplay()
    client.await_ready(display)
    assert display.events == [("status", "loading script.py..."), ("status", "")]
    display.events.clear()
    assert client.ask({"do": "paint"}, display).content["sum"] == 3
    assert display.of("progress") == [("progress", step, 3) for step in (1, 2, 3)]
    assert display.of("preview") == [("preview", Path("preview.png"))] * 3
    assert client.ask({"do": "paint"}).content["sum"] == 3  # also where nobody looks


def test_what_is_wrong_with_a_request_is_said_and_the_script_goes_on(client):
    with pytest.raises(ClientError, match=r"^script.py: of no use$"):
        client.ask({"do": "raise"})
    with pytest.raises(ClientError, match=r"^script.py: argument --do: invalid choice: 'x'.*--help\)$"):
        client.ask({"do": "x"})
    with pytest.raises(ClientError, match="unrecognized arguments: --new=1"):
        client.ask({"new": 1})
    assert client.ask({"do": "litter"}).content["sum"] == 3


def test_a_script_that_died_says_its_last_words_and_can_be_started_again(client):
    with pytest.raises(ClientDied, match=r"^script.py failed with status 3: last words$") as death:
        client.ask({"do": "die"})
    assert death.value.was_ready
    assert client.ask({}).content["sum"] == 3
    with pytest.raises(ClientDied, match=r"^script.py failed with status 1: KeyError: 'unexpected'$"):
        client.ask({"do": "break"})


def test_a_script_that_hangs_is_ended(client):
    process = client.ask({}).content["process"]
    client._hang_timeout = 1.0  # the script has started, so nothing takes long any more
    with pytest.raises(ClientDied, match="no sign of life for 1 s"):
        client.ask({"do": "sleep"})
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_script_that_cannot_load_is_noticed_before_it_is_asked(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("import sys; sys.exit('no colours')")
    client = ScriptClient(path, [], HANG_TIMEOUT)
    client.start()
    with pytest.raises(ClientDied, match=r"^script.py failed with status 1: no colours$"):
        for _ in range(100 * int(HANG_TIMEOUT)):
            client.check()
            time.sleep(0.01)


class ClosingRequest(dict[str, object]):
    """A request that closes its client while it is written: after the script was started, and before it is ready."""

    def __init__(self, client: ScriptClient) -> None:
        super().__init__(flag=True)
        self.client = client

    def items(self) -> Any:
        """Close the client; then give the options, as the encoder of JSON asks."""
        close([self.client])
        return super().items()


def test_a_closed_client_starts_nothing_also_in_the_middle_of_a_request(tmp_path, monkeypatch):
    path = tmp_path / "script.py"
    path.write_text("import time; open('starts', 'a').write('x'); print('{}', flush=True); time.sleep(60)")
    client = ScriptClient(path, [], HANG_TIMEOUT)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClientDied, match=r"^script.py was killed by signal 15$"):
        client.ask(ClosingRequest(client))
    for use in (client.start, client.await_ready, lambda: client.ask({})):
        with pytest.raises(ClientDied, match="script.py was ended"):
            use()
    starts = tmp_path / "starts"
    assert client._process is None and (not starts.exists() or starts.read_text() == "x")


def test_requests_in_a_pipe_are_all_answered(script):
    requests = '{"numbers": [5]}\n[]\nnonsense\n{"do": "raise"}\n'
    environment = os.environ | {"PYTHONPATH": str(config.REPO_DIR)}
    finished = subprocess.run(
        [sys.executable, script, "--standby"],
        input=requests,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    warm_up, ready, good, *bad = finished.stdout.splitlines()
    assert finished.returncode == 0 and finished.stderr == ""
    assert (warm_up, ready) == ('{"progress": [1, 1]}', '{"ready": true}')
    answer = {"sum": 5.0, "flag": False, "said": ["said"], "warned": ["warmed up", "warned at 50%|##"]}
    assert json.loads(good).items() >= answer.items()
    assert all('"error": ' in line for line in bad) and len(bad) == 3
    assert json.loads(bad[1])["error"] == "not JSON: send one JSON object per line"


def test_a_script_at_work_ends_with_the_program_that_asked(script, tmp_path):
    asker = (
        "import pathlib; from live.client import ScriptClient\n"
        f"client = ScriptClient(pathlib.Path({str(script)!r}), [], 60)\n"
        "print(client.ask({}).content['process'], flush=True); client.ask({'do': 'sleep'})"
    )
    environment = os.environ | {"PYTHONPATH": str(config.REPO_DIR)}
    with subprocess.Popen([sys.executable, "-c", asker], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while not (line := process.stdout.readline()).strip().isdecimal():
            assert process.poll() is None
        process.kill()
    wait_until(lambda: not is_running(int(line)))
