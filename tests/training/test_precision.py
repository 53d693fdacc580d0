import pytest
import torch

from dualtoken.training import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("bf16_seconds", "chosen"), [(0.5, "bf16-mixed"), (0.9, "32-true"), (7.0, "32-true")])
def test_a_cpu_with_bf16_units_is_measured(monkeypatch, bf16_seconds, chosen):
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    monkeypatch.setattr(precision, "product_seconds", lambda dtype: bf16_seconds if dtype == torch.bfloat16 else 1.0)
    assert precision.choose_precision(CPU) == chosen


def test_a_cpu_without_them_is_not(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16_units", lambda: False)
    monkeypatch.delattr(precision, "product_seconds")
    assert precision.choose_precision(CPU) == "32-true"


def test_the_measurement_measures():
    assert precision.product_seconds(torch.float32, rounds=1) > 0
