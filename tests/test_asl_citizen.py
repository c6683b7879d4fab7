"""ASL Citizen: published counts and signers, quoted commas, classes by Gloss."""

from __future__ import annotations

from pathlib import Path

import pytest
from importing import load, make

from cclslr.commands import pack
from cclslr.errors import UserError

HEADER = "Participant ID,Video file,Gloss,ASL-LEX Code\n"
SPLITS = {"train": (40_154, range(35)), "val": (10_304, range(35, 41)), "test": (32_941, range(41, 52))}


def test_the_published_counts(tmp_path: Path) -> None:
    for split, (count, signers) in SPLITS.items():
        rows = (f"P{signers[n % len(signers)]},{n}{split}-X.mp4,SIGN{n % 2731},A_{n % 2723}\n" for n in range(count))
        (tmp_path / f"{split}.csv").write_text(HEADER + "".join(rows))
    report = load("asl_citizen", "--annotations", tmp_path, "--videos", make(tmp_path / "videos", "x.txt")).report
    assert report.splits == {"train": 40_154, "val": 10_304, "test": 32_941}
    assert (report.rows, report.classes) == (83_399, 2_731)
    assert report.conventions["signers"] == "train 35 / val 6 / test 11; disjoint"
    assert "ASL Citizen: train 40,154 / val 10,304 / test 32,941, as published" in report.notes


def test_a_class_is_the_gloss_and_commas_stand_in_quotes(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        HEADER
        + 'P1,1-DOG.mp4,DOG1,A_01\nP1,2-DOG.mp4,DOG2,A_01\nP2,"3-WELL, OK.mp4","WELL, OK",B_02\n'
        + "P2,4-WELL, OK.mp4,WELL,B_02\nP2,5-NA.mp4,NA,\nP2,,DOG1,\n"
    )
    (tmp_path / "test.csv").write_text(HEADER + "P2,6-dog.MP4,DOG1,A_01\n")
    videos = make(tmp_path / "videos", "1-DOG.mp4", "2-DOG.mp4", "3-WELL, OK.mp4", "5-NA.mp4", "6-dog.mp4")
    found = load("asl_citizen", "--annotations", tmp_path, "--videos", videos)
    assert found.classes == ["DOG1", "DOG2", "NA", "WELL, OK"]
    assert [row.gloss for row in found.rows] == ["DOG1", "DOG2", "WELL, OK", "NA", "DOG1"]
    assert found.report.rejected == [
        "train.csv, line 5: 5 cells, where the header has 4 columns",
        "train.csv, line 7: it names no video, or no gloss",
    ]
    assert found.report.conventions["signers"].endswith("1 of them in two splits")
    assert any(note.startswith("none of val.csv is there") for note in found.report.notes)
    assert any("4 signs; published: 2,731" in note for note in found.report.notes)


def test_the_licence_goes_into_the_packed_set() -> None:
    words = ["asl_citizen", "--annotations", "a", "--videos", "v", "--out", "o"]
    assert "licence" in pack.parse(words).licence_note
    assert pack.parse([*words, "--licence-note", "mine"]).licence_note == "mine"


def test_another_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("user,filename,Gloss\n")
    with pytest.raises(UserError, match=r"train\.csv: the header is .*it needs participant id, video file, gloss"):
        load("asl_citizen", "--annotations", tmp_path, "--videos", tmp_path)
