"""Time and memory until the first batch of a set of millions of clips.

Makes a data set whose index has any number of clips: their poses lie in one small shard under many names, so a batch is
really read. Then one process or several open it at once as the ranks of a node do, plan an epoch and take a batch of
poses. The program that is measured may be another checkout of this project (--checkout), such as one of an earlier
version. The page cache holds the index, as it does after packing; --cold drops it before each round.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

import cclslr
from cclslr.bench import index_rank
from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.environment import describe
from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.shards.clip import PackOptions, pack_clip
from cclslr.shards.columns import COLUMNS_NAME
from cclslr.shards.format import ManifestRow, RawClip
from cclslr.shards.index import INDEX_NAME, SCHEMA
from cclslr.shards.info import INFO_NAME
from cclslr.shards.pack import finish
from cclslr.shards.writer import ShardFile, open_shard

PER_SHARD, FRAMES, CLASSES, SIGNERS = 1000, 8, 2000, 500
EXAMPLES = """examples:
  cclslr bench index /data/million --clips 1000000
  cclslr bench index /data/ten --clips 10000000 --ranks 8 --rounds 5 --json ten.json
  cclslr bench index /data/million --checkout ../cclslr-old --json before.json"""


class _Poses:
    """A clip of keypoints."""

    def load(self) -> RawClip:
        points = np.random.default_rng(0).uniform(0, 64, (FRAMES, 133, 3)).astype(np.float32)
        return RawClip(None, points, 25.0)


def make_set(folder: Path, clips: int) -> float:
    """Write the data set; returns the seconds that its index took."""
    options = PackOptions(crop="none")
    clip = pack_clip(ManifestRow("clip", _Poses(), 0, "sign", "train", "signer"), _Poses().load(), options)
    folder.mkdir(parents=True)
    with open_shard(folder, "one.tar") as (writer, shard):
        writer.add(clip)
    components = {"mp4": (512, 900, zlib.crc32(b"")), **_places(shard)}  # of H.264 clips; the video is never read
    names = [f"shard-{number:05d}.tar" for number in range(-(-clips // PER_SHARD))]
    for name in names:
        os.link(folder / "one.tar", folder / name)
    began = time.perf_counter()
    shards = (
        ShardFile(name, shard.bytes, shard.sha256, _rows(name, first, min(PER_SHARD, clips - first), components))
        for name, first in zip(names, range(0, clips, PER_SHARD), strict=True)
    )
    rest = {"codec": "h264", "size": 64, "crop": "none", "quality": None, "masks": None}
    finish(folder, shards, [f"sign {number}" for number in range(CLASSES)], rest)
    return time.perf_counter() - began


def _places(shard: ShardFile) -> dict[str, tuple[int, int, int]]:
    (parts,) = shard.table["components"].to_pylist()
    return {part["name"]: (part["offset"], part["size"], part["crc32"]) for part in parts}


def _rows(shard: str, first: int, count: int, components: dict[str, tuple[int, int, int]]) -> pa.Table:
    numbers = np.arange(first, first + count)
    places = np.array([list(place) for place in components.values()])
    each = [np.tile(places[:, column], count) for column in range(3)]
    parts = pa.StructArray.from_arrays(
        [
            pa.array(list(components) * count, pa.string()),
            pa.array(each[0], pa.int64()),
            pa.array(each[1], pa.int64()),
            pa.array(each[2].astype(np.uint32), pa.uint32()),
        ],
        ["name", "offset", "size", "crc32"],
    )
    ends = pa.array(np.arange(count + 1) * len(components), pa.int32())
    keys = pc.binary_join_element_wise("clip", pc.cast(pa.array(numbers), pa.string()), "_")
    values = {
        "key": keys,
        "shard": pa.array([shard] * count),
        "label": pa.array(numbers % CLASSES, pa.int32()),
        "split": pa.array(np.array(["train"] * 8 + ["val", "test"])[numbers % 10]),
        "signer": pc.binary_join_element_wise("signer", pc.cast(pa.array(numbers % SIGNERS), pa.string()), ""),
        "num_frames": pa.array(np.full(count, FRAMES), pa.int32()),
        "width": pa.array(np.full(count, 64), pa.int32()),
        "height": pa.array(np.full(count, 64), pa.int32()),
        "fps": pa.array(np.full(count, 25.0)),
        "components": pa.ListArray.from_arrays(ends, parts),
        "frame_offsets": pa.array([[]] * count, pa.list_(pa.int64())),
    }
    return pa.table(values).cast(SCHEMA)


def measure(folder: Path, ranks: int, batch: int, checkout: Path, cold: bool) -> list[dict[str, Any]]:
    """What one round took on each rank."""
    if cold:
        for name in (COLUMNS_NAME, INDEX_NAME):
            if (folder / name).exists():
                with open(folder / name, "rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-P", str(index_rank.__file__), str(folder), str(batch)]
    running = [
        subprocess.Popen([*program, str(r), str(ranks)], stdin=-1, stdout=-1, text=True, env=environment)
        for r in range(ranks)
    ]
    found = []
    for step in ("ready", "measured"):
        for process in running:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise UserError(f"a rank of {checkout} ended before it was {step}; its error stands above")
            if step == "measured":
                found.append(json.loads(line))
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
    for process in running:
        process.communicate()
    return found


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("folder", type=Path, help="of the data set; made where it is not there")
    parser.add_argument("--clips", type=int, default=1_000_000, help="of a set that is made (default 1,000,000)")
    parser.add_argument("--ranks", type=int, default=1, help="processes that open it at once (default 1)")
    parser.add_argument("--batch", type=int, default=64, help="clips of a rank's batch (default 64)")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--cold", action="store_true", help="drop the index from the page cache before each round")
    here = Path(cclslr.__file__).parents[1]
    parser.add_argument("--checkout", type=Path, default=here, metavar="DIR", help="of the program that is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    args = parser.parse_args(argv)

    result: dict[str, Any] = {"command": " ".join(["cclslr bench index", *(sys.argv[1:] if argv is None else argv)])}
    folder = args.folder.resolve()
    if not (folder / INFO_NAME).exists():
        result["index_written_s"] = make_set(folder, args.clips)
        console.print(f"the index was written in {result['index_written_s']:.1f} s")
    sizes = {name: (folder / name).stat().st_size for name in (INDEX_NAME, COLUMNS_NAME) if (folder / name).exists()}
    result |= {"environment": describe(), "bytes": sizes, "ranks": args.ranks, "batch": args.batch, "rounds": []}
    for _ in range(args.rounds):
        result["rounds"].append(measure(folder, args.ranks, args.batch, args.checkout.resolve(), args.cold))
    clips = result["rounds"][0][0]["clips"]
    table = Table(title=f"{clips:,} clips of the split, {args.ranks} ranks, {args.rounds} rounds", title_justify="left")
    for column in ("of a rank", "median", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "of a rank" else "right")
    for step in ("open", "plan", "batch"):
        for name in (f"{step}_s", f"{step}_cpu_s"):
            _add(table, name, [rank[name] for ranks in result["rounds"] for rank in ranks])
    for name in ("anonymous_open", "anonymous_end", "anonymous_peak", "mapped", "share"):
        _add(table, f"{name}, MB", [rank[name] / 1e6 for ranks in result["rounds"] for rank in ranks])
    _add(table, "share of all ranks, MB", [sum(rank["share"] for rank in ranks) / 1e6 for ranks in result["rounds"]])
    console.print(table)
    if args.json is not None:
        write_json(args.json, result)


def _add(table: Table, name: str, values: list[float]) -> None:
    table.add_row(name, *(f"{value:,.3f}" for value in (statistics.median(values), min(values), max(values))))
