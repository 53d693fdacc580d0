"""A network as its users get it exported: ONNX Runtime and OpenVINO answer as torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


def exports(model: torch.nn.Module, path: Path, size: tuple[int, int]) -> None:
    """Write `model` to `path` for images of `size`, and hold both engines to it within 1e-4 of the largest output."""
    import openvino

    from dualtoken.export.formats.onnx import export_network
    from dualtoken.export.pieces import merged

    model = merged(model.eval())
    export_network(model, path, size)
    _onnx_agrees(path, model, size)
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    _agrees(compiled(_images(size))[0], model, size)


def exports_with_open_size(model: torch.nn.Module, path: Path) -> None:
    """Write `model` to `path` for images of any size, and hold ONNX Runtime to it at three."""
    from dualtoken.export.formats.onnx import write
    from dualtoken.export.pieces import merged, pieces

    model = merged(model.eval())
    (piece,) = pieces(model, (128, 128), 3, any_size=True, multiple=1)
    write(piece, path)
    for size in ((128, 160), (192, 96), (160, 224)):
        _onnx_agrees(path, model, size)


def _images(size: tuple[int, int]) -> np.ndarray:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).numpy()


def _onnx_agrees(path: Path, model: torch.nn.Module, size: tuple[int, int]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    _agrees(session.run(None, {session.get_inputs()[0].name: _images(size)})[0], model, size)


def _agrees(answer: np.ndarray, model: torch.nn.Module, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        expected = model(torch.from_numpy(_images(size))).numpy()
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
