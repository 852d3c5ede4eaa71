"""The optimizer of the U-Net, and the moving average of its weights."""

import pytest
import torch

from training.optimizer import MuonAdamW, PowerEMA


def kernel_and_bias(channels: int, out_channels: int) -> list[torch.nn.Parameter]:
    """Make the parameters of a convolution, the kernel in channels-last memory layout."""
    convolution = torch.nn.Conv2d(channels, out_channels, 3)
    convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types leave it out
    return list(convolution.parameters())


def test_moving_average_follows_and_forgets():
    live, average = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    ema = PowerEMA(live, average)
    ema.update(0)
    assert torch.equal(average.weight, live.weight)  # the first update takes all
    torch.nn.init.constant_(live.weight, 1.0)
    for step in range(1, 100):
        ema.update(step)
    assert abs(average.weight.item() - 1.0) < 1e-6


def test_muon_steps_are_as_long_in_all_directions():
    torch.manual_seed(0)
    kernel, bias = kernel_and_bias(12, 8)
    before = [p.detach().clone() for p in (kernel, bias)]
    optimizer = MuonAdamW([kernel], [bias], learning_rate=0.01)
    kernel.grad = torch.randn_like(kernel) * torch.logspace(0, 2, 8)[:, None, None, None]
    bias.grad = torch.logspace(0, 2, 8)
    optimizer.step()
    # coarse: Muon's iteration leaves singular values between 0.7 and 1.2; the gradient's are a hundred times apart
    lengths = torch.linalg.svdvals((kernel - (1 - 1e-4) * before[0]).permute(0, 2, 3, 1).flatten(1))
    assert lengths.max() < 2 * lengths.min()
    assert torch.allclose((bias - (1 - 1e-4) * before[1]).abs(), torch.tensor(0.01), rtol=1e-3)


def test_a_checkpoint_of_another_optimizer_is_refused():
    kernel, bias = kernel_and_bias(3, 4)
    optimizer = MuonAdamW([kernel], [bias], learning_rate=0.01)
    with pytest.raises(ValueError, match="another optimizer"):
        optimizer.load_state_dict(torch.optim.AdamW([kernel, bias]).state_dict())
    optimizer.load_state_dict(optimizer.state_dict())
