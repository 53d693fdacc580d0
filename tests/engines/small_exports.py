"""Small models of every task and exports of them, made straight with torch: `dualtoken.export` has tests of its own."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.export import Dim

from conftest import MakeOnce
from dualtoken.engines import KEY
from dualtoken.files import digest
from dualtoken.model_folder import WEIGHTS, ModelConfig, build_model, load_model, save_model
from dualtoken.prediction.exported import ExportInfo, to_json_text
from dualtoken.preprocess import Preprocessing

CLASSES = ("cat", "dog", "café")
FEW = {"channels": 64, "max_detections": 5, "score_threshold": 0.0}
HEADS = {
    "classification": ("", {}),
    "detection": ("fcos", FEW),
    "instance_segmentation": ("mask_rcnn", FEW),
    "semantic_segmentation": ("fpn", {}),
}


class Made:
    """Folders with `model/` and `model.onnx`, by task, each made once for all tests: it takes a while."""

    def __init__(self, once: MakeOnce) -> None:
        self.once = once

    def __call__(self, task: str = "classification") -> Path:
        return self.once(
            f"small-{task}", lambda folder: small_onnx(small_model(folder / "model", task), folder / "model.onnx")
        )


def small_model(folder: Path, task: str = "classification") -> Path:
    """A model folder with fresh weights; its input is not square."""
    torch.manual_seed(0)
    head, args = HEADS[task]
    config = ModelConfig(
        "test_resnet", CLASSES, Preprocessing((96, 64), 1.0, "border"), task=task, head=head, head_args=args,
        threshold=0.0, temperature=0.02 if task == "classification" else 1.0,
    )  # fmt: skip
    save_model(build_model(config), config, folder)
    return folder


def small_onnx(model: Path, path: Path) -> Path:
    """The model folder as ONNX files with everything that the runtime needs."""
    network, config = load_model(model)
    parts = network.parts() if hasattr(network, "parts") else {"network": network}
    files = {part: path.with_name(f"{path.stem}.{part}{path.suffix}") for part in parts} | {"network": path}
    example = [torch.rand(2, 3, *config.preprocessing.image_size)]
    with torch.inference_mode():
        raw = parts["network"].eval()(*example)
    maps = [tensor.clone() for tensor in raw[2:]] if len(parts) > 1 else []
    rois = torch.tensor([[0, 1, 1, 30, 20], [1, 0, 0, 60, 90], [0, 5, 5, 9, 9]], dtype=torch.float32)
    inputs = {"network": example, "boxes": [*maps, rois], "masks": [*maps, rois, torch.tensor([1, 2, 1])]}
    for part, module in parts.items():
        write_onnx(module, inputs[part], files[part])
    others = {part: file for part, file in files.items() if part != "network"}
    info = ExportInfo(
        "onnx",
        "torch.onnx dynamo",
        parts={part: file.name for part, file in others.items()},
        sha256={file.name: digest(file) for file in others.values()},
        weights_sha256=digest(model / WEIGHTS),
    )
    add_text(path, to_json_text(config, info))
    return path


def write_onnx(module: nn.Module, inputs: list[torch.Tensor], path: Path) -> None:
    """One part, with any number of images and regions."""
    named = getattr(module, "inputs", ("images",))
    many = {"rois": Dim("regions"), "labels": Dim("regions")}
    shapes = tuple({0: many.get(name, Dim("images"))} for name in named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        torch.onnx.export(
            module.eval(), tuple(inputs), path, dynamo=True, external_data=False, opset_version=20, verbose=False,
            input_names=list(named), dynamic_shapes=(shapes,) if len(named) > 1 else shapes,
        )  # fmt: skip


def add_text(path: Path, text: str, key: str = KEY) -> None:
    """Put a text into an ONNX file."""
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = key, text
    onnx.save(model, path)
