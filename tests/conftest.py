"""Fixtures that several rooms use."""

import os
import tempfile
from collections.abc import Iterator

import pytest
import sound

# before any test imports config: what the person at this machine has made of phase 1 is not the tests' concern
os.environ["VOICETOIMG_DATA_DIR"] = tempfile.mkdtemp(prefix="voicetoimg-tests-")


@pytest.fixture(scope="session")
def sound_system() -> None:
    """PulseAudio and PortAudio are installed; where they are not, the test is skipped, and in CI it fails."""
    lacking = sound.missing()
    if lacking and sound.must_be_there():
        pytest.fail(f"{lacking}; install it, so that the recorder is tested")
    if lacking:
        pytest.skip(lacking)


@pytest.fixture(scope="session")
def microphone(sound_system: None) -> Iterator[sound.SoundServer]:
    """A microphone that the tests can speak into."""
    with sound.sound_server() as server:
        yield server
