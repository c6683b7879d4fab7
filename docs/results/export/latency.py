"""What one clip takes in ONNX Runtime on one core: files in turn, so that other programs slow all of them alike.

python docs/results/export/latency.py OUT.json FOLDER/pose.onnx FOLDER/pose_int8.onnx ...

Processor time is what an idle core would take; the clock's time has the other programs in it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from cclslr.export.graphs import Run, open_onnx

CALLS, FRAMES = 15, 64


def views(seed: int) -> dict[str, np.ndarray]:
    pose = np.random.default_rng(seed).uniform(-1, 1, (1, FRAMES, 75, 3)).astype(np.float32)
    pose[..., 2] = abs(pose[..., 2])
    return {"pose": pose}


def milliseconds(run: Run) -> tuple[float, float]:
    """Processor's and clock's."""
    clock, processor = time.perf_counter(), time.process_time()
    run(views(0))
    return 1000 * (time.process_time() - processor), 1000 * (time.perf_counter() - clock)


if __name__ == "__main__":
    out, *files = sys.argv[1:]
    runs = {name: open_onnx(Path(name)) for name in files}
    for run in runs.values():
        run(views(0))
    each = [[milliseconds(run) for run in runs.values()] for _ in range(CALLS)]
    taken = dict(zip(files, np.array(each).swapaxes(0, 1)))
    told = {
        "/".join(Path(name).parts[-2:]): {
            "mb": round(Path(name).stat().st_size / 1e6, 1),
            **{
                f"{what}_ms": {"min": x.min(), "median": float(np.median(x)), "max": x.max()}
                for what, x in zip(("processor", "clock"), found.round(1).T)
            },
        }
        for name, found in taken.items()
    }
    told |= {"calls": CALLS, "load_average": os.getloadavg()}
    Path(out).write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told))
