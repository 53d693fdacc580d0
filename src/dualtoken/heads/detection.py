"""Boxes and instance masks: torchvision's detectors on a feature pyramid over a backbone's maps.

torchvision's models resize and normalise images themselves and give boxes in the image's own pixels. Here both ends
are `Preprocessing` and `postprocess`, the same for every engine, so that `FixedInput` stands in their place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from dualtoken.errors import ConfigError, unknown_name
from dualtoken.heads.body import Body, undecayed

Target = dict[str, Tensor]
_RATIOS = (0.5, 1.0, 2.0)


class Pyramid(nn.Module):
    """Body and feature pyramid: images to maps of equal channels, by name; `strides` counts the extra levels."""

    def __init__(self, body: Body, channels: int, *, dense: bool) -> None:
        super().__init__()
        self.body, self.out_channels = body, channels
        extra = LastLevelP6P7(channels, channels) if dense else LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(body.channels, channels, extra, norm_layer=_norm)
        last = body.strides[-1]
        self.strides = [*body.strides, 2 * last, *([4 * last] if dense else [])]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.body(images)
        return cast(OrderedDict[str, Tensor], self.fpn(OrderedDict((str(i), level) for i, level in enumerate(maps))))


class FixedInput(nn.Module):
    """In the place of torchvision's own resizing and normalising: the batch is the network's input already."""

    def forward(self, images: Tensor, targets: list[Target] | None = None) -> tuple[ImageList, list[Target] | None]:
        height, width = images.shape[-2:]
        return ImageList(images, [(height, width)] * len(images)), targets

    def postprocess(self, result: list[Target], _sizes: Any, _original: Any) -> list[Target]:
        """Boxes stay in the input's pixels, masks as small as the head gives them."""
        return result


