"""Boxes and instance masks: torchvision's detectors on a feature pyramid over a backbone's maps.

torchvision's models resize and normalise images themselves and choose the boxes too. Here both ends are
`Preprocessing` and `decode`, the same for every engine: `FixedInput` stands in the place of the one, and in evaluation
the networks are only run part by part, as an exported one is.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
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
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from dualtoken.decode import HEADS, DetectorSpec, HeadKind, detect
from dualtoken.heads.body import Body, undecayed
from dualtoken.heads.together import EvenSampler, common_seed, share

Target = dict[str, Tensor]


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


# ---------------------------------------------------------------- parts


class Part(nn.Module):
    """A piece of a detector with a flat list of tensors on both sides, which exporters take.

    Attributes:
        inputs, outputs: their names, in order. The first axis of `rois`, `labels` and whatever comes out with them
            counts regions, of all others images.
    """

    inputs: tuple[str, ...] = ("images",)
    outputs: tuple[str, ...]


class OneStage(Part):
    """RetinaNet's and FCOS' answers of every position."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.pyramid, self.head = network.backbone, network.head
        self.outputs = ("scores", "deltas", "centerness") if isinstance(network, FCOS) else ("scores", "deltas")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to logits (B, N, K), deltas (B, N, 4) and, for FCOS, logits (B, N, 1)"""
        return tuple(self.head(list(self.pyramid(images).values())).values())


class FirstStage(Part):
    """Where a closer look may pay, and the `maps` finest maps of the pyramid for it."""

    def __init__(self, network: Any, maps: int) -> None:
        super().__init__()
        self.pyramid, self.head = network.backbone, network.rpn.head
        self.outputs = ("objectness", "deltas", *_map_names(maps))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to logits (B, N), deltas (B, N, 4) and maps (B, channels, h, w)"""
        maps = list(self.pyramid(images).values())
        objectness, deltas = self.head(maps)
        likely = torch.cat([_by_position(level, 1) for level in objectness], dim=1)[:, :, 0]
        return likely, torch.cat([_by_position(level, 4) for level in deltas], dim=1), *maps[: len(self.outputs) - 2]


