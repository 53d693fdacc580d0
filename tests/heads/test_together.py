"""Two processes have the losses and gradients of one, in double precision, where rounding is no excuse."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dualtoken.heads import make_detector, make_segmenter
from dualtoken.heads.together import EvenSampler
from dualtoken.tasks import TASKS, TaskSettings
from dualtoken.training.processes import synchronise

SMALL = {"channels": [8, 16, 32], "depths": [1, 1, 1], "heads": [1, 2, 2], "neck": 16}
FEW = {"channels": 64}
CASES = ("retinanet", "fcos", "faster_rcnn", "mask_rcnn", "fpn")
IMAGES, SIDE = 4, 64


def example(number: int, *, masks: bool) -> dict[str, torch.Tensor]:
    """The objects of an image: as many as its number, so that processes have different counts."""
    corners = torch.arange(number)[:, None] * 12.0
    boxes = torch.cat([corners, corners + 2, corners + 20, corners + 24], dim=1)
    found = {"boxes": boxes, "labels": torch.arange(number) % 2}
    if masks:
        found["masks"] = torch.zeros(number, SIDE, SIDE, dtype=torch.uint8)
        for place, (left, top, right, bottom) in enumerate(boxes.long().tolist()):
            found["masks"][place, top:bottom, left + 2 : right] = 1
    return found


def loss_of(head: str, rank: int, size: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of the images `rank`, `rank + size`, ..."""
    torch.manual_seed(0)
    dense = head == "fpn"
    task = TASKS["semantic_segmentation" if dense else "detection"](("a", "b"), TaskSettings(dice=0.5))
    model = (
        make_segmenter(head, "dualtoken_vit_t_mix", 2, decoder_dropout=0.0, **SMALL)
        if dense
        else make_detector(head, "dualtoken_vit_t_mix", 2, FEW, **SMALL)
    ).train()
    synchronise(model, SimpleNamespace(world_size=size))
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(IMAGES, 3, SIDE, SIDE, generator=generator)
    rows = range(rank, IMAGES, size)
    targets = (
        torch.randint(0, 2, (IMAGES, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        if dense
        else [example(number, masks=head == "mask_rcnn") for number in range(IMAGES)]
    )
    if dense:
        targets[0], targets[1, :40] = 255, 255  # pixels without a class
    own = targets[list(rows)] if dense else [targets[row] for row in rows]
    torch.manual_seed(2 + rank)
    loss = task.loss(model, images[list(rows)], own)
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.detach(), gradients


def work(rank: int, size: int, place: str) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=size)
    for head in CASES:
        loss, gradients = loss_of(head, rank, size)
        for value in (loss, *gradients.values()):
            dist.all_reduce(value)
            value /= size
        if rank == 0:
            torch.save({"loss": loss} | gradients, Path(place) / f"{head}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("two")
    mp.start_processes(work, (2, str(place)), nprocs=2, start_method="spawn")
    return place


@pytest.fixture
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.slow  # it starts two processes
@pytest.mark.parametrize("head", CASES)
@pytest.mark.usefixtures("_double")
def test_losses_and_gradients_are_those_of_one_process(head, two):
    loss, gradients = loss_of(head, 0, 1)
    shared = torch.load(two / f"{head}.pt", weights_only=True)
    assert shared.pop("loss").item() == pytest.approx(loss.item(), rel=1e-6)  # summed in single precision
    assert shared.keys() == gradients.keys()
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (gradient - shared[name]).abs().max() < 1e-9 * largest, name


def test_what_is_chosen_of_an_image_depends_on_its_place_and_the_seed_alone():
    sampler, labels = EvenSampler(8, 0.5), [torch.randint(-1, 2, (200,)) for _ in range(3)]
    sampler.seed = 5
    state = torch.get_rng_state()
    right, wrong = sampler(labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert (sampler.count, sampler.positives) == (24, 12)
    assert torch.equal(sampler(labels[:1])[0][0], right[0])
    assert all((labels[place][mask.bool()] == 0).all() for place, mask in enumerate(wrong))
    sampler.seed = 6
    assert not torch.equal(sampler(labels)[0][0], right[0])