class Detector(nn.Module):
    """One of torchvision's detectors, with classes counted from 0 and no class for the background.

    Args:
        network: RetinaNet, FCOS, Faster or Mask R-CNN on a `Pyramid`.
        first: label of the first class inside `network`: 1 where 0 is the background.
    """

    def __init__(self, network: nn.Module, first: int) -> None:
        super().__init__()
        network.transform = FixedInput()
        self.network: Any = network
        self.first = first

    @property
    def body(self) -> Body:
        """The backbone."""
        return cast(Body, self.network.backbone.body)

    def forward(self, images: Tensor, targets: list[Target] | None = None) -> Any:
        """Losses by name while training, answers else.

        Args:
            images: (B, 3, H, W), normalised; sides are multiples of 32.
            targets: for each image `boxes` (n, 4) in the input's pixels, `labels` (n,) and, for Mask R-CNN, `masks`
                (n, H, W) of 0 and 1.

        Returns:
            While training a dict of scalars; else for each image a dict of `boxes` (n, 4) in the input's pixels,
            `scores` (n,), `labels` (n,) and, for Mask R-CNN, `masks` (n, 28, 28) from 0 to 1, within the boxes.
        """
        if targets is not None:
            targets = [target | {"labels": target["labels"] + self.first} for target in targets]
        if self.training:
            return self.network(images, targets)
        answers = self.network(images)
        for answer in answers:
            answer["labels"] = answer["labels"] - self.first
            if "masks" in answer:
                answer["masks"] = answer["masks"][:, 0]
        return answers

    def dense(self, images: Tensor) -> Any:
        """What is computed for every position, without the choice of boxes: for counting operations."""
        maps = list(self.network.backbone(images).values())
        head = self.network.rpn.head if hasattr(self.network, "rpn") else self.network.head
        return head(maps)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters of the backbone that weight decay leaves alone."""
        return undecayed(self)


def make_detector(
    head: str,
    architecture: str,
    classes: int,
    *,
    strides: Sequence[int] = (8, 16, 32),
    channels: int = 128,
    anchor_scale: float = 4.0,
    score_threshold: float = 0.02,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
    **backbone: Any,
) -> Detector:
    """A detector with fresh weights.

    Args:
        head: a key of `DETECTORS`.
        architecture: a name of timm's registry.
        classes: number of classes, the background not counted.
        strides: of the backbone's maps that the pyramid stands on.
        channels: of the pyramid's maps and the head, a multiple of 32 from 64 up; the paper's detectors have 256.
        anchor_scale: side of the smallest anchor on each map, in strides; 4 is COCO's 32 pixels at stride 8. Smaller
            for smaller objects; FCOS has none.
        score_threshold: answers below it are not given.
        iou_threshold: of two boxes of one class that overlap more, the surer stays.
        max_detections: answers for one image.
        **backbone: arguments of the backbone.

    Raises:
        ModelError, ConfigError: an unknown name or impossible value.
    """
    if head not in DETECTORS:
        raise ConfigError(unknown_name("head", head, DETECTORS))
    if not isinstance(channels, int) or channels < 64 or channels % 32:
        raise ConfigError(f"channels is {channels}, expected a multiple of 32 from 64 up.")
    if anchor_scale <= 0:
        raise ConfigError(f"anchor_scale is {anchor_scale}, expected a number above 0.")
    pyramid = Pyramid(Body(architecture, strides, **backbone), channels, dense=head in ("retinanet", "fcos"))
    return DETECTORS[head](pyramid, classes, anchor_scale, score_threshold, iou_threshold, max_detections)


def _retinanet(pyramid: Pyramid, classes: int, scale: float, score: float, iou: float, most: int) -> Detector:
    """RetinaNet: nine anchors a position, focal loss (Lin et al. 2017)."""
    sizes = tuple(tuple(scale * stride * 2 ** (i / 3) for i in range(3)) for stride in pyramid.strides)
    anchors = AnchorGenerator(sizes, (_RATIOS,) * len(sizes))
    each = anchors.num_anchors_per_location()[0]
    network = RetinaNet(
        pyramid, classes, anchor_generator=anchors, score_thresh=score, nms_thresh=iou, detections_per_img=most,
        head=RetinaNetHead(pyramid.out_channels, each, classes, norm_layer=_norm),
    )  # fmt: skip
    return Detector(network, first=0)


def _fcos(pyramid: Pyramid, classes: int, _scale: float, score: float, iou: float, most: int) -> Detector:
    """FCOS: one point a position, no anchors (Tian et al. 2019)."""
    points = AnchorGenerator(tuple((stride,) for stride in pyramid.strides), ((1.0,),) * len(pyramid.strides))
    network = FCOS(
        pyramid, classes, anchor_generator=points, score_thresh=score, nms_thresh=iou, detections_per_img=most,
        head=FCOSHead(pyramid.out_channels, 1, classes),
    )  # fmt: skip
    return Detector(network, first=0)


def _faster_rcnn(pyramid: Pyramid, classes: int, *numbers: Any) -> Detector:
    """Faster R-CNN: proposals first, then a closer look at each (Ren et al. 2015)."""
    return Detector(FasterRCNN(**_two_stages(pyramid, classes, *numbers)), first=1)


def _mask_rcnn(pyramid: Pyramid, classes: int, *numbers: Any) -> Detector:
    """Mask R-CNN: Faster R-CNN and a mask for each box (He et al. 2017)."""
    channels = pyramid.out_channels
    network = MaskRCNN(
        **_two_stages(pyramid, classes, *numbers),
        mask_roi_pool=MultiScaleRoIAlign(_levels(pyramid), output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1, norm_layer=_norm),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes + 1),
    )
    return Detector(network, first=1)


def _two_stages(pyramid: Pyramid, classes: int, scale: float, score: float, iou: float, most: int) -> dict[str, Any]:
    """What both R-CNNs are made of; class 0 is the background."""
    channels = pyramid.out_channels
    sizes = tuple((scale * stride,) for stride in pyramid.strides)
    hidden = 4 * channels
    return {
        "backbone": pyramid,
        "rpn_anchor_generator": AnchorGenerator(sizes, (_RATIOS,) * len(sizes)),
        "rpn_head": RPNHead(channels, len(_RATIOS)),
        "box_roi_pool": MultiScaleRoIAlign(_levels(pyramid), output_size=7, sampling_ratio=2),
        "box_head": TwoMLPHead(channels * 7 * 7, hidden),
        "box_predictor": FastRCNNPredictor(hidden, classes + 1),
        "box_score_thresh": score,
        "box_nms_thresh": iou,
        "box_detections_per_img": most,
    }


def _levels(pyramid: Pyramid) -> list[str]:
    return [str(i) for i in range(len(pyramid.body.strides))]


def _norm(channels: int) -> nn.GroupNorm:
    """Batches of detectors are small, and a group norm does not depend on them."""
    return nn.GroupNorm(channels // 16, channels)


DETECTORS: dict[str, Callable[..., Detector]] = {
    "retinanet": _retinanet,
    "fcos": _fcos,
    "faster_rcnn": _faster_rcnn,
    "mask_rcnn": _mask_rcnn,
}
