"""What LiteRT's export does before litert-torch, which needs an environment of its own, takes over."""

import torch
from torch import nn

from dualtoken.export.formats.litert import convolve_single_positions


class Gate(nn.Module):
    """Linears over maps of one position, of many, and over vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bare, self.many, self.last = (
            nn.Linear(6, 3),
            nn.Linear(3, 6, bias=False),
            nn.Linear(6, 6),
            nn.Linear(6, 2),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        gate = self.bare(self.one(maps.mean((1, 2), keepdim=True)))
        return self.last((self.many(maps) * gate).mean((1, 2)))


def kinds(program) -> list[str]:
    return [node.target.name() for node in program.graph.nodes if node.op == "call_function"]


def test_linears_over_one_position_become_convolutions_and_answers_stay():
    torch.manual_seed(0)
    network, maps = Gate().eval(), torch.randn(1, 4, 5, 6)
    program = torch.export.export(network, (maps,))
    convolve_single_positions(program.graph_module)
    assert kinds(program).count("aten::conv2d") == 2
    assert kinds(program).count("aten::linear") == 2
    torch.testing.assert_close(program.module()(maps), network(maps))
