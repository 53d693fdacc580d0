"""Every kind of stranger's file, broken in every way that a loop can think of: an error by name, or an answer.

Slow. The quick tests beside each reader hold one of each kind; how many there are here stands in docs/security.md.
"""

from __future__ import annotations

import copy
import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from conftest import invent_image
from dualtoken.bands import Bands
from dualtoken.data import find_data
from dualtoken.errors import UserError
from dualtoken.images import ImageLimits, check_image, open_image
from dualtoken.model_folder import ModelConfig, load_weights
from dualtoken.prediction.exported import ExportInfo, from_json_text, read_export, to_json_text
from dualtoken.preprocess import Preprocessing
from dualtoken.readers import parse_json
from dualtoken.training.config import TrainConfig
from dualtoken.training.recipes import recipe_settings

pytestmark = pytest.mark.slow
Case = tuple[str, Callable[[], object]]  # what is wrong, and who reads it
LIMITS = ImageLimits(max_bytes=10**6, max_pixels=10**6)
DEEP: Any = []
for _ in range(100):
    DEEP = [DEEP]
WRONG: list[Any] = [
    None, True, -1, 0, 10**30, 1e308, "", "x" * 70_000, "\x1b[31m", "../../etc/passwd", [], {}, [None], DEEP,
]  # fmt: skip


def broken(content: bytes, number: int = 12) -> Iterator[tuple[str, bytes]]:
    """Cut, flipped, overwritten, with other bytes before and behind."""
    rng = np.random.default_rng(len(content))
    for share in (0.02, 0.1, 0.3, 0.6, 0.9, 0.99):
        yield f"{share} of it", content[: int(len(content) * share)]
    for turn in range(number):
        flipped = bytearray(content)
        for place in rng.integers(0, len(content), 1 + turn):
            flipped[place] ^= 1 << int(rng.integers(8))
        yield f"{1 + turn} bits flipped", bytes(flipped)
    for value in (b"\0", b"\xff"):
        start = int(rng.integers(4, max(5, len(content) - 40)))
        yield f"40 x {value!r}", content[:start] + 40 * value + content[start + 40 :]
    yield "blanks before", b"    " + content
    yield "twice", content + content


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in JSON's values."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(2, len(value))):
            yield from leaves(value[key], (*path, key))


def changed(value: Any, wrong: list[Any]) -> Iterator[tuple[str, Any]]:
    """JSON's values with one other thing in them, or without one."""
    for path in leaves(value):
        for number, other in enumerate(wrong):
            if not path:
                yield f"all: {number}", other
                continue
            new = copy.deepcopy(value)
            place = new
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = other
            yield f"{path}: {number}", new
        if path and isinstance(path[-1], str):
            new = copy.deepcopy(value)
            place = new
            for key in path[:-1]:
                place = place[key]
            del place[path[-1]]
            yield f"{path} missing", new


# ---------------------------------------------------------------- the kinds


def images(_: Path) -> Iterator[Case]:
    forms = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000")
    for form in forms:
        buffer = io.BytesIO()
        invent_image(0, 1, (40, 30)).save(buffer, form)
        for name, content in broken(buffer.getvalue()):
            yield f"{form}, {name}", lambda content=content: (
                open_image(content, limits=LIMITS), check_image(content, limits=LIMITS)
            )  # fmt: skip


