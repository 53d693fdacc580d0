"""Scenes in batches: the same bits for any number of workers, others drawn by the seed, bad files as themselves."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import invent_image
from dualtoken.data.joint_transforms import joint_transform
from dualtoken.data.loading import (
    ImageDataset,
    PackedTargets,
    evaluation_loader,
    training_loader,
)
from dualtoken.data.samples import IGNORE, MaskSamples, Objects, ObjectSamples
from dualtoken.errors import ConfigError, ImageError
from dualtoken.preprocess import Preprocessing

PREPROCESSING = Preprocessing(image_size=(32, 48), crop_mode="border")
COUNT = 11


def objects_in(number: int, outlined: bool = True) -> Objects:
    """`number % 3` objects in an image of 40 x 30 (width x height)."""
    boxes = np.array([(3 + 9 * i, 4, 20 + 9 * i, 25) for i in range(number % 3)], np.float32).reshape(-1, 4)
    rings = tuple((box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2),) if outlined else () for box in boxes)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    count = len(boxes)
    return Objects((30, 40), boxes, np.arange(count), np.zeros(count, bool), areas, rings, ("",) * count)


def write_images(root: Path) -> list[str]:
    root.mkdir()
    names = [f"{number}.png" for number in range(COUNT)]
    for number, name in enumerate(names):
        invent_image(number, 0, (40, 30)).save(root / name)
    return names


@pytest.fixture
def samples(tmp_path: Path) -> ObjectSamples:
    names = write_images(tmp_path / "images")
    return ObjectSamples.build(str(tmp_path / "images"), names, [objects_in(number) for number in range(COUNT)])


@pytest.fixture
def regions(tmp_path: Path) -> MaskSamples:
    root = tmp_path / "images"
    names = write_images(root)
    for number in range(COUNT):
        mask = np.full((30, 40), number % 4, np.uint8)
        Image.fromarray(mask).save(root / f"mask{number}.png")
    masks = np.array([f"mask{number}.png" for number in range(COUNT)], np.dtypes.StringDType())
    sizes = np.tile(np.array([[30, 40]]), (COUNT, 1))
    table = np.arange(4, dtype=np.uint8)
    return MaskSamples(str(root), np.array(names, np.dtypes.StringDType()), None, masks, None, sizes, table)


def transform(**options: Any) -> Any:
    return joint_transform(PREPROCESSING, **({"color_jitter": 0.3, "mosaic": 0.5} | options))


def batches(samples: ObjectSamples | MaskSamples, **options: Any) -> list[tuple[Any, ...]]:
    options = {"batch_size": 3, "workers": 0, "transform": transform()} | options
    return list(training_loader(samples, **options))


def flat(batches: list[tuple[Any, ...]]) -> list[Tensor]:
    """All tensors of all batches, the objects' in the order of their names."""
    tensors: list[Tensor] = []
    for images, targets, indices in batches:
        tensors += [images, indices]
        parts = [targets] if isinstance(targets, Tensor) else [t[key] for t in targets for key in sorted(t)]
        tensors += parts
    return tensors


def same(first: list[tuple[Any, ...]], second: list[tuple[Any, ...]]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))


def test_targets_of_objects(samples: ObjectSamples) -> None:
    options: Any = {"transform": joint_transform(PREPROCESSING, scale=(1.0, 1.0), hflip=0.0)}
    for masks in (False, True):
        for images, targets, indices in batches(samples, masks=masks, **options):
            assert (images.shape, images.dtype) == ((3, 3, 32, 48), torch.float32)
            assert indices.dtype == torch.int64
            for target, index in zip(targets, indices.tolist(), strict=True):
                count = index % 3
                assert set(target) == ({"boxes", "labels", "masks"} if masks else {"boxes", "labels"})
                assert (target["boxes"].shape, target["boxes"].dtype) == ((count, 4), torch.float32)
                assert target["labels"].tolist() == list(range(count))
                if masks:
                    assert (target["masks"].shape, target["masks"].dtype) == ((count, 32, 48), torch.uint8)


def test_targets_of_masks(regions: MaskSamples) -> None:
    for images, targets, indices in batches(regions, transform=transform(mosaic=0.0)):
        assert images.shape == (3, 3, 32, 48)
        assert (targets.shape, targets.dtype) == ((3, 32, 48), torch.uint8)
        for mask, index in zip(targets, indices.tolist(), strict=True):
            assert set(mask.unique().tolist()) <= {index % 4, IGNORE}


