"""Tables of the recordings that the rows of a matrix are of: .csv files beside vectors and z-scores.

`audio/batch_state.py` writes the first one. Here they are read, and a part of their rows is chosen and written again.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .qualities import Heard

VOICE_HEADING = ("spoken_seconds", "pitch_hz", "periodicity")  # columns: what a vector does not hold, as `Heard`
MISSING = re.compile(r"damaged: ([\d.]+) of ([\d.]+) s could be read")  # as `audio.decoding` and `audio.av_decoder` say
UNREADABLE = (OSError, ValueError, KeyError, TypeError, csv.Error)  # no table, or one from elsewhere


def read_rows(table: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table. (File names are bytes, and some are not UTF-8.)"""
    with open(table, newline="", encoding="utf-8", errors="surrogateescape") as stream:
        yield from csv.DictReader(stream)


def refuse_foreign_table(table: Path) -> None:
    """Raise ValueError if there is a file in place of a table, and it is none of this program."""
    if table.exists() and not (table.is_file() and table.open("rb").read(9) == b"row,path,"):
        raise ValueError(f"{table} exists and is no table of this program: choose another output file")


def write_rows(source: Path, table: Path, chosen: np.ndarray | None) -> None:
    """Write a table with the chosen rows [K] of another, numbered anew; None chooses all."""
    wanted = None if chosen is None else set(chosen.tolist())
    with (
        open(source, newline="", encoding="utf-8", errors="surrogateescape") as stream,
        open(table, "w", newline="", encoding="utf-8", errors="surrogateescape") as target,
    ):
        reader = csv.DictReader(stream)
        writer = csv.DictWriter(target, reader.fieldnames or ())
        writer.writeheader()
        kept = (row for index, row in enumerate(reader) if wanted is None or index in wanted)
        writer.writerows(row | {"row": str(number)} for number, row in enumerate(kept))


def count_sample_rates(table: Path) -> dict[int, int]:
    """Count the recordings of each sample rate, in Hz, most frequent first; none if there is no such table."""
    try:
        return dict(Counter(int(row["sample_rate"]) for row in read_rows(table)).most_common())
    except UNREADABLE:
        return {}


def file_names(table: Path, rows: int) -> list[str]:
    """Return the path of the recording of each row; none if there is no such table, or it has other rows."""
    try:
        names = [row["path"] for row in read_rows(table)]
    except UNREADABLE:
        return []
    return names if len(names) == rows else []


def seconds_of(table: Path, chosen: np.ndarray) -> float:
    """Return the seconds of sound in the chosen rows [K]."""
    seconds = np.array([float(row["seconds"]) for row in read_rows(table)])
    return float(seconds[chosen].sum())


def missing_share(damage: str) -> float:
    """Return the share of a recording that is missing, 0 to 1, from its note of damage; 1 if the note does not say."""
    if not damage:
        return 0.0
    found = MISSING.match(damage)
    if not found or not float(found[2]) > 0:
        return 1.0
    return max(0.0, 1 - float(found[1]) / float(found[2]))


def undamaged_rows(table: Path, rows: int, most_missing: float) -> np.ndarray:
    """Return the rows [K] of recordings of which at most this share, 0 to 1, is missing.

    If it is not known how much of a damaged recording is missing, it is left out, too.

    Raises:
        ValueError: there is no table of these rows that says what is damaged.
    """
    try:
        shares = np.array([missing_share(row["damage"]) for row in read_rows(table)])
    except UNREADABLE as error:
        raise ValueError(
            f"{table} does not say which recordings are damaged ({type(error).__name__}); run "
            "prep_audio_spectrograms.py again"
        ) from error
    if len(shares) != rows:
        raise ValueError(f"{table} has {len(shares)} rows, and the vectors have {rows}: make them again")
    return np.flatnonzero(shares <= most_missing)


def heard_in(table: Path, rows: int) -> list[Heard]:
    """Return what a vector does not hold of the recording of each row; none if there is no table that says it."""
    try:
        numbers = [tuple(float(row[name]) for name in VOICE_HEADING) for row in read_rows(table)]
    except UNREADABLE:
        return []
    return [Heard(*one) for one in numbers] if len(numbers) == rows else []
