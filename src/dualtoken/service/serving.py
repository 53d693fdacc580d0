"""What `dualtoken serve` does: load, listen, answer until it is told to stop, and finish what was accepted."""

from __future__ import annotations

import ipaddress
import math
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualtoken.engines import ENGINES, choose_engine
from dualtoken.errors import ConfigError, require
from dualtoken.prediction import Predictor, load
from dualtoken.prediction.exported import is_export


def serve(
    models: str | Path | Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    engine: str = "auto",
    device: str = "auto",
    trust: bool = False,
    **settings: Any,
) -> None:
    """Answer over HTTP: a REST interface and KServe's open inference protocol, until Ctrl-C or SIGTERM.

    What was accepted before the signal is answered. No request can name a file or an address to be read.

    Args:
        models: exported models, or model folders, which need torch; the first answers where a request names none.
        host: address to listen on; 0.0.0.0 for other machines too
        port: port to listen on, 0 for any that is free
        token_file: file with the token that every request must carry
        engine: what runs exported models
        device: auto, cpu, cuda or mps, for model folders
        trust: open files of formats that can run code too (.pt2), since you know who made this one
        settings: fields of `service.batches.Settings`

    Raises:
        ConfigError: an impossible setting, two models of one name, an empty token, or an address that is taken.
        ModelError: a model cannot be loaded.
        MissingExtraError: the extra `serve`, or what a model runs in, is not installed.
    """
    for package in ("fastapi", "prometheus_client", "python_multipart", "uvicorn"):
        require(package, "serve")
    from dualtoken.service.batches import Settings
    from dualtoken.service.web import create_app

    chosen = Settings(**settings)
    token = None if token_file is None else _token(token_file)
    loaded = load_models(models, engine=engine, device=device, threads=chosen.threads, trust=trust)
    with listen(host, port) as listening:
        address = announce(listening, ", ".join(loaded))
        if token is None and not address.is_loopback:
            print("Note     everyone who reaches this address may ask: --token-file FILE", flush=True)
        answer(create_app(loaded, chosen, token), listening, chosen.timeout)


def load_models(models: str | Path | Sequence[str | Path], *, engine: str, **options: Any) -> dict[str, Predictor]:
    """Models by the names of their files or folders.

    Raises:
        ConfigError: two have the same.
        ModelError: one cannot be loaded.
    """
    loaded: dict[str, Predictor] = {}
    for model in [models] if isinstance(models, str | Path) else models:
        place = Path(model)
        name = place.stem if place.is_file() else (place.resolve() if place.is_dir() else place).name  # "." has none
        if name in loaded:
            raise ConfigError(f"Two models are called {name!r}, by which one is chosen.", "Rename one.")
        loaded[name] = _load(model, engine, **options)
    return loaded


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: there is no such address, or it is taken.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"Cannot listen on {host}:{port}: {reason}.", "Choose another --port or --host.") from None


def announce(listening: socket.socket, what: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Say where it is served; the address."""
    host, port = listening.getsockname()[:2]
    print(f"Serving  {what} at http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    return ipaddress.ip_address(host)


def answer(app: Any, listening: socket.socket, seconds: float) -> None:
    """Run an ASGI application until Ctrl-C, SIGTERM or SIGHUP, and then so long that what was accepted is answered."""
    uvicorn = require("uvicorn", "serve")
    config = uvicorn.Config(
        app,
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_graceful_shutdown=math.ceil(seconds) + 1,
    )
    server, before = uvicorn.Server(config), {}
    before[signal.SIGTERM] = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it when all is answered
    hang_up = getattr(signal, "SIGHUP", None)  # a terminal that is closed; Windows has none, `nohup` ignores it
    if hang_up is not None and signal.getsignal(hang_up) is signal.SIG_DFL:
        before[hang_up] = signal.signal(hang_up, lambda *_: setattr(server, "should_exit", True))
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _load(model: str | Path, engine: str, device: str, threads: int | None, trust: bool) -> Predictor:
    """Where several runs share the processor, one thread each is the most for it: they need not wait for each other."""
    if not is_export(model):
        return load(model, device=device, threads=threads, trust=trust)
    engine = choose_engine(engine, Path(model))
    return load(model, engine=engine, threads=threads or (1 if ENGINES[engine].parallel else None), trust=trust)


def _token(file: Path) -> str:
    from dualtoken.readers import read_text

    token = read_text(file, error=ConfigError).strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError(f"{str(file)!r} holds no token of printable ASCII characters.", "Type: openssl rand -hex 32")
    return token
