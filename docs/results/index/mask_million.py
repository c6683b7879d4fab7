"""Memory of `cclslr masks` around its work: what the plan and a commit take on an index of a million clips.

    python docs/results/index/mask_million.py FOLDER [OUT.json]

FOLDER is a set that `cclslr bench index FOLDER --clips 1000000` made. Its plan is asked for every task, and a commit
without a finished shard writes the whole index anew; no mask is made, so the clips are never read.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from cclslr.files import write_json
from cclslr.masking import rewrite
from cclslr.masking.methods import MpmOptions
from cclslr.masking.settings import MaskSettings


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


folder, settings = Path(sys.argv[1]), MaskSettings(MpmOptions(method="temporal_std"))
recipe, found = settings.recipe(), {"base_mb": peak_mb()}
began = time.perf_counter()
tasks = rewrite.plan(folder, settings, recipe)
found["clips"] = sum(len(tasks[number].rows) for number in range(len(tasks)))
found["plan_s"], found["plan_peak_mb"] = round(time.perf_counter() - began, 1), peak_mb()
del tasks
(folder / rewrite.PARTS_NAME).mkdir(exist_ok=True)
began = time.perf_counter()
rewrite.commit(folder, settings, recipe)
found["commit_s"], found["commit_peak_mb"] = round(time.perf_counter() - began, 1), peak_mb()
print(json.dumps(found))
if len(sys.argv) > 2:
    write_json(sys.argv[2], found)
