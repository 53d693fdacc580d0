"""A folder in which the documents' commands can be run: the files that they name, and small models."""

import csv
import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageOfDatasets
from PIL import Image

import dualtoken
from conftest import invent_image, write_class_folders
from dualtoken import cli
from dualtoken.lab.demo import write_digits
from dualtoken.lab.digit_photos import write_digit_photos
from dualtoken.prediction.video import VideoWriter

QUICK = {
    "recipe": "smoke", "epochs": 1, "image_size": 32, "batch_size": 4, "workers": 0, "device": "cpu",
}  # fmt: skip
# What is not run here. Verbs, and what starts a cluster (`--engine ray`), have tests of their own; the other programs
# are a user's, or change the environment.
VERBS_NOT_RUN = ("app", "serve", "benchmark", "study", "demo")
PROGRAMS_NOT_RUN = ("pip", "pytest", "ruff", "mypy", "pre-commit", "docker", "curl", "torchrun", "srun", "python")
PLACES = ("--output", "--sheet", "--pictures", "--plot")
ELSEWHERE = ("https://example.org/", "s3://bucket/")  # this folder stands for them


def make_world(root: Path) -> Path:
    """The files and models that pages name, in `root`."""
    write_class_folders(root / "photos" / "train", per_class=8, size=48)
    write_class_folders(root / "photos" / "val", per_class=4, size=48, first=8)
    for name in ("more-photos", "labelled", "SLICES", "BANDS"):
        write_class_folders(root / name, per_class=6, size=40, suffix=".png")
    for path in (root / "BANDS").rglob("*.png"):
        Image.open(path).convert("RGBA").save(path)
    for path in (root / "SLICES").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path).convert("L")).astype(np.int32) * 8 - 1000).save(
            path.with_suffix(".tif")
        )
        path.unlink()
    for folder in ("new", "new-photos", "holiday", "street"):
        for number in range(2):
            picture(root / folder / f"{number}.jpg")
    for name in ("photo.jpg", "cat.jpg", "street.jpg", "a.jpg", "b.jpg", "aerial.tif", "last-week"):
        picture(root / name, "JPEG" if name == "last-week" else None)
    shutil.make_archive(str(root / "more"), "zip", root / "more-photos")
    write_coco(root / "coco")
    shutil.copytree(root / "coco", root / "DATA")
    (root / "corrections").mkdir()
    for number in range(4):
        picture(root / "corrections" / f"{number}.jpg")
    lines = [[f"{number}.jpg", ("cat", "dog")[number % 2]] for number in range(4)]
    with (root / "corrections" / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *lines])
    write_saved(root / "saved")
    write_video(root / "drive.mp4")
    write_digit_photos(root / "digit-photos", number=20)
    write_digits(root / "digits")
    for folder in root.glob("digits/*/*"):
        for path in sorted(folder.iterdir())[6:]:
            path.unlink()
    write_models(root)
    write_programs(root / "bin")
    return root


