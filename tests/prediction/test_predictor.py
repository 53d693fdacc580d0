import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import invent_image, write_class_folders
from dualtoken.data import find_data
from dualtoken.engines.torch import choose_device
from dualtoken.errors import ConfigError, DataError, ImageError, ModelError
from dualtoken.evaluation import measure
from dualtoken.images import ImageLimits
from dualtoken.model_folder import ModelConfig, build_model, save_model
from dualtoken.outputs import Classification
from dualtoken.prediction import Predictor, collect_inputs, load, predict, predict_stream
from dualtoken.preprocess import Preprocessing

CLASSES = ("cat", "dog", "Vögelchen")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = ModelConfig("test_resnet", CLASSES, Preprocessing((32, 48)), temperature=0.1)
    model = build_model(config)
    # Fresh statistics, so that images differ in their answers.
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(16, 3, 32, 48))
    folder = tmp_path_factory.mktemp("model")
    save_model(model.eval(), config, folder)
    return folder


@pytest.fixture(scope="module")
def predictor(model_folder) -> Predictor:
    return load(model_folder, device="cpu")


def paths(inputs, stdin=None) -> list[str]:
    return [name for name, _ in collect_inputs(inputs, stdin)]


# ---------------------------------------------------------------- one answer, whatever the form


def test_every_form_of_the_same_pixels_gives_the_same_answer(predictor, tmp_path):
    image = invent_image(0, 0, (70, 50))
    path = tmp_path / "ä b.png"
    image.save(path)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = predictor.predict(path)
    assert isinstance(expected, Classification)
    assert expected.path == str(path)
    forms = [str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), image, array, array / 255, tensor,
             tensor.float() / 255, array.astype(np.float32) / 255, tensor.double() / 255]  # fmt: skip
    for form in forms:
        np.testing.assert_array_equal(predictor.predict(form).probabilities, expected.probabilities)


@pytest.mark.parametrize(
    ("size", "device", "expected"), [((224, 224), "cpu", 8), ((1024, 2048), "cpu", 1), ((64, 64), "cpu", 64),
                                     ((1024, 2048), "meta", 64)],
)  # fmt: skip
def test_a_batch_is_what_the_caches_of_a_cpu_hold(size, device, expected):
    made = Predictor(torch.nn.Linear(1, 1, device=device), ModelConfig("a", CLASSES, Preprocessing(size)))
    assert made.fitting_batch(None) == expected
    assert made.fitting_batch(32) == 32


def test_single_equals_batch(predictor):
    images = [invent_image(label, 0, (40 + label, 33)) for label in range(7)]
    single = np.stack([predictor.predict(image).probabilities for image in images])
    assert np.ptp(single, axis=0).max() > 0.05  # else nothing is compared
    for batch_size in (1, 3, 32):
        answers = predictor.predict(images, batch_size=batch_size)
        np.testing.assert_allclose(np.stack([a.probabilities for a in answers]), single, atol=1e-5)


def test_single_in_single_out_and_several_in_list_out(predictor):
    image = invent_image(0, 0)
    array = np.asarray(image)
    assert isinstance(predictor.predict(image), Classification)
    assert len(predictor.predict([image])) == 1
    assert len(predictor.predict(np.stack([array, array]))) == 2
    assert len(predictor.predict(torch.zeros(3, 3, 40, 40))) == 3
    assert len(predictor.predict(image for _ in range(2))) == 2
    assert predictor.predict([]) == []


def test_grey_and_transparent_arrays(predictor):
    grey = np.full((40, 40), 200, np.uint8)
    colour = np.stack([grey] * 3, axis=-1)
    transparent = np.concatenate([colour, np.full((40, 40, 1), 255, np.uint8)], axis=-1)
    expected = predictor.predict(colour).probabilities
    for form in (grey, np.full((40, 40), 199.6 / 255), grey[..., None], torch.from_numpy(grey)[None], transparent):
        np.testing.assert_array_equal(predictor.predict(form).probabilities, expected)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.zeros((3, 40, 40), np.uint8), "shape (3, 40, 40), expected (height, width, channels)"),
        (torch.zeros(40, 40, 3), "shape (40, 40, 3), expected (channels, height, width)"),
        (np.zeros((40, 40, 3), np.int64), "int64, expected uint8"),
        (torch.full((3, 40, 40), 255.0), "from 255 to 255, expected 0 to 1"),
        (np.full((40, 40, 3), np.nan), "from nan to nan"),
        (np.zeros((0, 40, 3), np.uint8), "no pixels"),
        (b"no image", "not an image"),
    ],
)
def test_wrong_pixels_are_explained(predictor, wrong, says):
    with pytest.raises(ImageError) as error:
        predictor.predict(wrong)
    assert says in str(error.value)