class BoxStage(Part):
    """The closer look at regions: class and box."""

    outputs = ("scores", "deltas")

    def __init__(self, network: Any, strides: Sequence[int]) -> None:
        super().__init__()
        self.look, self.predictor = network.roi_heads.box_head, network.roi_heads.box_predictor
        self.strides, self.side = tuple(strides), network.roi_heads.box_roi_pool.output_size[0]
        self.inputs = (*_map_names(len(strides)), "rois")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps and regions (R, 5) to logits (R, K + 1) and deltas (R, 4 (K + 1))"""
        *maps, rois = inputs
        scores, deltas = self.predictor(self.look(pooled(maps, rois, self.strides, self.side)))
        return scores, deltas


class MaskStage(Part):
    """The closer look at the boxes that were chosen: their masks."""

    outputs = ("masks",)

    def __init__(self, network: Any, strides: Sequence[int]) -> None:
        super().__init__()
        self.look, self.predictor = network.roi_heads.mask_head, network.roi_heads.mask_predictor
        self.strides, self.side = tuple(strides), network.roi_heads.mask_roi_pool.output_size[0]
        self.inputs = (*_map_names(len(strides)), "rois", "labels")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps, regions (R, 5) and labels (R,), the background 0, to probabilities (R, 28, 28)"""
        *maps, rois, labels = inputs
        logits = self.predictor(self.look(pooled(maps, rois, self.strides, self.side)))
        index = labels[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        return (logits.gather(1, index)[:, 0].sigmoid(),)


def pooled(maps: Sequence[Tensor], rois: Tensor, strides: Sequence[int], side: int) -> Tensor:
    """What torchvision's `MultiScaleRoIAlign` gives, in a form that can be exported too.

    Args:
        maps: of the pyramid, (B, channels, H / stride, W / stride).
        rois: (R, 5), number of the image, then left, top, right, bottom in its pixels.
        strides: of the maps.
        side: positions of the result's side.

    Returns:
        (R, channels, side, side): each region from the one map that suits its size.
    """
    level = _levels(rois, strides)
    result = rois.new_zeros(rois.shape[0], maps[0].shape[1], side, side)  # len() would fix it in an export
    for number, (values, stride) in enumerate(zip(maps, strides, strict=True)):
        own = (level == number).nonzero()[:, 0]
        part = roi_align(values.float(), rois[own], side, 1 / stride, sampling_ratio=2)
        result = result.index_put((own,), part)
    return result.to(maps[0].dtype)


def _levels(rois: Tensor, strides: Sequence[int]) -> Tensor:
    """(R,) the map of each region: floor(4 + log2(side / 224)) is 4 for stride 16, of a region of 224 pixels."""
    finest, coarsest = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    limits = [(224 * 2 ** (level - 4 - 1e-6)) ** 2 for level in range(finest + 1, coarsest + 1)]
    return (area[:, None] >= area.new_tensor(limits)).sum(dim=1)


def _map_names(maps: int) -> tuple[str, ...]:
    return tuple(f"map{number}" for number in range(maps))


def _by_position(level: Tensor, numbers: int) -> Tensor:
    """(B, anchors x numbers, h, w) to (B, h x w x anchors, numbers)"""
    batch, _, height, width = level.shape
    return level.view(batch, -1, numbers, height, width).permute(0, 3, 4, 1, 2).reshape(batch, -1, numbers)


# ---------------------------------------------------------------- the whole


class Detector(nn.Module):
    """One of torchvision's detectors, with classes counted from 0 and no class for the background.

    It is an `Engine` of its own: its answers are `decode.detect`'s, as those of every exported engine are.

    Args:
        network: RetinaNet, FCOS, Faster or Mask R-CNN on a `Pyramid`.
        spec: what it was made by.
    """

    def __init__(self, network: nn.Module, spec: DetectorSpec) -> None:
        super().__init__()
        network.transform = FixedInput()
        self.network: Any = network
        self.spec = spec

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
            While training a dict of scalars; else what `decode.detect` gives, as tensors on the CPU.

        Raises:
            ModelError: not while training: the network gives something that is no number.
        """
        if not self.training:
            return self._answers(images)
        if targets is not None:
            first = 0 if self.spec.dense else 1  # where 0 is the background
            targets = [target | {"labels": target["labels"] + first} for target in targets]
        if self.spec.dense:
            return self.network(images, targets)
        return self._losses_of_two_stages(images, targets)

    def _losses_of_two_stages(self, images: Tensor, targets: list[Target] | None) -> dict[str, Tensor]:
        """torchvision's losses are means over the positions that were chosen: here over those of all processes."""
        first, second = self.network.rpn.fg_bg_sampler, self.network.roi_heads.fg_bg_sampler
        first.seed = common_seed(images.device)
        second.seed = first.seed + 2**32
        losses: dict[str, Tensor] = self.network(images, targets)
        counted = {"loss_objectness": first.count, "loss_rpn_box_reg": first.count, "loss_classifier": second.count,
                   "loss_box_reg": second.count, "loss_mask": second.positives}  # fmt: skip
        return {name: loss * share(counted[name], loss.device) for name, loss in losses.items()}

    @torch.compiler.disable  # it would take numpy's functions for its own
    def _answers(self, images: Tensor) -> list[Target]:
        found = detect(self.spec, self, cast(Any, images))
        return [{name: torch.from_numpy(array) for name, array in one.items()} for one in found]

    @torch.no_grad()
    def run(self, part: str, inputs: Sequence[Any]) -> list[Any]:
        """One part, as `Engine` says, on the detector's device; maps stay there."""
        network, device = self.parts()[part], next(self.parameters()).device
        outputs = network(*(torch.as_tensor(array, device=device) for array in inputs))
        return [
            output if name.startswith("map") else output.float().cpu().numpy()
            for name, output in zip(network.outputs, outputs, strict=True)
        ]

    def parts(self) -> dict[str, Part]:
        """Everything but the choice of boxes, in pieces that an exporter takes: see `Engine`. Weights are shared."""
        network, strides = self.network, self.spec.strides
        parts: dict[str, Part] = (
            {"network": OneStage(network)}
            if self.spec.dense
            else {"network": FirstStage(network, len(strides)), "boxes": BoxStage(network, strides)}
        )
        if self.spec.masks:
            parts["masks"] = MaskStage(network, strides)
        for part in parts.values():
            part.training = self.training  # of the part alone: what it holds is the detector's
        return parts

    def dense(self, images: Tensor) -> Any:
        """What is computed for every position, without the choice of boxes: for counting operations."""
        return self.parts()["network"](images)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters of the backbone that weight decay leaves alone."""
        return undecayed(self)


def make_detector(
    head: str, architecture: str, classes: int, head_args: Mapping[str, Any] | None = None, **args: Any
) -> Detector:
    """A detector with fresh weights.

    Args:
        head: a key of `DETECTORS`.
        architecture: a name of timm's registry.
        classes: number of classes, the background not counted.
        head_args: of the head; `DetectorSpec` lists them with their defaults.
        **args: of the backbone.

    Raises:
        ModelError, ConfigError: an unknown name or impossible value.
    """
    spec = DetectorSpec.of(head, classes, head_args or {})
    pyramid = Pyramid(Body(architecture, spec.strides, **args), spec.channels, dense=spec.dense)
    return Detector(DETECTORS[head](pyramid, spec), spec)


def _retinanet(pyramid: Pyramid, spec: DetectorSpec) -> nn.Module:
    """RetinaNet: nine anchors a position, focal loss (Lin et al. 2017)."""
    anchors = _anchors(spec)
    each = anchors.num_anchors_per_location()[0]
    head = RetinaNetHead(spec.channels, each, spec.classes, norm_layer=_norm)
    return RetinaNet(pyramid, spec.classes, anchor_generator=anchors, head=head, **_choice(spec))


class _FCOSHead(FCOSHead):  # type: ignore[misc]  # torchvision has no types here
    """Its losses are divided by the positions within objects: here by those of all processes."""

    def compute_loss(
        self, targets: list[Target], head_outputs: Target, anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> Target:
        losses: Target = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        within = sum(int((matched >= 0).sum()) for matched in matched_idxs)
        return {name: loss * share(within, loss.device) for name, loss in losses.items()}


def _fcos(pyramid: Pyramid, spec: DetectorSpec) -> nn.Module:
    """FCOS: one point a position, no anchors (Tian et al. 2019)."""
    head = _FCOSHead(spec.channels, 1, spec.classes)
    return FCOS(pyramid, spec.classes, anchor_generator=_anchors(spec), head=head, **_choice(spec))


def _faster_rcnn(pyramid: Pyramid, spec: DetectorSpec) -> nn.Module:
    """Faster R-CNN: proposals first, then a closer look at each (Ren et al. 2015)."""
    return _evenly(FasterRCNN(**_two_stages(pyramid, spec)))


def _mask_rcnn(pyramid: Pyramid, spec: DetectorSpec) -> nn.Module:
    """Mask R-CNN: Faster R-CNN and a mask for each box (He et al. 2017)."""
    channels = spec.channels
    network = MaskRCNN(
        **_two_stages(pyramid, spec),
        mask_roi_pool=_pool(spec, side=14),
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1, norm_layer=_norm),
        mask_predictor=MaskRCNNPredictor(channels, channels, spec.classes + 1),
    )
    return _evenly(network)


def _evenly(network: Any) -> nn.Module:
    """The network with samplers whose draws do not depend on the number of processes."""
    for stage in (network.rpn, network.roi_heads):
        before = stage.fg_bg_sampler
        stage.fg_bg_sampler = EvenSampler(before.batch_size_per_image, before.positive_fraction)
    return cast(nn.Module, network)


def _two_stages(pyramid: Pyramid, spec: DetectorSpec) -> dict[str, Any]:
    """What both R-CNNs are made of; class 0 is the background."""
    channels, hidden = spec.channels, 4 * spec.channels
    return {
        "backbone": pyramid,
        "rpn_anchor_generator": _anchors(spec),
        "rpn_head": RPNHead(channels, len(spec.anchor_ratios)),
        "box_roi_pool": _pool(spec, side=7),
        "box_head": TwoMLPHead(channels * 7 * 7, hidden),
        "box_predictor": FastRCNNPredictor(hidden, spec.classes + 1),
        "box_score_thresh": spec.score_threshold,
        "box_nms_thresh": spec.iou_threshold,
        "box_detections_per_img": spec.max_detections,
    }


def _anchors(spec: DetectorSpec) -> AnchorGenerator:
    return AnchorGenerator(spec.anchor_sizes, (spec.anchor_ratios,) * len(spec.anchor_sizes))


def _choice(spec: DetectorSpec) -> dict[str, Any]:
    """How torchvision's own evaluation of one-stage detectors would choose; ours is `decode`."""
    return {
        "score_thresh": spec.score_threshold,
        "nms_thresh": spec.iou_threshold,
        "detections_per_img": spec.max_detections,
    }


def _pool(spec: DetectorSpec, side: int) -> MultiScaleRoIAlign:
    names = [str(number) for number in range(len(spec.strides))]
    return MultiScaleRoIAlign(names, output_size=side, sampling_ratio=2)


def _norm(channels: int) -> nn.GroupNorm:
    """Batches of detectors are small, and a group norm does not depend on them."""
    return nn.GroupNorm(channels // 16, channels)


Build = Callable[[Pyramid, DetectorSpec], nn.Module]  # one of torchvision's detectors, or a network like it

DETECTORS: dict[str, Build] = {
    "retinanet": _retinanet,
    "fcos": _fcos,
    "faster_rcnn": _faster_rcnn,
    "mask_rcnn": _mask_rcnn,
}


def register_detector(name: str, kind: HeadKind, build: Build) -> None:
    """Add a detection head: it can be trained, exported and run by its name then, and `--help` lists it.

    Args:
        name: key in `DETECTORS` and `decode.HEADS`.
        kind: how its outputs are read.
        build: makes the network, with `backbone` and `head` as RetinaNet's (dense) or `rpn` and `roi_heads` as Faster
            R-CNN's.
    """
    HEADS[name], DETECTORS[name] = kind, build
