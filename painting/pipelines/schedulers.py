"""The samplers of diffusers by short names, with their names in common web interfaces. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scheduler:
    """One sampler.

    Attributes:
        web_name: its name in web interfaces.
        diffusion: its class for models that predict noise; "": there is none.
        flow: its class for flow models; "": there is none.
        stochastic: it adds noise after each step.
        config: what its config needs.
    """

    web_name: str
    diffusion: str = ""
    flow: str = ""
    stochastic: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)


ODE, SDE = {"algorithm_type": "dpmsolver++"}, {"algorithm_type": "sde-dpmsolver++"}
SCHEDULERS = {
    "ddim": Scheduler("DDIM", "DDIMScheduler"),
    "plms": Scheduler("PLMS", "PNDMScheduler", config={"skip_prk_steps": True}),
    "dpmpp": Scheduler("DPM++ 2M", "DPMSolverMultistepScheduler", "DPMSolverMultistepScheduler", config=ODE),
    "dpmpp_sde": Scheduler("DPM++ 2M SDE", "DPMSolverMultistepScheduler", "DPMSolverMultistepScheduler", True, SDE),
    "unipc": Scheduler("UniPC", "UniPCMultistepScheduler", "UniPCMultistepScheduler"),
    "deis": Scheduler("DEIS", "DEISMultistepScheduler", config={"algorithm_type": "deis"}),
    "euler": Scheduler("Euler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"),
    "euler_a": Scheduler("Euler a", "EulerAncestralDiscreteScheduler", stochastic=True),
    "heun": Scheduler("Heun", "HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
    "lms": Scheduler("LMS", "LMSDiscreteScheduler"),
    "kdpm2": Scheduler("DPM2", "KDPM2DiscreteScheduler"),
    "kdpm2_a": Scheduler("DPM2 a", "KDPM2AncestralDiscreteScheduler", stochastic=True),
    "ddpm": Scheduler("DDPM", "DDPMScheduler", stochastic=True),
    "lcm": Scheduler("LCM", "LCMScheduler", "FlowMatchLCMScheduler", stochastic=True),
    "tcd": Scheduler("TCD", "TCDScheduler"),
    # schedulers of single families, which only their own pipelines use
    "scm": Scheduler("SCM", flow="SCMScheduler", stochastic=True),
    "wuerstchen": Scheduler("DDPM Wuerstchen", "DDPMWuerstchenScheduler", stochastic=True),
    "cogvideox_ddim": Scheduler("DDIM", "CogVideoXDDIMScheduler"),
    "cogvideox_dpm": Scheduler("DPM++ 2M SDE", "CogVideoXDPMScheduler", stochastic=True),
    "edm_euler": Scheduler("Euler", "EDMEulerScheduler"),
    "edm_dpmpp": Scheduler("DPM++ 2M", "EDMDPMSolverMultistepScheduler"),
    "dpmpp_2s": Scheduler("DPM++ 2S", "DPMSolverSinglestepScheduler"),
    "sasolver": Scheduler("SA-Solver", "SASolverScheduler", stochastic=True),
}


def name_of(class_name: str, config: Mapping[str, Any], flow: bool) -> str | None:
    """Return the short name of the scheduler that a pipeline was saved with, or None if it has none here."""
    of_class = {
        name: entry
        for name, entry in SCHEDULERS.items()
        if class_name and class_name == (entry.flow if flow else entry.diffusion)
    }
    sde = str(config.get("algorithm_type", "")).startswith("sde-")
    return next((name for name, entry in of_class.items() if len(of_class) == 1 or entry.stochastic == sde), None)
