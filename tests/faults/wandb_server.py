"""A W&B server on this machine, which keeps the rows that it is sent, or misbehaves.

``python -m tests.faults.wandb_server FOLDER PORT BEHAVIOUR`` listens on PORT, or for 0 on one of
its own, whose number it writes to FOLDER/port; the rows of a run are appended to FOLDER/ID.jsonl.
Of what W&B's own server answers it has what a run and ``wandb sync`` need. BEHAVIOUR is

    well         nothing is wrong
    silent       no request is ever answered
    slow         every answer takes SLOW_SECONDS
    garbage      the answers are not even HTTP
    empty        the answers are empty JSON objects
    status:CODE  every answer is this error, 401 for a wrong key
    revoked:N    the key is refused after N requests
    dies:N       the server ends after N requests
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

SLOW_SECONDS = 1.0


class Handler(BaseHTTPRequestHandler):
    """Answers what comes over one connection."""

    protocol_version = "HTTP/1.1"
    folder: Path
    behaviour: str
    numbers = count(1)

    def answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, _, detail = self.behaviour.partition(":")
        number = next(self.numbers)
        if kind == "silent":
            time.sleep(3600)
        if kind == "slow":
            time.sleep(SLOW_SECONDS)
        if kind == "dies" and number > int(detail):
            os._exit(1)
        if kind == "garbage":
            self.wfile.write(b"\x00\xff" * 512)
            self.close_connection = True
        elif kind == "status" or (kind == "revoked" and number > int(detail)):
            status = int(detail) if kind == "status" else 401
            self._send(status, {"errors": [{"message": "permission denied"}]})
        elif kind == "empty":
            self._send(200, {})
        elif self.path == "/graphql":
            self._send(200, {"data": _graphql(json.loads(content), self.headers["Host"])})
        else:
            if stream := re.fullmatch(r"/files/\w+/\w+/(\w+)/file_stream", self.path):
                self._keep(stream[1], json.loads(content))
            self._send(200, {})

    do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names are the base class's

    def _keep(self, run_id: str, sent: dict[str, Any]) -> None:
        history = (sent.get("files") or {}).get("wandb-history.jsonl", {"content": []})
        with (self.folder / f"{run_id}.jsonl").open("a") as file:
            file.writelines(f"{line}\n" for line in history["content"])

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Says nothing of clients that go away."""

    def handle_error(self, *_: Any) -> None:
        """Say nothing."""


def _graphql(query: dict[str, Any], host: str) -> dict[str, Any]:
    given = query["variables"]
    if query["operationName"] == "UpsertBucket":
        project = {"id": "1", "name": given["project"], "entity": {"id": "1", "name": "someone"}}
        bucket = {"id": "1", "name": given["name"], "displayName": "it", "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if query["operationName"] == "CreateRunFiles":
        files = [{"name": name, "uploadUrl": f"http://{host}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
    return {}


if __name__ == "__main__":
    Handler.folder, Handler.behaviour = Path(sys.argv[1]), sys.argv[3]
    server = Server(("127.0.0.1", int(sys.argv[2])), Handler)
    (Handler.folder / "part").write_text(str(server.server_address[1]))
    (Handler.folder / "part").rename(Handler.folder / "port")
    server.serve_forever()
