#!/usr/bin/env bash
# diffusers: four schedulers that start N steps at pure noise start a single step where the image is already clean.
#
# Versions: diffusers 0.42.1, torch 2.13.0 (CPU). Python 3.10 or newer.
# Input:    EulerDiscreteScheduler, HeunDiscreteScheduler, LMSDiscreteScheduler and KDPM2DiscreteScheduler with the betas
#           of Stable Diffusion and their defaults otherwise, as StableDiffusionPipeline uses them when one is put in
#           place of its own. One step, as for a model that was distilled for one.
# Expected: the first of 1 step begins like the first of 2 or 20: at the last timestep, 999, with noise of N(0, 1) times
#           init_noise_sigma = 14.6, of which the network sees 0.998 after scale_model_input.
# Seen:     1 step begins at timestep 0. init_noise_sigma is 0.029, so 3 % of the noise reaches the network, and the
#           network is told that the image is finished. No exception, no warning: an image comes out that hardly
#           depends on the noise. DPMSolverMultistepScheduler begins at 999 with 1 step as well.
# Why:      timestep_spacing="linspace", their default, is linspace(0, 999, N) from the end: for N = 1 that is 0 alone.
# Way out:  timestep_spacing="trailing" begins at 999 for every N.
#
# On Linux, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu spares the download of CUDA.
# Exit status: 0 seen as described, 1 something else was seen, 2 it could not be tried.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

"${PYTHON:-python3}" -m venv venv || exit 2
case $(venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])') in
3.10) packages=(numpy==2.2.6 scipy==1.15.3) ;;
*) packages=(numpy==2.4.6 scipy==1.17.1) ;;
esac
packages+=(torch==2.13.0 diffusers==0.42.1)
venv/bin/python -m pip install --quiet --disable-pip-version-check "${packages[@]}" || exit 2

HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -I -W ignore - <<'EOF'
import sys

import diffusers
import torch

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NAMES = ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler")


def start(name, steps, **settings):
    """Return the first timestep, and the standard deviation of what the network gets of noise N(0, 1)."""
    scheduler = getattr(diffusers, name)(**BETAS, **settings)
    scheduler.set_timesteps(steps)
    noise = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    first = scheduler.timesteps[0]
    return float(first), float(scheduler.scale_model_input(noise * scheduler.init_noise_sigma, first).std())


print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
print("expected: timestep 999 and a standard deviation near 1, whatever the number of steps")
described = True
for name in NAMES:
    one, two, trailing = start(name, 1), start(name, 2), start(name, 1, timestep_spacing="trailing")
    print(f"seen:     {name}: 1 step {one[0]:.0f}, {one[1]:.3f}; 2 steps {two[0]:.0f}, {two[1]:.3f}; "
          f"1 step, trailing {trailing[0]:.0f}, {trailing[1]:.3f}")
    described &= one[0] == 0 and one[1] < 0.05 and two[0] == 999 and two[1] > 0.95
    described &= trailing[0] > 990 and trailing[1] > 0.95
solver = start("DPMSolverMultistepScheduler", 1)
print(f"seen:     DPMSolverMultistepScheduler: 1 step {solver[0]:.0f}, {solver[1]:.3f}")
described &= solver[0] == 999
print("as described" if described else "CHANGED: this is not what the head of the script describes")
sys.exit(not described)
EOF