def test_a_folder_is_no_image_and_says_what_to_type(predictor, tmp_path):
    with pytest.raises(ImageError, match="predict_stream"):
        predictor.predict(tmp_path)


def test_the_temperature_is_used(predictor):
    image = invent_image(1, 1)
    sharp = predictor.predict(image).score
    predictor.config.temperature, before = 1.0, predictor.config.temperature
    soft = predictor.predict(image).score
    predictor.config.temperature = before
    assert sharp > soft + 0.01


def test_module_function_takes_folder_or_predictor(model_folder, predictor):
    image = invent_image(0, 1)
    by_folder = predict(model_folder, image, device="cpu")
    np.testing.assert_array_equal(by_folder.probabilities, predict(predictor, image).probabilities)


# ---------------------------------------------------------------- streams


def test_a_bad_file_does_not_stop_the_rest(predictor, make_image_folder):
    root = make_image_folder(per_class=3)
    (root / "cat" / "0001.jpg").write_bytes(b"broken")
    answers = list(predict_stream(predictor, [root, root / "missing.jpg"], batch_size=2))
    names = [answer.path if isinstance(answer, Classification) else answer[0] for answer in answers]
    assert names == [*paths([root]), str(root / "missing.jpg")]
    bad = [answer for answer in answers if not isinstance(answer, Classification)]
    assert [Path(name).name for name, _ in bad] == ["0001.jpg", "missing.jpg"]
    assert "There is no file" in str(bad[1][1])


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_an_image_that_ends_the_memory_ends_nothing_else(predictor, make_image_folder, monkeypatch, error):
    root = make_image_folder(per_class=2)
    Image.new("RGB", (77, 32)).save(root / "cat" / "0001.jpg")
    resize = Preprocessing.resize

    def failing(self, image):
        if image.width == 77:
            raise error
        return resize(self, image)

    monkeypatch.setattr(Preprocessing, "resize", failing)
    answers = list(predictor.stream(collect_inputs([root])))
    bad = [answer for answer in answers if isinstance(answer, tuple)]
    assert len(answers) == 4
    assert [("0001" in path, "more memory" in str(reason)) for path, reason in bad] == [(True, True)]


def test_a_line_of_pixels_is_answered_or_refused_by_itself(predictor, make_image_folder):
    root = make_image_folder(per_class=1)
    Image.new("RGB", (1, 90_000)).save(root / "cat" / "line.png")
    Image.new("L", (1_000_000, 1)).save(root / "cat" / "longer.png")
    answers = list(predictor.stream(collect_inputs([root])))
    assert [str(answer[1])[:1] for answer in answers if isinstance(answer, tuple)] == ["'"]
    assert sum(not isinstance(answer, tuple) for answer in answers) == 3


class Hungry:
    """An engine that has memory for two images at a time, and none for a dark one."""

    def __init__(self, engine, error) -> None:
        self.engine, self.error = engine, error

    def run(self, part, inputs):
        if len(inputs[0]) > 2 or (inputs[0].mean((1, 2, 3)) < -1).any():
            raise self.error
        return self.engine.run(part, inputs)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("Failed to allocate memory for requested buffer")])
