import time

import pytest
import torch

from dualtoken.training.precision import choose_precision


def test_a_cpu_computes_in_float32_whatever_a_clock_says(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AMX AVX512")
    assert choose_precision(torch.device("cpu")) == "32-true"


@pytest.mark.parametrize(("able", "chosen"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_computes_in_bf16_if_it_has_it(monkeypatch, able, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: able)
    assert choose_precision(torch.device("cuda")) == chosen
