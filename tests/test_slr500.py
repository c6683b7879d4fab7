"""SLR500: file names, label bases, and the signer at the boundary."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cclslr.datasets import slr500
from cclslr.datasets.base import Import, VideoFile

NAME = "P{:02d}_{:02d}_{:02d}_{}._color.mp4"


def load(*arguments: Any) -> Import:
    parser = argparse.ArgumentParser()
    slr500.add_arguments(parser)
    return slr500.load(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[list[str]], Path]:
    """Make empty files of these names; importers decode nothing."""

    def make(names: list[str]) -> Path:
        for name in names:
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "videos"

    return make


def labels(result: Import) -> dict[str, int | None]:
    return {row.key: row.label for row in result.rows}


def test_official_lists_name_their_convention(annotations: Path, tmp_path: Path) -> None:
    report = load("--annotations", annotations / "slr500", "--videos", tmp_path).report
    assert report.splits == {"train": 87_445, "val": 0, "test": 37_500}
    assert report.rows == len(report.missing) == 124_945
    assert report.classes == 500
    assert "35 / 15 signers" in report.conventions["signers"]
    assert any("P36 moved from train to test" in note and "90,000" in note for note in report.notes)


def test_the_published_split_from_the_same_lists(annotations: Path, tmp_path: Path) -> None:
    result = load("--annotations", annotations / "slr500", "--videos", tmp_path, "--train-signers", 36)
    assert result.report.splits == {"train": 89_945, "val": 0, "test": 35_000}
    assert "36 / 14 signers as published" in result.report.conventions["signers"]
    assert any("55 clips" in note for note in result.report.notes)
    assert result.classes[0] == "丈夫"  # of the lists; gloss_label.txt beside them begins with another word


def test_the_whole_set_from_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 125,000 names split into the published 90,000 and 35,000."""
    files = slr500.Files(Path("videos"), (".mp4",))
    for signer in range(1, 51):
        for label in range(500):
            for repetition in range(5):
                name = NAME.format(signer, label // 20 + 1, label % 20, repetition)[:-4]
                files.paths.append(Path(f"videos/{label:03d}/{name}.mp4"))
                files.by_path[f"{label:03d}/{name}"] = files.paths[-1]
    monkeypatch.setattr(slr500.Files, "walk", lambda folder, suffixes: files)
    result = load("--videos", "videos")
    assert result.report.splits == {"train": 90_000, "val": 0, "test": 35_000}
    assert result.report.found == 125_000
    assert any("as published" in note for note in result.report.notes)
    assert "36 / 14 signers as published" in result.report.conventions["signers"]


def test_signers_35_36_37_at_the_boundary(folder: Callable[[list[str]], Path]) -> None:
    result = load("--videos", folder([NAME.format(signer, 1, 0, 0) for signer in (1, 35, 36, 37, 50)]))
    assert {row.signer: row.split for row in result.rows} == {
        "P01": "train",
        "P35": "train",
        "P36": "train",
        "P37": "test",
        "P50": "test",
    }
    moved = load("--videos", folder([]), "--train-signers", 35)
    assert {row.signer for row in moved.rows if row.split == "test"} == {"P36", "P37", "P50"}


def test_signers_counted_from_zero(folder: Callable[[list[str]], Path]) -> None:
    result = load("--videos", folder([NAME.format(signer, 1, 0, 0) for signer in (0, 35, 36, 49)]))
    assert {row.signer for row in result.rows if row.split == "test"} == {"P36", "P49"}
    assert "numbered from 0" in result.report.conventions["signers"]


@pytest.mark.parametrize(
    "name", ["P01_25_19_2._color.mp4", "P1_25_19_2_color.avi", "p01_25_19_02.mp4", "P001_025_019_002._color.mp4"]
)
def test_spellings_of_a_name(folder: Callable[[list[str]], Path], name: str) -> None:
    assert labels(load("--videos", folder([name]))) == {"P01_25_19_2": 499}


def test_depth_videos_are_no_clips(folder: Callable[[list[str]], Path]) -> None:
    result = load("--videos", folder(["P01_25_19_2._depth.mp4", "P01_25_19_2._color.mp4"]))
    assert labels(result) == {"P01_25_19_2": 499}
    assert "_depth" in result.report.rejected[0]


def test_lists_find_files_of_another_padding(folder: Callable[[list[str]], Path], tmp_path: Path) -> None:
    (tmp_path / "split.train.csv").write_text(
        "video_path,class_name\n000/P01_01_00_1._color.mp4,丈夫\n", encoding="utf-8"
    )
    result = load("--annotations", tmp_path, "--videos", folder(["P1_1_0_1.avi"]))
    assert isinstance(result.rows[0].source, VideoFile)
    assert result.rows[0].source.path == str(tmp_path / "videos" / "P1_1_0_1.avi")
    assert result.rows[0].gloss == "丈夫"


def test_index_counted_from_one(folder: Callable[[list[str]], Path]) -> None:
    result = load("--videos", folder([NAME.format(1, 1, index, 0) for index in range(1, 21)]))
    assert sorted(labels(result).values()) == list(range(20))
    assert "from 1" in result.report.conventions["labels"]


@pytest.mark.parametrize("base", [0, 1])
def test_folders_that_say_the_label(folder: Callable[[list[str]], Path], base: int) -> None:
    names = [f"{label + base:03d}/{NAME.format(1, label // 20 + 1, label % 20, 0)}" for label in (0, 7, 21, 499)]
    names.append(f"{3 + base:03d}/{NAME.format(2, 1, 4, 0)}")  # filed under the wrong word
    result = load("--videos", folder(names))
    assert sorted(labels(result).values()) == [0, 7, 21, 499]
    assert "says label 3, the name says 4" in result.report.rejected[0]
    assert result.report.conventions["folders"].endswith(f"counted from {base}")


def test_folders_that_say_something_else(folder: Callable[[list[str]], Path]) -> None:
    names = [f"{1000 + label}/{NAME.format(1, label // 20 + 1, label % 20, 0)}" for label in (0, 7, 21)]
    result = load("--videos", folder(names))
    assert (result.report.found, result.report.rejected) == (3, [])
    assert "is not used" in result.report.conventions["folders"]


def test_every_line_is_booked(folder: Callable[[list[str]], Path], tmp_path: Path) -> None:
    lines = ["000/P01_01_00_1._color.mp4,a", "000/P01_01_00_1._color.mp4,a", "nonsense", "499/P40_25_19_0._color.mp4,b"]
    lines += ["000/P01_26_00_1._color.mp4,out of range"]
    (tmp_path / "split.train.csv").write_text("\n".join(lines))
    report = load("--annotations", tmp_path, "--videos", folder(["P01_01_00_1.mp4"])).report
    assert (report.rows, report.found) == (5, 1)
    assert (len(report.duplicates), len(report.rejected), len(report.missing)) == (1, 2, 1)


def test_a_folder_of_something_else(folder: Callable[[list[str]], Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="P<signer>_<group>_<index>_<repetition>"):
        load("--videos", folder(["cat.mp4"]))
    with pytest.raises(ValueError, match=r"split\.train\.csv"):
        load("--annotations", tmp_path, "--videos", folder([]))
