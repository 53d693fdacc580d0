"""Images that stay on the device: the same pictures as pillow makes, the same draws however they are batched."""

import numpy as np
import pytest
import torch
from PIL import Image

import dualtoken
from dualtoken.data import find_data
from dualtoken.data.resident import bicubic_weights, crops, resident_loader, uniform
from dualtoken.errors import ConfigError, ImageError
from dualtoken.preprocess import Preprocessing

CPU = torch.device("cpu")
PLAIN = Preprocessing(image_size=(24, 24), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def loader(folder, **options):
    samples = find_data(folder).splits["train"]
    options = {"scale": (0.3, 1.0), "hflip": 0.5, "batch_size": 4, "workers": 1} | options
    return resident_loader(samples, PLAIN, CPU, **options)


@pytest.fixture
def folder(make_image_folder):
    return make_image_folder(classes=("ant", "bee"), per_class=5, size=(40, 30), suffix=".png", splits=("train", "val"))


@pytest.mark.parametrize("box", [(0, 0, 40, 30), (3, 5, 20, 22), (30, 2, 40, 12)], ids=["whole", "part", "larger"])
def test_a_resized_crop_is_the_one_that_pillow_makes(box):
    pixels = np.random.default_rng(0).integers(64, 192, (30, 40, 3), dtype=np.uint8)
    left, top, right, bottom = box
    expected = np.asarray(Image.fromarray(pixels).crop(box).resize((24, 18), Image.Resampling.BICUBIC), np.float32)
    down = bicubic_weights(torch.tensor([top]), torch.tensor([bottom - top]), 30, 18)[0]
    across = bicubic_weights(torch.tensor([left]), torch.tensor([right - left]), 40, 24)[0]
    made = down @ torch.from_numpy(pixels).permute(2, 0, 1).float() @ across.T
    made = made.round().clamp(0, 255).permute(1, 2, 0).numpy()
    assert np.abs(made - expected).max() <= 2  # pillow rounds between the two directions too


def test_crops_lie_in_their_images_and_keep_the_share_that_was_asked_for():
    sizes = np.array([[30, 40], [64, 32], [10, 10]] * 200)
    chance = uniform(np.arange(len(sizes), dtype=np.uint64), 40).reshape(-1, 10, 4)
    boxes = crops(sizes, chance, (0.3, 0.8))
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all()
    assert (top + height <= sizes[:, 0]).all()
    assert (left + width <= sizes[:, 1]).all()
    share = height * width / sizes.prod(axis=1)
    assert 0.2 < share.min() < 0.4  # whole pixels: a little beside what was asked for
    assert 0.7 < share.max() < 0.9
    assert (width / height).max() < 1.6


def test_an_image_too_long_for_any_crop_gives_its_middle():
    boxes = crops(np.array([[10, 100], [100, 10]]), np.full((2, 10, 4), 0.999), (0.9, 1.0))
    assert boxes.tolist() == [[0, 43, 10, 13], [43, 0, 13, 10]]


def test_draws_are_even_and_of_their_seed():
    values = uniform(np.arange(2000, dtype=np.uint64), 3)
    assert np.abs(values.mean(axis=0) - 0.5).max() < 0.03
    assert np.array_equal(values[7], uniform(np.array([7], np.uint64), 3)[0])
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.1


def test_an_image_does_not_depend_on_its_batch_or_on_where_an_epoch_goes_on(folder):
    alone, together = loader(folder, batch_size=1), loader(folder, batch_size=5)
    for part in (alone, together):
        part.set_epoch(3)
    one = {int(rows[0]): images[0] for images, _, rows in alone}
    for images, labels, rows in together:
        for image, label, row in zip(images, labels, rows, strict=True):
            assert torch.equal(image, one[int(row)])
            assert label == together.samples.labels[row]
    whole = [rows.tolist() for _, _, rows in together]
    together.set_epoch(3, 1)
    assert [rows.tolist() for _, _, rows in together] == whole[1:]


def test_epochs_and_seeds_differ(folder):
    def pixels(seed, epoch):
        part = loader(folder, seed=seed, batch_size=10)
        part.set_epoch(epoch)
        images, _, rows = next(iter(part))
        return images[rows.argsort()]

    assert torch.equal(pixels(0, 0), pixels(0, 0))
    assert not torch.equal(pixels(0, 0), pixels(0, 1))
    assert not torch.equal(pixels(0, 0), pixels(1, 0))


def test_mirrors(folder):
    draws = [(row, row + 100) for row in range(6)]
    plain, mirrored = (loader(folder, hflip=rate).batch(draws)[0] for rate in (0.0, 1.0))
    assert torch.equal(plain.flip(3), mirrored)


def test_images_of_many_sizes_and_large_ones(folder):
    Image.new("RGB", (400, 300), (200, 100, 50)).save(folder / "train" / "ant" / "large.png")
    part = loader(folder)
    assert part.store.pixels.shape[2:] == (36, 48)  # 1.5 times 24, the ratio kept
    row = next(i for i, name in enumerate(part.samples.names) if "large" in name)
    image = part.batch([(row, 5)])[0][0]
    assert torch.allclose(image, torch.tensor([200, 100, 50]).view(3, 1, 1).expand_as(image) / 255)


def test_grey_images(folder):
    samples = find_data(folder).splits["train"]
    grey = Preprocessing(image_size=(24, 24), mean=(0.5,), std=(0.5,))
    part = resident_loader(samples, grey, CPU, batch_size=2, scale=(1.0, 1.0), hflip=0.0, workers=1)
    assert part.batch([(0, 1)])[0].shape == (1, 1, 24, 24)


def test_what_cannot_be_read_stops_or_is_left_out(folder):
    samples = find_data(folder).splits["train"]
    (folder / "train" / "ant" / "0001.png").write_bytes(b"no image")  # since it was looked through
    options = {"batch_size": 10, "scale": (0.5, 1.0), "hflip": 0.0, "workers": 1}
    with pytest.raises(ImageError, match=r"0001\.png"):
        resident_loader(samples, PLAIN, CPU, **options)
    part = resident_loader(samples, PLAIN, CPU, on_bad_image="skip", **options)
    assert [len(rows) for _, _, rows in part] == [9]
    assert "0001.png" in part.bad_images[0][0]


def test_a_run_on_resident_images_repeats_bit_for_bit(folder, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.setattr("dualtoken.evaluation.reports.write_training_report", lambda *args, **options: None)
    tiny = {"channels": [8, 8, 8], "depths": [1, 1, 1], "heads": [1, 1, 1], "neck": 8}
    settings = {"recipe": "smoke", "model_args": tiny, "batch_size": 3, "workers": 0, "resident": True, "epochs": 1}

    def weights(run):
        return load_file(run / "last" / "state.safetensors")

    whole = weights(dualtoken.train(folder, tmp_path / "a", **settings).folder)
    again = weights(dualtoken.train(folder, tmp_path / "b", **settings).folder)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_what_resident_cannot_do_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="resident images are cropped and mirrored only"):
        dualtoken.train(folder, tmp_path / "run", recipe="smoke", resident=True, rand_augment="rand-m5", workers=0)
    assert not (tmp_path / "run").exists()
