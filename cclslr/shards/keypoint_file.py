"""Whole-body keypoints out of the .npz and .npy files that users have."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from cclslr.keypoints import CONFIDENT, NUM_WHOLEBODY
from cclslr.shards.dot_pose import load_dot_pose
from cclslr.shards.foreign import MAX_KEYPOINT_BYTES, MAX_SEQUENCES_BYTES, reading
from cclslr.shards.format import BadClip
from cclslr.shards.layouts import Layout, layout_named, layouts_of, to_wholebody

_MAX_TEXT_BYTES = 4096  # names and versions of estimators; longer texts are something else
_HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class PoseReading:
    """How keypoint files are to be read that are not x, y in pixels of the 133."""

    layout: str | None = None  # of `LAYOUTS`; None: the 133
    normalised: bool = False  # x and y are fractions of the frame
    size: tuple[int, int] | None = None  # width and height of that frame, where clips have no video


def read_pose(path: str | Path, reading: PoseReading | None) -> tuple[np.ndarray, dict[str, str]]:
    """As `load_keypoints`, in the layout asked for; fractions stay fractions, see `check_pixels`."""
    return load_keypoints(path, None if reading is None else reading.layout)


def to_pixels(keypoints_TKC: np.ndarray, frame_size: tuple[int, int] | None, reading: PoseReading | None) -> np.ndarray:
    """Keypoints in pixels of the frames: fractions are multiplied by the frame's size where `reading` says so.

    Args:
        frame_size: width and height of the frames, where there are any.

    Raises:
        BadClip: as `check_pixels`; fractions of a frame whose size nobody says, or pixels where fractions were said.
    """
    if reading is not None and reading.normalised:
        size = frame_size or reading.size
        if size is None:
            raise BadClip("fractions of frames that are not there; --normalised WIDTH HEIGHT says their size")
        found_TK = np.isfinite(keypoints_TKC).all(axis=-1) & (keypoints_TKC[..., 2] > CONFIDENT)
        if found_TK.any() and np.median(np.abs(keypoints_TKC[found_TK][:, :2])) > 2:
            raise BadClip("the keypoints are no fractions, as --normalised says, but pixels")
        if found_TK.any() and np.quantile(keypoints_TKC[found_TK][:, :2], 0.05) < -0.3:
            raise BadClip("the keypoints' fractions lie about the middle, from -1 to 1; --normalised takes 0 to 1")
        keypoints_TKC = keypoints_TKC * np.array([*size, 1], np.float32)
    check_pixels(keypoints_TKC, frame_size)
    return keypoints_TKC


def load_keypoints(path: str | Path, layout: str | None = None) -> tuple[np.ndarray, dict[str, str]]:
    """Read a keypoint file: .npz with an array `keypoints` (or one array only), .npy, or .pose.

    Args:
        layout: of `LAYOUTS`, where the points of .npz and .npy are not the 133; .pose files name theirs.

    Of each array the header comes first: what is no keypoints takes no memory, however large it unpacks.

    Returns:
        float32 (T, 133, 3), and the texts beside it in an .npz, such as the estimator's name and version. Numbers that
        are not finite stay: they say that a point was not found.

    Raises:
        BadClip: unreadable, of another shape, larger than `MAX_KEYPOINT_BYTES`, or without one finite point; names the
            file.
    """
    path, points = Path(path), None if layout is None else layout_named(layout)
    texts: dict[str, str] = {}
    with reading(path), open(path, "rb") as file:
        if path.suffix.lower() == ".pose":
            keypoints = load_dot_pose(path)
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                keypoints, texts = _from_archive(archive, points)
        else:
            file.seek(0)
            keypoints = _read_keypoints(file, os.fstat(file.fileno()).st_size, points)
        with np.errstate(over="ignore"):  # beyond float32 is infinite
            keypoints_TKC = keypoints.astype(np.float32)
        if not np.isfinite(keypoints_TKC).all(axis=-1).any():
            raise BadClip("no keypoint has finite numbers")
        return keypoints_TKC, texts


def load_arrays(path: str | Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those arrays of an .npz that are called so: plain numbers or texts of any shape.

    Raises:
        BadClip: unreadable, no .npz, a pickle, or an array larger than `MAX_SEQUENCES_BYTES`; names the file.
    """
    path, arrays = Path(path), {}
    with reading(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if (name := info.filename.removesuffix(".npy")) in names:
                with archive.open(info) as file:
                    arrays[name] = _data(file, *_header(file), min(info.file_size, MAX_SEQUENCES_BYTES))
    return arrays


def check_pixels(keypoints_TKC: np.ndarray, frame_size: tuple[int, int] | None) -> None:
    """Raises BadClip where keypoints are plainly no pixels of these frames, or confidences not from 0 to 1.

    Args:
        frame_size: width and height of the frames, where there are any.
    """
    found_TK = np.isfinite(keypoints_TKC).all(axis=-1) & (keypoints_TKC[..., 2] > 0)
    if not found_TK.any():
        return
    middle = float(np.median(keypoints_TKC[found_TK][:, 2]))
    if middle > 2:  # SimCC's scores go a little beyond 1
        raise BadClip(f"the keypoints' confidences are about {middle:.0f}, expected 0 to 1")
    xy_N2 = keypoints_TKC[found_TK & (keypoints_TKC[..., 2] > CONFIDENT)][:, :2]
    if not len(xy_N2):
        return
    if np.abs(xy_N2).max() <= 2 and np.ptp(xy_N2, axis=0).max() > 0:
        raise BadClip(f"the keypoints lie between {xy_N2.min():.2f} and {xy_N2.max():.2f}: fractions, not pixels")
    if frame_size is not None:
        outside_N = ((xy_N2 < 0) | (xy_N2 > frame_size)).any(axis=1)
        if outside_N.mean() > 0.5:
            raise BadClip(
                f"{100 * outside_N.mean():.0f} % of the keypoints lie outside the frames of {frame_size[0]}x"
                f"{frame_size[1]}: they belong to another file or resolution"
            )


def _from_archive(archive: zipfile.ZipFile, layout: Layout | None) -> tuple[np.ndarray, dict[str, str]]:
    """The keypoints of an .npz, and its texts."""
    texts, arrays = {}, {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        with archive.open(info) as file:
            shape, order, dtype = _header(file)
            if dtype.kind != "U":
                arrays[name] = info
            elif prod(shape) * dtype.itemsize <= _MAX_TEXT_BYTES:
                texts[name] = str(_data(file, shape, order, dtype, _MAX_TEXT_BYTES))
    if "keypoints" not in arrays and len(arrays) != 1:
        raise BadClip(f"it holds the arrays {sorted(arrays)[:10]}; call one of them keypoints")
    info = arrays["keypoints"] if "keypoints" in arrays else next(iter(arrays.values()))
    with archive.open(info) as file:
        return _read_keypoints(file, info.file_size, layout), texts


def _read_keypoints(file: IO[bytes], size: int, layout: Layout | None) -> np.ndarray:
    """The keypoints of an .npy of `size` bytes."""
    shape, order, dtype = _header(file)
    fits = shape[1:] == (NUM_WHOLEBODY, 3) if layout is None else shape[1:2] == (layout.points,)
    if len(shape) != 3 or not fits or dtype.kind not in "fiu":
        others = [] if layout is not None or len(shape) != 3 else layouts_of(shape[1])
        told = f"; --layout {' or '.join(others)} reads them" if others else ""
        expected = NUM_WHOLEBODY if layout is None else layout.points
        raise BadClip(f"the keypoints have shape {shape} of {dtype}, expected (T, {expected}, 3) of numbers{told}")
    if shape[0] == 0:
        raise BadClip("the keypoints have no frame")
    points = _data(file, shape, order, dtype, min(size, MAX_KEYPOINT_BYTES))
    return points if layout is None else to_wholebody(points, layout)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], str, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:  # 3.0 is for tables with column names
        raise BadClip(f"an array is in .npy format {version[0]}.{version[1]}, not plain numbers")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise BadClip("it holds a pickle, which is never opened")
    return shape, "F" if fortran else "C", dtype


def _data(file: IO[bytes], shape: tuple[int, ...], order: str, dtype: np.dtype, limit: int) -> np.ndarray:
    """The array after its header; of at most `limit` bytes, so that no header makes us take memory for nothing."""
    size = prod(shape) * dtype.itemsize
    if size > limit:
        raise BadClip(f"an array says that it has {size} bytes, where {limit} at most can be")
    data = file.read(size)
    if len(data) != size:
        raise BadClip(f"truncated: {len(data)} of {size} bytes of an array are there")
    return np.frombuffer(data, dtype).reshape(shape, order=order)  # type: ignore[call-overload]  # "C" or "F"
