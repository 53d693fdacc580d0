import numpy as np
import pytest
import torch

from dualtoken.errors import ConfigError
from dualtoken.postprocess import softmax


@pytest.mark.parametrize("shape", [(7,), (5, 7)])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_softmax_equals_torch(shape, temperature):
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 5
    expected = torch.softmax(torch.from_numpy(logits).double() / temperature, -1).numpy()
    result = softmax(logits, temperature)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_huge_logits_do_not_overflow():
    np.testing.assert_array_equal(softmax(np.array([3e38, -3e38], np.float32), 0.05), [1, 0])


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_impossible_temperatures_are_refused(temperature):
    with pytest.raises(ConfigError, match="above 0"):
        softmax(np.zeros(2), temperature)
