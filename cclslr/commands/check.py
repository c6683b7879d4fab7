"""Check a packed data set: checksums, structure, every clip.

Every checksum, the tars' structure and the stock index, the .beton; with --decode every clip as well.
"""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.data.beton import BETON_NAME, check_beton
from cclslr.errors import ExitCode
from cclslr.shards.executor import run_tasks
from cclslr.shards.verify import check_shard, plan_checks

GROUP, PLACE = "data", 5

EXAMPLES = """\
examples:
  cclslr check shards/demo
  cclslr check shards/wlasl300 --decode --workers 8

The exit code is 3 where anything is wrong.
"""
SHOWN = 50  # faults printed


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", metavar="DIR", help="folder of the packed data set")
    parser.add_argument("--decode", action="store_true", help="decode every clip too")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="dask.distributed scheduler to use instead")
    args = parser.parse_args(argv)

    tasks, faults = plan_checks(args.shards, args.decode)
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
    if Path(args.shards, BETON_NAME).exists():
        faults += check_beton(args.shards)
    checks.sort(key=lambda check: check.name)
    table = Table(title=args.shards, title_justify="left")
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
