"""What a page does under load: clips in turn and at once, and the memory and files of its server.

    cclslr demo
    python docs/results/serve/load.py runs/demo/pretrained/last.pt clip.mp4 --in-turn 1000 --at-once 50 --out serve.json

The server is `cclslr serve` as a process of its own, whose temporary files lie in a folder that is watched. Bad uploads
are sent between the good ones. `--estimator fixed` finds the keypoints of the file beside the clip, so that the load is
the server's and not the estimator's.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from cclslr.files import write_json

BAD = {b"": 400, b"#EXTM3U\nfile:///etc/passwd\n": 422, b"\0" * 5000: 422, b"\x80\x04N.": 422}
FIXED = """
import sys
import numpy as np
from cclslr import poses
from cclslr.poses import base

known = np.load(sys.argv.pop(1))["keypoints"]

class Fixed:
    name, version = "fixed", "keypoints of a file"
    def __call__(self, frames_THWC):
        return known[: len(frames_THWC)].copy()

poses.open_estimator = lambda options: Fixed()
from cclslr.__main__ import run
run("serve")
"""


def ask(port: int, body: bytes) -> tuple[int, float]:
    """Status and seconds of one upload."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3600)
    try:
        connection.request("POST", "/clip", body)
        response = connection.getresponse()
        response.read()
        return response.status, time.perf_counter() - began
    finally:
        connection.close()


def megabytes(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    return {
        "median": round(float(np.median(seconds)), 3),
        "p95": round(float(np.quantile(seconds, 0.95)), 3),
        "max": round(max(seconds), 3),
    }


def measure(port: int, server: psutil.Process, clip: bytes, in_turn: int, at_once: int, folder: Path) -> dict[str, Any]:
    """Send all of it; what came back, how long it took, and what is left."""
    memory, seconds, statuses = [], [], []
    for number in range(in_turn):
        status, took = ask(port, clip)
        statuses.append(status)
        seconds.append(took)
        if number % max(1, in_turn // 20) == 0 or number == in_turn - 1:
            memory.append([number + 1, round(megabytes(server), 1)])
            for body, wanted in BAD.items():
                assert ask(port, body)[0] == wanted, body
    with ThreadPoolExecutor(at_once) as pool:
        together = list(pool.map(lambda _: ask(port, clip), range(at_once)))
    left = [str(path) for path in folder.rglob("*") if path.is_file()]
    return {
        "in_turn": {"requests": in_turn, "answered": statuses.count(200), "seconds": spread(seconds)},
        "at_once": {
            "requests": at_once,
            "answered": [status for status, _ in together].count(200),
            "seconds": spread([took for _, took in together]),
        },
        "bad_uploads_refused": len(memory) * len(BAD),
        "memory_mb": memory,
        "memory_mb_after_all": round(megabytes(server), 1),
        "files_left": left,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("clip", type=Path, help="with its keypoints (.npz) beside it")
    parser.add_argument("--in-turn", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--estimator", choices=("fixed", "mediapipe"), default="fixed")
    parser.add_argument("--index", type=Path, help="features of a dictionary")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fixed = ["-c", FIXED, str(args.clip.with_suffix(".npz"))]
        start = fixed if args.estimator == "fixed" else ["-m", "cclslr", "serve"]
        index = [] if args.index is None else ["--index", str(args.index)]
        server = subprocess.Popen(
            [sys.executable, *start, str(args.checkpoint), *index, "--port", "0"],
            env={**os.environ, "TMPDIR": name, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            port = next(int(found[1]) for line in server.stdout if (found := re.search(r"localhost:(\d+)", line)))
            clip = args.clip.read_bytes()
            while True:
                try:
                    ask(port, clip)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.1)
            found = measure(port, psutil.Process(server.pid), clip, args.in_turn, args.at_once, folder)
        finally:
            server.terminate()
            server.wait()
        found |= {"clip": args.clip.name, "estimator": args.estimator, "left_after_the_end": os.listdir(folder)}
    write_json(args.out, found)
    print(json.dumps({name: value for name, value in found.items() if name != "memory_mb"}, indent=2))


if __name__ == "__main__":
    main()
