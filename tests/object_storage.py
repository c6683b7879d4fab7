"""A real S3 server in a process of its own, for the tests of data sets in object storage."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from typing import Any


class S3Server:
    """moto's server behind a port of ours, so that it can be killed and come back with its objects at one address."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._objects: dict[str, bytes] = {}
        self._process: subprocess.Popen | None = None
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []

    def environment(self) -> dict[str, str]:
        """Variables with which fsspec and its children find it."""
        return {"FSSPEC_S3_ENDPOINT_URL": self.url, "FSSPEC_S3_KEY": "test", "FSSPEC_S3_SECRET": "test"}

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Every object whose key begins so, by the rest of its key."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key.removeprefix(prefix): client.get_object(Bucket="bucket", Key=key)["Body"].read() for key in keys}

    def put(self, key: str, data: bytes) -> None:
        self._objects[key] = data
        if self._process is not None:
            self.client().put_object(Bucket="bucket", Key=key, Body=data)

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._backend = probe.getsockname()[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._backend)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._backend), 1):
                break
            time.sleep(0.05)
        self.client().create_bucket(Bucket="bucket")
        for key, data in self._objects.items():
            self.client().put_object(Bucket="bucket", Key=key, Body=data)
        self.answer()

    def stop(self) -> None:
        """End it; `start` brings back what `put` has given it."""
        assert self._process is not None
        self.cut()
        self._process.kill()
        self._process.wait()
        self._process = None

    def answer(self) -> None:
        """Listen at the address."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """End every connection, and take no more until `answer`; the objects stay."""
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def client(self) -> Any:
        import boto3

        keys: Any = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self._backend}", **keys)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                inside, _ = listener.accept()
                outside = socket.create_connection(("127.0.0.1", self._backend))
                self._open += [inside, outside]
                for a, b in ((inside, outside), (outside, inside)):
                    threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
