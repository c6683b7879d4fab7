"""Write the card of a packed data set, in Markdown and on screen."""

from __future__ import annotations

from pathlib import Path

from rich.markdown import Markdown

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.errors import ExitCode
from cclslr.files import atomic_write
from cclslr.shards.describe import CARD_NAME, Statistics, card, collect_statistics, plan_statistics
from cclslr.shards.executor import run_tasks
from cclslr.shards.reader import ShardSet

GROUP, PLACE = "data", 8

EXAMPLES = """\
examples:
  cclslr describe shards/demo                          writes shards/demo/CARD.md
  cclslr describe shards/wlasl300 --workers 8 --out docs/wlasl300.md
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", metavar="DIR", type=Path, help="folder of the packed data set")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default DIR/{CARD_NAME}")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    args = parser.parse_args(argv)

    shards = ShardSet([str(args.shards)])
    tasks = plan_statistics(args.shards)
    found = Statistics()
    for part in run_tasks(
        collect_statistics,
        tasks,
        workers=args.workers,
        description="reading",
        sizes=[len(task.clip_ids) for task in tasks],
    ):
        found.merge(part)
    text = card(args.shards.resolve().name, shards, found)
    with atomic_write(args.out or args.shards / CARD_NAME, "w") as file:
        file.write(text)
    console.print(Markdown(text))
    return ExitCode.SOME_BAD if found.bad else ExitCode.DONE
