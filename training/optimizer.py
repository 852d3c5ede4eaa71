"""The U-Net's optimizer, Muon and AdamW combined, and the moving average of its weights."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ldm.models.diffusion.ddpm import LatentDiffusion


class MuonAdamW:
    """Muon for matrices and convolution kernels, AdamW for all other parameters.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes the update of a matrix nearly orthogonal,
    so that it is equally large in all directions. A kernel counts as a matrix [out channels, in channels × height ×
    width]. Updates are scaled so that AdamW's learning rates suit them (Liu et al. 2025, arXiv 2502.16982).

    Args:
        matrices: parameters for Muon: [O, I], or [O, I, H, W] in channels-last memory layout. torch's Muon accepts
            only two dimensions, so it gets matrices that share the kernels' memory.
        others: parameters for AdamW.
        learning_rate: of both.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], others: Sequence[nn.Parameter], learning_rate: float) -> None:
        self.kernels = list(matrices)
        self.matrices = [nn.Parameter(_as_matrix(kernel.detach())) for kernel in matrices]
        assert all(m.data_ptr() == k.data_ptr() for m, k in zip(self.matrices, self.kernels, strict=True))
        self.muon = torch.optim.Muon(self.matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of both optimizers."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self) -> None:
        """Update all parameters by their gradients."""
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = None if kernel.grad is None else _as_matrix(kernel.grad)
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimizers."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state that `state_dict` returned.

        Raises:
            ValueError: `state` is that of another kind of optimizer.
        """
        if state.keys() != {"muon", "adamw"}:
            raise ValueError("the checkpoint was written with another optimizer: move its folder away to train anew")
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])


def _as_matrix(kernel: Tensor) -> Tensor:
    """View [O, I, H, W] in channels-last layout as [O, H·W·I], without a copy; [O, I] stays."""
    return rearrange(kernel, "o i h w -> o (h w i)") if kernel.ndim == 4 else kernel


def inner_and_outer(model: LatentDiffusion) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the trained parameters of the U-Net: inner matrices and kernels for Muon, and all others for AdamW.

    Muon's authors recommend AdamW for vectors and for the first and the last layer.
    """
    unet = model.model.diffusion_model
    ends = {id(p) for module in (unet.input_blocks[0], unet.out, unet.bypass) for p in module.parameters()}
    inner: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in unet.parameters():
        if parameter.requires_grad:
            (inner if parameter.ndim > 1 and id(parameter) not in ends else others).append(parameter)
    return inner, others


class PowerEMA:
    """Moving average of a module's weights over a fixed fraction of the training so far.

    "Analyzing and Improving the Training Dynamics of Diffusion Models" (Karras et al. 2024, section 3.1). With γ = 6.94
    the average covers about the last tenth of all steps; the number of steps need not be known in advance.

    Args:
        module: is trained.
        average: a module of the same shape; holds the average.
    """

    gamma = 6.94

    def __init__(self, module: nn.Module, average: nn.Module) -> None:
        self.live: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
        self.average: list[Tensor] = [p for p in average.parameters() if p.requires_grad]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after step `step`, counted from 0."""
        decay = (1.0 - 1.0 / (step + 1)) ** (self.gamma + 1)
        torch._foreach_lerp_(self.average, self.live, 1.0 - decay)
