"""The transforms agree with torch's, forth and back, at even and odd sizes."""

import pytest
import torch

from dualtoken.backbone.fourier import irfft2, rfft2


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 8), (6, 7)])
def test_as_torch_does(size):
    x = torch.randn(2, *size, 3, dtype=torch.float64)
    real, imag = rfft2(x)
    expected = torch.fft.rfft2(x, dim=(1, 2), norm="ortho")
    torch.testing.assert_close(torch.complex(real, imag), expected)
    torch.testing.assert_close(irfft2(real, imag, size[1]), x)
    factor = torch.randn_like(real), torch.randn_like(real)  # a spectrum that no real map has
    back = torch.fft.irfft2(torch.complex(*factor), s=size, dim=(1, 2), norm="ortho")
    torch.testing.assert_close(irfft2(*factor, size[1]), back)
