"""KServe's protocol: what goes in, what comes out, and what is said of requests that are none."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from served_models import CLASSES, Colours, picture
from starlette.testclient import TestClient

from dualtoken.answers import kind_of
from dualtoken.outputs import Detections, Segmentation
from dualtoken.service.batches import Settings
from dualtoken.service.web import create_app

INFER = "/v2/models/colours/infer"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app({"colours": Colours().model()}, Settings(max_queue=4))) as made:
        yield made


def asked(data, shape=None, datatype="BYTES", **more) -> dict:
    return {"inputs": [{"name": "images", "shape": shape or [len(data)], "datatype": datatype, "data": data} | more]}


def test_files_in_json(client):
    files = [base64.b64encode(picture(colour)).decode() for colour in ("blue", "red")]
    told = client.post(INFER, json=asked(files) | {"id": "7"}).json()
    outputs = {one["name"]: one for one in told["outputs"]}
    assert (told["model_name"], told["id"]) == ("colours", "7")
    assert [json.loads(text)["label"] for text in outputs["predictions"]["data"]] == ["blue", "red"]
    assert outputs["probabilities"]["shape"] == [2, 3]
    assert np.argmax(np.reshape(outputs["probabilities"]["data"], (2, 3)), 1).tolist() == [2, 0]


def test_pixels_in_json_and_as_bytes_are_the_same(client):
    pixels = np.zeros((2, 4, 6, 3), np.uint8)
    pixels[0, ..., 1] = pixels[1, ..., 2] = 200
    wanted = {"outputs": [{"name": "probabilities"}]}
    nested = client.post(INFER, json=asked(pixels.tolist(), list(pixels.shape), "UINT8") | wanted).json()
    flat = client.post(INFER, json=asked(pixels.ravel().tolist(), list(pixels.shape), "UINT8") | wanted).json()
    given = {"name": "images", "shape": list(pixels.shape), "datatype": "UINT8"}
    head = json.dumps({
        "inputs": [given | {"parameters": {"binary_data_size": pixels.size}}],
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
    }).encode()  # fmt: skip
    header = "Inference-Header-Content-Length"
    answer = client.post(INFER, content=head + pixels.tobytes(), headers={header: str(len(head))})
    binary = np.frombuffer(answer.content[int(answer.headers[header]) :], np.float32).reshape(2, 3)
    assert binary.argmax(1).tolist() == [1, 2]
    assert nested == flat
    np.testing.assert_array_equal(binary.ravel(), np.float32(flat["outputs"][0]["data"]))


@pytest.mark.parametrize(
    ("said", "content"),
    [
        ("no JSON", b"{"),
        ("inputs", b"{}"),
        ("expected one, 'images'", {"inputs": []}),
        ("expected one, 'images'", asked(["aGk="], name="pixels")),
        ("neither data", {"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES"}]}),
        ("something other than base64", asked(["/etc/passwd!"])),
        ("something other than base64", asked([7])),
        ("but there are 1", asked(["aGk="], [2])),
        ("is FP32 of 1 axes", asked([1.0], datatype="FP32")),
        ("whole numbers from 0 to 255", asked([256, 0, 0], [1, 1, 1, 3], "UINT8")),
        ("whole numbers from 0 to 255", asked([[1], [2, 3]], [1, 1, 1, 3], "UINT8")),
        ("whole numbers from 0 to 255", asked([0.9, 0.1, 0.5], [1, 1, 1, 3], "UINT8")),
        ("whole numbers from 0 to 255", asked([True, False, True], [1, 1, 1, 3], "UINT8")),
        ("whole numbers from 0 to 255", asked([], [1, 1, 1, 3], "UINT8")),
        ("its shape", asked([1, 2], [1, 1, 1, 3], "UINT8")),
        ("expected one image or more", asked([], [0])),
        ("4 at most", asked(["aGk="] * 5)),
        ("no output 'boxes'", asked([0, 0, 0], [1, 1, 1, 3], "UINT8") | {"outputs": [{"name": "boxes"}]}),
        ("asked for twice", asked([0, 0, 0], [1, 1, 1, 3], "UINT8") | {"outputs": [{"name": "predictions"}] * 2}),
        ("is not an image", asked(["aGVsbG8gdGhlcmU="])),
        ("binary_data_size is 9", asked([], [1], parameters={"binary_data_size": 9})),
    ],
)
def test_a_wrong_request_is_explained(client, said, content):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = client.post(INFER, content=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_a_cut_off_file_and_a_wrong_header(client):
    head = json.dumps(asked(None, [1], parameters={"binary_data_size": 6}) | {"id": "x"}).replace(', "data": null', "")
    for rest, length, said in ((b"\x09\0\0\0ab", len(head), "end within"), (b"", 10**30, "expected the length")):
        answer = client.post(
            INFER, content=head.encode() + rest, headers={"inference-header-content-length": str(length)}
        )
        assert answer.status_code == 400
        assert said in answer.json()["error"]


def test_places_are_free_only_when_all_images_of_a_request_have_ended():
    engine = Colours()
    files = [base64.b64encode(content).decode() for content in (b"no image", picture("red"))]
    with (
        TestClient(create_app({"colours": engine.model()}, Settings(max_queue=4))) as client,
        ThreadPoolExecutor() as pool,
    ):
        engine.free.clear()
        engine.held.clear()
        waiting = pool.submit(client.post, INFER, json=asked(files))
        assert engine.held.wait(20)
        assert 'images_accepted{model="colours"} 2.0' in client.get("/metrics").text
        engine.free.set()
        assert waiting.result().status_code == 400


def test_models_tell_their_inputs_and_outputs(client):
    told = client.get("/v2/models/colours").json()
    assert told["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(CLASSES)]},
        {"name": "predictions", "datatype": "BYTES", "shape": [-1]},
    ]
    assert client.get("/v2/models/colours/ready").json()["ready"]
    assert client.get("/v2/health/live").json()["live"]
    assert client.get("/v2").json()["name"] == "dualtoken"
    assert client.get("/v2/models/other").status_code == 404


def test_boxes_and_masks_are_arrays_too():
    found = Detections(
        CLASSES, boxes=np.array([[0, 0, 2, 2], [1, 1, 3, 3]]), scores=np.array([0.9, 0.5]), labels=np.array([2, 0]),
        size=(4, 4),
    )  # fmt: skip
    arrays = kind_of("detection").arrays([found, found.take([])])
    assert (arrays["boxes"].shape, arrays["counts"].tolist(), arrays["labels"].tolist()) == ((2, 4), [2, 0], [2, 0])
    mask = Segmentation(CLASSES, np.array([[0, 1], [2, 2]], np.uint8))
    (file,) = kind_of("semantic_segmentation").arrays([mask])["masks"]
    assert file.startswith(b"\x89PNG")
