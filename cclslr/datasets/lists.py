"""What the importers share: reading lists that people edited, and a ledger that loses no row.

Each row of a list ends in exactly one of four places: a clip to pack, a missing file, a duplicate, or a rejection with
its reason. `Ledger.finish` checks the sum.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard
from unicodedata import normalize

from cclslr.datasets.base import Import, ImportReport
from cclslr.datasets.media import Files
from cclslr.errors import UserError
from cclslr.shards.format import SPLITS, ClipSource, ManifestRow


def clean_key(text: str) -> str:
    """A shard key for `text`: other characters than letters, digits, `_`, `-` become `_`, and a checksum tells apart
    what would then look the same (CASÉ and CASÈ)."""
    key = re.sub(r"[^A-Za-z0-9_-]", "_", text)
    return key if key == text else f"{key}-{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def is_int(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is a whole number; `true` is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number; JSON as written by Python may hold NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a UTF-8 text file that are not blank, with their numbers in the file, from 1; no blanks around them.

    Raises:
        UserError: another encoding, or no file; the message names it.
    """
    return [(number, line.strip()) for number, line in _raw_lines(path)]


def _raw_lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); convert it first") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def read_lines(path: Path) -> list[str]:
    """The same without the numbers."""
    return [line for _, line in numbered_lines(path)]


def read_table(
    path: Path, columns: Sequence[str], ledger: Ledger, delimiter: str = ","
) -> list[tuple[str, dict[str, str]]]:
    """The rows of a table with a header, each with its file and line; a row that cannot be read is rejected.

    Columns are found by name, in any order and case. Cells stay texts as they are written, but for blanks around them
    and the form of accents (NFC). A row is one line: a quote that is never closed spoils no other row.

    Args:
        columns: names, in lower case, that the header has to have.

    Raises:
        UserError: no file, no text, or a header without those columns.
    """
    lines = _raw_lines(path)
    header = [name.lower() for name in _cells(lines[0][1], delimiter) or []] if lines else []
    absent = [name for name in columns if header.count(name) != 1]
    if absent:
        raise UserError(f"{path}: the header is {header}; it needs {', '.join(columns)}, each once")
    rows = []
    for number, line in lines[1:]:
        where, cells = f"{path.name}, line {number}", _cells(line, delimiter)
        if cells is None or len(cells) != len(header):
            found = "quotes that do not close" if cells is None else f"{len(cells)} cells"
            ledger.reject(where, f"{found}, where the header has {len(header)} columns")
        else:
            rows.append((where, dict(zip(header, cells))))
    return rows


def _cells(line: str, delimiter: str) -> list[str] | None:
    try:
        return [normalize("NFC", cell.strip()) for cell in next(csv.reader([line], delimiter=delimiter, strict=True))]
    except (csv.Error, StopIteration):
        return None


def split_lists(folder: Path, names: Mapping[str, tuple[str, ...]], ledger: Ledger) -> list[tuple[str, Path]]:
    """The list of each split: the first of its names that is in the folder; which were taken is said in the report.

    Raises:
        UserError: there is none.
    """
    chosen: list[tuple[str, Path]] = []
    for split, candidates in names.items():
        path = next((folder / name for name in candidates if (folder / name).is_file()), None)
        if path is None:
            ledger.notes.append(f"none of {', '.join(candidates)} is there: no {split} clips")
        else:
            chosen.append((split, path))
    if not chosen:
        raise UserError(f"{folder}: none of {', '.join(sum(names.values(), ()))} is in it")
    ledger.conventions["lists"] = ", ".join(path.name for _, path in chosen)
    return chosen


