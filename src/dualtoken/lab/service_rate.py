"""How fast `dualtoken serve` answers, beside the plain script that one would write for the same model.

    python -m dualtoken.lab.service_rate model.onnx --output results/service_rate.jsonl

Both run at once, and requests of a photo over loopback go to them in turns, so that a slow moment of the machine
touches both. The load is made by `hey` (https://github.com/rakyll/hey; Debian's package of that name).
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dualtoken.errors import MissingExtraError, UserError
from dualtoken.lab.rows import Row, append_rows, provenance

_SERVE = "import sys; from dualtoken.service.serving import serve; serve(sys.argv[1], port=int(sys.argv[3]))"
SERVED, PLAIN = "dualtoken serve", "plain script"


def measure(model: Path, concurrencies: list[int], requests: int, turns: int, size: tuple[int, int]) -> list[Row]:
    """A row for each concurrency and service: milliseconds of the median and the 99th percentile, requests a second.

    Args:
        model: exported classifier, an .onnx file.
        concurrencies: requests on their way at a time.
        requests: to each service at each of these, in all.
        turns: in which they are sent.
        size: (width, height) of the photo.

    Raises:
        MissingExtraError: `hey` is not installed.
    """
    if shutil.which("hey") is None:
        raise MissingExtraError("The load is made by 'hey', which is not installed.", "Type: apt-get install hey")
    commands = {
        SERVED: ["-c", _SERVE, str(model)],
        PLAIN: ["-m", "dualtoken.lab.service_rate", str(model), "--plain"],
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        _photo(size).save(photo, quality=90)
        running = {name: _Running(command) for name, command in commands.items()}
        try:
            for service in running.values():
                service.load(photo, 48, 4)  # warm
            for concurrency in concurrencies:
                sent = requests // turns // concurrency * concurrency  # `hey` sends equally many on each connection
                before = {name: service.resident() for name, service in running.items()}
                processor = {name: service.processor() for name, service in running.items()}
                seen: dict[str, list[tuple[list[float], int, float]]] = {name: [] for name in running}
                for _ in range(turns):
                    for name, service in running.items():
                        seen[name].append(service.load(photo, sent, concurrency))
                rates = {name: [len(times) / seconds for times, _, seconds in found] for name, found in seen.items()}
                for name, found in seen.items():
                    every = np.array([one for times, _, _ in found for one in times])
                    ratios = np.divide(rates[name], rates[PLAIN])
                    rows.append({
                        "service": name, "model": model.name, "photo": list(size), "concurrency": concurrency,
                        "requests": len(every), "turns": turns, "lost": sum(lost for _, lost, _ in found),
                        "p50_ms": float(np.percentile(every, 50)), "p99_ms": float(np.percentile(every, 99)),
                        "processor_ms": 1000 * (running[name].processor() - processor[name]) / (sent * turns),
                        "requests_per_second": float(np.median(rates[name])),
                        "times_the_plain": float(np.median(ratios)),
                        "times_the_plain_quartiles": np.percentile(ratios, [25, 75]).tolist(),
                        "resident_mib": [before[name], running[name].resident()],
                    })  # fmt: skip
        finally:
            for service in running.values():
                service.process.terminate()
                service.process.wait()
    return rows


def at_equal_p99(rows: list[Row]) -> list[tuple[float, float, float]]:
    """What each of the two answers at most while 99 % of the requests wait no longer than some time.

    Returns:
        (milliseconds, requests a second of `SERVED`, and of `PLAIN`): a row for each 99th percentile that the plain
        script was measured with; the rate is the highest of all concurrencies that keep to it, 0 where none does.
    """

    def most(service: str, limit: float) -> float:
        kept = (row for row in rows if row["service"] == service and row["p99_ms"] <= limit)
        return max((row["requests_per_second"] for row in kept), default=0.0)

    limits = sorted(row["p99_ms"] for row in rows if row["service"] == PLAIN)
    return [(limit, most(SERVED, limit), most(PLAIN, limit)) for limit in limits]


class _Running:
    """A service in a process of its own."""

    def __init__(self, command: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.process = subprocess.Popen([sys.executable, *command, "--port", str(port)], stdout=subprocess.DEVNULL)
        self.address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{self.address}/ready", timeout=5).close()
                return
            except OSError:
                time.sleep(0.25)
        raise UserError(f"{' '.join(command)} did not start within a minute.")

    def load(self, photo: Path, requests: int, concurrency: int) -> tuple[list[float], int, float]:
        """Milliseconds of each request, how many were not answered with 200, and seconds for all."""
        command = ["hey", "-n", str(requests), "-c", str(concurrency), "-m", "POST", "-T", "image/jpeg",
                   "-D", str(photo), "-t", "60", "-o", "csv", f"{self.address}/v1/predict"]  # fmt: skip
        begun = time.perf_counter()
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
        seconds = time.perf_counter() - begun
        answered = [row for row in csv.DictReader(told.splitlines()) if row["status-code"] == "200"]
        return [1000 * float(row["response-time"]) for row in answered], requests - len(answered), seconds

    def resident(self) -> float:
        """MiB of memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def processor(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _photo(size: tuple[int, int]) -> Image.Image:
    """What compresses as a photo does: soft shapes and a little noise."""
    rng = np.random.default_rng(0)
    soft = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.normal(0, 6, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(soft) + noise).clip(0, 255).astype(np.uint8))


