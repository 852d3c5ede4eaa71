#!/usr/bin/env bash
# torch: on a CPU, a generator uses the lower 32 bits of its seed alone, so seeds that differ by a multiple of 2**32 draw
# the same noise.
#
# Versions: torch 2.13.0 (CPU). Python 3.10 or newer.
# Input:    seeds from 0 to 2**64 - 1, the range that torch documents for manual_seed.
# Expected: different seeds draw different numbers, or a seed that is too large is refused.
# Seen:     5, 5 + 2**32 and 5 + 7 * 2**40 draw the same numbers, in torch.randn, torch.rand and torch.randperm, from a
#           torch.Generator and from the global generator. No warning, and initial_seed() returns the whole seed. -1
#           draws the numbers of 2**32 - 1.
# Why:      the generator of a CPU is a Mersenne Twister, which is set up from one 32-bit word. That of CUDA, Philox,
#           takes 64 bits.
# Way out:  keep seeds below 2**32, and tell seeds apart by their lower 32 bits. Image programs that offer 64-bit seeds
#           and draw on the CPU (so that all devices give the same image) have 2**32 images.
#
# On Linux, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu spares the download of CUDA.
# Exit status: 0 seen as described, 1 something else was seen, 2 it could not be tried.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

"${PYTHON:-python3}" -m venv venv || exit 2
case $(venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])') in
3.10) packages=(numpy==2.2.6) ;;
*) packages=(numpy==2.4.6) ;;
esac
packages+=(torch==2.13.0)
venv/bin/python -m pip install --quiet --disable-pip-version-check "${packages[@]}" || exit 2

OMP_NUM_THREADS=1 venv/bin/python -I - <<'EOF'
import sys

import torch

SEED = 5
ALIASES = (SEED + 2**32, SEED + 7 * 2**40)
OTHERS = (SEED + 1, SEED + 2**31)
DRAWS = {
    "randn": lambda generator: torch.randn(1000, generator=generator),
    "rand": lambda generator: torch.rand(1000, generator=generator),
    "randperm": lambda generator: torch.randperm(1000, generator=generator),
}


def same(draw, one, other):
    """Tell whether two seeds draw the same numbers, from an own generator and from the global one."""
    own = [draw(torch.Generator().manual_seed(seed)) for seed in (one, other)]
    shared = [draw(torch.manual_seed(seed)) for seed in (one, other)]
    return torch.equal(*own) and torch.equal(*shared)


print(f"Python {sys.version.split()[0]}, torch {torch.__version__}")
print("expected: seeds from 0 to 2**64 - 1 that differ draw different numbers")
aliases = {name: [same(draw, SEED, seed) for seed in ALIASES] for name, draw in DRAWS.items()}
others = {name: [same(draw, SEED, seed) for seed in OTHERS] for name, draw in DRAWS.items()}
minus = same(DRAWS["randn"], -1, 2**32 - 1)
kept = torch.Generator().manual_seed(ALIASES[1]).initial_seed() == ALIASES[1]
for name in DRAWS:
    print(f"seen:     {name}: seeds {SEED}, {ALIASES[0]} and {ALIASES[1]} draw the same: {all(aliases[name])}")
    print(f"seen:     {name}: seeds {SEED}, {OTHERS[0]} and {OTHERS[1]} draw the same: {any(others[name])}")
print(f"seen:     seeds -1 and {2**32 - 1} draw the same: {minus}; initial_seed() returns the whole seed: {kept}")
described = all(map(all, aliases.values())) and not any(map(any, others.values())) and minus and kept
print("as described" if described else "CHANGED")
sys.exit(not described)
EOF
