"""Engines as a benchmark runs them: one class an engine, one line in `ENGINES`.

Imported by the worker before any package is: everything heavy is imported within, so that a process holds one engine
only. All compute in float32 unless the file that they are given says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dualtoken.errors import require

Run = Callable[[], object]
Images = NDArray[np.float32]  # (B, 3, H, W)


class Engine(Protocol):
    """What the worker asks of an engine. Making one imports its packages and sets its threads."""

    def __init__(self, threads: int) -> None: ...

    def load(self, source: dict[str, Any], image_size: int) -> None:
        """Take the model: `source` is {"path": exported file} or the fields of a `Subject`."""

    def prepare(self, images: Images) -> tuple[Run, str]:
        """What runs these images once, and a few words on how. Compiling and choosing happen here."""


class Eager:
    """torch as it is, in the memory layout that is faster for this network and shape."""

    def __init__(self, threads: int) -> None:
        torch = require("torch", "train")
        torch.set_num_threads(threads)
        from dualtoken import model_folder, tasks  # noqa: F401 (an import is no part of a model's memory)
        from dualtoken.lab import networks

        self._torch, self._networks = torch, networks
        self._network: Any = None

    def load(self, source: dict[str, Any], image_size: int) -> None:
        subject = self._networks.Subject(**source)
        self._network = self._networks.merge(self._networks.build(subject, image_size))

    def prepare(self, images: Images) -> tuple[Run, str]:
        plain, last = self._torch.contiguous_format, self._torch.channels_last
        times = {layout: self._try(images, layout) for layout in (plain, last)}
        best = min(times, key=lambda layout: times[layout])
        return self._runner(images, best), "channels last" if best is last else "channels first"

    def _try(self, images: Images, layout: Any, trials: int = 3) -> float:
        run = Eager._runner(self, images, layout)
        run()
        times = []
        for _ in range(trials):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    def _runner(self, images: Images, layout: Any) -> Run:
        network = self._network.to(memory_format=layout)
        tensor = self._torch.from_numpy(images).contiguous(memory_format=layout)

        def run() -> object:
            with self._torch.inference_mode():
                return network(tensor)

        return run


class Compiled(Eager):
    """torch.compile, once for each shape; in the layout that is faster without it."""

    def _runner(self, images: Images, layout: Any) -> Run:
        self._torch.compiler.reset()
        network = self._torch.compile(self._network.to(memory_format=layout), dynamic=False)
        tensor = self._torch.from_numpy(images).contiguous(memory_format=layout)

        def run() -> object:
            with self._torch.inference_mode():
                return network(tensor)

        run()
        return run


class OnnxRuntime:
    """ONNX Runtime on the processor, one session for all batches."""

    def __init__(self, threads: int) -> None:
        self._package = require("onnxruntime", "onnx")
        self._threads = threads

    def load(self, source: dict[str, Any], image_size: int) -> None:
        options = self._package.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = 3
        self._session = self._package.InferenceSession(source["path"], options, providers=["CPUExecutionProvider"])

    def prepare(self, images: Images) -> tuple[Run, str]:
        feed = {self._session.get_inputs()[0].name: images}
        return lambda: self._session.run(None, feed), ""


class OpenVino:
    """OpenVINO on the processor, compiled for each shape with the hint LATENCY."""

    def __init__(self, threads: int) -> None:
        self._core = require("openvino", "openvino").Core()
        self._settings = {
            "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
        }  # fmt: skip

    def load(self, source: dict[str, Any], image_size: int) -> None:
        self._model = self._core.read_model(source["path"])

    def prepare(self, images: Images) -> tuple[Run, str]:
        model = self._model.clone()
        model.reshape(images.shape)
        request = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        return lambda: request.infer([images], share_inputs=True, share_outputs=True), ""


ENGINES: dict[str, type[Engine]] = {
    "eager": Eager,
    "compile": Compiled,
    "onnx": OnnxRuntime,
    "openvino": OpenVino,
}
