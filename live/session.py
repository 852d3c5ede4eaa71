"""The session folder of a live run: recordings, latents and images, and a web page that shows them.

The page plays each voice beside its image. It is a plain file without scripts or outside addresses, so it needs no
server and works from a USB stick. `session.json` beside it lists the images, so that a later run can go on with the
folder.
"""

import dataclasses
import filecmp
import html
import itertools
import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from files import atomic_path
from live.playable import copy_playable

LIST = "session.json"  # in the folder
STYLE = """:root { --accent: #e8b04a; color-scheme: dark; }
body { margin: 0 auto; max-width: 84em; padding: 2.5em 1.5em 4em; background: #0b0b0e; color: #e9e7e2;
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 1.5em; font: 400 2rem/1.2 "Iowan Old Style", Palatino, "Palatino Linotype", Georgia, serif; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17em, 100%), 1fr)); gap: 2.5em 2em; }
figure { margin: 0; }
img, audio { display: block; width: 100%; }
img { border-radius: 2px; background: #17171c; }
audio { margin-top: 0.75em; height: 2.5em; }
figcaption { padding: 0.75em 0; overflow-wrap: anywhere; color: #c9c6be; }
details { margin-top: 0.25em; font-size: 0.875rem; color: #a9a69e; }
summary { cursor: pointer; }
.chart { display: block; width: 100%; max-width: 22em; margin-top: 0.5em; }
.chart text { font: 11px system-ui, sans-serif; fill: #a9a69e; }
.chart .unusual { fill: #e9e7e2; }
.chart path { fill: none; stroke: #55524c; }
.chart .bar { stroke: var(--accent); stroke-width: 3; }
.chart circle { fill: var(--accent); }
a { color: inherit; }
.whole { display: none; }
.whole:target { position: fixed; inset: 0; display: grid; place-items: center; background: #0b0b0e; }
.whole img { width: auto; height: 100vh; max-width: 100vw; object-fit: contain; }
a:focus-visible, summary:focus-visible { outline: 3px solid var(--accent); outline-offset: 4px; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
{head}
</head>
<body>
<header><h1>{title}</h1></header>
<main>
{figures}
</main>
</body>
</html>
"""


@dataclass
class Entry:
    """One image of a session; the names are those of files in its folder, "" where there is none."""

    id: str  # cannot be guessed
    prompt: str
    image: str
    latent: str
    voice: str = ""  # to be played
    card: str = ""
    hidden: bool = False  # not shown on pages
    sources: list[str] = field(default_factory=list)  # files outside the folder that these were copied from
    wave: list[int] = field(default_factory=list)  # loudness of the voice over time, 0 to 100
    original: str = ""  # the recording as it was, if `voice` was converted from it
    recording: str = ""  # name that the voice had as a file; "" if it was recorded by this program
    places: dict[str, float] = field(default_factory=dict)  # of the voice: `audio.description.places_of`

    @property
    def files(self) -> list[str]:
        """Names of all its files."""
        return [name for name in (self.image, self.latent, self.voice, self.original, self.card) if name]


