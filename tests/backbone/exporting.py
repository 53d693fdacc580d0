"""A network as its users get it exported: ONNX Runtime and OpenVINO answer as torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


def exports(model: torch.nn.Module, path: Path, size: tuple[int, int]) -> None:
    """Write `model` to `path` for images of `size`, and hold both engines to it within 1e-4 of the largest output."""
    import onnxruntime
    import openvino

    from dualtoken.export.formats.onnx import export_network
    from dualtoken.export.pieces import merged

    model = merged(model.eval())
    batch = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(batch).numpy()
    tolerance = 1e-4 * np.abs(expected).max()
    export_network(model, path, size)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"images": batch.numpy()})[0], expected, rtol=0, atol=tolerance)
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(batch.numpy())[0], expected, rtol=0, atol=tolerance)
