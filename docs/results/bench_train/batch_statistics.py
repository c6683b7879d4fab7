"""What is there to gain in BatchNorm's statistics? A step that has them, against steps that take stored ones.

    python docs/results/bench_train/batch_statistics.py out.json

Stored statistics need no pass over the feature maps, forward or backward, so no way of sharing that pass between keys
and queries, or between micro-batches, can gain more than this. R3D-50 and the pose network at the paper's shapes, two
clips a step, fp32.
"""

from __future__ import annotations

import statistics
import sys

import torch
from torch import nn

from cclslr import train
from cclslr.bench import pretrain
from cclslr.config import PretrainConfig, load_config
from cclslr.distributed import process_group
from cclslr.environment import describe
from cclslr.files import write_json

OVERRIDES = ["data.shards=[]", "optim.batch=2", "optim.micro_batch=2", "objective.bank_size=256"]
STORED = {"usual": (), "keys take stored statistics": ("key",), "keys and queries take stored ones": ("key", "query")}


def replay(stored: tuple[str, ...], cfg: PretrainConfig, process, batch) -> pretrain.Replay:
    learner = train.build_learner(cfg, process)
    for path in stored:
        for module in getattr(learner, path).modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    step = pretrain.lean_step(learner, cfg, process)
    return pretrain.Replay(lambda number: step(batch, number), process)


cfg = load_config(PretrainConfig, "configs/pretrain.yaml", OVERRIDES)
with process_group("cpu") as process:
    batch = pretrain.random_batch(cfg, process)
    modes = {name: replay(stored, cfg, process, batch) for name, stored in STORED.items()}
    samples = pretrain.take_turns(modes, warmup=1, steps=1, repeats=3)
usual = [sample.seconds for sample in samples["usual"]]
rows = []
for name, blocks in samples.items():
    ratios = [before / sample.seconds for before, sample in zip(usual, blocks, strict=True)]
    rows.append(
        {"step": name, "seconds": [sample.seconds for sample in blocks], "faster": statistics.median(ratios),
         "min": min(ratios), "max": max(ratios), "n": len(ratios)}
    )  # fmt: skip
    print(f"{name}: {statistics.median(s.seconds for s in blocks):.2f} s, {rows[-1]['faster']:.3f} times as fast")
write_json(sys.argv[1], {"environment": describe(), "torch": torch.__version__, "rows": rows})