class Session:
    """The folder of one run, made with the first image. Several threads may use it."""

    def __init__(self, parent: Path, title: str = "") -> None:
        """Note the time of the start, which names the folder within `parent`; `title` is that of the page."""
        self._parent = parent
        self._started = time.strftime("%Y-%m-%d_%H-%M-%S")
        self._folder: Path | None = None
        self._entries: list[Entry] = []
        self._lock = threading.RLock()
        self.title = title or f"Voices and images, {self._started.replace('_', ' ')}"

    @classmethod
    def resume(cls, folder: Path, title: str = "") -> "Session":
        """Go on with the folder of an earlier run.

        Raises:
            ValueError: its list is broken.
            OSError: there is none, or it cannot be read.
        """
        path = folder / LIST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            session = cls(folder.parent, title or str(content["title"]))
            entries = [_entry(one) for one in content["entries"]]
            session._entries = [entry for entry in entries if (folder / entry.image).is_file()]
        except FileNotFoundError:
            raise OSError(
                f"{folder} holds no {LIST}: name the folder of a session, such as outputs/sessions/…"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is broken, so the session cannot go on: leave the option out") from error
        session._folder = folder
        return session

    @property
    def folder(self) -> Path:
        """Path of the folder; there is one after the first `add`."""
        assert self._folder
        return self._folder

    @property
    def page(self) -> Path:
        """Path of the web page; there is one after the first `add`."""
        return self.folder / "index.html"

    def add(
        self,
        prompt: str,
        image: Path,
        latent: Path,
        recording: Path | None,
        card: Path | None,
        id: str = "",
        name: str = "",
        places: Mapping[str, float] | None = None,
    ) -> Entry:
        """Copy the files of one image into the folder, and show them on the page.

        Args:
            id: names the image to `find`; "": a new one.
            name: of the recording, for people; "": it was made by this program.
            places: of the voice's qualities, as far as they are known.

        Raises:
            OSError: a file cannot be written.
        """
        with self._lock:
            folder = self._folder = self._folder or self._make_folder()
            stem = self._free_stem()
            entry = Entry(id or new_id(), prompt, _copy(image, folder, stem), _copy(latent, folder, stem, ".pt"))
            # a name of its own, because a recording may have any suffix, also that of the image
            if recording:
                entry.voice, entry.original = copy_playable(recording, folder, f"{stem}_voice")
            entry.card = _copy(card, folder, f"{stem}_card") if card else ""
            entry.recording, entry.places = name, dict(places or {})
            entry.sources = [str(path.absolute()) for path in (image, card) if path]
            self._entries.append(entry)
            self._write()
            return entry

    def shown(self) -> list[Entry]:
        """Return the images that are not hidden, the newest first."""
        return [entry for entry in self.all() if not entry.hidden]

    def all(self) -> list[Entry]:
        """Return all images, the newest first."""
        with self._lock:
            return self._entries[::-1]

    def find(self, id: str) -> Entry | None:
        """Return the image of an id, or None if there is none."""
        return next((entry for entry in self.all() if entry.id == id), None)

    def change(self, entry: Entry, **fields: Any) -> None:
        """Set fields of an image of this session, such as `hidden`.

        Raises:
            OSError: the list cannot be written.
        """
        with self._lock:
            for name, value in fields.items():
                setattr(entry, name, value)
            self._write()

    def remove(self, entry: Entry) -> None:
        """Delete an image with its voice, latents and card, also the files that these were copied from.

        Raises:
            OSError: a file cannot be deleted, or the list cannot be written.
        """
        with self._lock:
            copies = [self.folder / name for name in entry.files]
            # a list from elsewhere might name any file, so only what is the same as a copy is deleted
            sources = [Path(name) for name in entry.sources if any(_same(Path(name), copy) for copy in copies)]
            for path in (*sources, *copies):
                path.unlink(missing_ok=True)
            self._entries = [other for other in self._entries if other is not entry]
            self._write()

    def _free_stem(self) -> str:
        """Return a number that no file of the folder begins with; an interrupted run may have left some."""
        numbers = (re.match(r"\d+", path.name) for path in self.folder.iterdir())
        return f"{max((int(match[0]) for match in numbers if match), default=0) + 1:04d}"

    def _write(self) -> None:
        """Write the list and the page anew."""
        content = {"title": self.title, "entries": [dataclasses.asdict(entry) for entry in self._entries]}
        page = render(self.title, map(_static_figure, self.shown()), f"<style>\n{STYLE}</style>")
        for path, text in ((self.folder / LIST, json.dumps(content)), (self.page, page)):
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def _make_folder(self) -> Path:
        self._parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = self._parent / (self._started + (f"_{number}" if number > 1 else ""))
            try:
                folder.mkdir()
            except FileExistsError:  # another run began in the same second
                continue
            return folder
        raise AssertionError


def new_id() -> str:
    """Return a name for an image that cannot be guessed."""
    return secrets.token_urlsafe(12)


def render(title: str, figures: Iterable[str], head: str) -> str:
    """Return the page of a session: a static one, or that of a server; `head` is HTML for its head."""
    return PAGE.format(title=html.escape(title), head=head, figures="\n".join(figures))


def figure(
    prompt: str,
    image: str,
    link: str,
    voice: str,
    card: str,
    id: str = "",
    recording: str = "",
    places: Mapping[str, float] | None = None,
) -> str:
    """Return the HTML of one image. Names are escaped, too: a suffix may hold any character.

    Args:
        image, voice, card: addresses; "": there is none.
        link: address that a click on the image leads to.
        recording: name of the file of the voice, for people; "": none.
        places: of the voice's qualities: a line says them, and opens a chart.
    """
    values = (prompt, image, link, voice, card, id, recording)
    text, image, link, voice, card, id, recording = map(html.escape, values)
    label = text or "image"
    player = f'\n<audio controls preload="none" src="{voice}" aria-label="voice: {label}"></audio>' if voice else ""
    more = f' <a href="{card}">card</a>' if card else ""
    more += f"<br><small>{recording}</small>" if recording else ""
    name = f' data-id="{id}"' if id else ""
    return (
        f'<figure{name}>\n<a href="{link}"><img src="{image}" alt="{label}" loading="lazy"></a>{player}\n'
        f"<figcaption>{text}{more}{_qualities(places or {})}</figcaption>\n</figure>"
    )


def _qualities(places: Mapping[str, float]) -> str:
    """Return the HTML that says what is seen of a voice."""
    from audio.description import describe
    from live.chart import svg_chart

    return f"\n<details><summary>{describe(places)}</summary>{svg_chart(places)}</details>" if places else ""


def _static_figure(entry: Entry) -> str:
    """Return the HTML of one image of the static page, where a click fills the window with it, without a script."""
    name, image = Path(entry.image).stem, html.escape(entry.image)
    small = figure(
        entry.prompt, entry.image, f"#{name}", entry.voice, entry.card, recording=entry.recording, places=entry.places
    )
    whole = f'<img src="{image}" alt="{html.escape(entry.prompt) or "image"}" loading="lazy">'
    return f'{small}\n<a class="whole" id="{html.escape(name)}" href="#_" title="close">{whole}</a>'


def _entry(content: dict[str, Any]) -> Entry:
    """Return an entry of the list.

    Raises:
        ValueError: it names a file that would not be in the folder.
        TypeError: it has not the fields of an entry.
    """
    entry = Entry(**content)
    texts = (entry.id, entry.prompt, entry.recording, *entry.files, *entry.sources)
    if not all(isinstance(text, str) for text in texts) or not entry.image:
        raise TypeError("not an entry")
    entry.places = _checked_places(entry.places)
    if not all(Path(name).name == name and not name.startswith(".") for name in entry.files):
        raise ValueError("not a name in the folder")
    return entry


def _checked_places(places: object) -> dict[str, float]:
    """Return places of qualities that this program knows.

    Raises:
        TypeError: they are none.
    """
    from audio.qualities import NAMES

    if not isinstance(places, dict):
        raise TypeError("not places")
    known = {name: float(places[name]) for name in NAMES if name in places}
    return {name: place for name, place in known.items() if 0 <= place <= 100}


def _same(path: Path, copy: Path) -> bool:
    """Tell whether two files exist and have the same content."""
    try:
        return filecmp.cmp(path, copy, shallow=False)
    except OSError:
        return False


def _copy(path: Path, folder: Path, stem: str, suffix: str = "") -> str:
    """Copy a file into `folder` under another stem; return its name there."""
    name = stem + (suffix or path.suffix.lower())
    shutil.copyfile(path, folder / name)
    return name
