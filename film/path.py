"""The path of a film: the start noise x_T of each moment, from the windows of a recording.

A window speaks for the moment in its middle. Between two windows x_T moves along the sphere, as a walk between voices
does (`audio.initial_noise`): its variance stays that of N(0, I). Smoothing takes more windows together: their noises
are weighted by a bell over the moments around, and the sum is brought back to the sphere.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

from audio.initial_noise import Voices, initial_noise

POINTS = 4  # of the bell for each window that it reaches; with fewer the way would be less even
REMEMBERED = 256  # windows, at least, whose noise is kept: 16 kB each for 256×256 pixels
Weights = list[tuple[int, float]]  # rows of the latents, and their shares of the variance, which sum to 1


class Path:
    """The start noise of each moment of a film."""

    def __init__(
        self,
        voices: Voices,
        centres: np.ndarray,
        seconds: float,
        noise: np.ndarray,
        voice_strength: float,
        layout_strength: float = 0.0,
        smooth: float = 0.0,
        loop: bool = False,
    ) -> None:
        """Prepare a path.

        Args:
            voices: latents [N, 4, 32, 32] of the windows.
            centres: [N] rising, seconds: the middle of each window.
            seconds: length of the film.
            noise: [C, h, w] float32, the seed's.
            voice_strength, layout_strength: see `audio.initial_noise.initial_noise`.
            smooth: seconds before and after a moment whose windows have a part in it; half of them in the middle have
                most of it. 0: the two windows nearest to a moment.
            loop: after its end the film begins again.
        """
        hop = float(np.diff(centres).min()) if len(centres) > 1 else seconds
        self._bell = bell(smooth, math.ceil(2 * POINTS * smooth / hop)) if smooth else ()
        self.centres, self.seconds, self.smooth, self.loop = centres, seconds, smooth, loop
        self._voices = _Remembering(voices, max(REMEMBERED, math.ceil(2 * smooth / hop) + 2))
        self._noise, self._strengths = noise, (voice_strength, layout_strength)

    def __len__(self) -> int:
        """Count the windows."""
        return len(self.centres)

    def x_T(self, moment: float) -> np.ndarray:
        """Return the start noise of a moment in seconds, float32 [C, h, w].

        Raises:
            ValueError: latents that are used as they are have another shape.
        """
        parts = [(self._voices, row, weight) for row, weight in self.weights(moment)]
        return initial_noise(parts, self._noise, *self._strengths)

    def weights(self, moment: float) -> Weights:
        """Return the windows that have a part in a moment, and their shares of its variance."""
        if not self.smooth:
            amplitudes = self._between(moment)
        else:
            amplitudes = {}
            for offset, share in self._bell:
                for row, amplitude in self._between(moment + offset).items():
                    amplitudes[row] = amplitudes.get(row, 0.0) + share * amplitude
        if len(amplitudes) == 1:
            return [(row, 1.0) for row in amplitudes]
        power = sum(amplitude**2 for amplitude in amplitudes.values())
        return [(row, amplitude**2 / power) for row, amplitude in sorted(amplitudes.items())]

    def _between(self, moment: float) -> dict[int, float]:
        """Return the two windows around a moment with their amplitudes, cos and sin of the way between them."""
        centres, last = self.centres, len(self.centres) - 1
        if self.loop:
            moment = (moment - centres[0]) % self.seconds + centres[0]
        right = int(np.searchsorted(centres, moment, side="right"))
        if right == 0:
            return {0: 1.0}
        left = right - 1
        if left == last and not self.loop:
            return {last: 1.0}
        after = centres[right] if left < last else centres[0] + self.seconds
        way = (moment - centres[left]) / (after - centres[left])
        if way == 0 or left == right % len(centres):
            return {left: 1.0}
        return {left: math.cos(way * math.pi / 2), right % len(centres): math.sin(way * math.pi / 2)}

    def in_the_middle(self, times: np.ndarray) -> np.ndarray:
        """Return the moments [T] of the recording that a film shows at `times` [T], seconds.

        Half a window at either end has no window of its own. There the film goes at half its speed, so that it neither
        stands still nor begins late. A film without smoothing, or in a circle, shows each time as it is.
        """
        first, last = self.centres[0], self.centres[-1]
        if not self.smooth or self.loop:
            return times
        before, after = first, self.seconds - last  # seconds without windows
        if last - first < before + after:  # a recording hardly longer than a window
            return first + (last - first) * np.clip(times / self.seconds, 0, 1)
        knots = [0, 2 * before, self.seconds - 2 * after, self.seconds]
        return np.interp(times, knots, [first, 2 * before, self.seconds - 2 * after, last])


def bell(width: float, points: int) -> Sequence[tuple[float, float]]:
    """Return offsets within ± `width`, and the heights of a raised cosine there, which sum to 1."""
    offsets = np.linspace(-width, width, max(points, 3) + 2)[1:-1]
    heights = np.cos(np.pi / 2 * offsets / width) ** 2
    return list(zip(offsets.tolist(), (heights / heights.sum()).tolist(), strict=True))


class _Remembering(Voices):
    """Voices that keep the noise of the last windows, of which each moment needs many."""

    def __init__(self, voices: Voices, count: int) -> None:
        super().__init__(voices.latents, voices.whitening, voices.keep_noise, voices.heard)
        for name in ("noise", "sound_shape", "whitened"):
            kept = functools.lru_cache(count)(getattr(super(), name))
            object.__setattr__(self, name, kept)
