"""Ways to make RGB views, each with the training step beside it.

What a run with data.backend=auto does when it begins on a GPU. Here it also works on a CPU, and for longer: --seconds.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cclslr.bench.placement import measure_placements
from cclslr.cli import command_parser
from cclslr.config import PretrainConfig, load_config, to_dict
from cclslr.console import console
from cclslr.environment import describe
from cclslr.files import write_json
from cclslr.shards.reader import ShardSet
from cclslr.training.backend_choice import SECONDS, fastest, table

EXAMPLES = """examples:
  cclslr bench placement shards/wlasl300 --config configs/pretrain.yaml
  cclslr bench placement shards/wlasl300 --seconds 120 optim.batch=16 data.workers=16
"""


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", help="packed data set with video")
    parser.add_argument("--config", metavar="FILE", help="YAML file of a pre-training run, see configs/")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all ways together (default {SECONDS:g})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override one key, e.g. optim.batch=8")
    args = parser.parse_intermixed_args(argv)
    cfg = load_config(PretrainConfig, args.config, [*args.overrides, f"data.shards=[{args.shards}]"])
    rows = measure_placements(cfg, args.seconds)
    if not rows:
        return
    best = fastest(rows)
    console.print(table(rows, best))
    if best is not None:
        console.print(f"use: {' '.join(f'data.{name}={value}' for name, value in asdict(best).items())}")
    if args.json is not None:
        codec = ShardSet(cfg.data.shards).info["codec"]
        result = {"tool": "bench_placement", "codec": codec, "measured": list(map(asdict, rows))}
        write_json(args.json, result | {"config": to_dict(cfg), "environment": describe()})
