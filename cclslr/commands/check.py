"""Check a packed data set: checksums, structure, every clip, leaks.

Every checksum, the tars' structure and the stock index, the .beton; with --decode every clip as well. With --leaks,
instead: which clips of different splits, of one or of several data sets, are the same take: trimmed, encoded again,
resized or mirrored. They are found by their bytes, by the motion in their frames and by their keypoints. Signers that
are in train and in test are said.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.data.beton import BETON_NAME, check_beton
from cclslr.errors import ExitCode, UserError
from cclslr.files import atomic_write
from cclslr.shards.executor import run_tasks
from cclslr.shards.leak_search import search_packed, shared_signers
from cclslr.shards.verify import check_shard, plan_checks

GROUP, PLACE = "data", 5

EXAMPLES = """\
examples:
  cclslr check shards/demo
  cclslr check shards/wlasl300 --decode --workers 8
  cclslr check s3://bucket/wlasl300 --workers 8        every byte is fetched
  cclslr check --leaks shards/wlasl2000 shards/msasl1000 --out leaks.csv

The exit code is 3 where anything is wrong.
"""
SHOWN = 50  # faults printed


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", nargs="+", metavar="DIR|URL", help="a packed data set; several with --leaks")
    parser.add_argument("--leaks", action="store_true", help="look for the same take in two splits")
    parser.add_argument("--out", metavar="FILE", help="with --leaks: write all of them as CSV")
    parser.add_argument("--decode", action="store_true", help="decode every clip too")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="dask.distributed scheduler to use instead")
    args = parser.parse_args(argv)
    if args.leaks:
        return check_leaks(args.shards, args.out, args.workers, args.scheduler)
    if len(args.shards) > 1 or args.out:
        raise UserError("without --leaks one data set is checked, and nothing written")
    folder = args.shards[0]

    tasks, faults = plan_checks(folder, args.decode)
    checks = list(
        run_tasks(
            check_shard,
            tasks,
            workers=args.workers,
            scheduler=args.scheduler,
            description="checking",
            sizes=[len(task.numbers) for task in tasks],
        )
    )
    if Path(folder, BETON_NAME).exists():
        faults += check_beton(folder)
    checks.sort(key=lambda check: check.name)
    table = Table(title=folder, title_justify="left")
    for column in ("shard", "clips", "MB", "state"):
        table.add_column(column, justify="right" if column in ("clips", "MB") else "left")
    for check in checks:
        state = Text(f"{len(check.faults)} faults", "red") if check.faults else Text("good", "green")
        table.add_row(check.name, f"{check.clips:,}", f"{check.bytes / 1e6:,.1f}", state)
        faults += check.faults
    table.add_section()
    table.add_row("all", f"{sum(c.clips for c in checks):,}", f"{sum(c.bytes for c in checks) / 1e6:,.1f}", "")
    console.print(table)
    for fault in faults[:SHOWN]:
        console.print(Text(fault.shard, "red"), fault.key, fault.what, soft_wrap=True)
    if len(faults) > SHOWN:
        console.print(f"… and {len(faults) - SHOWN} more")
    console.print(f"{len(faults)} faults" if faults else "nothing is wrong")
    return ExitCode.SOME_BAD if faults else ExitCode.DONE


def check_leaks(folders: list[str], out: str | None, workers: int, scheduler: str | None) -> int:
    """Say which clips of different splits are one take, and which signers are on both sides."""
    search = search_packed(folders, workers, scheduler)
    lines = [search.line(leak) for leak in search.leaks]
    for line in lines[:SHOWN]:
        console.print(Text(line, "red"), soft_wrap=True)
    if len(lines) > SHOWN:
        console.print(f"… and {len(lines) - SHOWN} more")
    if out is not None:
        with atomic_write(out, "w") as file:
            writer = csv.writer(file)
            writer.writerow(("split", "clip", "other_split", "other_clip", "by", "agreement", "mirrored"))
            for leak in search.leaks:
                first, second = search.pair(leak)
                found = (leak.kind, f"{leak.agreement:.3f}", leak.mirrored)
                writer.writerow((first.split, first.name, second.split, second.name, *found))
    signers = [(folder, shared_signers(search.of(folder, folders))) for folder in folders]
    for folder, shared in signers:
        if shared:
            shown = ", ".join(shared[:8]) + (", …" if len(shared) > 8 else "")
            console.print(
                f"{folder}: {len(shared)} signers train and are tested or validated on: {shown}", soft_wrap=True
            )
    if search.unread:
        console.print(f"{len(search.unread)} clips do not decode, e.g. {search.unread[0]}: cclslr check --decode")
    if search.still:
        console.print(f"{search.still:,} clips are too short or too still for anything but their bytes")
    kinds = Counter(leak.kind for leak in search.leaks)
    by = ", ".join(f"{count} by {kind}" for kind, count in sorted(kinds.items()))
    console.print(f"{len(lines)} leaks in {len(search.clips):,} clips" + (f": {by}" if lines else ""))
    return ExitCode.SOME_BAD if lines or search.unread else ExitCode.DONE
