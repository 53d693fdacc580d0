"""A Hugging Face Hub of a few routes on this machine: what huggingface_hub asks over HTTP, and no more."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False


@dataclass
class FakeHub:
    """Repositories by USER/NAME, and the requests that came, as `METHOD path`."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=lambda: {"hf_right"})

    def fetched(self) -> set[str]:
        """Names of the files whose content was sent."""
        return {line.rsplit("/", 1)[1] for line in self.requests if line.startswith("GET") and "/resolve/" in line}


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: bytes | dict | list = b"", headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if not isinstance(content, bytes):
            self.send_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, what: str) -> None:
        self.answer(404, {"error": what}, {"X-Error-Code": what, "X-Error-Message": what})

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        if path == "/api/whoami-v2":
            return self.answer(200, {"name": "anna", "type": "user", "auth": {"accessToken": {"role": "write"}}})
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        repo = self.hub.repos.get(found[1]) if found else None
        if repo is None or found is None:
            return self.missing("RepoNotFound")
        if (found[3] if api else found[2]) not in (None, "main", COMMIT):
            return self.missing("RevisionNotFound")
        if file:
            return self._file(repo, file[3])
        if found[2] == "tree":
            return self.answer(200, [_entry(name, content) for name, content in repo.files.items()])
        siblings = [{"rfilename": name} for name in repo.files]
        return self.answer(
            200, {"_id": "1", "id": found[1], "modelId": found[1], "sha": COMMIT, "private": repo.private,
                  "siblings": siblings, "tags": []},
        )  # fmt: skip

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def _file(self, repo: Repo, name: str) -> None:
        if name not in repo.files:
            return self.missing("EntryNotFound")
        content = repo.files[name]
        tag = hashlib.sha1(content).hexdigest()
        return self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'})

    def do_POST(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.hub.tokens:
            return self.answer(401, {"error": "Invalid credentials"})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        repo_id = "/".join(path.split("/")[3:5])
        if repo_id not in self.hub.repos:
            return self.missing("RepoNotFound")
        if not repo_id.startswith("anna/") and "create_pr=1" not in self.path:
            return self.answer(403, {"error": "Forbidden"})
        if "/preupload/" in path:
            files = [{"path": part["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for part in json.loads(body)["files"]]  # fmt: skip
            return self.answer(200, {"files": files})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.hub.repos[repo_id].files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        asked = {"pullRequestUrl": f"{self.hub.url}/{repo_id}/discussions/1"} if "create_pr=1" in self.path else {}
        return self.answer(200, {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{COMMIT}", "commitOid": COMMIT} | asked)

    def _create(self, wanted: dict) -> None:
        repo_id = f"{wanted.get('organization') or 'anna'}/{wanted['name']}"
        if repo_id in self.hub.repos:
            return self.answer(
                409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo_id}"}
            )
        if not repo_id.startswith("anna/"):
            return self.answer(403, {"error": "Forbidden"})
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.hub.repos[repo_id] = Repo(private=bool(private))
        return self.answer(200, {"url": f"{self.hub.url}/{repo_id}", "name": repo_id, "id": "1"})


def _entry(name: str, content: bytes) -> dict:
    return {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}


def network_for_training(model: str, data: Path) -> tuple[Any, Any]:
    """The network that `dualtoken train DATA --model MODEL` begins with, and its description."""
    from dualtoken.data import find_data
    from dualtoken.training.config import TrainConfig
    from dualtoken.training.network import make_network
    from dualtoken.training.run import make_task

    config = TrainConfig(model=model, image_size=(64, 64), task="classification")
    images = find_data(data, task="classification", seed=0, val_fraction=0.25)
    return make_network(config, make_task(config, images), images)


@contextmanager
def serve() -> Iterator[FakeHub]:
    """A hub that answers while the context is open."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