@dataclass
class Ledger:
    """Books every row of a list once and writes the report."""

    rows: list[ManifestRow] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    splits: Counter[str] = field(default_factory=Counter)
    test_labels: set[int] = field(default_factory=set)
    seen: dict[str, tuple[str, int | None, str | None]] = field(default_factory=dict)  # key → where first, label, split
    contradictions: list[str] = field(default_factory=list)  # duplicates that say another label or split
    notes: list[str] = field(default_factory=list)
    conventions: dict[str, str] = field(default_factory=dict)

    def reject(self, where: str, reason: str) -> None:
        """Book a row that cannot be used."""
        self.rejected.append(f"{where}: {reason}")

    def count(self, split: str, label: int) -> None:
        """Count a readable row of the chosen sub-split, whatever becomes of it; counts are compared with published
        ones, so missing files and duplicates are in them."""
        assert split in SPLITS
        self.splits[split] += 1
        if split == "test":
            self.test_labels.add(label)

    def repeats(self, key: str, where: str, label: int | None = None, split: str | None = None) -> bool:
        """Book the row as a duplicate if its key was seen before; note if it then had another label or split."""
        first, first_label, first_split = self.seen.setdefault(key, (where, label, split))
        if first == where:
            return False
        differs = [
            name for name, one, other in (("label", label, first_label), ("split", split, first_split)) if one != other
        ]
        line = f"{where}: repeats {first}{' with another ' + ' and '.join(differs) if differs else ''}"
        self.duplicates.append(line)
        if differs:
            self.contradictions.append(line)
        return True

    def add(
        self, key: str, source: ClipSource, label: int, gloss: str | None, split: str, signer: str | None = None
    ) -> None:
        """Book a clip whose files are there."""
        self.rows.append(ManifestRow(key, source, label, gloss, split, signer))

    def finish(self, total: int, classes: list[str]) -> Import:
        """The import; `total` is how many rows of the list had to be booked."""
        booked = len(self.rows) + len(self.missing) + len(self.duplicates) + len(self.rejected)
        assert booked == total, f"{total} rows in the list, {booked} booked"
        without_test = [gloss for label, gloss in enumerate(classes) if label not in self.test_labels]
        here = {row.label for row in self.rows if row.split == "test"}
        unseen = len(self.test_labels - here)
        if unseen and self.rows:
            self.notes.append(f"{unseen} classes have test clips in the list, but none of their files is here")
        if self.contradictions:
            shown = "; ".join(self.contradictions[:3]) + ("; …" if len(self.contradictions) > 3 else "")
            self.notes.append(f"{len(self.contradictions)} clips contradict an earlier row, which counts: {shown}")
        report = ImportReport(
            rows=total,
            splits={split: self.splits[split] for split in SPLITS},
            classes=len(classes),
            found=len(self.rows),
            missing=self.missing,
            duplicates=self.duplicates,
            conventions=self.conventions,
            classes_without_test=without_test if self.splits["test"] else [],
            notes=self.notes,
            rejected=self.rejected,
        )
        return Import(self.rows, classes, report)

    def note_files(self, files: Files | None) -> None:
        """Note what lies beside the files that were looked for, and that a bare name stands for several."""
        if files is None:
            return
        depth = sum(path.stem.endswith("_depth") for path in files.paths)
        if depth:
            self.notes.append(f"{depth:,} depth videos beside the colour ones are ignored")
        self.note_skipped(files)
        self.note_repeated(files)

    def note_skipped(self, files: Files) -> None:
        """Note what a walk passed over."""
        if files.others:
            kinds = ", ".join(f"{suffix or 'no ending'} ({count:,})" for suffix, count in files.others.most_common(6))
            self.notes.append(f"{files.others.total():,} files of other kinds are not taken: {kinds}")
        if files.skipped:
            self.notes.append(
                f"{len(files.skipped):,} hidden or system files and folders, or links that lead back, are passed over,"
                f" e.g. {files.skipped[0]}"
            )

    def note_repeated(self, files: Files | None) -> None:
        """Note that a bare name stands for several files: cut and uncut copies in one folder, say."""
        if files is not None and files.repeated:
            self.notes.append(
                f"{files.repeated} file names occur in several folders of {files.folder}; the first in alphabetical "
                "order counts"
            )

    def compare(self, published: dict[str, int], name: str, explanation: str = "The list was edited") -> None:
        """Note whether the counts of the list are the published ones."""
        counts = {split: self.splits[split] for split in SPLITS}
        shown = " / ".join(f"{split} {counts[split]:,}" for split in SPLITS if counts[split] or published[split])
        if counts == published:
            self.notes.append(f"{name}: {shown}, as published")
            return
        expected = " / ".join(f"{split} {published[split]:,}" for split in SPLITS if published[split])
        self.notes.append(
            f"{name}: the list has {shown}; published: {expected}. {explanation or 'The list was edited'}"
        )
