"""The service as a process of its own: clients, signals, mistakes on the command line."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import numpy as np
import pytest
from running import Running
from served_models import CLASSES, picture, write_export

from dualtoken.errors import ConfigError, MissingExtraError
from dualtoken.service.serving import load_models, serve


@pytest.fixture
def service(tmp_path) -> Iterator[Running]:
    running = Running("serve", write_export(tmp_path))
    yield running
    running.close()


def test_what_was_accepted_before_the_signal_is_answered(service):
    assert service.client.post("/v1/predict", content=picture("red")).json()["prediction"]["label"] == "red"
    os.mkfifo(gate := service.folder / "gate")
    with ThreadPoolExecutor(6) as pool:
        waiting = [
            pool.submit(httpx.post, f"{service.address}/v1/predict", content=picture(CLASSES[at % 3]), timeout=30)
            for at in range(6)
        ]
        _until(lambda: 'images_accepted{model="colours"} 6.0' in service.client.get("/metrics").text)
        service.process.send_signal(signal.SIGTERM)
        _until(lambda: not _reachable(service.address))
        with gate.open("w"):
            gate.unlink()
        labels = [one.result().json()["prediction"]["label"] for one in waiting]
    assert labels == [CLASSES[at % 3] for at in range(6)]
    assert service.process.wait(20) == 0
    opened, *more = service.process.stderr.read().splitlines()
    assert opened.startswith("Opening  ")
    assert more == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there are no such signals on Windows")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 0), ("SIGHUP", 0)])
def test_the_page_leaves_nothing_temporary_however_it_is_ended(tmp_path, name, code):
    pytest.importorskip("gradio")
    with closing(Running("app", write_export(tmp_path))) as page:
        assert page.client.get("/").status_code == 200
        page.process.send_signal(getattr(signal, name))
        assert page.process.wait(20) == code
    assert not [*(tmp_path / "temporary").iterdir()]


@pytest.mark.slow
def test_no_file_beside_the_examples_is_given(tmp_path):
    pytest.importorskip("gradio")
    (tmp_path / "red.png").write_bytes(picture("red"))
    (tmp_path / "private.txt").write_text("private")
    with closing(Running("app", write_export(tmp_path), options=["--examples", str(tmp_path)])) as page:
        for name, status in (("red.png", 200), ("private.txt", 403)):
            assert page.client.get(f"/gradio_api/file={tmp_path / name}").status_code == status


@pytest.mark.slow
def test_a_heat_map_waits_for_a_prediction_by_the_same_network():
    pytest.importorskip("gradio")
    code = (
        "import pathlib, tempfile, gradio\n"
        "from served_models import Colours\n"
        "from dualtoken.images import DEFAULT_LIMITS\n"
        "from dualtoken.service import app, page\n"
        "place = pathlib.Path(tempfile.gettempdir())\n"
        "made = page.Page({'one': Colours().model()}, place, place, DEFAULT_LIMITS)\n"
        "steps = [step for step in app._blocks(gradio, made, []).fns.values() if step.name in ('predict', 'explain')]\n"
        "print([(step.concurrency_id, step.concurrency_limit) for step in steps])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert told.stdout.strip() == "[('network', 1), ('network', 1)]"


def test_tritons_client(service):
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(service.address.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert client.get_model_metadata("colours")["inputs"][0]["name"] == "images"
    files = triton.InferInput("images", [2], "BYTES")
    files.set_data_from_numpy(np.array([picture("blue"), picture("red")], object))
    assert client.infer("colours", [files]).as_numpy("probabilities").argmax(1).tolist() == [2, 0]
    pixels = triton.InferInput("images", [1, 4, 4, 3], "UINT8")
    pixels.set_data_from_numpy(np.full((1, 4, 4, 3), (0, 200, 0), np.uint8), binary_data=False)
    wanted = [triton.InferRequestedOutput("predictions", binary_data=False)]
    assert '"green"' in client.infer("colours", [pixels], outputs=wanted).as_numpy("predictions")[0]
    with pytest.raises(triton.InferenceServerException, match="no output 'boxes'"):
        client.infer("colours", [pixels], outputs=[triton.InferRequestedOutput("boxes")])


@pytest.mark.slow
def test_no_request_of_its_own_interface_fails(service):
    pytest.importorskip("schemathesis")
    run = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{service.address}/openapi.json", "--checks",
         "not_a_server_error", "--max-time", "60", "--seed", "0"],
        capture_output=True, text=True, check=False, timeout=600, cwd=service.folder,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
    counted = service.client.get("/metrics").text
    assert 'status="500"' not in counted
    for route in ("/v1/predict", "/v2/models/{name}/infer"):  # answers, too, not mistakes alone
        assert f'requests_total{{route="{route}",status="200"}}' in counted


def test_mistakes_are_told_before_a_model_is_loaded(tmp_path):
    model = write_export(tmp_path)
    (tmp_path / "token").write_text(" \n")
    with pytest.raises(ConfigError, match="no token"):
        serve(model, token_file=tmp_path / "token")
    with pytest.raises(ConfigError, match="Two models are called 'colours'"):
        serve([model, model])
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="Cannot listen on"):
        serve(model, port=taken.getsockname()[1])


def test_a_folder_is_called_by_its_own_name_from_within(tmp_path, monkeypatch):
    monkeypatch.setattr("dualtoken.service.serving._load", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    assert [*load_models([".", "below/"], engine="auto")] == [tmp_path.name, "below"]


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError) as caught:
        serve(tmp_path)
    assert "pip install 'dualtoken[serve]'" in caught.value.hint


def _reachable(address: str) -> bool:
    host, _, port = address.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except ConnectionError:
        return False
    return True


def _until(true, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
