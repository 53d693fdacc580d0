"""Networks keep their weights' names, their outputs and their gradients: held against the numbers in golden.json.

Weights, images and what is read of the outputs follow from a formula alone, so that nothing but a change of the
function (or of a weight's name) can change the numbers. Double precision leaves rounding out of it. To keep the
numbers of a new network, or after a wanted change of function: `python tests/backbone/test_golden.py` with its name, or
for all.
"""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dualtoken.backbone import VARIANTS, create_model

GOLDEN = Path(__file__).with_name("golden.json")
SIZES = [(64, 64), (96, 160), (224, 224)]
SMALL = {"channels": (16, 32, 64), "depths": (1, 2, 1), "heads": (1, 2, 4), "neck": 32}
CASES = {
    "dualtoken_vit_t_mix": {},
    "dualtoken_vit_s_mix": {},
    "lightvit_t": {},
    "token_mlp=mlp": {"token_mlp": "mlp"},
    "token_mlp=none": {"token_mlp": "none"},
    "global_tokens=position_attention": {"global_tokens": "position_attention"},
    "global_tokens=normal": {"global_tokens": "normal"},
    "global_tokens=none": {"global_tokens": "none"},
    "token_grid=3": {"token_grid": 3},
    "local_mixer=window": {"local_mixer": "window"},
    "downsample=onestep": {"downsample": "onestep"},
    "output_stride=8": {"output_stride": 8},
}
OTHERS = {variant.family: name for name, variant in reversed(VARIANTS.items()) if variant.config and variant.code}
TINY: dict[str, dict] = {  # of those networks, by their frame
    "Pyramid": {"channels": (16, 32, 64, 128), "depths": (1, 1, 2, 1), "heads": (1, 2, 4, 8)},
    "plain_vit": {"img_size": SIZES[0], "channels": 32, "depth": 2, "heads": 2},
}
CIFAR = "dualtoken-vit-t-cifar10"  # the shipped model


def wave(*shape: int, start: int = 0) -> Tensor:
    """Numbers in [-1, 1] that repeat nowhere soon: the sine of squares."""
    index = torch.arange(start, start + torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(0.37 * index + 0.0011 * index**2 % 6.283185307179586).reshape(shape)


def fill(model: nn.Module) -> nn.Module:
    """Every weight by formula from the order of the names and the shapes."""
    state = model.state_dict()
    for place, name in enumerate(sorted(state)):
        weight = state[name]
        if not weight.is_floating_point():
            continue
        values = wave(*weight.shape, start=1000 * place)
        if weight.ndim >= 2:
            values = values * 1.5 / (weight.numel() / weight.shape[0]) ** 0.5
        elif name.endswith(("weight", "running_var")):
            values = 1 + 0.3 * values
        else:
            values = 0.2 * values
        weight.copy_(values)
    return model


def make(case: str) -> nn.Module:
    if case == CIFAR:
        from dualtoken.hub import find_model
        from dualtoken.model_folder import load_model

        return load_model(find_model(CIFAR))[0].double()
    named = case in VARIANTS
    settings = tiny(case) if case in OTHERS.values() else {} if named else SMALL | CASES[case]
    model = create_model(case if named else "dualtoken_vit_t_mix", num_classes=7, **settings).double()
    with torch.no_grad():
        return fill(model)


def tiny(name: str) -> dict:
    config = VARIANTS[name].config
    return TINY[config.network] if config else {}


def names(model: nn.Module) -> str:
    """The names and shapes of all weights, in short."""
    listed = [f"{name} {tuple(weight.shape)}" for name, weight in model.state_dict().items()]
    return hashlib.sha256("\n".join(sorted(listed)).encode()).hexdigest()[:16]


def images(height: int, width: int) -> Tensor:
    return wave(2, 3, height, width)


def outputs(model: nn.Module, size: tuple[int, int]) -> list[float]:
    """Logits of two images in evaluation mode: six numbers."""
    model.eval()
    with torch.inference_mode():
        return model(images(*size))[:, :3].flatten().tolist()


def gradients(model: nn.Module) -> list[float]:
    """A training step's loss, and each parameter's gradient times a wave: nine of them spread evenly, and the sum."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    logits = model(images(64, 64))
    loss = (logits * wave(*logits.shape, start=7)).sum()
    named = sorted((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    found = torch.autograd.grad(loss, [parameter for _, parameter in named])
    read = [float((gradient * wave(*gradient.shape, start=3)).sum()) for gradient in found]
    return [float(loss.detach()), *read[:: max(1, len(read) // 9)][:9], sum(read)]


def measure(case: str) -> dict:
    model = make(case)
    kept: dict = {"names": names(model)}
    for size in SIZES[:1] if hasattr(model, "patch_embed") else SIZES:  # a plain one takes one size
        kept["{}x{}".format(*size)] = outputs(model, size)
    kept["gradients"] = gradients(model)
    return kept


def close(got: list[float], expected: list[float]) -> bool:
    largest = max(map(abs, expected))
    return max(abs(a - b) for a, b in zip(got, expected, strict=True)) <= 1e-6 * largest


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("case", [*CASES, *OTHERS.values(), CIFAR])
def test_names_outputs_and_gradients_are_kept(case, golden):
    expected, got = golden[case], measure(case)
    assert set(got) == set(expected)
    assert got["names"] == expected["names"], "a weight has another name or shape: old model folders would not load"
    for what in expected:
        if what != "names":
            assert close(got[what], expected[what]), (what, got[what], expected[what])


if __name__ == "__main__":
    every = [*CASES, *OTHERS.values(), CIFAR]
    kept = json.loads(GOLDEN.read_text())
    kept |= {case: measure(case) for case in sys.argv[1:] or every}
    listed = ",\n".join(f"{json.dumps(case)}: {json.dumps(kept[case])}" for case in every if case in kept)
    GOLDEN.write_text("{\n" + listed + "\n}\n")
