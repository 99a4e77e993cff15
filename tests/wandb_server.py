"""A W&B server in a thread of the tests: it keeps the runs that it is sent, or misbehaves.

It answers what a run and ``wandb sync`` ask for. ``behaviour`` may change at any time:

    well         nothing is wrong
    silent       no request is answered
    slow         every answer takes a second
    garbage      the answers are not HTTP
    empty        the answers are empty JSON objects
    status:CODE  every answer is this error, 401 for a wrong key
"""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

KEY = "a1b2c3d4e5" * 4


class SentRun:
    """A run as the server was told of it."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None

    @property
    def steps(self) -> list[int]:
        return [row["global_step"] for row in self.rows if "global_step" in row]

    def describe(self, given: dict[str, Any]) -> None:
        self.about.update({key: value for key, value in given.items() if value is not None})
        config = json.loads(given.get("config") or "{}")
        self.config.update({key: entry["value"] for key, entry in config.items()})

    def receive(self, sent: dict[str, Any]) -> None:
        files = sent.get("files") or {}
        self.rows += map(json.loads, files.get("wandb-history.jsonl", {}).get("content", []))
        for line in files.get("wandb-summary.json", {}).get("content", []):
            self.summary.update(json.loads(line))
        if sent.get("complete"):
            self.exit_code = sent["exitcode"]


class WandbServer(ThreadingHTTPServer):
    """Listens from its creation until ``stop``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = "well"
        self.runs: dict[str, SentRun] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def upload(self, words: str) -> None:
        """Run the command that ``words`` end with, as a warning's or the closing words' do."""
        command = shlex.split(words[words.index("wandb sync ") :])
        with TemporaryDirectory() as logs:
            settings = {"MODE": "online", "DIR": logs, "BASE_URL": self.url, "API_KEY": KEY}
            environment = {**os.environ, **{f"WANDB_{key}": settings[key] for key in settings}}
            command = [sys.executable, "-m", *command]
            done = subprocess.run(command, env=environment, capture_output=True, timeout=200)
        assert done.returncode == 0, done.stderr.decode()

    def upload_offline(self, folder: Path) -> dict[str, SentRun]:
        """Upload every offline run below ``folder``; the runs by their names."""
        folders = map(str, sorted(folder.rglob("offline-run-*")))
        self.upload(shlex.join(["wandb", "sync", *folders]))
        return {run.about["displayName"]: run for run in self.runs.values()}

    def handle_error(self, *_: Any) -> None:
        """Print nothing of clients that go away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, _, detail = self.server.behaviour.partition(":")
        while self.server.behaviour == "silent":
            time.sleep(0.1)
        if kind == "slow":
            time.sleep(1.0)
        if kind in ("garbage", "silent"):
            self.wfile.write(b"\x00\xff" * 512)
            self.close_connection = True
        elif kind == "status":
            self._send(int(detail), {"errors": [{"message": "permission denied"}]})
        elif kind == "empty":
            self._send(200, {})
        elif self.path == "/graphql":
            self._send(200, {"data": self._graphql(json.loads(content))})
        else:
            if stream := re.fullmatch(r"/files/\w+/\w+/(\w+)/file_stream", self.path):
                self.server.runs[stream[1]].receive(json.loads(content))
            self._send(200, {})

    do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names are the base class's

    def _graphql(self, query: dict[str, Any]) -> dict[str, Any]:
        given = query.get("variables") or {}
        if query["operationName"] == "UpsertBucket":
            self.server.runs.setdefault(given["name"], SentRun()).describe(given)
            project = {
                "id": "1",
                "name": given["project"],
                "entity": {"id": "1", "name": "someone"},
            }
            bucket = {"id": "1", "name": given["name"], "displayName": "it", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if query["operationName"] == "CreateRunFiles":
            url = self.server.url
            files = [{"name": name, "uploadUrl": f"{url}/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        if query["operationName"] == "Viewer":
            return {"viewer": {"id": "1", "entity": "someone", "username": "someone"}}
        return {}

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""