def images_of_bands(_: Path) -> Iterator[Case]:
    import tifffile

    values = np.random.default_rng(0).integers(0, 4000, (30, 40, 5), np.uint16)
    array, plain, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, values)
    tifffile.imwrite(plain, values, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(packed, values, photometric="minisblack", planarconfig="contig", compression="zlib")
    bands = Bands(channels=(0, 3), low=(0, 0), high=(4000, 4000))
    for form, buffer in (("npy", array), ("tiff", plain), ("packed tiff", packed)):
        for name, content in broken(buffer.getvalue(), 30):
            for pages in (False, True):
                own = Bands(channels=bands.channels, pages=pages, low=bands.low, high=bands.high)
                yield f"{form}, {name}", lambda content=content, own=own: open_image(content, limits=LIMITS, bands=own)


def model_configs(_: Path) -> Iterator[Case]:
    bands = Bands(2, (0, 1), low=(0, 0), high=(1, 1))
    for fitting in (Preprocessing(), Preprocessing(mean=(0.5,) * 2, std=(0.5,) * 2, bands=bands)):
        config = ModelConfig("dualtoken_vit_t_mix", ("a", "b"), fitting, model_args={"depths": [1, 1, 1]})
        for name, content in changed(json.loads(json.dumps(config.to_json())), WRONG):
            yield (
                f"config.json, {name}",
                lambda content=content: ModelConfig.from_json(parse_json(json.dumps(content), "config.json")),
            )


def exports(folder: Path) -> Iterator[Case]:
    import onnx

    config = ModelConfig("dualtoken_vit_t_mix", ("a", "b"), Preprocessing())
    text = to_json_text(config, ExportInfo("onnx", "torch"))
    for name, content in changed(json.loads(text)["export"], WRONG):
        own = json.dumps(json.loads(text) | {"export": content})
        yield f"text of an export, {name}", lambda own=own: from_json_text(own)
    graph = onnx.helper.make_graph([], "nothing", [], [])
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, {"dualtoken": text})
    for number, (name, content) in enumerate(broken(model.SerializeToString(), 40)):
        place = folder / f"{number}.onnx"
        place.write_bytes(content)
        yield f"onnx, {name}", lambda place=place: read_export(place)


def weights(folder: Path) -> Iterator[Case]:
    import torch
    from safetensors.torch import save_file

    whole = folder / "model.safetensors"
    layer = torch.nn.Linear(4, 4)
    save_file(layer.state_dict(), whole)
    for number, (name, content) in enumerate(broken(whole.read_bytes(), 40)):
        place = folder / f"{number}.safetensors"
        place.write_bytes(content)
        yield f"safetensors, {name}", lambda place=place: load_weights(layer, place)


def settings(_: Path) -> Iterator[Case]:
    for key in TrainConfig.model_fields:
        for number, wrong in enumerate(WRONG):
            yield f"{key}: {number}", lambda key=key, wrong=wrong: TrainConfig.from_settings({key: wrong}).bands


def recipes(folder: Path) -> Iterator[Case]:
    text = yaml.safe_dump({"epochs": 3, "scale": [0.3, 1.0], "model_args": {"depths": [1, 1]}, "device": "cpu"})
    for number, (name, content) in enumerate(broken(text.encode(), 60)):
        place = folder / f"{number}.yaml"
        place.write_bytes(content)
        yield f"recipe, {name}", lambda place=place: TrainConfig.from_settings(recipe_settings(place))


def _data(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return folder


def _pictures(folder: Path) -> None:
    for number in range(4):
        place = folder / "images" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        invent_image(0, number, (40, 30)).save(place)


def _reading(folder: Path, files: dict[str, str | bytes]) -> Callable[[], object]:
    def read() -> object:
        _pictures(folder)
        return find_data(_data(folder, files), val_fraction=0, progress=False, on_bad_label="drop",
                         on_bad_image="skip", limits=LIMITS)  # fmt: skip

    return read


COCO = {
    "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in range(4)],
    "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 8, 9], "iscrowd": 0, "area": 72,
                     "segmentation": [[1, 2, 9, 2, 9, 11]]}],
    "categories": [{"id": 1, "name": "hen"}],
}  # fmt: skip
LABELME = {"imagePath": "0.png", "imageHeight": 30, "imageWidth": 40,
           "shapes": [{"label": "hen", "shape_type": "rectangle", "points": [[1, 2], [9, 11]]}]}  # fmt: skip
STUDIO = [{"data": {"image": "0.png"}, "annotations": [{"was_cancelled": False, "result": [
    {"type": "rectanglelabels", "original_width": 40, "original_height": 30,
     "value": {"x": 5, "y": 5, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["hen"]}},
    {"type": "polygonlabels", "original_width": 40, "original_height": 30,
     "value": {"points": [[5, 5], [20, 5], [20, 20]], "polygonlabels": ["hen"]}},
]}]}]  # fmt: skip
CVAT = (
    '<annotations><meta><labels><label><name>hen</name></label></labels></meta><image name="0.png" width="40"'
    ' height="30"><box label="hen" xtl="1" ytl="2" xbr="9" ybr="11" rotation="0.0"/><polygon label="hen"'
    ' points="1,2;9,2;9,11"/></image></annotations>'
)
VOC = (
    "<annotation><filename>0.png</filename><size><width>40</width><height>30</height></size><object><name>hen</name>"
    "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>11</ymax></bndbox></object></annotation>"
)