@pytest.mark.parametrize("kind", ["samples", "regions"])
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_with_any_number_of_workers(
    kind: str, workers: int, request: pytest.FixtureRequest
) -> None:
    own = request.getfixturevalue(kind)
    options: Any = {"transform": transform(copy_paste=0.5 * (kind == "samples")), "masks": kind == "samples"}
    alone = batches(own, **options)
    assert len(alone) == 3
    assert same(alone, batches(own, workers=workers, **options))


def test_resuming_in_the_middle_gives_the_rest(samples: ObjectSamples) -> None:
    whole = batches(samples, seed=3, epoch=2)
    assert same(whole[2:], batches(samples, seed=3, epoch=2, start_batch=2))


def test_seed_and_epoch_have_an_effect(samples: ObjectSamples) -> None:
    first = torch.cat([images for images, *_ in batches(samples)])
    for other in ({"seed": 1}, {"epoch": 1}):
        assert not torch.equal(first, torch.cat([images for images, *_ in batches(samples, **other)]))


def test_set_epoch_reaches_living_workers(samples: ObjectSamples) -> None:
    loader = training_loader(samples, transform(), batch_size=3, workers=1)
    first = list(loader)
    loader.set_epoch(1)
    assert same(list(loader), batches(samples, epoch=1))
    loader.set_epoch(0)
    assert same(list(loader), first)


