"""Choose the recordings of the built-in calibration, and link them into one folder.

SOURCE is the folder with the unpacked Debian packages of README.md (`dpkg -x PACKAGE SOURCE`). One half of the
recordings are telephone prompts at 8 kHz (asterisk), the other half wide-band syllables and words (klettres). Within
each half, every language has about the same number. The choice is the same on every machine: evenly spaced in sorted
order.
"""

import hashlib
from pathlib import Path

import cli

TELEPHONE, WIDE_BAND = "usr/share/asterisk/sounds", "usr/share/klettres"
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
    print(f"{len(chosen)} recordings linked in {options.target}")


if __name__ == "__main__":
    cli.run(main)
