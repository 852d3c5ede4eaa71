"""The state of a batch on disk: an SQLite file beside the result while a run is at work or interrupted.

The batch survives being killed, because every result is committed as it comes. A second run is kept out by SQLite's
exclusive lock, which ends with the process. Rows and paths need not fit into memory. Results are stored by content,
the sha256 of a file, so that a renamed file is recognised. A finished batch needs no state file: the next run reads
from the result itself what is done.
"""

import csv
import errno
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .decoding import LIBSNDFILE, named_as_sound
from .files import atomic_path, lock, sha256_of
from .manifest import check_files, read_manifest, write_manifest
from .npy import NpyReader, NpyWriter
from .recipe import first_difference
from .row_tables import VOICE_HEADING

COMMIT_EVERY = 8  # files; committing after each file would take a twentieth of the time
LOG_PAGES = 16_384  # 64 MB that SQLite collects before it waits for the disk; only a power cut can lose them
CRASHED = "its decoder crashed or did not end; convert it to wav"  # the reason of a file that ends its workers
FORMAT = 6  # of the tables below, of the csv files, and of decoding; results of another format are not reused
DONE = """
CREATE TABLE IF NOT EXISTS done (  -- the result for some content, named: the file has the name of a recording
    sha256 TEXT, named INTEGER, seconds REAL, sample_rate INTEGER, decoder TEXT, reason TEXT,
    damage TEXT, note TEXT, spoken_seconds REAL, pitch_hz REAL, periodicity REAL,
    vector BLOB, base_row INTEGER,  -- in place of a vector: its row in the existing result
    PRIMARY KEY (sha256, named)
)
"""
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT);
{DONE};
DROP TABLE IF EXISTS found;
CREATE TABLE found (  -- the files of this run, reason: why a file was skipped this time, '' if it holds no sound
    path BLOB PRIMARY KEY, named INTEGER, sha256 TEXT, reason TEXT
) WITHOUT ROWID;
"""
OPEN_FILES = """
    SELECT f.path FROM found f LEFT JOIN done d ON d.sha256 = f.sha256 AND d.named = f.named
    WHERE f.path > ? AND f.reason IS NULL AND d.sha256 IS NULL ORDER BY f.path LIMIT ?
"""
ALL_FILES = """
    SELECT f.path, f.sha256, d.seconds, d.sample_rate, d.decoder, d.damage, d.note,
    d.spoken_seconds, d.pitch_hz, d.periodicity, coalesce(f.reason, d.reason) {}
    FROM found f LEFT JOIN done d ON d.sha256 = f.sha256 AND d.named = f.named AND f.reason IS NULL
    WHERE f.reason IS NOT '' ORDER BY f.path
