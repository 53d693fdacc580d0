"""The routes, their limits, and what happens when many ask at once."""

import asyncio
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image
from served_models import CLASSES, Colours, picture
from starlette.testclient import TestClient

from dualtoken.errors import ConfigError
from dualtoken.outputs import Classification
from dualtoken.service.batches import Settings
from dualtoken.service.web import create_app


@pytest.fixture
def engine() -> Colours:
    return Colours()


@pytest.fixture
def client(engine) -> Iterator[TestClient]:
    settings = Settings(max_queue=6, timeout=20, max_bytes=50_000, max_pixels=10_000)
    with TestClient(create_app({"colours": engine.model()}, settings), raise_server_exceptions=False) as made:
        yield made
        engine.free.set()


def label(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["prediction"]["label"]


def test_bytes_and_forms_are_answered_as_the_predictor_does(client):
    for colour in CLASSES:
        assert label(client.post("/v1/predict", content=picture(colour))) == colour
    answer = client.post("/v1/predict?top=2", files={"file": ("sky.jpg", picture("blue", kind="JPEG"))}).json()
    expected = Colours().model().predict(picture("blue", kind="JPEG")).to_dict(2)
    assert answer["prediction"] == expected | {"path": "sky.jpg"}
    assert answer["model"] == "colours"


@pytest.mark.parametrize(
    ("name", "charset", "told"),
    [(b"a\x1b[2J.png", "utf-8", r"a\u001b[2J.png"), (rb"\ud800.png", "raw_unicode_escape", r"\ud800.png")],
)
def test_names_of_files_that_steer_or_are_no_text(client, name, charset, told):
    head = b'--X\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n\r\n'
    kind = {"content-type": f"multipart/form-data; boundary=X; charset={charset}"}
    answer = client.post("/v1/predict", content=head + picture("red") + b"\r\n--X--\r\n", headers=kind)
    assert answer.json()["prediction"]["path"] == told


def test_a_picture_with_the_answer_in_it(client):
    answer = client.post("/v1/predict?output=picture", content=picture("green"))
    assert answer.headers["content-type"] == "image/jpeg"
    image = Image.open(io.BytesIO(answer.content))
    assert image.getpixel((image.width // 2, 110))[1] > 100


@pytest.mark.parametrize(
    ("status", "said", "asked"),
    [
        (400, "is empty", {"content": b""}),
        (400, "not an image", {"content": b"file:///etc/passwd"}),
        (400, "not an image", {"content": b"http://127.0.0.1/a.png"}),
        (400, "pixels, limit", {"content": picture("red", (200, 200))}),
        (400, "not an image", {"data": {"file": "/etc/passwd"}}),
        (400, "no file", {"files": {"file": (None, "/etc/passwd")}}),
        (400, "threshold has no meaning", {"content": picture("red"), "params": {"threshold": 0.5}}),
        (400, "top:", {"content": picture("red"), "params": {"top": 0}}),
        (400, "boundary", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
        (404, "Did you mean 'colours'?", {"content": picture("red"), "params": {"model": "colour"}}),
        (413, "50,000 bytes", {"content": bytes(60_000)}),
        (413, "50,000 bytes", {"content": (bytes(1000) for _ in range(60))}),
    ],
)
def test_what_cannot_be_answered_is_said(client, status, said, asked):
    answer = client.post("/v1/predict", **asked)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_one_bad_image_fails_alone_and_says_nothing_of_ours(client, engine):
    engine.free.clear()
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(client.post, "/v1/predict", content=picture("red"))
        engine.held.wait(20)
        rest = [pool.submit(client.post, "/v1/predict", content=picture(c)) for c in ("white", "green", "blue")]
        _until(lambda: _metric(client, 'images_accepted{model="colours"}') == 4)
        engine.free.set()
        answers = [one.result() for one in [first, *rest]]
    assert [answer.status_code for answer in answers] == [200, 500, 200, 200]
    assert answers[1].json() == {"error": "The service failed: its log says why."}
    assert [label(answers[at]) for at in (0, 2, 3)] == list(CLASSES)


def test_what_comes_while_the_network_is_busy_is_one_batch(client, engine):
    engine.free.clear()
    engine.held.clear()
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(client.post, "/v1/predict", content=picture("red"))
        assert engine.held.wait(20)
        rest = [pool.submit(client.post, "/v1/predict", content=picture(CLASSES[at % 3])) for at in range(5)]
        _until(lambda: _metric(client, 'images_accepted{model="colours"}') == 6)
        refused = client.post("/v1/predict", content=picture("red"))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        engine.free.set()
        assert [label(one.result()) for one in [first, *rest]] == ["red", *(CLASSES[at % 3] for at in range(5))]
    assert engine.batches[:2] == [1, 1]  # the first is the one that made it ready
    assert sum(engine.batches) == 7
    assert label(client.post("/v1/predict", content=picture("red"))) == "red"  # places are free again


def test_others_are_answered_while_an_answer_is_written(engine, monkeypatch):
    free, begun = threading.Event(), threading.Event()

    def slow(self, top=5):
        begun.set()
        assert free.wait(20)
        return {"label": self.label}

    monkeypatch.setattr(Classification, "to_dict", slow)
    with TestClient(create_app({"colours": engine.model()})) as client, ThreadPoolExecutor() as pool:
        asked = {"inputs": [{"name": "images", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [255, 0, 0]}]}
        for path, given in (
            ("/v1/predict", {"content": picture("red")}),
            ("/v2/models/colours/infer", {"json": asked}),
        ):
            free.clear()
            begun.clear()
            waiting = pool.submit(client.post, path, **given)
            assert begun.wait(20)
            health = pool.submit(client.get, "/health")
            try:
                assert health.result(10).status_code == 200
            finally:
                free.set()
            assert "red" in waiting.result().text


def test_metrics_count_what_was_answered(client):
    client.post("/v1/predict", content=picture("red"))
    client.post("/v1/predict", content=b"broken")
    client.get("/nothing/here")
    assert _metric(client, 'requests_total{route="/v1/predict",status="200"}') == 1
    assert _metric(client, 'requests_total{route="/v1/predict",status="400"}') == 1
    assert _metric(client, 'requests_total{route="other",status="404"}') == 1
    assert _metric(client, 'batch_images_sum{model="colours"}') == 1


def test_models_health_and_the_interface_are_told(client):
    (told,) = client.get("/v1/models").json()["models"]
    assert told["classes"] == list(CLASSES)
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    told = client.get("/openapi.json").json()
    assert {"/v1/predict", "/v2/models/{name}/infer", "/metrics"} <= set(told["paths"])
    for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(told)):
        assert reference in told["components"]["schemas"]
    (name,) = told["paths"]["/v2/models/{name}"]["get"]["parameters"]
    assert name["schema"]["enum"] == ["colours"]
    assert client.get("/docs").status_code == 404  # that page would load scripts from elsewhere


def test_without_the_token_only_health_is_told(engine):
    with TestClient(create_app({"colours": engine.model()}, token="s3cret")) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/v2/health/ready").status_code == 200
        for wrong in (
            {},
            {"authorization": "Bearer s3cre"},
            {"authorization": "Bearer s3cret "},
            {"authorization": "s3cret"},
        ):
            refused = client.get("/v1/models", headers=wrong)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert client.get("/v1/models", headers={"authorization": "Bearer s3cret"}).status_code == 200


def test_a_late_answer_and_a_slow_request_end_in_time(engine):
    app = create_app({"colours": engine.model()}, Settings(timeout=0.2))

    async def ask(*, slow_body: bool) -> list[dict]:
        said = []

        async def receive() -> dict:
            if slow_body:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": picture("red"), "more_body": False}

        async def send(message: dict) -> None:
            said.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"", "headers": []}
        await app(scope, receive, send)
        return said

    async def both() -> None:
        async with app.router.lifespan_context(app):
            engine.free.clear()
            late, slow = await ask(slow_body=False), await ask(slow_body=True)
            engine.free.set()
        assert (late[0]["status"], slow[0]["status"]) == (503, 408)
        assert b"0.2 seconds" in late[1]["body"]

    asyncio.run(both())


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="max_batch is 0, expected 1 or more"):
        Settings(max_batch=0)


def _metric(client: TestClient, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next((line.rpartition(" ")[2] for line in lines if line.startswith(f"dualtoken_{name}")), "0"))


def _until(true, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
