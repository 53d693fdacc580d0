"""The verbs with every socket closed: whatever would ask for an address fails here."""

import socket
from pathlib import Path

import pytest

from dualtoken import cli

SMALL = "{channels: [8, 16, 32], depths: [1, 1, 1], heads: [1, 2, 2], neck: 16}"


class NetworkUsedError(BaseException):
    """No library can take it for an error of its own and go on without."""


@pytest.fixture(autouse=True)
def closed(monkeypatch) -> None:
    def refuse(*arguments: object, **_: object) -> None:
        raise NetworkUsedError(arguments)

    for name in ("connect", "connect_ex", "sendto", "sendmsg", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # it is not what keeps the network away


def dualtoken(*arguments: str | Path) -> None:
    cli.app([str(argument) for argument in arguments], standalone_mode=False)


def test_the_sockets_are_closed():
    with pytest.raises(NetworkUsedError):
        socket.create_connection(("example.org", 80))
    with socket.socket() as one, pytest.raises(NetworkUsedError):
        one.connect(("127.0.0.1", 9))


def test_train_evaluate_and_predict(make_image_folder, tmp_path):
    data, run = make_image_folder(per_class=6), tmp_path / "run"
    dualtoken(
        "train", data, "--output", run, "--recipe", "smoke", "--set", f"model_args={SMALL}", "--image-size", "32",
        "--batch-size", "4", "--epochs", "1", "--workers", "0",
    )  # fmt: skip
    dualtoken("evaluate", run, data, "--output", tmp_path / "evaluation", "--workers", "0")
    dualtoken("predict", run, data, "--output", tmp_path / "answers.csv")
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 13
    assert (tmp_path / "evaluation" / "report.html").is_file()


def test_the_model_of_the_package_and_what_is_listed(image_folder, capsys):
    dualtoken("predict", image_folder)
    dualtoken("models")
    assert "dualtoken_vit_t_mix" in capsys.readouterr().out


@pytest.mark.slow
def test_export_and_explain(image_folder, tmp_path):
    dualtoken("export", "dualtoken-vit-t-cifar10", "--output", tmp_path / "model.onnx")
    dualtoken("predict", tmp_path / "model.onnx", image_folder)
    dualtoken("explain", "dualtoken-vit-t-cifar10", image_folder / "cat", "--output", tmp_path / "why")
    assert (tmp_path / "why").is_dir()


def test_what_is_asked_for_is_fetched(monkeypatch):
    """Only an address makes the package use the network, and then it does."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)  # as it was read when it was imported
    with pytest.raises(NetworkUsedError):
        dualtoken("predict", "hf-hub:anna/pets", "photo.jpg")
