"""The service as a process of its own: clients, signals, mistakes on the command line."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from running import Running
from served_models import CLASSES, picture, write_export

from dualtoken.errors import ConfigError, MissingExtraError
from dualtoken.service.serving import serve


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