def test_too_little_memory_for_one_image_is_said_of_that_one(predictor, tmp_path, error):
    for number in range(4):
        invent_image(number, 0).save(tmp_path / f"{number}.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "2.png")
    expected = predictor.predict(paths([tmp_path]))
    hungry = Predictor(Hungry(predictor.engine, error), predictor.config)
    answers = list(predict_stream(hungry, [tmp_path], batch_size=4))
    name, reason = answers[2]
    assert name == str(tmp_path / "2.png")
    assert "more memory" in str(reason)
    for place in (0, 1, 3):
        np.testing.assert_allclose(answers[place].probabilities, expected[place].probabilities, atol=1e-6)


def test_other_errors_of_an_engine_come_out(predictor):
    broken = Predictor(Hungry(predictor.engine, RuntimeError("bad node")), predictor.config)
    with pytest.raises(RuntimeError, match="bad node"):
        broken.predict([invent_image(0, 0)] * 3)


@pytest.mark.parametrize("workers", [0, 3])
def test_order_and_answers_do_not_depend_on_threads(predictor, make_image_folder, workers):
    root = make_image_folder(per_class=9)
    expected = predictor.predict(paths([root]))
    answers = list(predictor.stream(collect_inputs([root]), batch_size=4, workers=workers))
    assert [answer.path for answer in answers] == [answer.path for answer in expected]
    for answer, other in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer.probabilities, other.probabilities, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_endless_stream_is_read_only_as_far_as_needed(predictor, workers):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield f"image {taken}", invent_image(0, 0)

    answers = predictor.stream(endless(), batch_size=4, workers=workers)
    for _ in range(20):
        next(answers)
    answers.close()
    assert taken <= 20 + 4 * 4


def test_limits_reach_the_reader(predictor, image_folder):
    answers = list(predictor.stream(collect_inputs([image_folder]), limits=ImageLimits(max_pixels=10)))
    assert all("--max-pixels" in str(error) for _, error in answers)


# ---------------------------------------------------------------- what inputs mean


def test_folder_pattern_and_file(make_image_folder):
    root = make_image_folder(classes=("a b", "Öl"), per_class=2)
    (root / "Öl" / "notes.txt").write_text("no image")
    (root / "Öl" / ".hidden.jpg").write_bytes(b"")
    all_files = [f"{root}/{name}/{number:04d}.jpg" for name in ("a b", "Öl") for number in range(2)]
    assert paths([root]) == all_files
    assert paths([f"{root}/*/*.jpg"]) == all_files
    assert paths([f"{root}/**"]) == all_files
    assert paths([f"{root}/*"]) == all_files
    assert paths([all_files[3], all_files[0]]) == [all_files[3], all_files[0]]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    path = tmp_path / "photo [1].png"
    invent_image(0, 0).save(path)
    assert paths([path]) == [str(path)]


def test_zip_archives_are_read_in_place(predictor, make_image_folder, tmp_path):
    root = make_image_folder(per_class=2)
    archive = tmp_path / "many.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*.jpg")):
            file.write(path, f"deep/{path.relative_to(root)}")
        file.writestr("deep/broken.jpg", b"broken")
    answers = list(predict_stream(predictor, [archive]))
    good = [answer for answer in answers if isinstance(answer, Classification)]
    assert good[0].path == f"{archive}/deep/cat/0000.jpg"
    assert (len(good), len(answers)) == (4, 5)
    expected = predictor.predict(sorted(root.rglob("*.jpg")))
    for answer, other in zip(good, expected, strict=True):
        np.testing.assert_allclose(answer.probabilities, other.probabilities, atol=1e-5)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".webp", ".tif", ".ppm"])
def test_one_image_on_standard_input(predictor, suffix):
    buffer = io.BytesIO()
    invent_image(0, 0).save(buffer, Image.registered_extensions()[suffix])
    ((name, content),) = collect_inputs(["-"], io.BytesIO(buffer.getvalue()))
    assert (name, content) == ("stdin", buffer.getvalue())


def test_paths_on_standard_input(make_image_folder):
    root = make_image_folder(classes=("x", "Öl"), per_class=2)
    lines = f"{root}/Öl/0001.jpg\r\n\n{root}/x\na.jpg\nb.jpg".encode()
    expected = [f"{root}/Öl/0001.jpg", f"{root}/x/0000.jpg", f"{root}/x/0001.jpg", "a.jpg", "b.jpg"]
    assert paths(["-"], io.BytesIO(lines)) == expected
    assert paths(["-"], io.BytesIO(b"a\nb\nc\nd\ne.jpg\n")) == ["a", "b", "c", "d", "e.jpg"]
    assert paths(["-"], io.BytesIO(b"")) == []