def picture(path: Path, form: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    invent_image(len(path.name) % 2, len(path.stem), (160, 128)).save(path, form)


def write_coco(root: Path) -> None:
    """Twelve pictures with a box and outline each."""
    images, annotations = [], []
    for index in range(12):
        picture(root / "train" / f"{index}.jpg")
        images.append({"id": index, "file_name": f"{index}.jpg", "width": 160, "height": 128})
        outline = [20, 30, 90, 30, 90, 100, 20, 100]
        annotations.append({"id": index, "image_id": index, "category_id": index % 2, "bbox": [20, 30, 70, 70],
                            "area": 4900, "iscrowd": 0, "segmentation": [outline]})  # fmt: skip
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    labels = {"images": images, "annotations": annotations, "categories": categories}
    (root / "train" / "_annotations.coco.json").write_text(json.dumps(labels))


def write_saved(place: Path) -> None:
    """Hugging Face's data set of two classes, as it is saved."""
    kinds = Features({"image": ImageOfDatasets(), "label": ClassLabel(names=["cat", "dog"])})
    pictures = [{"image": invent_image(number % 2, number, (48, 48)), "label": number % 2} for number in range(12)]
    DatasetDict({"train": Dataset.from_list(pictures, features=kinds)}).save_to_disk(place)


def write_video(place: Path) -> None:
    """Four frames."""
    with VideoWriter(place, 10, (128, 160)) as video:
        for number in range(4):
            video.write(invent_image(0, number, (160, 128)))


def write_models(root: Path) -> None:
    runs = root / "runs"
    dualtoken.train(root / "photos", runs / "photos", model="dualtoken_vit_t_mix", **QUICK)
    dualtoken.train(root / "digits", runs / "digits", model="dualtoken_vit_t_mix", **QUICK)
    boxes = QUICK | {"image_size": 64}
    dualtoken.train(root / "coco", runs / "boxes", model="dualtoken_vit_t_mix", head="retinanet", **boxes)
    dualtoken.train(root / "digit-photos" / "masks", runs / "masks", model="dualtoken_vit_t_mix", **boxes)
    for state in runs.glob("*/last"):
        shutil.rmtree(state)  # nothing is resumed here, and each page has a copy
    for name in ("large", "small", "other", "pets"):
        shutil.copytree(runs / "photos", runs / name)
    write_official(root / "cas_vit_xs.safetensors")
    dualtoken.export(runs / "photos", root / "photos.onnx", images=root / "photos" / "val", progress=False)
    for path in root.glob("photos.onnx*"):
        shutil.copy(path, root / path.name.replace("photos", "model"))


def write_official(path: Path) -> None:
    """A checkpoint as the official code of CAS-ViT would name it, with fresh weights."""
    from safetensors.torch import save_file

    from dualtoken.backbone.official import OFFICIAL

    state = dualtoken.create_model("cas_vit_xs").state_dict()
    save_file({OFFICIAL["cas_vit"].name_of(name): tensor for name, tensor in state.items()}, path)


def write_programs(folder: Path) -> None:
    """`dualtoken` as `run_here` has it, and programs that do nothing."""
    folder.mkdir()
    for name in PROGRAMS_NOT_RUN:
        program(folder / name, "exit 0")
    call = "import document_world; document_world.run_here()"
    program(folder / "dualtoken", f'PYTHONPATH="{Path(__file__).parent}:$PYTHONPATH" {sys.executable} -c "{call}" "$@"')
    (folder.parent / ".venv" / "bin").mkdir(parents=True)
    (folder.parent / ".venv" / "bin" / "activate").touch()


def program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def run_here() -> None:
    """The command line, but: what was written before goes, trainings are short, and some verbs are left alone."""
    given = sys.argv[1:]
    for address in ELSEWHERE:
        given = [word.replace(address, f"file://{Path.cwd()}/") for word in given]
    verb = next((word for word in given if word in cli.VERBS), "")
    if verb in VERBS_NOT_RUN or "ray" in given or (verb == "push" and "--dry-run" not in given):
        return
    for before, place in pairwise(given):
        if before in PLACES or (verb == "pack" and place == given[-1]):
            shutil.rmtree(place, ignore_errors=True)
            parts = Path(place).parent.glob(f"{Path(place).name}.*")  # an export is several files
            for path in (Path(place), Path(place).with_suffix(".bin"), *parts):
                path.unlink(missing_ok=True)
    if verb == "train":
        given += ["--recipe", "smoke"] if "--recipe" not in given else []
    if verb in ("train", "distill"):
        size = "64" if {"coco", "coco/", "DATA"} & set(given) else "32"
        given += [] if "--image-size" in given else ["--image-size", size]
        given += ["--batch-size", "4", "--epochs", "1"]
        given += ["--set", "held_out=4"] if verb == "distill" else []
    given += ["--devices", "1"] if "--devices" in given else []
    if verb in ("train", "distill", "evaluate", "compare"):
        given += ["--workers", "0", "--device", "cpu"]
    if verb == "quantize" and "--max-drop" in given:
        given += ["--max-drop", "99"]  # these models know nothing that could be lost
    sys.argv[1:] = given
    cli.main()
