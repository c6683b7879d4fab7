"""A table of your own: a CSV file with a row a clip."""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path
from unicodedata import normalize

from cclslr.datasets.base import Import, Importer, VideoFile
from cclslr.datasets.folder import SPLIT_NAMES, add_split_arguments, note_wants, split_of
from cclslr.datasets.lists import Ledger, clean_key, numbered_lines
from cclslr.errors import UserError
from cclslr.shards.format import KEY_PATTERN, SPLITS, ManifestRow

COLUMNS = (
    "key", "video", "pose", "label", "gloss", "split", "signer", "start_frame", "end_frame", "start_seconds",
    "end_seconds", "fps",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack csv`."""
    parser.add_argument(
        "source",
        metavar="FILE",
        help=f"CSV with a header; columns: {', '.join(COLUMNS)}. Needed: video or pose, and label (a number from 0, or"
        " a word). Spans are half open, frames count from 0; paths are relative to the file's folder",
    )
    add_split_arguments(parser)


def load(args: argparse.Namespace) -> Import:
    """Read the table; every row becomes a clip, a missing file, a duplicate or a rejection.

    Raises:
        UserError: no such file, or a header that is none of this table.
    """
    path = Path(args.source)
    lines = numbered_lines(path)
    reader = csv.reader([line for _, line in lines], strict=True)
    try:
        table = list(reader)
        # A row may go over several lines; it is called by its last.
        reader = csv.reader([line for _, line in lines], strict=True)
        numbers = [lines[reader.line_num - 1][0] for _ in reader]
    except csv.Error as error:
        raise UserError(f"{path}: no CSV ({error})") from error
    if not table:
        raise UserError(f"{path} is empty")
    header = [name.strip().lower() for name in table[0]]
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or len(set(header)) != len(header) or not {"video", "pose"} & set(header):
        raise UserError(f"{path}: the header is {header}; known columns are {', '.join(COLUMNS)}, each once")
    ledger = Ledger()
    rows = [dict(zip(header, (normalize("NFC", cell.strip()) if name in ("label", "gloss") else cell.strip()
                              for name, cell in zip(header, cells)))) for cells in table[1:]]  # fmt: skip
    words = {row.get("label", "") for row in rows} - {""}
    numbered = all(word.isascii() and word.isdecimal() and len(word) < 8 for word in words)
    if numbered:
        glosses = {int(row["label"]): row["gloss"] for row in reversed(rows) if row.get("label") and row.get("gloss")}
        count = max(map(int, words), default=-1) + 1
        if count > 2 * len(words) + 1000:
            raise UserError(f"{path}: {len(words)} labels reach up to {count - 1}; number them from 0 without gaps")
        classes = [glosses.get(label, str(label)) for label in range(count)]
    else:
        classes = sorted(words)
    ledger.conventions["labels"] = "numbers" if numbered else "words, numbered in alphabetical order"
    labels = {str(label) if numbered else gloss: label for label, gloss in enumerate(classes)}
    again: list[str] = []  # rows that say the clip of another row, under another key
    clips_seen: dict[str, tuple[str, ManifestRow]] = {}
    for number, cells, row in zip(numbers[1:], table[1:], rows, strict=True):
        where = f"{path.name} row {number}"
        if len(cells) != len(header):
            ledger.reject(where, f"{len(cells)} cells, the header has {len(header)}")
            continue
        try:
            clip = _clip(row, path.parent, labels, classes, numbered, args)
        except ValueError as error:
            ledger.reject(where, str(error))
            continue
        if ledger.repeats(clip.key, where, clip.label, clip.split):
            continue
        first, twin = clips_seen.setdefault(repr(clip.source), (where, clip))
        if twin is not clip:
            differs = ["label"] * (clip.label != twin.label) + ["split"] * (clip.split != twin.split)
            again.append(f"{where} is {first}{' with another ' + ' and '.join(differs) if differs else ''}")
        ledger.splits[clip.split] += 1
        if clip.label is not None and clip.split == "test":
            ledger.test_labels.add(clip.label)
        assert isinstance(clip.source, VideoFile)
        gone = [file for file in (clip.source.path, clip.source.pose) if file is not None and not Path(file).is_file()]
        if gone:
            ledger.missing.append(gone[0])
        else:
            ledger.rows.append(clip)
    if again:
        ledger.notes.append(f"{len(again)} clips are in the table under two keys: {'; '.join(again[:3])}")
    if len(set(classes)) < len(classes):
        twice = sorted(gloss for gloss, count in Counter(classes).items() if count > 1)
        ledger.notes.append(f"{len(twice)} glosses are those of several labels: {', '.join(twice[:5])}")
    note_wants(ledger, "or fill in the column split")
    return ledger.finish(len(rows), classes)


def _clip(
    row: dict[str, str], folder: Path, labels: dict[str, int], classes: list[str], numbered: bool,
    args: argparse.Namespace,
) -> ManifestRow:  # fmt: skip
    video, pose = row.get("video"), row.get("pose")
    if not video and not pose:
        raise UserError("neither video nor pose")
    if "\0" in f"{video}{pose}":
        raise UserError("a path holds a zero byte")
    frames, seconds = _span(row, "frame", int), _span(row, "seconds", float)
    if frames and seconds:
        raise UserError("a span in frames and one in seconds; give one")
    span = frames or seconds
    key = row.get("key") or clean_key(
        str(Path(video or pose or "").with_suffix("")) + (f"_{span[0]}_{span[1]}" if span else "")
    )
    if not KEY_PATTERN.fullmatch(key):
        raise UserError(f"the key is {key!r}; use letters, digits, _ and -")
    word = row.get("label") or None
    if word is not None and numbered:
        word = str(int(word))
    label = None if word is None else labels[word]
    split = row.get("split") or split_of(key, args)
    split = SPLIT_NAMES.get(split.casefold(), split)
    if split not in SPLITS:
        raise UserError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    fps = _number(row, "fps", float)
    source = VideoFile(
        (video and str(folder / video)) or None,
        (pose and str(folder / pose)) or None,
        frames=frames and (int(frames[0]), None if frames[1] is None else int(frames[1])),
        seconds=seconds,
        fps=25.0 if fps is None else fps,
    )
    return ManifestRow(key, source, label, None if label is None else classes[label], split, row.get("signer") or None)


def _number(row: dict[str, str], name: str, kind: type[int] | type[float]) -> float | None:
    text = row.get(name)
    if not text:
        return None
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}, not a number") from None
    if not 0 <= value < 1e9:
        raise UserError(f"{name} is {text}, out of range")
    return value


def _span(row: dict[str, str], unit: str, kind: type[int] | type[float]) -> tuple[float, float | None] | None:
    start, end = _number(row, f"start_{unit}", kind), _number(row, f"end_{unit}", kind)
    if start is None and end is None:
        return None
    if end is not None and end <= (start or 0):
        raise UserError(f"the span {start} to {end} is empty")
    return (start or 0, end)


IMPORTER = Importer("csv", "a CSV file with a row a clip: video, pose, label, split, signer, span", add_arguments, load)
