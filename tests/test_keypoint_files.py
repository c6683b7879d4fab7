"""Keypoint files: read as they are meant, or refused with a reason before they take memory."""

from __future__ import annotations

import io
import random
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.shards import keypoint_file
from cclslr.shards.crop import crop_and_resize
from cclslr.shards.format import BadClip, RawClip
from cclslr.shards.keypoint_file import load_keypoints

KEYPOINTS = np.random.default_rng(1).uniform(0, 500, (12, 133, 3)).astype(np.float32)


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """The begin of an .npy that says what is not in it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize(
    "convert",
    [
        lambda array: array,
        lambda array: array.astype(np.float64),
        lambda array: array.astype(">f4"),
        np.asfortranarray,
        lambda array: array.astype(np.int16),
        lambda array: array.astype(np.float16),
    ],
)
def test_every_way_to_store_numbers(tmp_path: Path, suffix: str, convert: Callable[..., np.ndarray]) -> None:
    path, array = tmp_path / f"k{suffix}", convert(KEYPOINTS)
    if suffix == ".npy":
        np.save(path, array)
    else:
        np.savez_compressed(path, keypoints=array, fps=np.array(25.0), estimator="x", joints=np.array(["j" * 40] * 133))
    keypoints_TKC, texts = load_keypoints(path)
    np.testing.assert_array_equal(keypoints_TKC, array.astype(np.float32))
    assert keypoints_TKC.dtype == np.float32
    assert texts == ({} if suffix == ".npy" else {"estimator": "x"})


def test_the_one_array_may_have_any_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "k.npz", pose=KEYPOINTS)
    np.testing.assert_array_equal(load_keypoints(tmp_path / "k.npz")[0], KEYPOINTS)
    np.savez(tmp_path / "k.npz", pose=KEYPOINTS, other=KEYPOINTS)
    with pytest.raises(BadClip, match=r"k\.npz: .*\['other', 'pose'\]"):
        load_keypoints(tmp_path / "k.npz")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (KEYPOINTS[:0], "no frame"),
        (KEYPOINTS[:, :75], r"shape \(12, 75, 3\)"),
        (KEYPOINTS[..., :2], r"shape \(12, 133, 2\)"),
        (KEYPOINTS[0], r"shape \(133, 3\)"),
        (KEYPOINTS.astype(complex), "complex128"),
        (KEYPOINTS > 0, "bool"),
        (KEYPOINTS.astype("M8[s]"), "datetime64"),
        (np.zeros((12, 133, 3), [("x", "f4")]), "x"),
        (np.full_like(KEYPOINTS, np.nan), "finite"),
        (KEYPOINTS.astype(object), "pickle"),
    ],
)
def test_what_is_no_keypoints_is_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    np.save(tmp_path / "k.npy", array, allow_pickle=True)
    np.savez(tmp_path / "k.npz", keypoints=array)
    for name in ("k.npy", "k.npz"):
        with pytest.raises(BadClip, match=rf"{name}: .*{reason}"):
            load_keypoints(tmp_path / name)


def test_a_pickle_beside_keypoints_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "opened",))

    np.savez(tmp_path / "k.npz", keypoints=KEYPOINTS, more=np.array([Trap()], dtype=object))
    with pytest.raises(BadClip, match="pickle"):
        load_keypoints(tmp_path / "k.npz")
    assert not (tmp_path / "opened").exists()


def peak_while_refused(path: Path, reason: str) -> int:
    """Bytes of memory that refusing a file takes at most."""
    tracemalloc.start()
    try:
        with pytest.raises(BadClip, match=rf"{path.name}: .*{reason}"):
            load_keypoints(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("frames", [10**6, 10**12, 2**62])
def test_a_header_that_claims_too_much_takes_no_memory(tmp_path: Path, frames: int) -> None:
    content = header((frames, 133, 3)) + bytes(1000)
    (tmp_path / "k.npy").write_bytes(content)
    archive(tmp_path / "k.npz", {"keypoints.npy": content})
    for name in ("k.npy", "k.npz"):
        assert peak_while_refused(tmp_path / name, "bytes") < 1 << 20


def test_a_bomb_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keypoint_file, "MAX_KEYPOINT_BYTES", 8 << 20)
    frames = (8 << 20) // (133 * 3 * 4) + 1
    zeros = bytes(frames * 133 * 3 * 4)
    path = archive(tmp_path / "k.npz", {"keypoints.npy": header((frames, 133, 3)) + zeros})
    assert path.stat().st_size < 1 << 16
    assert peak_while_refused(path, "bytes") < 1 << 20
    path = archive(
        tmp_path / "k.npz", {"keypoints.npy": npy_bytes(KEYPOINTS), "more.npy": npy_bytes(zeros[:1]) + zeros}
    )
    tracemalloc.start()
    try:
        load_keypoints(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_encrypted_and_broken_members(tmp_path: Path) -> None:
    path = archive(tmp_path / "k.npz", {"keypoints.npy": npy_bytes(KEYPOINTS)})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # encrypted, says the entry; then the directory at the end
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(BadClip, match=r"k\.npz: unreadable: .*encrypted"):
        load_keypoints(path)
    for broken in (header((12, 133, 3)).replace(b"(12, 133, 3)", b"(12, 133,((("), b"no array", b""):
        archive(path, {"keypoints.npy": broken})
        with pytest.raises(BadClip, match=r"k\.npz: unreadable"):
            load_keypoints(path)


def test_points_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    array = KEYPOINTS.astype(np.float64)
    array[3, 5, 0], array[4, 6, 1], array[5, 7, 2] = np.nan, np.inf, 1e300
    np.save(tmp_path / "k.npy", array)
    keypoints_TKC, _ = load_keypoints(tmp_path / "k.npy")
    packed = crop_and_resize(RawClip(None, keypoints_TKC, 25.0), 64, "signer")
    assert packed.meta["points_not_finite"] == 3
    assert not packed.keypoints_TKC[[3, 4, 5], [5, 6, 7]].any()
    assert np.isfinite(packed.keypoints_TKC).all()
    assert "points_not_finite" not in crop_and_resize(RawClip(None, KEYPOINTS, 25.0), 64, "signer").meta


@given(st.integers(0, 2**32), st.sampled_from([".npz", "compressed.npz", ".npy"]))
@settings(max_examples=150, deadline=None)
def test_any_damage_is_keypoints_or_a_reason(seed: int, kind: str) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"k{kind}"
        if kind == ".npy":
            np.save(path, KEYPOINTS)
        else:
            save = np.savez if kind == ".npz" else np.savez_compressed
            save(path, keypoints=KEYPOINTS, estimator="x")
        data = bytearray(path.read_bytes())
        parts = (range(min(200, len(data))), range(max(0, len(data) - 200), len(data)), range(len(data)))
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.choice(rng.choice(parts))] = rng.randrange(256)
        path.write_bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data))))])
        try:
            keypoints_TKC, _ = load_keypoints(path)
        except BadClip as error:
            reason = str(error)
        else:
            reason = f"{path.name}: none"
            assert keypoints_TKC.shape[1:] == (133, 3)
            assert keypoints_TKC.dtype == np.float32
        assert reason.startswith(f"{path.name}: ")
