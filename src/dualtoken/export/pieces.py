"""What an exporter takes: the networks of a model one by one, merged, with examples and names of what goes in and out.

Most models are one piece. Two-stage detectors are two or three, because what they look at closely depends on the image:
the choice in between is `dualtoken.decode`'s, the same for every engine.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node

from dualtoken.backbone.contract import TimmContract
from dualtoken.export.quiet import quiet

BATCH, REGIONS = "batch", "regions"
SIDES = ("height", "width")
_EXAMPLES = 2  # one would be taken for a constant


@dataclass(frozen=True)
class Piece:
    """One network of a model.

    Attributes:
        name: the part's name, see `dualtoken.engines.Engine`.
        module: in evaluation mode, on the CPU, without gradients.
        inputs, outputs: names of its tensors.
        example: inputs that it runs with.
        free: for each input the axes whose length is open, by name.
        multiple: of which the height and width of images must be one.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[Tensor, ...]
    free: tuple[dict[int, str], ...]
    multiple: int = 1

    def program(self) -> ExportedProgram:
        """The piece as torch.export sees it: what every exporter starts from."""
        with torch.no_grad(), quiet():
            program = torch.export.export(self.module, self.example, dynamic_shapes=self._shapes(), strict=False)
        for module in program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, GraphModule) else ():
                node.meta.pop("stack_trace", None)  # lines of files on this machine
        _spell_out_lerp(program.graph_module)
        return program

    def single(self) -> Piece:
        """The same for one image, or region, at a time, with every axis fixed."""
        example = tuple(tensor[:1] for tensor in self.example)
        return replace(self, example=example, free=tuple({} for _ in self.free))

    def _shapes(self) -> tuple[Any, ...]:
        dims: dict[str, Any] = {BATCH: Dim(BATCH, min=1), REGIONS: Dim(REGIONS, min=1)}
        for side in SIDES:
            dims[side] = self.multiple * Dim(f"{side}_steps", min=1) if self.multiple > 1 else Dim.DYNAMIC
        shapes = tuple({axis: dims.get(name, Dim.DYNAMIC) for axis, name in axes.items()} for axes in self.free)
        takes_any = any(of.kind is of.VAR_POSITIONAL for of in signature(self.module.forward).parameters.values())
        return (shapes,) if takes_any else shapes


def _spell_out_lerp(module: GraphModule) -> None:
    """a + w * (b - a) in plain operators: ExecuTorch and Core ML have none that is called lerp."""
    ops, graph = torch.ops.aten, module.graph
    for node in list(graph.nodes):
        if node.target is not ops.lerp.Scalar or any(user.op == "output" for user in node.users):
            continue
        start, end, weight = cast("tuple[Node, Node, float]", node.args)
        with graph.inserting_before(node):
            gap = graph.call_function(ops.sub.Tensor, (end, start))
            step = graph.call_function(ops.mul.Scalar, (gap, weight))
            total = graph.call_function(ops.add.Tensor, (start, step))
        for new in (gap, step, total):
            new.meta = dict(node.meta)
        node.replace_all_uses_with(total)
        graph.erase_node(node)
    module.recompile()


def merged(model: nn.Module) -> nn.Module:
    """A copy of a network on the CPU, with everything merged that inference can compute as one; the model stays."""
    copy = deepcopy(model).cpu().float().eval().requires_grad_(False)
    ours = [module for module in copy.modules() if isinstance(module, TimmContract)]
    if not ours:  # timm takes any layer that can `fuse` for one that replaces itself, which ours do not
        from timm.utils import reparameterize_model

        return reparameterize_model(copy, inplace=True)
    for module in ours:
        module.fold()
    return copy


def pieces(
    model: nn.Module, image_size: tuple[int, int], channels: int = 3, *, any_size: bool = False, multiple: int = 1
) -> list[Piece]:
    """The networks of a merged model, the one that takes the images first.

    Args:
        model: from `merged`.
        image_size: (height, width) of the images, in pixels.
        channels: of the images.
        any_size: images of other sizes will be given too.
        multiple: of which their height and width will be one.
    """
    images = torch.rand(_EXAMPLES, channels, *image_size, generator=torch.Generator().manual_seed(0))
    axes = {0: BATCH} | (dict(enumerate(SIDES, start=2)) if any_size else {})
    parts: dict[str, Any] = model.parts() if hasattr(model, "parts") else {}  # type: ignore[operator]
    network = parts.pop("network", model)
    outputs = getattr(network, "outputs", ("logits",))
    first = Piece("network", network, ("images",), outputs, (images,), (axes,), multiple)
    if not parts:
        return [first]
    with torch.no_grad():
        found = dict(zip(outputs, network(images), strict=True))
    return [first, *(_closer_look(name, part, found, image_size, any_size) for name, part in parts.items())]


def _closer_look(name: str, part: Any, found: dict[str, Tensor], image_size: tuple[int, int], any_size: bool) -> Piece:
    height, width = image_size
    rois = torch.tensor([[0, 0, 0, width, height], [1, 1, 2, width / 2, height / 3], [1, 0, 0, 9, 9]])
    known = found | {"rois": rois.float(), "labels": torch.ones(len(rois), dtype=torch.long)}
    free: list[dict[int, str]] = []
    for number, given in enumerate(part.inputs):
        sides = {2: f"height{number}", 3: f"width{number}"} if any_size else {}
        free.append({0: REGIONS} if given in ("rois", "labels") else {0: BATCH} | sides)
    return Piece(name, part, part.inputs, part.outputs, tuple(known[given] for given in part.inputs), tuple(free))
