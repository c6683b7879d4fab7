"""AUTSL: the published counts and signers, its lists under their several names, and the traps beside them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cclslr.datasets.base import Import, VideoFile, importers
from cclslr.errors import UserError

SPLITS = {"train": (28_142, range(31)), "validation": (4_418, range(31, 37)), "test": (3_742, range(37, 43))}


def load(*arguments: Any) -> Import:
    importer, parser = importers()["autsl"], argparse.ArgumentParser()
    importer.add_arguments(parser)
    return importer.load(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Lists of the published sizes: the signers take turns, and so do the signs."""
    for name, (count, signers) in SPLITS.items():
        rows = [f"signer{signers[n % len(signers)]}_sample{n},{n % 226}" for n in range(count)]
        (tmp_path / f"{name}_labels.csv").write_text("\n".join(rows) + "\n")
    signs = "".join(f"{n},isaret {n},sign {n}\n" for n in range(226))
    (tmp_path / "SignList_ClassId_TR_EN.csv").write_text("\ufeffClassId,TR,EN\n" + signs)
    (tmp_path / "videos").mkdir()
    return tmp_path


def test_the_published_counts(lists: Path) -> None:
    found = load("--annotations", lists, "--videos", lists / "videos")
    report = found.report
    assert report.splits == {"train": 28_142, "val": 4_418, "test": 3_742}
    assert report.rows == len(report.missing) == 36_302
    assert report.classes == 226
    assert found.classes[41] == "sign 41"
    assert report.conventions["signers"] == "train 31 / val 6 / test 6; disjoint"
    assert any("as published" in note for note in report.notes)
    assert load("--annotations", lists, "--videos", lists / "videos", "--language", "TR").classes[41] == "isaret 41"


def test_partial_data_is_normal_and_depth_is_left(lists: Path, write_video: Callable[..., Path]) -> None:
    write_video(lists / "videos" / "train" / "signer0_sample0_color.mp4", 4)
    write_video(lists / "videos" / "train" / "signer0_sample0_depth.mp4", 4)
    write_video(lists / "videos" / "signer37_sample0_color.mp4", 5)  # without its split's folder
    (lists / "poses" / "test").mkdir(parents=True)
    np.savez(lists / "poses" / "signer0_sample0.npz", keypoints=np.ones((4, 133, 3), np.float32))
    found = load("--annotations", lists, "--videos", lists / "videos")
    assert [(row.key, row.label, row.split, row.signer) for row in found.rows] == [
        ("signer0_sample0", 0, "train", "0"),
        ("signer37_sample0", 0, "test", "37"),
    ]
    assert found.report.rows == 36_302 == found.report.found + len(found.report.missing)
    assert "1 depth videos beside the colour ones are ignored" in found.report.notes
    with_poses = load("--annotations", lists, "--videos", lists / "videos", "--poses", lists / "poses")
    assert [row.key for row in with_poses.rows] == ["signer0_sample0"]
    source = with_poses.rows[0].source
    assert isinstance(source, VideoFile)
    assert source.pose == str(lists / "poses" / "signer0_sample0.npz")
    assert source.load().keypoints_TKC is not None


def test_a_models_guesses_are_no_labels(lists: Path) -> None:
    (lists / "test_labels.csv").rename(lists / "test_labels_pseudo.csv")
    report = load("--annotations", lists, "--videos", lists / "videos").report
    assert report.splits["test"] == 0
    assert "not read, for its labels are a model's guesses: test_labels_pseudo.csv" in report.notes
    assert any("no test clips" in note for note in report.notes)
    assert report.conventions["signers"].startswith("train 31 / val 6; published: train 31 / val 6 / test 6")


def test_every_row_is_booked_with_its_line(lists: Path) -> None:
    (lists / "train_labels.csv").write_text(
        "signer0_sample1,41\n\n\nsigner0_sample1,41\nsigner0_sample2,226\nFileName,label\n"
    )
    (lists / "validation_labels.csv").rename(lists / "val_gt.csv")
    (lists / "val_gt.csv").write_text("signer0_sample1,3\n")
    report = load("--annotations", lists, "--videos", lists / "videos").report
    assert report.duplicates == [
        "train_labels.csv, line 4: repeats train_labels.csv, line 1",
        "val_gt.csv, line 1: repeats train_labels.csv, line 1 with another label and split",
    ]
    assert [line.split(": ")[0] for line in report.rejected] == [
        "train_labels.csv, line 5",
        "train_labels.csv, line 6",
    ]
    assert any(note.startswith("1 clips contradict an earlier row") for note in report.notes)
    assert report.rows == report.found + len(report.missing) + len(report.duplicates) + len(report.rejected)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_labels\.csv"):
        load("--annotations", tmp_path, "--videos", tmp_path)
    (tmp_path / "train_labels.csv").write_text("signer0_sample1,41\n")
    with pytest.raises(UserError, match="--videos, --poses or both"):
        load("--annotations", tmp_path)
    found = load("--annotations", tmp_path, "--poses", tmp_path)
    assert found.classes[41] == "class 41"
    (tmp_path / "SignList_ClassId_TR_EN.csv").write_text("ClassId,TR,EN\n226,a,b\n")
    with pytest.raises(UserError, match="ClassId and EN"):
        load("--annotations", tmp_path, "--poses", tmp_path)
