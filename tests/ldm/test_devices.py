"""Test the choice of device and precision."""

import subprocess
import sys

import pytest
import torch

import config
from ldm.devices import PRECISIONS, UnavailableError, choose_device, choose_precision


def test_auto_is_the_first_device_that_works(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == choose_device("mps").type == "mps"
    with pytest.raises(UnavailableError, match="cuda is not available: .* can use mps, cpu"):
        choose_device("cuda")


def test_auto_is_bfloat16_where_the_device_computes_in_it(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for capability, expected in (("avx512_bf16", "bf16"), ("amx_bf16", "bf16"), ("avx2", "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=capability: {name: True})
        assert choose_precision("auto", cpu) == expected
    for native, expected in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert choose_precision("auto", cuda) == expected
    assert choose_precision("auto", torch.device("mps")) == "fp32"
    assert [choose_precision(name, cpu) for name in PRECISIONS] == list(PRECISIONS)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'tpu': choose auto, cuda, mps, cpu"):
        choose_device("tpu")
    with pytest.raises(ValueError, match="'int8': choose auto, fp32"):
        choose_precision("int8", torch.device("cpu"))


def test_names_of_precisions_are_read_without_torch():
    code = "import sys, ldm.devices\nassert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=config.REPO_DIR)
