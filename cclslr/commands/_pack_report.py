"""What `cclslr pack` says: the report before it begins, what the whole will take, and what came of it."""

from __future__ import annotations

import time

from rich.table import Table

from cclslr.console import console, roughly
from cclslr.datasets.base import Import
from cclslr.errors import ExitCode
from cclslr.shards.clip import PackOptions, pack_clip
from cclslr.shards.describe import smaller_lines
from cclslr.shards.format import BadClip
from cclslr.shards.pack import PackReport
from cclslr.shards.rejections import REJECTED_NAME, Rejected, in_lines

NO_ESTIMATE: dict[str, int | None] = {"estimated_bytes": None, "estimated_seconds": None}


def estimate_cost(found: Import, options: PackOptions, workers: int) -> dict[str, int | None]:
    """Bytes and seconds of the whole, from a few clips packed for trial; None where none of them works."""
    rows, sizes = found.rows, []
    began = time.perf_counter()
    for row in [rows[len(rows) * number // 4] for number in (1, 2, 3)] if rows else []:
        try:
            sizes.append(sum(map(len, pack_clip(row, row.source.load(), options).parts.values())))
        except BadClip:
            continue  # packing will name it
    if not sizes:
        return NO_ESTIMATE
    each = (time.perf_counter() - began) / len(sizes)
    return {
        "estimated_bytes": round(sum(sizes) / len(sizes) * len(rows)),
        "estimated_seconds": round(each * len(rows) / workers),
    }


def show_report(importer: str, found: Import, estimate: dict[str, int | None]) -> None:
    """Print what the importer found."""
    report = found.report
    table = Table(title=importer, show_header=False, title_justify="left")
    table.add_row("clips in the list", f"{report.rows:,}")
    for split, count in report.splits.items():
        table.add_row(f"  {split}", f"{count:,}")
    table.add_row("classes", f"{report.classes:,}")
    table.add_row("found", f"{report.found:,}")
    table.add_row("missing", f"{len(report.missing):,}")
    table.add_row("duplicates", f"{len(report.duplicates):,}")
    table.add_row("rejected", f"{len(report.rejected):,}")
    if report.classes_without_test:
        table.add_row("classes without a test clip", ", ".join(report.classes_without_test[:10]))
    for name, convention in report.conventions.items():
        table.add_row(name, convention)
    size, seconds = estimate["estimated_bytes"], estimate["estimated_seconds"]
    if size is not None and seconds is not None:
        table.add_row("estimated size, time", f"{human_bytes(size)}, {roughly(seconds)}")
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)


def human_bytes(count: float) -> str:
    """A size as people say it: 820 kB, 3.4 GB."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min(len(units) - 1, max(0, len(str(int(count))) - 1) // 3)
    value = count / 1000**power
    return f"{value:.0f} {units[power]}" if power == 0 or value >= 100 else f"{value:.1f} {units[power]}"


def show_rejected(rejected: list[Rejected]) -> None:
    """Print why clips were rejected, with what to do."""
    for line in in_lines(rejected):
        console.print(line, soft_wrap=True)


def show_smaller(result: PackReport) -> None:
    """Print what smaller sizes cost."""
    for line in smaller_lines(result.bytes_by_component):
        console.print(line, soft_wrap=True)


def show_reused(result: PackReport) -> None:
    """Print how much of it was there before."""
    if result.shards_reused:
        console.print(f"{result.shards_reused} shards were already there")


def show_result(result: PackReport, out: str) -> int:
    """Print what was packed, and what was not; the exit code of the command."""
    show_rejected(result.rejected)
    show_smaller(result)
    rejected = len(result.rejected)
    reasons = f", {rejected} rejected, see {out.rstrip('/')}/{REJECTED_NAME}" if rejected else ", none rejected"
    console.print(f"{result.clips:,} clips packed in {len(result.info['shards'])} shards{reasons}", soft_wrap=True)
    return ExitCode.SOME_BAD if rejected else ExitCode.DONE
