"""KArSL-502: everything is in the folders; videos and folders of frames; words from a workbook."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from importing import load, make
from PIL import Image

from cclslr.errors import UserError


def test_the_published_counts(tmp_path: Path) -> None:
    """In two folders of each, so that 75,300 files are made quickly."""
    for signer in ("01", "02", "03"):
        for sign in range(1, 503):
            for split, count in (("train", 42), ("test", 8)):
                folder = tmp_path / signer / signer / split / f"{sign:04d}"
                folder.mkdir(parents=True)
                for number in range(count):
                    (folder / f"r{number}.mp4").symlink_to("/dev/null")
    report = load("karsl", "--videos", tmp_path).report
    assert (report.rows, report.found, report.classes) == (75_300, 75_300, 502)
    assert report.splits == {"train": 63_252, "val": 0, "test": 12_048}
    assert "KArSL-502: 75,300 clips, as published" in report.notes
    assert report.conventions["signers"] == "train 3 / test 3; 3 of them in two splits"
    apart = load("karsl", "--videos", tmp_path, "--test-signer", "3").report
    assert apart.splits == {"train": 50_200, "val": 0, "test": 25_100}
    assert apart.conventions["signers"] == "train 2 / test 1; disjoint"


def test_videos_and_folders_of_frames(tmp_path: Path) -> None:
    clip = tmp_path / "01/01/train/0031/03_01_0031_(10_11_16_15_32_45)_c"
    make(tmp_path, "02/02/test/0502/a.mp4", "02/02/test/0503/b.mp4", "c.mp4", "KARSL-502_Labels.txt")
    clip.mkdir(parents=True)
    for number in range(1, 4):
        Image.fromarray(np.full((8, 8, 3), number * 9, np.uint8)).save(clip / f"03_01_0031_c_{number:04d}.jpg")
    found = load("karsl", "--videos", tmp_path)
    assert [(row.label, row.split, row.signer) for row in found.rows] == [(30, "train", "01"), (501, "test", "02")]
    frames_THWC = found.rows[0].source.load().frames_THWC
    assert frames_THWC is not None
    assert frames_THWC[:, 0, 0, 0] == pytest.approx([9, 18, 27], abs=2)
    assert [Path(line.split(": ")[0]).name for line in found.report.rejected] == ["b.mp4", "c.mp4"]
    with pytest.raises(UserError, match="nothing lies as"):
        load("karsl", "--videos", make(tmp_path / "empty", "x.txt"))


def test_words_from_a_workbook_or_a_table(tmp_path: Path) -> None:
    videos = make(tmp_path / "v", "01/train/0002/a.mp4")
    rows = [("SignID", "Sign-Arabic", "Sign-English"), *((n, f"كلمة {n}", f"word {n}") for n in range(1, 503))]
    (tmp_path / "l.csv").write_text("\n".join(",".join(map(str, row)) for row in rows), encoding="utf-8")
    assert load("karsl", "--videos", videos, "--labels", tmp_path / "l.csv").rows[0].gloss == "word 2"
    (tmp_path / "short.csv").write_text("SignID,Sign-English\n1,a\n")
    with pytest.raises(UserError, match="lack a word"):
        load("karsl", "--videos", videos, "--labels", tmp_path / "short.csv")
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "l.xlsx")
    arabic = load("karsl", "--videos", videos, "--labels", tmp_path / "l.xlsx", "--language", "arabic")
    assert arabic.rows[0].gloss == "كلمة 2"
    (tmp_path / "broken.xlsx").write_text("no")
    with pytest.raises(UserError, match="cannot be read as a workbook"):
        load("karsl", "--videos", videos, "--labels", tmp_path / "broken.xlsx")
