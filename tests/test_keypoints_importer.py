"""Keypoint sequences in one .npz file as a data set: layouts, splits, errors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.commands import pack
from cclslr.console import console
from cclslr.datasets.keypoints import from_mediapipe, split_sequences
from cclslr.errors import UserError
from cclslr.shards import keypoint_file
from cclslr.shards.reader import ShardSet


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def small_file(path: Path, per_class: int = 4, classes: int = 3) -> Path:
    """Sequences of 5 frames; source b has class 0 and the last one, a has all but the last."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(classes), per_class)
    source = np.where((np.arange(len(y)) % per_class < per_class // 2) & (y == 0) | (y == classes - 1), "b", "a")
    keypoints = rng.random((len(y), 5, 133, 3)).astype(np.float16)
    return write(path, keypoints=keypoints, y=y, classes=np.array([f"sign{c}" for c in range(classes)]), source=source)


def load(*arguments: str):
    args = pack.parse(["keypoints", *arguments, "--out", "unused"])
    return args.load(args)


def test_packed_coordinates_are_pixels_of_the_image(tmp_path: Path) -> None:
    path = small_file(tmp_path / "set.npz")
    out = tmp_path / "shards"
    assert (
        pack.main(["keypoints", str(path), "--out", str(out), "--test-per-class", "1", "--image-size", "200", "100"])
        == 0
    )
    shards, content = ShardSet([str(out)]), np.load(path)
    assert shards.classes == ["sign0", "sign1", "sign2"]
    for clip_id, row in enumerate(shards.rows):
        number = int(row.key.rpartition("-")[2])
        expected = content["keypoints"][number].astype(np.float32) * (200, 100, 1)
        pose = shards.read(clip_id).pose_TKC
        assert pose is not None
        # Packing moves the signer's square to the origin and scales it: shapes stay.
        for axis in (0, 1):
            a, b = pose[..., axis].astype(np.float64).ravel(), expected[..., axis].ravel()
            assert np.corrcoef(a, b)[0, 1] > 0.9999
        assert (row.label, row.signer) == (content["y"][number], content["source"][number])


@pytest.mark.parametrize("names", [["drink", "house", "drink"], ["drink", "house", "book"]])
def test_two_classes_of_one_gloss_are_told_before_packing(tmp_path: Path, names: list[str]) -> None:
    path = small_file(tmp_path / "set.npz")
    write(path, **dict(np.load(path)) | {"classes": np.array(names)})
    with console.capture() as said:
        pack.main(["keypoints", str(path), "--out", str(tmp_path / "shards"), "--dry-run"])
    assert ("1 of 2 glosses name more than one class, e.g. 'drink'" in said.get()) == (names[0] == names[2])


@given(st.lists(st.integers(0, 3), min_size=8, max_size=40), st.integers(0, 3), st.integers(0, 5))
@settings(deadline=None)
def test_a_draw_takes_so_many_of_each_sign(labels: list[int], count: int, seed: int) -> None:
    labels_N = np.array(labels)
    if min(Counter(labels).values()) <= count:
        with pytest.raises(UserError, match="none is left"):
            split_sequences(labels_N, np.full(len(labels), ""), count, None, seed)
        return
    splits = split_sequences(labels_N, np.full(len(labels), ""), count, None, seed)
    for label in set(labels):
        assert sum(split == "test" for split, each in zip(splits, labels) if each == label) == count


def test_a_tested_source_trains_nothing_and_shares_its_signs(tmp_path: Path) -> None:
    found = load(str(small_file(tmp_path / "set.npz")), "--test-source", "b")
    train = [row for row in found.rows if row.split == "train"]
    test = [row for row in found.rows if row.split == "test"]
    assert {row.signer for row in train} == {"a"}
    assert {row.signer for row in test} == {"b"}
    assert {row.label for row in test} <= {row.label for row in train}
    assert len(found.rows) == 12 - 4  # the last sign is b's alone
    assert "left out" in found.report.notes[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--test-source", "c"], "the file has a, b"),
        (["--test-source", "a", "--test-per-class", "1"], "choose one"),
        (["--test-per-class", "4"], "none is left"),
    ],
)
def test_splits_that_cannot_be_made(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(str(small_file(tmp_path / "set.npz")), *arguments)


def test_files_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.npz", write(tmp_path / "other.npz", y=np.zeros(3), classes=np.array(["a"]))):
        with pytest.raises(UserError, match="cannot be read"):
            load(str(path))
    wrong = write(
        tmp_path / "wrong.npz", keypoints=np.zeros((2, 5, 75, 3)), y=np.zeros(2, int), classes=np.array(["a"])
    )
    with pytest.raises(UserError, match="shape"):
        load(str(wrong))


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    opened = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (opened,)

    path = small_file(tmp_path / "set.npz")
    arrays = dict(np.load(path)) | {"classes": np.array([Trap()], dtype=object)}
    with pytest.raises(UserError, match="pickle"):
        load(str(write(path, **arrays)))
    assert not opened.exists()


def test_an_array_larger_than_memory_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_file(tmp_path / "set.npz")
    monkeypatch.setattr(keypoint_file, "MAX_SEQUENCES_BYTES", 12 * 5 * 133 * 3 * 2 - 1)
    with pytest.raises(UserError, match="says that it has"):
        load(str(path))


@pytest.mark.parametrize("y", [np.arange(12), -np.ones(12, int), np.zeros(12), np.zeros((12, 1), int)])
def test_labels_that_number_no_class(tmp_path: Path, y: np.ndarray) -> None:
    path = small_file(tmp_path / "set.npz")
    with pytest.raises(UserError, match="y"):
        load(str(write(path, **dict(np.load(path)) | {"y": y})))


def test_the_two_layouts_of_the_same_real_sequences_agree(real: Path) -> None:
    """signs13 begins with the sequences of signs7: read from either file they are the same, but for its float16."""
    x_NTF = np.load(real / "keypoints" / "signs7_mediapipe.npz")["X"]
    thirteen = np.load(real / "keypoints" / "signs13_wholebody.npz")
    theirs = thirteen["keypoints"][thirteen["source"] == "Neat11"].astype(np.float32)
    ours = np.stack([from_mediapipe(x_TF) for x_TF in x_NTF])
    used = [*range(17), *range(91, 133)]  # without feet, which only that file has
    np.testing.assert_allclose(ours[:, :, used, :2], theirs[:, :, used, :2], rtol=1e-3, atol=1e-4)
