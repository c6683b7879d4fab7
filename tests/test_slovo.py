"""Slovo: published counts, columns in another order, without begin and end; trimmed and original videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from importing import load, make

from cclslr.datasets.base import VideoFile

HEADER = ("attachment_id", "user_id", "width", "height", "length", "text", "train", "begin", "end")
ORDERS = (HEADER, tuple(reversed(HEADER)), ("", *HEADER), HEADER[:7])


def write(path: Path, rows: list[tuple[str, str, str, str, str, str]], order: tuple[str, ...] = HEADER) -> Path:
    lines = ["\t".join(order)]
    for video, user, text, train, begin, end in rows:
        cells = {"attachment_id": video, "user_id": user, "text": text, "train": train, "begin": begin, "end": end}
        lines.append("\t".join(cells.get(name, "1") for name in order))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_published_counts(tmp_path: Path) -> None:
    glosses = [f"знак {n}" for n in range(1000)] + ["no_event"]
    rows = [(f"id{n}", f"u{n % 150}", glosses[n % 1001], "True", "3", "9") for n in range(15_300)]
    rows += [(f"id{n + 15_300}", f"u{150 + n % 44}", glosses[n % 1001], "False", "3", "9") for n in range(5_100)]
    path = write(tmp_path / "annotations.csv", rows)
    report = load("slovo", "--annotations", path, "--videos", make(tmp_path / "videos", "x.txt")).report
    assert report.splits == {"train": 15_300, "val": 0, "test": 5_100}
    assert (report.rows, report.classes) == (20_400, 1_001)
    assert report.conventions["signers"] == "train 150 / test 44; disjoint"
    assert "Slovo: train 15,300 / test 5,100, as published" in report.notes
    assert not any("published:" in note for note in report.notes)


@pytest.mark.parametrize("order", ORDERS)
def test_columns_are_found_by_name(tmp_path: Path, order: tuple[str, ...]) -> None:
    rows = [
        ("a", "u", "утро", "True", "", ""),
        ("b", "v", "no_event", "False", "", ""),
        ("c", "v", "x", "maybe", "", ""),
    ]
    write(tmp_path / "annotations.csv", rows, order)
    found = load("slovo", "--annotations", tmp_path, "--videos", make(tmp_path / "v", "train/a.mp4", "test/b.mp4"))
    assert [(row.key, row.gloss, row.split, row.signer) for row in found.rows] == [
        ("a", "утро", "train", "u"),
        ("b", "no_event", "test", "v"),
    ]
    assert len(found.report.rejected) == 1


def test_originals_are_cut_and_trimmed_videos_are_not(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    write_video(tmp_path / "v" / "trimmed.mp4", 15)
    write_video(tmp_path / "v" / "original.mp4", 80)
    write_video(tmp_path / "v" / "short.mp4", 30)  # the span lies beyond it
    rows = [(name, "u", "утро", "True", "30", "45") for name in ("trimmed", "original", "short")]
    found = load("slovo", "--annotations", write(tmp_path / "annotations.csv", rows), "--videos", tmp_path / "v")
    spans = {row.key: row.source.frames for row in found.rows if isinstance(row.source, VideoFile)}
    assert spans == {"trimmed": None, "original": (30, 45), "short": None}
    assert found.report.conventions["files"] == "1 of 3 are originals, cut by begin and end"
