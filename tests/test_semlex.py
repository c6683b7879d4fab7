"""Sem-Lex: published counts, a sign called "na", videos that are in the list twice, in two splits."""

from __future__ import annotations

from pathlib import Path

import pytest
from importing import load, make

from cclslr.errors import UserError

HEADER = ",video_id,signer_id,duration,split,label_type,label,Handshape\n"


def test_the_published_counts(tmp_path: Path) -> None:
    rows = []
    for n in range(91_148):
        kind = "asllex" if n % 5 else "freetext"
        rows.append(f"{n},v{n % 88_174},{n % 41},1800,{('train', 'val', 'test')[n % 3]},{kind},s{n % 3149},b\n")
    (tmp_path / "semlex_metadata.csv").write_text(HEADER + "".join(rows))
    found = load("semlex", "--annotations", tmp_path, "--videos", make(tmp_path / "videos", "x.txt"))
    assert "Sem-Lex: the list has 91,148 rows of 88,174 videos, as published" in found.report.notes
    assert found.report.classes == 3_149
    assert found.report.rows == 72_918
    assert found.report.conventions["label types"] == "asllex; the list has asllex 72,918, freetext 18,230"
    assert not any("signs; published" in note for note in found.report.notes)


def test_na_is_a_sign_and_a_video_in_two_splits_is_named(tmp_path: Path) -> None:
    (tmp_path / "semlex_metadata.csv").write_text(
        HEADER + "0,aaa,1,1800,train,asllex,na,\n1,bbb,2,1800,val,asllex,house,5\n2,aaa,1,1800,test,asllex,na,\n"
        "3,ccc,1,1800,train,freetext,what he typed,\n4,ddd,1,1800,holdout,asllex,house,\n"
        "5,bbb,2,1800,val,asllex,house,5\n"
    )
    videos = make(tmp_path / "videos", "train/aaa.webm", "val/bbb.webm", "train/ccc.webm")
    found = load("semlex", "--annotations", tmp_path / "semlex_metadata.csv", "--videos", videos)
    assert found.classes == ["house", "na"]
    assert [(row.key, row.gloss, row.split) for row in found.rows] == [("aaa", "na", "train"), ("bbb", "house", "val")]
    assert found.report.duplicates == [
        "semlex_metadata.csv, line 4: repeats semlex_metadata.csv, line 2 with another split",
        "semlex_metadata.csv, line 7: repeats semlex_metadata.csv, line 3",
    ]
    assert found.report.rejected == [
        "semlex_metadata.csv, line 6: video 'ddd', label 'house', split 'holdout': one of them is none"
    ]
    both = load("semlex", "--annotations", tmp_path, "--videos", videos, "--label-types", "asllex", "freetext")
    assert "what he typed" in both.classes
    with pytest.raises(UserError, match="no row of type signbank; it has asllex, freetext"):
        load("semlex", "--annotations", tmp_path, "--videos", videos, "--label-types", "signbank")
