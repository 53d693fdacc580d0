"""ONNX graphs of networks and model folders for the engines that run files, made once and kept in a folder.

python -m dualtoken.lab.graphs KIND NAME SIZE FILE
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import dualtoken
from dualtoken.hub import find_model
from dualtoken.lab.networks import Subject, build, merge
from dualtoken.model_folder import WEIGHTS


class GraphError(Exception):
    """The network could not be exported: the message is the reason for its rows."""


def graph(subject: Subject, image_size: int, folder: Path) -> Path:
    """The ONNX file of a network for square images of `image_size` pixels and any batch; made if not there yet.

    It is made in a process of its own, which leaves nothing in this one.

    Raises:
        GraphError: the export fails.
    """
    slug = re.sub(r"[^\w.-]+", "-", Path(subject.name).name).strip("-.")
    path = folder / f"{slug}-{image_size}-{_fingerprint(subject, image_size)}.onnx"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    run = subprocess.run(
        [sys.executable, "-P", "-m", __name__, subject.kind, subject.name, str(image_size), str(path)],
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if run.returncode or not path.exists():
        lines = [line.strip() for line in (run.stderr or run.stdout).splitlines() if line.strip()]
        raise GraphError(f"no ONNX graph: {lines[-1][:300] if lines else f'code {run.returncode}'}")
    return path


def _fingerprint(subject: Subject, image_size: int) -> str:
    """Of all that the graph depends on: a kept file of older code or weights is not taken for a new one."""
    digest = hashlib.sha256(json.dumps([subject.kind, subject.name, image_size]).encode())
    for package in ("torch", "timm", "onnxscript"):
        digest.update(f"{package} {metadata.version(package)}".encode())
    code = Path(dualtoken.__file__).parent
    for room in ("backbone", "heads", "export"):
        for file in sorted((code / room).rglob("*.py")):
            digest.update(file.read_bytes())
    if subject.kind == "folder":
        digest.update((find_model(subject.name) / WEIGHTS).read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    """Write one graph."""
    kind, name, size, path = sys.argv[1:]
    from dualtoken.export.formats.onnx import export_network

    network = merge(build(Subject(name, kind), int(size)))
    export_network(network, Path(path), (int(size), int(size)))


if __name__ == "__main__":
    main()
