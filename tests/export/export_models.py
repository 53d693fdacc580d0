"""Small models of every task with random weights, for the tests of exports."""

from __future__ import annotations

from pathlib import Path

WIDE = {"channels": [32, 64, 96], "depths": [1, 1, 1], "heads": [1, 2, 3], "neck": 128}  # worth computing in integers
CLASSES = ("cat", "dog", "big bird")

# Name: task, head, arguments of the head, architecture, its arguments, (height, width), temperature.
MODELS = {
    "classifier": ("classification", "", {}, "dualtoken_vit_t_mix", WIDE, (64, 96)),
    "segmenter": ("semantic_segmentation", "fpn", {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
                  "test_resnet", {}, (64, 96)),
    "retinanet": ("detection", "retinanet", {"channels": 64}, "test_resnet", {}, (64, 96)),
    "fcos": ("detection", "fcos", {"channels": 64}, "test_resnet", {}, (64, 96)),
    "faster_rcnn": ("detection", "faster_rcnn", {"channels": 64}, "test_resnet", {}, (64, 96)),
    "mask_rcnn": ("instance_segmentation", "mask_rcnn", {"channels": 64}, "test_resnet", {}, (64, 96)),
}  # fmt: skip


def make_model(folder: Path, name: str, seed: int = 0) -> Path:
    """A model folder with random weights that are large enough to tell images apart."""
    import torch

    from dualtoken.model_folder import ModelConfig, build_model, save_model
    from dualtoken.preprocess import Preprocessing

    task, head, head_args, architecture, args, size = MODELS[name]
    mode = "center" if task == "classification" else "border"
    config = ModelConfig(
        architecture, CLASSES, Preprocessing(size, crop_pct=0.9, crop_mode=mode, mean=(0.4, 0.5, 0.45)), task,
        head, head_args, args, temperature=1.5, threshold=0.3,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    save_model(model, config, folder)
    return folder