def test_nothing_found_is_an_answer_too(predictor, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.zip").write_bytes(b"no archive")
    inputs = [tmp_path / "empty", tmp_path / "*.jpg", tmp_path / "no.zip"]
    messages = [str(error) for _, error in predict_stream(predictor, inputs)]
    assert "holds no images" in messages[0]
    assert "Nothing matches" in messages[1]
    assert "cannot be read as a zip archive" in messages[2]


def test_links_in_a_circle_end(tmp_path):
    root = write_class_folders(tmp_path / "images", ("a",), per_class=1)
    (root / "a" / "again").symlink_to(root, target_is_directory=True)
    assert len(paths([root])) == 1


def test_a_name_that_is_not_utf8_can_be_printed(predictor, tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    invent_image(0, 0).save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", path)  # noqa: PTH104
    (answer,) = predict_stream(predictor, [tmp_path])
    assert answer.path.endswith("caf\\xe9.png")
    answer.path.encode()


# ---------------------------------------------------------------- a whole split


def test_answers_of_a_split_are_those_of_single_images(predictor, make_image_folder):
    samples = find_data(make_image_folder(classes=CLASSES, per_class=3), val_fraction=0, progress=False).splits["all"]
    found = list(predictor.answers(samples, batch_size=4, workers=0, progress=False))
    assert [row for row, _ in found] == list(range(9))
    for row, answer in found:
        alone = predictor.predict(samples.path(row))
        np.testing.assert_allclose(answer.probabilities, alone.probabilities, atol=1e-5)


def test_bad_images_of_a_split_are_skipped_and_listed(predictor, make_image_folder):
    root = make_image_folder(per_class=3)
    samples = find_data(root, val_fraction=0, progress=False).splits["all"]
    (root / "cat" / "0001.jpg").write_bytes(b"broken")
    options = {"workers": 0, "progress": False}
    with pytest.raises(ImageError, match=r"0001\.jpg"):
        list(predictor.answers(samples, **options))
    bad = []
    found = predictor.answers(samples, on_bad_image="skip", bad_images=bad, **options)
    assert [row for row, _ in found] == [0, 2, 3, 4, 5]
    assert [Path(path).name for path, _ in bad] == ["0001.jpg"]
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="none can be read"):
        measure(predictor, samples, on_bad_image="skip", **options)


class Fixed(torch.nn.Module):
    def __init__(self, value: float, classes: int):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.full((classes,), value))

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def test_outputs_that_are_no_numbers_are_refused():
    config = ModelConfig("diverged", CLASSES, Preprocessing((32, 32)))
    with pytest.raises(ModelError, match="diverged"):
        Predictor(Fixed(float("nan"), 3), config).predict(invent_image(0, 0))
    with pytest.raises(ModelError, match="expected"):
        Predictor(Fixed(0.0, 4), config).predict(invent_image(0, 0))


def test_unknown_devices_are_explained():
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="--device auto"):
        choose_device("gpu")


# ---------------------------------------------------------------- masks beside images

IMAGES = ("images/a.jpg", "images/deep/b.jpg", "train/imgs/c.png", "VOC/JPEGImages/1.jpg", "masks/alone.png")
MASKS = (
    "masks/a.png",
    "masks/deep/b_mask.png",
    "train/Annotations/c.png",
    "VOC/SegmentationClass/1.png",
    "VOC/SegmentationObject/1.png",
)
# Of another name, in another place, or photographs by their format.
OTHERS = ("masks/b.png", "val/masks/c.png", "a.png", "labels/a.jpg")


@pytest.fixture(params=["folder", "archive"])
def labelled(request, tmp_path) -> Path:
    root = tmp_path / "set"
    for name in (*IMAGES, *MASKS, *OTHERS):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        invent_image(0, 0).save(path)
    if request.param == "folder":
        return root
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for path in root.rglob("*.*"):
            file.write(path, path.relative_to(root).as_posix())
    return tmp_path / "set.zip"


def test_masks_of_other_images_are_left_out(labelled):
    notes = []
    found = [Path(name).relative_to(labelled).as_posix() for name, _ in collect_inputs([labelled], note=notes.append)]
    assert sorted(found) == sorted([*IMAGES, *OTHERS])
    assert notes == [f"5 masks beside their images in {str(labelled)!r} left out"]


def test_masks_that_are_asked_for_are_given(tmp_path):
    for name in ("images/a.jpg", "masks/a.png"):
        (tmp_path / name).parent.mkdir()
        invent_image(0, 0).save(tmp_path / name)
    masks = tmp_path / "masks"
    for given in (masks, masks / "a.png", masks / "*.png"):
        notes = []
        assert [name for name, _ in collect_inputs([given], note=notes.append)] == [str(masks / "a.png")]
        assert notes == []
