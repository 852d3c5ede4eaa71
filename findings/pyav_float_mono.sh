#!/usr/bin/env bash
# PyAV: a stereo recording becomes 3 dB louder in mono if the samples are asked for as floating point.
#
# Versions: PyAV 17.1.0, 18.1.0, 19.0.2 (the newest for Python 3.10, 3.11, 3.12), with the FFmpeg inside the wheel.
# Input:    a 16-bit wav of one second, made here: a tone of peak 0.8, the same on both channels.
# Expected: AudioResampler(layout="mono") gives the same level in every sample format. Two equal channels are one
#           signal, so its peak stays 0.8.
# Seen:     "s16" and "s32" give the mean of the channels, peak 0.8. "flt", "fltp" and "dbl" give the sum times 0.7071,
#           peak 1.131: above full scale, and 3.01 dB louder. No warning is given.
# Why:      libswresample normalises its mixing matrix only for integer samples, to protect them from overflow.
# Way out:  options={"rematrix_maxval": "1"} (PyAV 18.1 or newer), or the mean of the decoded channels in NumPy.
#
# Exit status: 0 seen as described, 1 something else was seen, 2 it could not be tried.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

"${PYTHON:-python3}" -m venv venv || exit 2
case $(venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])') in
3.10) packages=(av==17.1.0 numpy==2.2.6) ;;
3.11) packages=(av==18.1.0 numpy==2.4.6) ;;
*) packages=(av==19.0.2 numpy==2.4.6) ;;
esac
venv/bin/python -m pip install --quiet --disable-pip-version-check "${packages[@]}" || exit 2

venv/bin/python -I - <<'EOF'
import io
import math
import sys
import wave

import av
import numpy as np

RATE = 8000  # Hz
PEAK = 0.8
FULL_SCALE = {"s16": 2.0**15, "s32": 2.0**31, "flt": 1.0, "fltp": 1.0, "dbl": 1.0}


def stereo_wav():
    tone = PEAK * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    samples = np.round(tone * 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(np.stack([samples, samples], axis=1).tobytes())
    file.seek(0)
    return file


def mono(sample_format, **settings):
    """Peak of the recording after the mix, relative to full scale."""
    resampler = av.AudioResampler(format=sample_format, layout="mono", **settings)
    with av.open(stereo_wav()) as container:
        mixed = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        mixed += resampler.resample(None)
    samples = np.concatenate([frame.to_ndarray().ravel() for frame in mixed])
    assert len(samples) == RATE, f"{len(samples)} samples came, {RATE} were sent"
    return float(np.abs(samples.astype(np.float64)).max()) / FULL_SCALE[sample_format]


print(f"PyAV {av.__version__}, libswresample {'.'.join(map(str, av.library_versions['libswresample']))}")
print(f"expected: peak {PEAK} in every sample format")
as_described = True
for sample_format in FULL_SCALE:
    peak = mono(sample_format)
    decibels = 20 * math.log10(peak / PEAK)
    print(f"seen:     {sample_format:4} peak {peak:.3f}, {decibels:+.2f} dB")
    surprise = 3.01 if sample_format in ("flt", "fltp", "dbl") else 0.0
    as_described &= abs(decibels - surprise) < 0.02
if int(av.__version__.split(".")[0]) >= 18:
    peak = mono("flt", options={"rematrix_maxval": "1"})
    print(f"way out:  flt with rematrix_maxval=1: peak {peak:.3f}")
    as_described &= abs(peak - PEAK) < 1e-3
print("as described" if as_described else "CHANGED: this is not what the head of the script describes")
sys.exit(not as_described)
EOF