"""
REASONS = (
    f"SELECT reason, count(*) FROM ({ALL_FILES.format('AS reason')}) WHERE reason != '' GROUP BY 1 ORDER BY 2 DESC, 1"
)
COPIES = f"SELECT count(*) - count(DISTINCT sha256) FROM ({ALL_FILES.format('AS reason')}) WHERE reason = ''"
ROW_HEADING = ("row", "path", "seconds", "sample_rate", "sha256", "decoder", "damage", "note", *VOICE_HEADING)
SKIPPED_HEADING = ("path", "reason", "sha256", "decoder")


@dataclass(frozen=True)
class FileResult:
    """The result for one file of a batch: a vector, or the reason why there is none."""

    path: str  # relative to the folder
    vector: np.ndarray | None = None
    seconds: float = 0.0
    source_rate: int = 0  # Hz
    decoder: str = ""
    sha256: str = ""  # "": the reason does not lie in the content, and the next run tries again
    reason: str = ""  # "" without a vector: the file holds no sound and does not have the name of a recording
    took: float = 0.0  # seconds
    damage: str = ""  # what is missing from the vector because the file is damaged
    note: str = ""  # which stream or channel is used, and what was taken off
    voice: tuple[float, float, float] = (0.0, 0.0, 0.0)  # as VOICE_HEADING


@dataclass(frozen=True)
class Totals:
    """Counts of a result."""

    rows: int
    skipped: int
    damaged: int  # rows of files that could only be read in part
    seconds: float  # of sound in all rows
    copies: int  # rows with the same content as another row


class BatchState:
    """The state of the batch that writes `output`; a context manager that holds the lock."""

    def __init__(self, output: Path) -> None:
        """Lock, and complete a result that an earlier run was about to move into place.

        Raises:
            RuntimeError: another run is at work.
            OSError: something cannot be written.
        """
        self.output = output
        self.path, self.targets = _progress_of(output), _files_of(output)
        self._finished, self._uncommitted = False, 0
        self._base: dict[str, Any] | None = None  # the manifest of an older result that can be reused
        output.parent.mkdir(parents=True, exist_ok=True)
        with self._clear_errors():
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if "not a database" not in str(error) and "malformed" not in str(error):
                    raise
                self._database.close()
                self._unlink()
                self._connect()
            if self._get("finishing"):
                self._rename()

    def _connect(self) -> None:
        self._database = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("PRAGMA synchronous = OFF")  # a new file has nothing to lose yet
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        self._database.execute("BEGIN EXCLUSIVE")
        if not self.path.exists():
            raise self._just_ended()
        for statement in SCHEMA.split(";"):
            self._database.execute(statement)
        self._database.execute("COMMIT")

    def __enter__(self) -> "BatchState":
        return self

    def __exit__(self, *_: object) -> None:
        unneeded = self._finished
        with suppress(sqlite3.Error):
            if self._database.in_transaction:
                self._database.execute("COMMIT")
            unneeded |= not self._database.execute("SELECT 1 FROM done WHERE vector IS NOT NULL LIMIT 1").fetchone()
            if unneeded and os.name != "nt":
                self._unlink()  # before the lock is released, so that a run that starts now makes its own
        self._database.close()
        if unneeded and os.name == "nt":  # Windows does not remove open files
            self._unlink()

    def _unlink(self) -> None:
        for end in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)

    # --- what is known ----------------------------------------------------------------------------------------------
    def begin(self, made_with: dict[str, Any], decoder: str) -> str:
        """Read what is done already, and drop results that were made in another way; return what differs, or ""."""
        with self._clear_errors(), self._transaction():
            wanted = json.dumps({"format": FORMAT} | made_with, sort_keys=True)
            manifest = self._manifest_of_result()
            changed = ""
            if (earlier := self._get("made_with")) and earlier != wanted:
                changed = _difference(json.loads(earlier), made_with)
                self._database.execute("DROP TABLE done")
                self._database.execute(DONE)
            self._set("made_with", wanted)
            self._database.execute("DELETE FROM done WHERE base_row IS NOT NULL")
            if manifest and _difference(manifest, made_with):
                changed = changed or _difference(manifest, made_with)
            elif manifest:
                self._base = manifest
                self._reuse_result()
            # results of PyAV, and files that nothing could read, depend on the PyAV that is installed
            self._database.execute(
                "DELETE FROM done WHERE decoder IS NOT ? AND (decoder IS NOT ? OR reason != '')", (decoder, LIBSNDFILE)
            )
            return changed

    def _manifest_of_result(self) -> dict[str, Any] | None:
        """Read the manifest of an older result; None if there is none, or the result is not complete."""
        matrix, table, _, manifest_path = self.targets
        try:
            manifest = read_manifest(manifest_path)
            check_files(manifest, manifest_path)
        except (OSError, ValueError):
            return None
        return manifest if {matrix.name, table.name} <= manifest.get("sha256", {}).keys() else None

    def _reuse_result(self) -> None:
        """Take over the rows and reasons of an older result."""
        insert = "INSERT OR IGNORE INTO done VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)"
        _, table, skipped, _ = self.targets
        rows = (
            (r["sha256"], named_as_sound(r["path"]), float(r["seconds"]), int(r["sample_rate"]), r["decoder"], "")
            + (r["damage"], r["note"], *(float(r[name]) for name in VOICE_HEADING), row)
            for row, r in enumerate(_read_table(table))
        )
        self._database.executemany(insert, rows)
        with suppress(OSError, KeyError):
            reasons = (
                (r["sha256"], named_as_sound(r["path"]), 0.0, 0, r["decoder"], r["reason"], "", "", 0.0, 0.0, 0.0, None)
                for r in _read_table(skipped)
                if r["sha256"]
            )
            self._database.executemany(insert, reasons)

    def knows_anything(self) -> bool:
        """Tell whether there is any result to reuse."""
        return self._database.execute("SELECT 1 FROM done LIMIT 1").fetchone() is not None

    def enlist(self, found: Iterable[tuple[str, str]]) -> int:
        """Store the files of this run, each with "" or the reason why it cannot be used; return their number."""
        with self._clear_errors(), self._transaction():
            rows = ((os.fsencode(path), named_as_sound(path), reason or None) for path, reason in found)
            self._database.executemany("INSERT OR IGNORE INTO found VALUES (?, ?, NULL, ?)", rows)
            return self._database.execute("SELECT count(*) FROM found").fetchone()[0]

    def open_files(self, size: int) -> Iterator[list[str]]:
        """Yield the files without a result, in order, `size` at a time."""
        last = b""
        while rows := self._database.execute(OPEN_FILES, (last, size)).fetchall():
            yield [os.fsdecode(path) for (path,) in rows]
            last = rows[-1][0]

    # --- new results ----------------------------------------------------------------------------------------------
    def identify(self, digests: Iterable[tuple[str, str]]) -> None:
        """Store the sha256 of files: if there is a result for the content, it is not made again."""
        with self._clear_errors(), self._transaction():
            rows = ((digest or None, os.fsencode(path)) for path, digest in digests)
            self._database.executemany("UPDATE found SET sha256 = ? WHERE path = ?", rows)

    def record(self, one: FileResult) -> None:
        """Store the result for one file; it outlasts the process once COMMIT_EVERY of them are stored."""
        path = os.fsencode(one.path)
        with self._clear_errors():
            if not self._database.in_transaction:
                self._database.execute("BEGIN")
            self._uncommitted = (self._uncommitted + 1) % COMMIT_EVERY
            self._record(one, path)
            if not self._uncommitted:
                self.commit()

    def commit(self) -> None:
        """Make everything stored so far outlast the process."""
        with self._clear_errors():
            if self._database.in_transaction:
                self._database.execute("COMMIT")

    def _record(self, one: FileResult, path: bytes) -> None:
        if one.vector is None and not (one.sha256 and one.reason):
            self._database.execute("UPDATE found SET reason = ? WHERE path = ?", (one.reason, path))
            return
        self._database.execute("UPDATE found SET sha256 = ? WHERE path = ?", (one.sha256, path))
        vector = None if one.vector is None else one.vector.tobytes()
        sound = (named_as_sound(one.path), one.seconds, one.source_rate, one.decoder)
        values = (one.sha256, *sound, one.reason, one.damage, one.note, *one.voice, vector)
        self._database.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", values)

    # --- the result --------------------------------------------------------------------------------------------------
    def totals(self) -> Totals:
        """Count the rows and files of the result."""
        rows, skipped, damaged, seconds = 0, 0, 0, 0.0
        for _, _, length, _, _, damage, *_, reason in self._database.execute(ALL_FILES.format("")):
            if reason:
                skipped += 1
            else:
                rows, seconds = rows + 1, seconds + round(length, 6)  # rounded as in the table, which a later run reads
                damaged += damage != ""
        (copies,) = self._database.execute(COPIES).fetchone()
        return Totals(rows, skipped, damaged, seconds, copies)

    def reasons(self, most: int) -> list[tuple[str, int]]:
        """Return the most common reasons why files were skipped, each with its number of files."""
        return self._database.execute(f"{REASONS} LIMIT ?", (most,)).fetchall()

    def note_skipped(self) -> Path | None:
        """Write the table of skipped files if there is no row, and no older result; return its path."""
        matrix, table, skipped, manifest = self.targets
        if any(path.exists() for path in (matrix, table, manifest)):
            return None
        with self._clear_errors(), atomic_path(skipped) as temporary:
            self._write_skipped(temporary)
        return skipped

    def finish(self, made_with: dict[str, Any], width: int, totals: Totals) -> None:
        """Write the result beside the older one, then move it into place.

        If this is interrupted, either the older result is complete, or the next run completes the new one.
        """
        matrix, table, skipped, manifest = (self._new(target) for target in self.targets)
        try:
            with self._clear_errors():
                self._write_table(table)
                self._write_skipped(skipped)
                digests = {self.targets[1].name: sha256_of(table)}
                before = (self._base or {"sha256": {}})["sha256"]
                if before.get(self.targets[1].name) == digests[self.targets[1].name]:  # the matrix would be the same
                    digests = before
                else:
                    self._write_matrix(matrix, width)
                    digests[self.targets[0].name] = sha256_of(matrix)
                text = {"format": FORMAT, "recordings": totals.rows, "seconds": totals.seconds, "sha256": digests}
                write_manifest(manifest, made_with | text, sort_keys=True)
                self._set("finishing", "yes")
        except BaseException:
            for path in (matrix, table, skipped, manifest):
                path.unlink(missing_ok=True)
            raise
        self._rename()
        self._finished = True

    def _write_table(self, table_path: Path) -> None:
        with _table(table_path, ROW_HEADING) as table:
            files = self._database.execute(ALL_FILES.format(""))
            rows = (one[:-1] for one in files if not one[-1])
            for row, (path, digest, seconds, rate, decoder, damage, note, *voice) in enumerate(rows):
                numbers = map(repr, voice)  # all digits, so that x_T has the same bits as in the live workflow
                table.writerow(
                    (row, os.fsdecode(path), f"{seconds:.6f}", rate, digest, decoder, damage, note, *numbers)
                )

    def _write_skipped(self, skipped_path: Path) -> None:
        with _table(skipped_path, SKIPPED_HEADING) as skipped:
            for path, digest, _, _, decoder, *_, reason in self._database.execute(ALL_FILES.format("")):
                if reason:
                    skipped.writerow((os.fsdecode(path), reason, digest or "", decoder or ""))

    def _write_matrix(self, path: Path, width: int) -> None:
        base = NpyReader(self.output, width) if self._base else None
        with NpyWriter(path, width) as matrix:
            for *_, reason, vector, base_row in self._database.execute(ALL_FILES.format(", d.vector, d.base_row")):
                if vector is not None:
                    matrix.append(np.frombuffer(vector, np.float32))
                elif not reason:
                    assert base is not None
                    matrix.append(base[base_row : base_row + 1])

    def _rename(self) -> None:
        for target in self.targets:
            if self._new(target).exists():
                os.replace(self._new(target), target)
        self._set("finishing", "")

    @staticmethod
    def _new(target: Path) -> Path:
        return target.with_name(f".{target.name}.new")

    # --- SQLite ------------------------------------------------------------------------------------------------------
    def _get(self, key: str) -> str:
        row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else ""

    def _set(self, key: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _just_ended(self) -> RuntimeError:
        return RuntimeError(f"another run on {self.output} has just ended; run this command again")

    def _check_locks(self) -> None:
        """Raise OSError if the folder allows no locks, which SQLite takes for a lock of another run."""
        try:
            with tempfile.TemporaryFile(dir=self.path.parent) as file:
                lock(file.fileno())
        except OSError as error:
            raise OSError(
                f"{self.path.parent} allows no locks ({(error.strerror or '').lower()}), so two runs could write one "
                "file; choose a folder on another disk"
            ) from error

    def _refused(self) -> OSError:
        """Return why the state file cannot be opened, which SQLite does not say."""
        try:
            with suppress(FileNotFoundError):
                self.path.with_name(f"{self.path.name}-journal").stat()  # the longest name
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            return OSError(error.errno, error.strerror, str(self.path))
        return OSError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Turn SQLite's errors, and errors that do not name a file, into errors that the user can act on."""
        try:
            yield
        except sqlite3.Error as error:
            if "locked" in str(error):
                self._check_locks()
                raise RuntimeError(
                    f"another run is at work on {self.output}; wait until it ends, or stop it"
                ) from error
            if "full" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path)) from error
            if "readonly" in str(error) and not self.path.exists():  # removed after it was opened
                raise self._just_ended() from error
            if "unable to open" in str(error) or "readonly" in str(error):
                raise self._refused() from error
            raise RuntimeError(f"{self.path}: {error}; remove that file to start afresh") from error
        except OSError as error:
            if error.errno and not error.filename:
                error.filename = str(self.output.parent)
            raise


