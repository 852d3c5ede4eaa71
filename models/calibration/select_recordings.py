"""Choose the recordings of the built-in calibration, and link them into one folder.

SOURCE is the folder with the unpacked Debian packages of README.md (`dpkg -x PACKAGE SOURCE`). One half of the
recordings are telephone prompts at 8 kHz (asterisk), the other half wide-band syllables and words (klettres). Within
each half, every language has about the same number. The choice is the same on every machine: evenly spaced in sorted
order.

Most of these last a second or two, and people may speak for half a minute. So long recordings are joined of many of one
speaker: one half of these, and one half of the lines of two actors (fillets-ng-data-cs).
"""

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

import cli

TELEPHONE, WIDE_BAND = "usr/share/asterisk/sounds", "usr/share/klettres"
ACTED = "usr/share/games/fillets-ng/sound"
ACTORS = ("m", "v")  # the second part of the names of their lines
PER_TELEPHONE_LANGUAGE = 180  # five languages
PER_WIDE_BAND_LANGUAGE = 49  # twenty languages and accents; some have fewer recordings
NOT_SPEECH = (
    "silence/",
    "beep",
    "ascending-2tone",
    "descending-2tone",
    "confbridge-join",
    "confbridge-leave.",
    "tt-monkeys.",
)
LONG = 300  # recordings that are joined
SHORTEST_LONG, LONGEST_LONG = 2.5, 40.0  # seconds; their logarithms are evenly spread
FEWEST_TO_JOIN = 30  # recordings of a speaker
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"  # left out, so that tests can use them as unknown voices
NOT_CHOSEN_ANYWAY = ("syllable_ml.ogg", "letter_hu.ogg")  # leaving them out would shift the even spacing


def digest(path: Path) -> str:
    """Hash the content of a file, to find the same recording under two names."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def speech(folder: Path, pattern: str, seen: set[str]) -> list[Path]:
    """List the recordings of one language in sorted order: each sound once, without tones and without the examples."""
    chosen = []
    for path in sorted(folder.rglob(pattern), key=lambda p: p.as_posix()):
        if not path.relative_to(folder).as_posix().startswith(NOT_SPEECH) and (code := digest(path)) not in seen:
            seen.add(code)
            chosen.append(path)
    return chosen


def spaced(paths: list[Path], count: int) -> list[Path]:
    """Choose `count` of the paths, evenly spaced, or all of them if there are fewer."""
    return paths if len(paths) <= count else [paths[i * len(paths) // count] for i in range(count)]


def select(source: Path) -> list[Path]:
    """List the recordings of the calibration below the folder of the unpacked packages."""
    seen = {digest(path) for path in EXAMPLES.iterdir() if path.name not in NOT_CHOSEN_ANYWAY}
    halves = ((TELEPHONE, "*.wav", PER_TELEPHONE_LANGUAGE), (WIDE_BAND, "*.ogg", PER_WIDE_BAND_LANGUAGE))
    return [
        path
        for folder, pattern, count in halves
        for language in sorted(p for p in (source / folder).iterdir() if p.is_dir())
        for path in spaced(speech(language, pattern, seen), count)
    ]


def joined(chosen: list[Path], source: Path, folder: Path) -> int:
    """Write LONG recordings, each of many of one speaker, into a new folder; return how many."""
    speakers = defaultdict(list)
    for path in chosen:
        parts = path.relative_to(source / "usr/share").parts
        speakers[parts[: 3 if parts[0] == "asterisk" else 2]].append(path)
    talkative = [paths for _, paths in sorted(speakers.items()) if len(paths) >= FEWEST_TO_JOIN]
    lines = sorted((source / ACTED).glob("*/cs/*.ogg"))
    actors = [[path for path in lines if path.stem.split("-")[1:2] == [actor]] for actor in ACTORS]
    folder.mkdir(parents=True)
    for number in range(LONG):
        voices = actors if number % 2 else talkative
        paths = voices[number // 2 % len(voices)]
        seconds = SHORTEST_LONG * (LONGEST_LONG / SHORTEST_LONG) ** (number / (LONG - 1))
        sounds: list[np.ndarray] = []
        rate = length = 0
        for index in np.random.RandomState(number).permutation(len(paths)):  # its stream is frozen
            sound, own_rate = soundfile.read(paths[index], dtype="float32", always_2d=True)
            rate = rate or own_rate
            if own_rate == rate and sound.size:
                sounds.append(sound.mean(axis=1))
                length += len(sound)
            if length >= seconds * rate:
                break
        soundfile.write(folder / f"{number:03}.flac", np.concatenate(sounds)[: round(seconds * rate)], rate)
    return LONG


def main() -> None:
    parser = cli.CommandParser(__doc__)
    parser.add_argument("source", type=cli.existing_folder, metavar="SOURCE", help="folder with the unpacked packages")
    parser.add_argument("target", type=cli.new_folder, metavar="TARGET", help="a new folder, filled with links")
    options = parser.parse_args()
    source = options.source.resolve()
    chosen = select(source)
    for path in chosen:
        link = options.target / path.relative_to(source / "usr/share")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    long = joined(chosen, source, options.target / "joined")
    print(f"{len(chosen)} recordings linked, and {long} long ones made of them, in {options.target}")


if __name__ == "__main__":
    cli.run(main)
