"""A person at a terminal: a program in a pty, with what it prints and the keys that are pressed."""

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path

import config
from tests import forked
from tests.programs import PATIENCE


class Person:
    """A person at a terminal of their own, in which a program runs."""

    def __init__(self, environment: dict[str, str], *arguments: str, script: Path, columns: int = 80) -> None:
        """Start a script."""
        self._terminal, program_side = pty.openpty()
        fcntl.ioctl(program_side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        streams = (program_side, program_side, program_side)
        self.process = forked.start([str(script), *arguments], environment, config.REPO_DIR, streams, True)
        os.close(program_side)
        self.seen = ""
        self._read_up_to = 0

    def waits_for(self, text: str) -> str:
        """Return what came since the last call, up to the end of `text`."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.seen.find(text, self._read_up_to)) < 0:
            assert time.monotonic() < deadline and self.look(), f"no {text!r} in {self.seen!r}"
        before, self._read_up_to = self._read_up_to, found + len(text)
        return self.seen[before : self._read_up_to]

    def waits_until(self, true: Callable[[], bool]) -> None:
        """Read what comes until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline and self.look(), f"not so after {self.seen!r}"

    def look(self) -> bool:
        """Read what is there; False if the program has closed its terminal."""
        if not select.select([self._terminal], [], [], 0.1)[0]:
            return True
        try:
            came = os.read(self._terminal, 65536)
        except OSError:  # what Linux says of a closed terminal
            return False
        self.seen += came.decode()
        return bool(came)

    def presses(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def sees_the_end(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while self.look():
            assert time.monotonic() < deadline, f"no end after {self.seen!r}"
        os.close(self._terminal)
        return self.process.wait(PATIENCE)
