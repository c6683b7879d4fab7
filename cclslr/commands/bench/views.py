"""How far apart the RGB views of two backends are.

Or those of two decoders or devices. Both make the same batches of the plan, views and all; differences
are in grey levels of 0..255. A mean near 1 with few values above 4 is what two conversions from YUV to RGB differ by; a
wrong crop or frame gives tens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from cclslr.bench.pretrain import open_loader
from cclslr.cli import command_parser
from cclslr.config import PretrainConfig, load_config
from cclslr.console import console, progress_bar
from cclslr.distributed import process_group
from cclslr.environment import describe
from cclslr.errors import UserError
from cclslr.files import write_json

FAR = 4  # levels
NO_JITTER = [f"views.{name}=0" for name in ("brightness", "contrast", "saturation", "hue")]
EXAMPLES = """examples:
  cclslr bench views shards/wlasl300 --one data.backend=numba --other data.backend=dali
  cclslr bench views shards/wlasl300 --one data.device=cpu --other data.device=gpu views.mask_alpha=0"""


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", help="packed data set")
    parser.add_argument(
        "--one", action="append", default=[], metavar="key=value", help="of one loader; may be repeated"
    )
    parser.add_argument("--other", action="append", default=[], metavar="key=value", help="of the other")
    parser.add_argument("--batches", type=int, default=6, help="default 6")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the differences and the environment")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of both, from the pre-training config")
    args = parser.parse_intermixed_args(argv)
    table = Table("colours", "mean", f"above {FAR}, %", "largest", title=args.shards)
    rows = []
    for colours, jitter in (("as they are", NO_JITTER), ("jittered", [])):
        common = [f"data.shards=[{args.shards}]", *jitter, *args.overrides]
        mean, far, largest = difference([*common, *args.one], [*common, *args.other], args.batches)
        rows.append({"colours": colours, "mean": mean, "share_far": far, "largest": largest})
        table.add_row(colours, f"{mean:.3f}", f"{100 * far:.3f}", str(largest))
    console.print(table)
    if args.json:
        settings = {name: getattr(args, name) for name in ("shards", "one", "other", "batches", "overrides")}
        write_json(args.json, {"rows": rows, "settings": settings, "environment": describe()})


def difference(one: list[str], other: list[str], batches: int) -> tuple[float, float, int]:
    """Mean difference of the views' values, share of those above `FAR`, and the largest.

    Raises:
        UserError: the loaders did not choose the same clips.
    """
    configs = [load_config(PretrainConfig, None, overrides) for overrides in (one, other)]
    total, far, largest, values = 0, 0, 0, 0
    with (
        process_group(configs[0].run.device) as alone,
        open_loader(configs[0], alone).start() as first,
        open_loader(configs[1], alone).start() as second,
        progress_bar("batches") as bar,
    ):
        for _ in bar.track(range(batches)):
            a, b = next(first), next(second)
            if not torch.equal(a.clip_ids_B, b.clip_ids_B):
                raise UserError("the two did not make the same batch: a clip that one cannot decode, or another batch")
            assert a.rgb_VBTHWC is not None
            assert b.rgb_VBTHWC is not None
            levels = np.abs(a.rgb_VBTHWC.cpu().numpy().astype(np.int16) - b.rgb_VBTHWC.cpu().numpy())
            total, values = total + int(levels.sum(dtype=np.int64)), values + levels.size
            far, largest = far + int((levels > FAR).sum()), max(largest, int(levels.max()))
    return total / values, far / values, largest