def plain(model: Path) -> Any:
    """The script that one would write: FastAPI, pillow, onnxruntime, an image a run, in FastAPI's own threads."""
    import onnxruntime
    from fastapi import Body, FastAPI

    from dualtoken.prediction.exported import read_export

    config, _ = read_export(model)  # what its author would have typed by hand
    names, shape = config.classes, config.preprocessing.image_size
    mean, std = (np.array(part, np.float32) for part in (config.preprocessing.mean, config.preprocessing.std))
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    app = FastAPI()

    @app.get("/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    def predict(content: bytes) -> dict[str, Any]:
        image = Image.open(io.BytesIO(content)).convert("RGB").resize(shape[::-1], Image.Resampling.BICUBIC)
        pixels = (np.asarray(image, np.float32) / 255 - mean) / std
        (logits,) = session.run(None, {given: pixels.transpose(2, 0, 1)[None]})
        scores = np.exp(logits[0] - logits[0].max())
        scores /= scores.sum()
        best = [{"label": names[place], "score": float(scores[place])} for place in np.argsort(-scores)[:5]]
        return {"label": best[0]["label"], "score": best[0]["score"], "top": best}

    predict.__annotations__["content"] = bytes  # its own text would not say what `Body` is
    predict.__defaults__ = (Body(media_type="image/jpeg"),)
    app.post("/v1/predict")(predict)
    return app


def main() -> None:
    """The command line: see the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--size", type=int, nargs=2, default=[640, 480], help="width and height of the photo")
    parser.add_argument("--output", help="JSON lines file to add the rows to")
    parser.add_argument("--plain", action="store_true", help="be the plain script")
    parser.add_argument("--port", type=int, default=8001)
    given = parser.parse_args()
    if given.plain:
        import uvicorn

        uvicorn.run(plain(given.model), port=given.port, log_level="warning", access_log=False)
        return
    facts = provenance(threads=os.cpu_count())
    rows = measure(given.model, given.concurrency, given.requests, given.turns, tuple(given.size))
    for row in rows:
        print({key: row[key] for key in row if key not in ("model", "photo", "turns")})
    for limit, ours, theirs in at_equal_p99(rows):
        print(f"p99 of {limit:,.0f} ms at most: {ours:.1f} requests/s, the plain script {theirs:.1f}")
    if given.output:
        append_rows(given.output, [row | facts for row in rows])


if __name__ == "__main__":
    main()
