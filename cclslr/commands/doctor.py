"""What this machine has, what will be used, and what is missing.

Ends with what is worth changing, each with the line that does it. The same facts lie in every run folder as
environment.json, and in the JSON of every benchmark.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text

from cclslr.cli import command_parser
from cclslr.codecs import codecs
from cclslr.config import DataConfig, PretrainConfig, ViewConfig, load_config
from cclslr.console import console
from cclslr.data.placement import backend_name
from cclslr.environment import DALI, Advice, advice, describe, disk_rate
from cclslr.models.precision import Precision
from cclslr.poses import backends

GROUP, PLACE = "measuring", 1

EXAMPLES = """examples:
  cclslr doctor
  cclslr doctor --disk /data/shards        how fast that folder's disk reads clips
  cclslr doctor --json > machine.json
  cclslr doctor --shards shards/mine --config configs/pretrain.yaml    which way to make views trains fastest here
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("--disk", type=Path, default=Path(), metavar="DIR", help="its rate is measured (default .)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--shards", metavar="DIR", help="also measure, for 20 s, each way to make views of this data set"
    )
    parser.add_argument("--config", metavar="FILE", help="of the pre-training that is measured with --shards")
    args = parser.parse_args(argv)

    about = describe()
    try:
        about["disk"] = dataclasses.asdict(disk_rate(args.disk))
    except OSError as error:
        about["disk"] = {"folder": str(args.disk), "error": str(error)}
    about["used"], found = used(about), advice(about)
    about["advice"] = [dataclasses.asdict(item) for item in found]
    measured = None
    if args.shards is not None:
        about["placements"], measured = placements(args.shards, args.config)
    if args.json:
        print(json.dumps(about, indent=2, ensure_ascii=False))
        return 0
    console.print(_table("This machine", machine_rows(about)))
    console.print(_table("Software", software_rows(about)))
    console.print(_table("What will be used, if the config leaves it to auto", list(about["used"].items())))
    console.print(_table("Who decodes a codec", decoder_rows(about)))
    if measured is not None:
        console.print(measured)
    show_advice(found)
    return 0


def placements(shards: str, config: str | None) -> tuple[list[dict[str, Any]], Table]:
    """What `cclslr bench placement` measures: rows as plain dicts, and its table."""
    from cclslr.bench.placement import measure_placements  # brings the training code
    from cclslr.training.backend_choice import SECONDS, fastest, table

    cfg = load_config(PretrainConfig, config, [f"data.shards=[{shards}]"])
    rows = measure_placements(cfg, SECONDS)
    return [dataclasses.asdict(row) for row in rows], table(rows, fastest(rows))


def used(about: dict[str, Any]) -> dict[str, str]:
    """What the defaults of a training run come to on this machine."""
    data, gpu = DataConfig(), bool(about["gpus"])
    device = "gpu" if gpu else "cpu"
    backend = backend_name(data, [ViewConfig().size], device)
    decoder = "DALI: nvJPEG, NVDEC" if gpu else "libjpeg-turbo" if about["libjpeg_turbo"] else "libavcodec"
    return {
        "model on": f"{len(about['gpus'])} GPU(s)" if gpu else "the CPU",
        "data.backend": backend,
        "data.device": device,
        "JPEG decoded by": decoder,
        "run.amp": Precision("auto", torch.device("cuda" if gpu else "cpu")).name,
        "data.workers": f"{data.workers} a rank, of {about['cores']} cores for {max(1, len(about['gpus']))} rank(s)",
    }


def machine_rows(about: dict[str, Any]) -> list[tuple[str, str]]:
    disk = about["disk"]
    rate = disk.get("error") or (
        f"reads {disk['read_gb_s']:g} GB/s, in {disk['reads_per_second']:,.0f} reads of 256 kB; "
        f"writes {disk['write_gb_s']:g} GB/s"
    )
    rows = [
        ("CPU", f"{about['cpu']}, {about['cores']} cores, load {about['load']:g}"),
        ("memory", f"{_number(about['memory_gb'])} GB, {_number(about['memory_free_gb'])} to be had"),
        ("page cache", f"{_number(about['page_cache_gb'])} GB of files are in it"),
        (f"disk of {disk['folder']}", rate),
        ("open files", f"{about['open_files']:,} a process"),
    ]
    for name, size in zip(about["gpus"], about["gpu_memory_gb"]):
        rows.append(("GPU", f"{name}, {size:g} GB"))
    return rows if about["gpus"] else [*rows, ("GPU", "none")]


def software_rows(about: dict[str, Any]) -> list[tuple[str, str]]:
    versions = about["versions"]
    dali = next((f"{versions[name]} ({name})" for name in DALI if name in versions), None)
    rows = [
        ("Python", about["python"]),
        ("torch", f"{versions['torch']}, CUDA {about['cuda'] or 'none'}, cuDNN {about['cudnn'] or 'none'}"),
        ("NVIDIA driver", about["driver"]),
        ("DALI", dali or "none: pip install 'cclslr[cuda130]', or cuda120"),
        ("numba", versions.get("numba")),
        ("FFmpeg in PyAV", f"{about['ffmpeg']} (PyAV {versions['av']})"),
        ("video, a clip in one call", "yes" if about["ffmpeg_direct"] else "no, frame by frame"),
        ("libjpeg-turbo", "there" if about["libjpeg_turbo"] else "none: apt-get install libturbojpeg0"),
        ("FFCV", versions.get("ffcv") or "none: make setup-ffcv; only data.backend=ffcv needs it"),
    ]
    for backend in backends().values():
        packages = [item.partition("==")[0].partition("[")[0] for item in backend.packages.split()]
        have = [f"{name} {versions[name]}" for name in packages if name in versions]
        rows.append((f"poses by {backend.name}", ", ".join(have) or f"none: pip install {backend.packages}"))
    rows.append(("remote shards", "s3fs, gcsfs" if "s3fs" in versions else "none: pip install 'cclslr[remote]'"))
    return [(name, value or "none") for name, value in rows]


def decoder_rows(about: dict[str, Any]) -> list[tuple[str, str]]:
    """For every codec, what decodes it here: the CPU's own way always, DALI where it can."""
    versions, rows = about["versions"], []
    for codec in codecs().values():
        ways = ["numba or libav on the CPU"]
        if any(name in versions for name in DALI):
            ways += ["DALI on the CPU"] if codec.dali_cpu else []
            ways += ["DALI on the GPU"] if codec.dali_gpu and about["gpus"] else []
        rows.append((codec.name, "; ".join(ways)))
    return rows


def show_advice(found: list[Advice]) -> None:
    """Each in its own lines; the command on a line of its own, to be copied."""
    if not found:
        console.print("Nothing to change.", style="green")
    for item in found:
        console.print(Text.assemble(("! ", "bold yellow"), item.what))
        console.print(Text(f"    {item.do}", "bold"), soft_wrap=True)


def _table(title: str, rows: list[tuple[str, str]]) -> Table:
    width = min(console.width, shutil.get_terminal_size().columns)
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=box.SIMPLE, width=width)
    table.add_column(min_width=16, no_wrap=True)
    table.add_column(ratio=1)
    for name, value in rows:
        table.add_row(Text(name), Text(str(value)))
    return table


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"