def _progress_of(output: Path) -> Path:
    """Return the state file of a run that has not ended yet."""
    return output.with_name(f".{output.stem}.progress.sqlite")


def _files_of(output: Path) -> list[Path]:
    """Return the files of a result: matrix, table of rows, table of skipped files, manifest."""
    return [output.with_name(output.stem + end) for end in (".npy", ".csv", "_skipped.csv", ".json")]


def refuse_foreign(output: Path) -> None:
    """Raise ValueError if one of the output files exists and was not written by this program."""
    _, table, skipped, manifest = files = _files_of(output)
    ours = _content(table, 9) == b"row,path," or b'"recipe"' in _content(manifest)
    ours = ours or (
        not output.exists() and _content(skipped, 12) == b"path,reason,"
    )  # written by a run that could use no file
    there = [path for path in files if path.exists()]
    if there and not ours and not _progress_of(output).exists():
        raise ValueError(
            f"{there[0]} exists and is not a result of prep_audio_spectrograms.py: choose another output file"
        )


def _content(path: Path, most: int = -1) -> bytes:
    """Read the first bytes of a file; none if there is no file."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(most)


def _difference(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """Describe the first difference in how two results were made; "" if there is none."""
    for part, wanted in now.items():
        before = earlier.get(part)
        if difference := first_difference(before if isinstance(before, dict) else {}, wanted):
            name, was, value = difference
            return f"{name} was {was}, is now {value}"
    return "" if earlier.get("format", FORMAT) == FORMAT else "the format of the files has changed"


def _read_table(path: Path) -> Iterator[dict[str, str]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as stream:
        yield from csv.DictReader(stream)


@contextmanager
def _table(path: Path, heading: tuple[str, ...]) -> Iterator[Any]:
    """Open a csv file with a heading, and yield its writer. (File names are bytes, and some are not UTF-8.)"""
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        writer.writerow(heading)
        yield writer
