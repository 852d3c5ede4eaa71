"""From a command line to the film that it asks for."""

import argparse
import contextlib
import dataclasses
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

import cli
from audio.motion import measure_motion
from audio.windows import Windows, read_windows
from files import sha256_of
from film.cues import Cue, read_cues, time_text
from film.film_file import check_library
from film.frames import FrameStore
from film.making import Recording, make_film
from film.path import Path as NoisePath
from film.scenario import FilmSettings, Scenario
from ldm.models.diffusion.sampling import seeded_noise
from painting.generate import PaintAll
from painting.image_spec import ImageSpec
from painting.inputs import Inputs
from painting.model_files import model_files
from painting.painter import OnStep, Painter, PaintingNote
from painting.plan import plan

if TYPE_CHECKING:
    import torch

LOOKED_AT = 16  # windows by which the calibration that made them is found


class Film:
    """A film that a command line asks for, before its model is loaded."""

    def __init__(self, args: argparse.Namespace, device: "torch.device") -> None:
        """Read everything but the model.

        Raises:
            cli.WrongOption: latents of another recording, or wrong times of prompts.
            ValueError: a file is broken, or latents and options do not go together.
            RuntimeError: PyAV is not installed.
            OSError: a file cannot be read.
        """
        import torch

        check_library()
        self._args = args
        try:
            self.windows: Windows = read_windows(args.init_latents)
        except ValueError as error:
            raise cli.WrongOption(f"--init_latents: {error}; process_live_audio.py --windows 3 makes them") from error
        if sha256_of(args.film) != self.windows.sha256:
            raise cli.WrongOption(
                f"--film {args.film}: the latents in {args.init_latents} are of another recording; name that one, or "
                "make latents of this one: process_live_audio.py --windows 3"
            )
        with cli.blaming("--prompts"):
            cues = read_cues(args.prompts) if args.prompts else [Cue(0.0, args.prompt)]
        rows = np.unique(np.linspace(0, len(self.windows.latents) - 1, LOOKED_AT).astype(int)).tolist()
        one = argparse.Namespace(**vars(args) | {"prompts": [cues[0].prompt], "subject_idx": rows})
        latents = torch.from_numpy(self.windows.latents)
        self.specs = plan(one, [len(latents)], device)
        self.inputs = Inputs(model_files(args), [(args.init_latents, latents)], self.specs)
        image = dataclasses.replace(self.specs[0], subject=None)
        self.settings = FilmSettings(
            image, tuple(cues), args.fps, self.windows.seconds, args.smooth, args.loop_film, args.draft
        )
        self._note_late_prompts()

    @property
    def folder(self) -> Path:
        """Folder of the film."""
        folder: Path = self._args.outdir / "films"
        return folder

    @property
    def prompted(self) -> list[ImageSpec]:
        """One spec for each prompt of the film."""
        return [dataclasses.replace(self.specs[0], prompt=cue.prompt) for cue in self.settings.cues]

    def make(
        self, painter: Painter, shape: tuple[int, int, int], on_step: OnStep, paint_all: PaintAll | None = None
    ) -> Path:
        """Make the film with a loaded model, for start noise of `shape`; return its path.

        Args:
            paint_all: paints the frames in place of the model here; see `painting.generate.generate_images`.

        Raises:
            ValueError: the recording cannot be used.
            OSError: a file cannot be read or written.
        """
        args, windows, settings = self._args, self.windows, self.settings
        ends = np.minimum(windows.times + windows.window, windows.seconds)
        scenario = Scenario(
            settings,
            NoisePath(
                self.inputs.voices[0],
                (windows.times + ends) / 2,
                settings.frames / settings.fps,
                seeded_noise([settings.image.seed], shape)[0].numpy(),
                settings.image.voice_strength,
                settings.image.layout_strength,
                settings.smooth,
                settings.loop,
            ),
            painter,
        )
        path = self.folder / f"{args.film.stem}.{args.film_format}"
        record = self._record()
        identity = f"{self.inputs.identity(self._rows())} {settings} {windows.sha256} {windows.times.tolist()}"
        recording = Recording(args.film, measure_motion(args.film, channel=windows.channel))
        store = FrameStore(self.folder, path.stem, identity, settings.frames, args.batch_size)
        with contextlib.closing(store):
            return make_film(scenario, recording, store, path, args.pulse, record, on_step, _say, paint_all)

    def _note_late_prompts(self) -> None:
        for cue in self.settings.cues:
            if cue.seconds >= self.settings.frames / self.settings.fps:
                begins, ends = time_text(cue.seconds), time_text(self.windows.seconds)
                note = f"the film ends at {ends}, before the prompt at {begins} begins: {cue.prompt}"
                warnings.warn(note, PaintingNote, stacklevel=2)

    def _rows(self) -> list[ImageSpec]:
        return [dataclasses.replace(self.specs[0], subject=row) for row in range(len(self.windows.latents))]

    def _record(self) -> dict[str, object] | None:
        """Return what the film is made of, for its metadata; None if the user wants none."""
        args, windows = self._args, self.windows
        if args.no_metadata:
            return None
        made_from = dataclasses.replace(
            self.inputs.provenance(self.specs[0]), latents_sha256=self.inputs.latents_sha256(*self._rows())
        )
        return {
            "picture": dataclasses.asdict(self.settings.image),
            "film": {
                "cues": [[cue.seconds, cue.prompt] for cue in self.settings.cues],
                "fps": args.fps,
                "smooth": args.smooth,
                "pulse": args.pulse,
                "loop": args.loop_film,
                "draft": args.draft,
                "windows": windows.window,
                "hop": windows.hop,
                "batch_size": args.batch_size,
                "recording_sha256": windows.sha256,
            },
            "made_from": made_from.to_json(),
        }


def _say(line: str) -> None:
    """Print a line above the bar."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()