def labels(folder: Path) -> Iterator[Case]:
    def case(kind: str, number: int, name: str, files: dict[str, str | bytes]) -> Case:
        return f"{kind}, {name}", _reading(folder / f"{kind}{number}", files)

    for number, (name, content) in enumerate(changed(COCO, WRONG)):
        yield case("coco", number, name, {"labels.json": json.dumps(content)})
    for number, (name, content) in enumerate(changed(LABELME, WRONG)):
        yield case("labelme", number, name, {"images/0.json": json.dumps(content)})
    for number, (name, content) in enumerate(changed(STUDIO, WRONG)):
        yield case("studio", number, name, {"tasks.json": json.dumps(content)})
    for number, (name, content) in enumerate(broken(CVAT.encode(), 80)):
        yield case("cvat", number, name, {"annotations.xml": content})
    table = b"filename,class,xmin,ymin,xmax,ymax,width,height\n0.png,hen,1,2,9,11,40,30\n1.png,cat,1,2,9,11,40,30\n"
    for number, (name, content) in enumerate(broken(table, 60)):
        yield case("boxes", number, name, {"images/_annotations.csv": content})
    for number, (name, content) in enumerate(broken(VOC.encode(), 60)):
        yield case("voc", number, name, {"Annotations/0.xml": content})
    for number, (name, content) in enumerate(broken(b"0 0.5 0.5 0.25 0.5\n1 0.25 0.5 0.25 0.25\n", 60)):
        yield case("yolo", number, name, {"labels/0.txt": content, "data.yaml": "names: [hen, cat]\n"})
    rows = b"path,label\nimages/0.png,hen\nimages/1.png,cat\nimages/2.png,hen\n"
    for number, (name, content) in enumerate(broken(rows, 40)):
        yield case("csv", number, name, {"labels.csv": content})
    lines = "".join(json.dumps({"file_name": f"images/{n}.png", "label": f"{n % 2}"}) + "\n" for n in range(4))
    for number, (name, content) in enumerate(broken(lines.encode(), 40)):
        yield case("metadata", number, name, {"metadata.jsonl": content})
    for number, (name, content) in enumerate(broken(b"path: .\ntrain: images\nval: images\nnames: [hen, cat]\n", 40)):
        yield case("yaml", number, name, {"labels/0.txt": "0 0.5 0.5 0.25 0.5\n", "data.yaml": content})


def archives(folder: Path) -> Iterator[Case]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for label in range(2):
            for number in range(3):
                picture = io.BytesIO()
                invent_image(label, number).save(picture, "PNG")
                archive.writestr(f"class_{label}/{number}.png", picture.getvalue())
    for number, (name, content) in enumerate(broken(buffer.getvalue(), 80)):
        place = folder / f"{number}.zip"
        place.write_bytes(content)
        yield (
            f"zip, {name}",
            lambda place=place: find_data(place, val_fraction=0, progress=False, on_bad_image="skip", limits=LIMITS),
        )


KINDS = (images, images_of_bands, model_configs, exports, weights, settings, recipes, labels, archives)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_case_ends_in_an_answer_or_an_error_by_name(
    kind: Callable[[Path], Iterator[Case]], tmp_path: Path
) -> None:
    wrong = []
    for name, read in kind(tmp_path):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
        except UserError as error:
            if not error.message.strip() or len(error.message) > 100_000 or "\x1b" in error.message:
                wrong.append(f"{name}: the message is {error.message[:100]!r}")
        except BaseException as error:
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
    assert not wrong, f"{len(wrong)} cases\n" + "\n".join(wrong[:40])


def test_the_page_has_their_number(tmp_path: Path) -> None:
    total = 0
    for number, kind in enumerate(KINDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        total += sum(1 for _ in kind(folder))
    page = (Path(__file__).parents[1] / "docs" / "security.md").read_text(encoding="utf-8")
    said = re.search(r"more than ([\d,]+) broken files", page)
    assert said is not None
    assert total > int(said[1].replace(",", ""))


def test_the_corpus_holds_something_that_can_be_read() -> None:
    buffer = io.BytesIO()
    invent_image(0, 1, (40, 30)).save(buffer, "PNG")
    contents = [content for _, content in broken(buffer.getvalue())]
    assert Image.open(io.BytesIO(contents[-1])).size == (40, 30)
    assert len({bytes(content) for content in contents}) == len(contents)