def test_ranks_share_the_scenes(samples: ObjectSamples) -> None:
    rows = [
        [row for *_, indices in batches(samples, rank=rank, world_size=2, drop_last=False) for row in indices.tolist()]
        for rank in range(2)
    ]
    assert [len(own) for own in rows] == [5, 5]
    assert not set(rows[0]) & set(rows[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_gives_every_image_once_and_no_objects(samples: ObjectSamples, workers: int) -> None:
    parts = list(evaluation_loader(samples, PREPROCESSING, batch_size=4, workers=workers))
    images, rows = torch.cat([part[0] for part in parts]), torch.cat([part[2] for part in parts])
    assert rows.tolist() == list(range(COUNT))
    np.testing.assert_array_equal(images[7].numpy(), PREPROCESSING(samples.open(7)))
    assert [target for _, targets, _ in parts for target in targets] == [{}] * COUNT


def test_evaluation_places_masks(regions: MaskSamples) -> None:
    parts = list(evaluation_loader(regions, PREPROCESSING, batch_size=4, workers=0))
    masks = torch.cat([part[1] for part in parts])
    assert (masks.shape, masks.dtype) == ((COUNT, 32, 48), torch.uint8)
    (_, columns), _, left, _ = PREPROCESSING.placement((30, 40))
    assert left == 2
    for row, mask in enumerate(masks):
        assert (mask[:, left : left + columns] == row % 4).all()
        assert (mask[:, :left] == IGNORE).all()


def test_others_are_drawn_by_the_seed(samples: ObjectSamples) -> None:
    dataset = ImageDataset(samples, transform(mosaic=1.0))
    first, again, other = dataset[3, 1], dataset[3, 1], dataset[3, 2]
    assert first.row == 3
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[3, 1].image, first.image)


def test_loading_leaves_the_generators_alone(samples: ObjectSamples) -> None:
    before = np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    batches(samples)
    assert (np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_raises_its_own_error_or_is_left_out(workers: int, samples: ObjectSamples) -> None:
    Path(samples.path(5)).write_bytes(b"a text now")
    options: Any = {"workers": workers, "drop_last": False, "transform": transform(mosaic=1.0)}
    with pytest.raises(ImageError, match=r"5\.png.*\n?.*--on-bad-image skip") as caught:
        batches(samples, **options)
    assert "Traceback" not in str(caught.value)
    loader = training_loader(samples, batch_size=3, on_bad_image="skip", **options)
    rows = sorted(row for *_, indices in loader for row in indices.tolist())
    assert rows == [row for row in range(COUNT) if row != 5]  # mosaics that drew it have drawn another one
    assert [path for path, _ in loader.bad_images] == [samples.path(5)]


def test_a_wrong_mask_is_left_out(regions: MaskSamples) -> None:
    Image.new("L", (41, 30)).save(regions.mask_path(2))
    Path(regions.mask_path(8)).unlink()
    loader = evaluation_loader(regions, PREPROCESSING, batch_size=2, workers=0, on_bad_image="skip")
    rows = [row for *_, indices in loader for row in indices.tolist()]
    assert rows == [row for row in range(COUNT) if row not in (2, 8)]
    assert [path for path, _ in loader.bad_images] == [regions.path(2), regions.path(8)]
    assert ["41 x 30" in loader.bad_images[0][1], "no file" in loader.bad_images[1][1]] == [True, True]


@pytest.mark.parametrize("kind", ["samples", "regions"])
def test_an_image_that_changed_its_size_is_not_trained_with_old_labels(
    kind: str, request: pytest.FixtureRequest
) -> None:
    own = request.getfixturevalue(kind)
    Image.new("RGB", (30, 40)).save(own.path(4))
    with pytest.raises(ImageError, match=r"30 x 40.*labels are for 40 x 30"):
        ImageDataset(own, transform())[4]


def test_a_batch_of_which_nothing_is_left_is_left_out(samples: ObjectSamples) -> None:
    for index in range(3):
        Path(samples.path(index)).unlink()
    loader = evaluation_loader(samples, PREPROCESSING, batch_size=3, workers=0, on_bad_image="skip")
    assert [indices.tolist() for *_, indices in loader] == [[3, 4, 5], [6, 7, 8], [9, 10]]


def test_when_no_other_scene_can_be_read(samples: ObjectSamples) -> None:
    for index in range(1, COUNT):
        Path(samples.path(index)).unlink()
    dataset = ImageDataset(samples, transform(mosaic=1.0))
    outcomes = set()
    for seed in range(30):
        try:
            outcomes.add(dataset[0, seed].row)
        except ImageError:
            outcomes.add(-1)
    assert outcomes == {0, -1}  # it may draw itself; else it gives up rather than searching on for ever


def test_packing_keeps_the_targets_of_each_image() -> None:
    targets = [{"boxes": torch.rand(n, 4), "labels": torch.arange(n)} for n in (2, 0, 3)]
    packed = PackedTargets.of(targets)
    assert packed.columns["boxes"].shape == (5, 4)
    for one, other in zip(targets, packed.unpacked(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert PackedTargets.of([{}, {}]).unpacked() == [{}, {}]
    assert PackedTargets.of([]).unpacked() == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux lists them")
def test_few_file_handles_for_many_objects(samples: ObjectSamples) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    loader = training_loader(samples, transform(), batch_size=11, masks=True, workers=1)
    before = opened()
    kept = list(loader)
    assert len(kept[0][1]) == 11
    assert opened() - before < 25  # one for each of the 35 tensors would be more


def test_pasting_needs_outlines(samples: ObjectSamples, regions_of_same: MaskSamples) -> None:
    paste = transform(copy_paste=0.3)
    boxes = ObjectSamples.build(
        samples.root, list(map(str, samples.names)), [objects_in(i, False) for i in range(COUNT)]
    )
    for own, words in ((boxes, "have boxes alone"), (regions_of_same, "no single objects")):
        with pytest.raises(ConfigError, match=rf"copy_paste is 0\.3.*{words}"):
            training_loader(own, paste, batch_size=2, workers=0)
        training_loader(own, transform(), batch_size=2, workers=0)
    training_loader(samples, paste, batch_size=2, workers=0)


@pytest.fixture
def regions_of_same(samples: ObjectSamples) -> MaskSamples:
    return MaskSamples(
        samples.root, samples.names, None, samples.names, None, samples.sizes, np.arange(4, dtype=np.uint8)
    )


def test_memory_is_flat(samples: ObjectSamples) -> None:
    loader = training_loader(samples, transform(copy_paste=0.3), batch_size=3, masks=True, workers=0)

    def epoch(number: int) -> int:
        loader.set_epoch(number)
        assert sum(len(indices) for *_, indices in loader) == 9
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        first = max(epoch(number) for number in range(3))
        last = max(epoch(number) for number in range(3, 8))
    finally:
        tracemalloc.stop()
    assert last - first < 200_000  # the images of one epoch alone are 166 kB
