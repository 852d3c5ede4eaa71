#!/usr/bin/env bash
# AAC through PyAV: the same packets begin 1,024 samples later if they come from .aac, .ts or .flv, not from .m4a.
#
# Versions: PyAV 17.1.0, 18.1.0, 19.0.2 (the newest for Python 3.10, 3.11, 3.12), with the FFmpeg inside the wheel.
# Input:    two seconds at 8 kHz, made here: silence, but for a burst of tone at sample 4,000. PyAV encodes it to AAC
#           in .m4a; the packets are then copied, without encoding again, to ADTS (.aac), MPEG-TS and FLV.
# Expected: the burst at sample 4,000 in all four, since the packets are the same. If a container cannot say that the
#           encoder needed a run-up (priming), at least the clock of MPEG-TS and FLV shows a start before zero.
# Seen:     .m4a: sample 4,000. ADTS, MPEG-TS, FLV: sample 5,024, that is 128 ms later at 8 kHz (23 ms at 44.1 kHz).
#           In all four the first frame has pts 0, so nothing in the decoded frames tells the two cases apart.
# Why:      of the four only .m4a says how many samples are priming (in its edit list).
# Way out:  none from the file alone, since the number depends on the encoder. Compare times only between recordings
#           in the same container from the same encoder.
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
import sys
from fractions import Fraction

import av
import numpy as np

RATE = 8000  # Hz
BURST = 4000  # sample at which the tone begins
PRIMING = 1024  # samples, of FFmpeg's own AAC encoder
FILES = {"voice.m4a": 0, "voice.aac": PRIMING, "voice.ts": PRIMING, "voice.flv": PRIMING}  # name: samples too late

TONE = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(400) / RATE)
sound = np.zeros(2 * RATE)
sound[BURST : BURST + len(TONE)] = TONE


def encode(name):
    with av.open(name, "w") as container:
        stream = container.add_stream("aac", rate=RATE)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        for packet in stream.encode(frame) + stream.encode(None):
            container.mux(packet)


def copy(source, target):
    with av.open(source) as old, av.open(target, "w") as new:
        stream = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(audio=0):
            if packet.size:  # the last one is empty
                packet.stream = stream
                new.mux(packet)


def decode(name):
    """The samples, and the time in seconds that the first frame claims."""
    with av.open(name) as container:
        frames = list(container.decode(audio=0))
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]), float(frames[0].time)


first, *copies = FILES
encode(first)
for name in copies:
    copy(first, name)

print(f"PyAV {av.__version__}, libavformat {'.'.join(map(str, av.library_versions['libavformat']))}")
print(f"expected: the burst at sample {BURST} in every file, or a first time below 0")
as_described = True
for name, late in FILES.items():
    samples, time = decode(name)
    found = int(np.argmax(np.correlate(samples, TONE)))
    print(f"seen:     {name:9} burst at sample {found}, first frame at {time:.3f} s")
    as_described &= found == BURST + late and time == 0
print("as described" if as_described else "CHANGED: this is not what the head of the script describes")
sys.exit(not as_described)
EOF
