"""NMFs-CSL: both kinds of lists, label bases, and folders of frames."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cclslr.datasets import nmfs_csl
from cclslr.datasets.base import Import
from cclslr.datasets.nmfs_csl import FrameFolder
from cclslr.shards.format import BadClip


def load(folder: Path, *arguments: Any) -> Import:
    parser = argparse.ArgumentParser()
    nmfs_csl.add_arguments(parser)
    options = ["--annotations", folder, "--videos", folder / "jpg_video", *arguments]
    return nmfs_csl.load(parser.parse_args([str(option) for option in options]))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lists, and a folder of frames for some clips."""

    def make(
        lists: dict[str, list[str]], clips: dict[str, int] | None = None, size: tuple[int, int] = (50, 36)
    ) -> Path:
        (tmp_path / "jpg_video").mkdir(exist_ok=True)
        for name, lines in lists.items():
            (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        for clip, frames in (clips or {}).items():
            folder = tmp_path / "jpg_video" / clip
            folder.mkdir(parents=True)
            for number in range(1, frames + 1):
                grey = Image.fromarray(np.full((size[1], size[0], 3), 10 * number, dtype=np.uint8))
                grey.save(folder / f"image_{number:05d}.jpg")
        return tmp_path

    return make


def whole(base: int, train: int = 24, test: int = 6) -> dict[str, list[tuple[str, int]]]:
    """Rows of all 1,067 classes: (path, label)."""
    return {
        split: [(f"{c + base}/{c + base}_{split}{n}", c) for c in range(1067) for n in range(count)]
        for split, count in (("train", train), ("test", test))
    }


def test_published_counts(write: Callable[..., Path]) -> None:
    rows = whole(0)
    lists = {f"uni_{split}list01.csv": [f"{path},{label}" for path, label in rows[split]] for split in rows}
    report = load(write(lists)).report
    assert report.splits == {"train": 25_608, "val": 0, "test": 6_402}
    assert (report.classes, report.rejected, report.classes_without_test) == (1067, [], [])
    assert any("as published" in note for note in report.notes)


@pytest.mark.parametrize("label_base", [0, 1])
@pytest.mark.parametrize("folder_base", [0, 1, 500])
def test_a_test_list_of_paths_only(write: Callable[..., Path], label_base: int, folder_base: int) -> None:
    """What a folder's number means is learnt from the training list."""
    rows = whole(folder_base, 1, 1)
    clips = {rows["test"][5][0]: 1, rows["train"][1066][0]: 1}
    root = write(
        {
            "trainlist01.txt": [f"{path} {label + label_base}" for path, label in rows["train"]],
            "testlist01.txt": [path for path, _ in rows["test"]],
        },
        clips,
    )
    result = load(root)
    assert {(row.split, row.label) for row in result.rows} == {("test", 5), ("train", 1066)}
    assert result.report.rejected == []
    assert result.report.conventions["labels"] == f"counted from {label_base}"
    assert result.report.conventions["test labels"].endswith(f"counted from {folder_base}")


def test_folders_that_are_no_labels_stop_a_list_of_paths(write: Callable[..., Path]) -> None:
    rows = whole(0, 1, 1)
    mixed = [f"{path} {(label * 7) % 1067}" for path, label in rows["train"]]
    with pytest.raises(ValueError, match=r"uni_testlist01\.csv"):
        load(write({"trainlist01.txt": mixed, "testlist01.txt": [path for path, _ in rows["test"]]}))


def test_labels_of_another_set(write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1066"):
        load(write({"uni_trainlist01.csv": [f"{n}/a,{n}" for n in range(1500, 4000)]}))


def test_labels_that_do_not_span_the_classes_are_noted(write: Callable[..., Path]) -> None:
    report = load(write({"trainlist01.txt": ["0/a 0", "3/b 3"]})).report
    assert any("2 of the 1067 classes" in note for note in report.notes)
    assert any("published" in note for note in report.notes)


def test_every_line_is_booked(write: Callable[..., Path]) -> None:
    lines = ["file,label", "0/a,0", "0/a,0", "0/b,0", "1/c,one", "../d,1", "5/e,99999"]
    report = load(write({"uni_trainlist01.csv": lines}, {"0/a": 2})).report
    assert (report.rows, report.found) == (6, 1)
    assert (len(report.missing), len(report.duplicates), len(report.rejected)) == (1, 1, 3)


def test_frames_in_order_and_two_sizes_reported(write: Callable[..., Path]) -> None:
    root = write({"trainlist01.txt": ["0/a 0", "0/b 0"]}, {"0/a": 12})
    write({}, {"0/b": 3}, size=(54, 54))
    result = load(root)
    clip = result.rows[0].source.load()
    assert clip.frames_THWC.shape == (12, 36, 50, 3)
    assert np.allclose(clip.frames_THWC.mean(axis=(1, 2, 3)), 10 * np.arange(1, 13), atol=2)
    assert clip.fps == 30.0
    assert result.report.conventions["frame sizes"] == "50x36 (1), 54x54 (1) of 2 clips looked at"


def test_a_broken_clip_says_why(write: Callable[..., Path]) -> None:
    root = write({}, {"0/gap": 5, "0/broken": 3, "0/mixed": 3, "0/empty": 0})
    videos = root / "jpg_video" / "0"
    (videos / "gap" / "image_00003.jpg").unlink()
    (videos / "broken" / "image_00002.jpg").write_bytes(b"\xff\xd8nothing")
    Image.new("RGB", (10, 10)).save(videos / "mixed" / "image_00002.jpg")
    for name, reason in {
        "gap": "frame 3 is missing",
        "broken": "image_00002",
        "mixed": "size changes",
        "empty": "no image",
    }.items():
        with pytest.raises(BadClip, match=reason):
            FrameFolder(str(videos / name), None, 30.0).load()


def test_poses_beside_frames(write: Callable[..., Path]) -> None:
    root = write({"trainlist01.txt": ["0/a 0", "0/b 0", "0/c 0"]}, {"0/a": 4, "0/b": 4, "0/c": 4})
    (root / "poses" / "0").mkdir(parents=True)
    np.savez(root / "poses" / "0" / "a.npz", keypoints=np.ones((4, 133, 3), dtype=np.float32), estimator="rtmpose")
    np.savez(root / "poses" / "0" / "b.npz", keypoints=np.ones((9, 133, 3), dtype=np.float32))
    result = load(root, "--poses", root / "poses")
    assert [Path(path).name for path in result.report.missing] == ["c.npz"]
    clip = result.rows[0].source.load()
    assert clip.keypoints_TKC.shape == (4, 133, 3)
    assert clip.meta["pose"] == {"estimator": "rtmpose"}
    with pytest.raises(BadClip, match="9 frames"):
        result.rows[1].source.load()


def test_a_fingerprint_changes_with_a_frame(write: Callable[..., Path]) -> None:
    root = write({}, {"0/a": 3})
    clip = FrameFolder(str(root / "jpg_video" / "0" / "a"), None, 30.0)
    before = clip.fingerprint()
    assert clip.fingerprint() == before
    (root / "jpg_video" / "0" / "a" / "image_00003.jpg").unlink()
    assert clip.fingerprint() != before


def test_a_path_with_other_letters(write: Callable[..., Path]) -> None:
    result = load(write({"trainlist01.txt": ["0/手语 一 0", "0/手语 二 0"]}, {"0/手语 一": 2, "0/手语 二": 2}))
    assert len({row.key for row in result.rows}) == 2
    assert all(row.key.isascii() for row in result.rows)


def test_no_list(write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="list01"):
        load(write({}))
