"""The session folder of a live run: recordings, latents and images, and a web page that shows them.

The page plays each voice beside its image. It is a plain file without scripts or outside addresses, so it needs no
server and works from a USB stick.
"""

import html
import itertools
import shutil
import time
from pathlib import Path

from files import atomic_path

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 2em auto; max-width: 72em; padding: 0 1em; font-family: sans-serif; background: #111; color: #eee; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 2em; }}
figure {{ margin: 0; }}
img, audio {{ display: block; width: 100%; }}
figcaption {{ padding: 0.5em 0; overflow-wrap: anywhere; }}
a {{ color: inherit; }}
</style>
</head>
<body>
<h1>{title}</h1>
<main>
{figures}
</main>
</body>
</html>
"""


class Session:
    """The folder of one run, made with the first image."""

    def __init__(self, parent: Path) -> None:
        """Note the time of the start, which names the folder within `parent`."""
        self._parent = parent
        self._started = time.strftime("%Y-%m-%d_%H-%M-%S")
        self._folder: Path | None = None
        self._figures: list[str] = []

    @property
    def page(self) -> Path:
        """Path of the web page; there is one after the first `add`."""
        assert self._folder
        return self._folder / "index.html"

    def add(self, prompt: str, image: Path, latent: Path, recording: Path | None, card: Path | None) -> None:
        """Copy the files of one image into the folder, and show them on the page.

        Raises:
            OSError: a file cannot be written.
        """
        folder = self._folder = self._folder or self._make_folder()
        stem = f"{len(self._figures) + 1:04d}"
        shutil.copyfile(latent, folder / f"{stem}.pt")
        image_name = _copy(image, folder, stem)
        # a name of its own, because a recording may have any suffix, also that of the image
        sound = _copy(recording, folder, f"{stem}_voice") if recording else ""
        self._figures.append(_figure(prompt, image_name, sound, _copy(card, folder, f"{stem}_card") if card else ""))
        title = f"Voices and images, {self._started.replace('_', ' ')}"
        with atomic_path(self.page) as temporary:
            temporary.write_text(PAGE.format(title=title, figures="\n".join(self._figures)), encoding="utf-8")

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


def _copy(path: Path, folder: Path, stem: str) -> str:
    """Copy a file into `folder` under another stem; return its name there."""
    name = stem + path.suffix.lower()
    shutil.copyfile(path, folder / name)
    return name


def _figure(prompt: str, image: str, sound: str, card: str) -> str:
    """Return the HTML of one image. Names are escaped, too: a suffix may hold any character."""
    text, image, sound, card = (html.escape(value) for value in (prompt, image, sound, card))
    player = f'\n<audio controls preload="none" src="{sound}"></audio>' if sound else ""
    more = f' <a href="{card}">card</a>' if card else ""
    return f'<figure>\n<img src="{image}" alt="{text}">{player}\n<figcaption>{text}{more}</figcaption>\n</figure>'
