"""asl-signs: published counts, points in Kaggle's order, NaN where a point was not found, files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from importing import load, make

from cclslr.commands import pack
from cclslr.datasets.asl_signs import PARTS
from cclslr.errors import BadClip, UserError
from cclslr.shards.reader import ShardSet

HEADER = "path,participant_id,sequence_id,sign\n"


def write(path: Path, xy_TK2: np.ndarray, parts: np.ndarray = PARTS) -> Path:
    frames = len(xy_TK2)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "frame": np.repeat(np.arange(20, 20 + frames, dtype=np.int16), 543),
        "row_id": [""] * (543 * frames),
        "type": np.tile(parts, frames),
        "landmark_index": np.tile(np.arange(543, dtype=np.int16), frames),
        "x": xy_TK2[..., 0].ravel(),
        "y": xy_TK2[..., 1].ravel(),
        "z": np.zeros(543 * frames),
    }
    pq.write_table(pa.table(columns), path)
    return path


def test_the_published_counts(tmp_path: Path) -> None:
    rows = (f"train_landmark_files/{n % 21}/{n}.parquet,{n % 21},{n},sign{n % 250}\n" for n in range(94_477))
    (tmp_path / "train.csv").write_text(HEADER + "".join(rows))
    report = load("asl_signs", "--annotations", tmp_path).report
    assert (report.rows, report.classes, report.splits["train"]) == (94_477, 250, 94_477)
    assert "asl-signs: train 94,477, as published" in report.notes
    assert report.conventions["signers"] == "train 21; disjoint"
    held = load("asl_signs", "--annotations", tmp_path, "--test-signers", "3", "--val-signers", "4", "5").report
    assert held.splits == {"train": 80_980, "val": 8_998, "test": 4_499}
    assert held.conventions["signers"].startswith("train 18 / val 2 / test 1")
    for wrong in (["--test-signers", "99"], ["--test-signers", "3", "--val-signers", "3"]):
        with pytest.raises(UserError, match="are not in it, or some are both"):
            load("asl_signs", "--annotations", tmp_path, *wrong)


def test_points_go_where_they_belong_and_nan_is_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    xy_TK2 = rng.uniform(0.2, 0.8, (6, 543, 2)).astype(np.float32)
    xy_TK2[2, 468:489] = np.nan  # the left hand is not found in one frame
    write(tmp_path / "train_landmark_files" / "7" / "1.parquet", xy_TK2)
    (tmp_path / "train.csv").write_text(HEADER + "train_landmark_files/7/1.parquet,7,1,TV\n")
    found = load("asl_signs", "--annotations", tmp_path / "train.csv")
    keypoints_TKC = found.rows[0].source.load().keypoints_TKC
    assert keypoints_TKC is not None
    size = np.array([640, 480], np.float32)
    np.testing.assert_allclose(keypoints_TKC[:, 0, :2], xy_TK2[:, 489] * size)  # nose
    np.testing.assert_allclose(keypoints_TKC[:, 10, :2], xy_TK2[:, 489 + 16] * size)  # right wrist
    np.testing.assert_allclose(keypoints_TKC[:, 112:, :2], xy_TK2[:, 522:] * size)
    np.testing.assert_allclose(keypoints_TKC[:, 23, :2], xy_TK2[:, 162] * size)
    assert not keypoints_TKC[2, 91:112, 2].any()
    assert keypoints_TKC[..., 2].sum() == 6 * 133 - 21
    assert pack.main(["asl_signs", "--annotations", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    clip = ShardSet([str(tmp_path / "out")]).read(0)
    assert clip.pose_TKC is not None
    assert np.isfinite(clip.pose_TKC).all()


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    names = ("turned", "short", "empty", "text", "gone")
    rows = "".join(f"f/{name}.parquet,1,1,a\n" for name in names)
    (tmp_path / "train.csv").write_text(HEADER + rows + ",1,1,a\n")
    points_TK2 = np.full((2, 543, 2), 0.5, np.float32)
    write(tmp_path / "f" / "turned.parquet", points_TK2, PARTS[::-1])
    write(tmp_path / "f" / "empty.parquet", points_TK2 * np.nan)
    table = pq.read_table(tmp_path / "f" / "turned.parquet")
    pq.write_table(table.slice(0, 600), tmp_path / "f" / "short.parquet")
    (make(tmp_path, "f/text.parquet") / "f" / "text.parquet").write_text("no")
    found = load("asl_signs", "--annotations", tmp_path)
    assert [Path(name).name for name in found.report.missing] == ["gone.parquet"]
    assert len(found.report.rejected) == 1
    for row in found.rows:
        name = Path(row.source.path).name  # type: ignore[attr-defined]
        with pytest.raises(BadClip, match=name):
            row.source.load()
