"""The mel scale, which spaces pitches as the ear hears them. Needs NumPy alone.

Source: Slaney, Auditory Toolbox, 1998.
"""

import numpy as np

from .recipe import RECIPE, Recipe


def mel_edges(recipe: Recipe = RECIPE) -> np.ndarray:
    """Compute the edges of the mel bands in Hz (Slaney's mel scale), [n_mels + 2].

    Band i begins at element i, is loudest at element i + 1 and ends at element i + 2.
    """
    linear_hz, break_hz, log_step = 200 / 3, 1000.0, np.log(6.4) / 27  # linear below 1 kHz, logarithmic above
    break_mel = break_hz / linear_hz
    top_hz = recipe.sample_rate / 2
    top_mel = top_hz / linear_hz if top_hz < break_hz else break_mel + np.log(top_hz / break_hz) / log_step
    mels = np.linspace(0, top_mel, recipe.n_mels + 2)
    return np.where(mels < break_mel, linear_hz * mels, break_hz * np.exp(log_step * (mels - break_mel)))
