"""Folders and tables of one's own: splits, labels, files that lie about, clips said twice; no clip is lost unsaid."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from importing import load, make

from cclslr.datasets.base import Import
from cclslr.errors import UserError
from cclslr.shards.format import KEY_PATTERN


def placed(found: Import) -> set[tuple[str, str | None]]:
    return {(row.split, row.gloss) for row in found.rows}


# Folders -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Train", "Dev", "TEST"), ("training", "validation", "testing"),
              ("train", "valid", "test")],
)  # fmt: skip
def test_splits_by_their_usual_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    found = load("folder", make(tmp_path, *(f"{name}/house/{name}.mp4" for name in names)))
    assert placed(found) == {("train", "house"), ("val", "house"), ("test", "house")}
    assert found.classes == ["house"]


def test_hidden_and_system_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    left = ("__MACOSX/train/house/._a.mp4", "train/house/._a.mp4", "Thumbs.db", ".DS_Store", "@eaDir/x.mp4",
            "train/house/.ipynb_checkpoints/a-checkpoint.mp4")  # fmt: skip
    found = load("folder", make(tmp_path, "train/house/a.mp4", "test/drink/b.mp4", "notes.txt", *left))
    assert placed(found) == {("train", "house"), ("test", "drink")}
    assert any(note.startswith("6 hidden or system files") for note in found.report.notes)
    assert "1 files of other kinds are not taken: .txt (1)" in found.report.notes


def test_splits_beside_something_else_are_an_error_until_told(tmp_path: Path) -> None:
    make(tmp_path, "train/house/a.mp4", "test/house/b.mp4", "intro.mp4", "extra/house/c.mp4")
    with pytest.raises(UserError, match=r"test, train .*not extra \(1 clips\), files beside them"):
        load("folder", tmp_path)
    found = load("folder", tmp_path, "--first-folder", "split")
    assert placed(found) == {("train", "house"), ("test", "house")}
    assert [Path(line.split(": ")[0]).name for line in found.report.rejected] == ["c.mp4", "intro.mp4"]
    assert load("folder", tmp_path, "--first-folder", "label").classes == ["extra", "test", "train"]


def test_one_labels_folder_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "house", "a.mp4", "b.mp4")
    with pytest.raises(UserError, match="no sub-folder"):
        load("folder", tmp_path / "house", allow_unlabelled=False)
    assert len(load("folder", tmp_path / "house", allow_unlabelled=True).rows) == 2


def test_what_is_wanting_is_said(tmp_path: Path) -> None:
    found = load("folder", make(tmp_path, "house/a.mp4", "house/a.npz", "house/b.mp4"))
    assert any(note.startswith("no clip is for testing; --test-share") for note in found.report.notes)
    assert any(note.startswith("1 clips have no keypoint file") for note in found.report.notes)
    assert any(note.startswith("all clips have one label, house;") for note in found.report.notes)
    assert not load("folder", make(tmp_path, "house/b.npz", "drink/c.npz"), "--test-share", "0.9").report.notes


def test_every_ending_is_taken(tmp_path: Path) -> None:
    endings = ("mp4", "wmv", "flv", "3gp", "gif", "ts", "mts", "mpeg", "ogv", "MOV")
    found = load("folder", make(tmp_path, *(f"house/{ending}.{ending}" for ending in endings)))
    assert len(found.rows) == len(endings)


def test_files_of_one_name_are_each_accounted_for(tmp_path: Path) -> None:
    found = load("folder", make(tmp_path, "house/a.mp4", "house/a.MP4", "house/a.avi"))
    assert (found.report.rows, found.report.found, len(found.report.duplicates)) == (3, 1, 2)


def test_a_link_to_a_folder_above_is_followed_no_further(tmp_path: Path) -> None:
    make(tmp_path, "house/a.mp4")
    (tmp_path / "house" / "up").symlink_to("..")
    found = load("folder", tmp_path)
    assert found.report.rows == 1
    assert any("links that lead back" in note for note in found.report.notes)


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_labels_are_one_however_their_accents_are_written(tmp_path: Path, kind: str) -> None:
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    make(tmp_path, *(f"{form}/{n}.mp4" for n, form in enumerate(forms)))
    table = "video,label\n" + "".join(f"{form}/{n}.mp4,{form}\n" for n, form in enumerate(forms))
    (tmp_path / "t.csv").write_text(table, encoding="utf-8")
    found = load(kind, tmp_path if kind == "folder" else tmp_path / "t.csv")
    assert found.classes == [forms[0]]
    assert len(found.rows) == 2


def test_keypoints_in_a_folder_of_their_own(tmp_path: Path) -> None:
    make(tmp_path, "v/house/a.mp4", "v/house/b.mp4", "p/house/a.npz", "p/house/b.npy", "p/house/b.npz")
    found = load("folder", tmp_path / "v", "--poses", tmp_path / "p")
    assert [Path(row.source.pose or "").name for row in found.rows] == ["a.npz", "b.npz"]  # type: ignore[attr-defined]


# Tables --------------------------------------------------------------------------------------------------------------


def table(tmp_path: Path, text: str) -> Path:
    make(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    return tmp_path / "t.csv"


def test_a_row_is_called_by_its_line(tmp_path: Path) -> None:
    found = load("csv", table(tmp_path, "video,label,split\n\n\na.mp4,x,train\n\nb.mp4,x,dev\na.mp4,x,never\n"))
    assert found.report.rejected == ["t.csv row 7: split is 'never'; expected one of train, val, test"]
    assert placed(found) == {("train", "x"), ("val", "x")}


def test_a_clip_with_two_labels_or_in_two_splits_is_named(tmp_path: Path) -> None:
    rows = ("a.mp4,k1,x,train", "a.mp4,k1,y,test", "b.mp4,k2,x,train", "b.mp4,k3,x,test")
    report = load("csv", table(tmp_path, "video,key,label,split\n" + "\n".join(rows))).report
    assert report.duplicates == ["t.csv row 3: repeats t.csv row 2 with another label and split"]
    assert any("contradict" in note and "row 3" in note for note in report.notes)
    assert any("under two keys: t.csv row 5 is t.csv row 4 with another split" in note for note in report.notes)


def test_labels_that_share_a_gloss_are_named(tmp_path: Path) -> None:
    report = load("csv", table(tmp_path, "video,label,gloss,split\na.mp4,0,house,train\nb.mp4,1,house,test\n")).report
    assert "1 glosses are those of several labels: house" in report.notes


@given(st.text(st.characters(exclude_characters='",\r\n\0', exclude_categories=["Cs", "Cc"]), max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_key_never_leads_out_of_a_folder(key: str) -> None:
    """`cclslr poses` writes OUT/<key>.npz: a key is refused unless it is a plain name."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for value in (key, f"../../{key}"):
            found = load("csv", table(Path(folder), f"video,key,label\na.mp4,{value},x\n"))
            assert all(KEY_PATTERN.fullmatch(row.key) for row in found.rows)
            if value.strip() and not KEY_PATTERN.fullmatch(value.strip()):
                assert found.report.rejected[0].startswith("t.csv row 2: the key is")
