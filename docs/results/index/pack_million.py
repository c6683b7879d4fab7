"""Packs many tiny clips of keypoints, once in one go and once killed twice, and compares the content hashes.

python pack_million.py FOLDER CLIPS KILLS [WORKERS]
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cclslr.environment import describe
from cclslr.shards.format import ManifestRow, RawClip
from cclslr.shards.pack import PackOptions, pack


@dataclass(frozen=True)
class Tiny:
    """Two frames of keypoints, another clip for each number."""

    number: int

    def load(self) -> RawClip:
        points = np.full((2, 133, 3), self.number % 60_000, np.float32)
        points[1] += 1
        return RawClip(None, points, 25.0)


def pack_here(folder: str, clips: int, workers: int) -> None:
    rows = (ManifestRow(f"c{n}", Tiny(n), n % 2000, f"sign {n % 2000}", "train", None) for n in range(clips))
    began = time.perf_counter()
    report = pack(rows, folder, PackOptions(crop="none", clips_per_shard=1000), workers=workers)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "content_hash": report.info["content_hash"],
                "index_sha256": report.info["index_sha256"],
                "clips": report.clips,
                "shards_reused": report.shards_reused,
                "parent_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                "worker_rss_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6,
            }
        ),
        flush=True,
    )


def start(folder: Path, clips: int, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--here", str(folder), str(clips), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def main(folder: Path, clips: int, kills: int, workers: int) -> None:
    shards = -(-clips // 1000)
    found: dict[str, object] = {"command": " ".join(sys.argv), "environment": describe(), "killed_at_shards": []}
    for number in range(kills):
        running = start(folder / "killed", clips, workers)
        while len(list((folder / "killed").glob("shard-*.tar"))) < shards * (number + 1) / (kills + 1):
            time.sleep(0.05)
            assert running.poll() is None
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        found["killed_at_shards"].append(len(list((folder / "killed").glob("shard-*.tar"))))  # type: ignore[attr-defined]
    for name in ("killed", "whole"):
        found[name] = json.loads(start(folder / name, clips, workers).communicate()[0].splitlines()[-1])
        print(name, found[name], flush=True)
    Path(folder, "result.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--here":
        pack_here(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 1)
