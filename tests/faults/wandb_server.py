"""A W&B server on a port of this machine, which keeps what it is sent, and misbehaves if told to.

``python -m tests.faults.wandb_server FOLDER PORT BEHAVIOUR`` listens on PORT, or on a free one for
0, writes its number to FOLDER/port, and appends the rows that a run logs to FOLDER/RUN_ID.jsonl.
It answers what ``wandb`` asks in the course of a run and of ``wandb sync``, and not much more.
"""

import json
import os
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

SLOW_SECONDS = 2.0


def _bucket(run_id: str, project: str) -> dict[str, Any]:
    place = {"id": "1", "name": project, "entity": {"id": "1", "name": "someone"}}
    return {"id": run_id, "name": run_id, "displayName": run_id, "config": "{}", "project": place}


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    folder: Path
    behaviour: str
    numbers = count(1)

    def answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, _, detail = self.behaviour.partition(":")
        if kind == "silent":
            time.sleep(3600)
        elif kind == "slow":
            time.sleep(SLOW_SECONDS)
        elif kind == "dies" and next(self.numbers) > int(detail):
            os._exit(1)
        elif kind == "garbage":
            self.wfile.write(b"\x00\xff" * 512)
            self.close_connection = True
            return
        if kind == "status":
            self._send(int(detail), {"errors": [{"message": "permission denied"}]})
        elif kind == "empty":
            self._send(200, {})
        elif self.path == "/graphql":
            self._send(200, {"data": self._graphql(json.loads(content))})
        elif stream := re.fullmatch(r"/files/\w+/\w+/(\w+)/file_stream", self.path):
            self._keep(stream[1], json.loads(content))
            self._send(200, {})
        else:
            self._send(404 if self.path.startswith("/sdk/") else 200, {})

    do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names are the base class's

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _graphql(self, query: dict[str, Any]) -> dict[str, Any]:
        given = query["variables"]
        if query["operationName"] == "UpsertBucket":
            bucket = _bucket(given["name"], given["project"])
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if query["operationName"] == "CreateRunFiles":
            host = f"http://{self.headers['Host']}/upload"
            files = [{"name": name, "uploadUrl": f"{host}/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        return {}

    def _keep(self, run_id: str, sent: dict[str, Any]) -> None:
        history = (sent.get("files") or {}).get("wandb-history.jsonl", {"content": []})
        with (self.folder / f"{run_id}.jsonl").open("a") as file:
            file.writelines(f"{line}\n" for line in history["content"])

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Handler.folder, Handler.behaviour = Path(sys.argv[1]), sys.argv[3]
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
    (Handler.folder / "port.part").write_text(str(server.server_address[1]))
    (Handler.folder / "port.part").rename(Handler.folder / "port")
    server.serve_forever()
