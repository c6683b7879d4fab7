"""Every way to make RGB views that this machine has, each with the training step beside it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from cclslr import train
from cclslr.bench.pretrain import open_loader
from cclslr.codecs import codec_named
from cclslr.config import DataConfig, PretrainConfig
from cclslr.data.loader import Loader
from cclslr.distributed import process_group
from cclslr.errors import UserError
from cclslr.shards.reader import ShardSet
from cclslr.training.backend_choice import Measured, measure, placements


def measure_placements(cfg: PretrainConfig, seconds: float) -> list[Measured]:
    """What a run with data.backend=auto measures on a GPU when it begins; here on a CPU too. Empty on ranks above 0.

    Args:
        cfg: of a pre-training; its data.shards are read.
        seconds: for all ways together.

    Raises:
        UserError: no packed data set, or data.decode and data.device leave no way.
    """
    codec = codec_named(str(ShardSet(cfg.data.shards).info["codec"]))
    with process_group(cfg.run.device) as process:
        gpu, dali = process.device.type == "cuda", importlib.util.find_spec("nvidia.dali") is not None
        choices = placements(codec, cfg.data, [cfg.views.size], gpu, dali)
        if not choices:
            raise UserError("data.decode and data.device leave no way to make views here; leave them at auto")

        def started(data: DataConfig) -> Loader:
            return open_loader(replace(cfg, data=data), process).start()

        rows = measure(choices, cfg.data, started, train.step_on_trial(cfg, process), process, seconds)
        return rows if process.main else []
