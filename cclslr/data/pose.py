"""Pose views straight from packed keypoints, in numba (CCL-SLR §4, §5).

In this order:

1. Normalise, with the statistics of the whole clip. x and y are divided by the frame's width and height; the smallest
   square around all confident body points of the clip becomes [-1, 1]. Hands are taken relative to their wrist, face
   and mouth to the tip of the nose, in units of the body's square. Clip to [-1, 1]. A point of confidence <= 0.3 is
   (0, 0, 0). Where a hand's wrist is not confident the body's wrist stands in, for the nose tip the body's nose; where
   neither is, the group is zero in that frame. A clip with fewer than 4 confident body points, or all in one place, is
   zero.
2. Gather the view's frames.
3. Flip: x → -x and exchange of joints. Each group's origin is its reference point, so this is the mirror image.
4. Rotate and scale about the same origins, which turns the difference of any two points as a whole-body rotation would.
   Nothing is clipped again: a scaled body may reach a little beyond [-1, 1].
5. Zero the joints that joint masking hides, as they are numbered after the flip.

Keypoints are float16 in shards; numba has no such type, so kernels see their bits and convert with LLVM's `fpext`, one
vcvtph2ps for 16 numbers (30,000 numbers: 2 us; a lookup table 10 us, NumPy's astype 41 us).

Inside, the numbers of a frame lie in rows, all x, all y, all confidences, of a length that the compiler knows, and the
loops over points have constant bounds: then LLVM makes vectors of them, interleaving included. Indexing points
where they lie instead, three numbers apart and by table, took 61 us for two views of a clip of 75 frames; this, 25.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from cclslr.data.batch import ViewParams
from cclslr.keypoints import CONFIDENT, FLIP, NUM_JOINTS, NUM_WHOLEBODY, SLICES, WHOLEBODY

_CONFIDENT = np.float32(CONFIDENT)  # a float64 would widen what it is compared with
_MIN_BODY_POINTS = 4

_BODY = np.array(WHOLEBODY["body"])
_LEFT_WRIST, _RIGHT_WRIST, _NOSE, _NOSE_TIP = 9, 10, 0, 53
_RUN = 24  # points normalised at a time: three vectors of 8, and enough for a hand
# Last whole-body keypoint, last joint, reference point and its stand-in of each run of neighbouring keypoints. A run
# shorter than `_RUN` also writes over joints before its own; so the later joints come first, and the body last.
_RUNS = np.array(
    [
        (90, SLICES["mouth"].stop - 1, _NOSE_TIP, _NOSE),
        (_NOSE_TIP, SLICES["face"].stop - 1, _NOSE_TIP, _NOSE),
        (39, SLICES["face"].stop - 2, _NOSE_TIP, _NOSE),
        (132, SLICES["right_hand"].stop - 1, 112, _RIGHT_WRIST),
        (111, SLICES["left_hand"].stop - 1, 91, _LEFT_WRIST),
    ]
)
_ROW_K, _ROW_J = 136, 80  # numbers from x to y and from y to confidence in a frame of keypoints and of joints
_ONE, _ZERO = np.float32(1), np.float32(0)
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}


def pose_views(keypoints: Sequence[np.ndarray], sizes_B2: np.ndarray, params: ViewParams) -> np.ndarray:
    """Normalised, augmented pose views: (V, B, T, 75, 3) float32.

    Args:
        keypoints: of each clip (T, 133, 3), C-contiguous float16 or float32: x, y in packed-frame pixels, confidence.
        sizes_B2: width and height of the packed frames; 0, 0 where a clip has no video: then its pixels are square.
        params: the views.
    """
    index_VBT = params.pose_index_VBT
    assert len(keypoints) == index_VBT.shape[1], "a clip without pose would shift the poses of those after it"
    views_VBTJC = np.empty((*index_VBT.shape, NUM_JOINTS, 3), np.float32)
    most_frames = max((len(clip) for clip in keypoints), default=0)
    scratch_TF = np.empty((most_frames, 3 * _ROW_J), np.float32)
    wide_N = np.empty(most_frames * NUM_WHOLEBODY * 3, np.float32)
    sizes = np.where(sizes_B2 > 0, sizes_B2, 1).astype(np.float32)
    for b, keypoints_TKC in enumerate(keypoints):
        assert keypoints_TKC.shape[1:] == (NUM_WHOLEBODY, 3)
        numbers_N = keypoints_TKC.reshape(-1)
        _clip_views(
            numbers_N.view(np.uint16) if numbers_N.dtype == np.float16 else numbers_N,
            sizes[b, 0],
            sizes[b, 1],
            b,
            index_VBT,
            params.flip_VB,
            params.rotation_VB,
            params.scale_VB,
            params.hidden_VBJ,
            wide_N,
            scratch_TF,
            views_VBTJC,
        )
    return views_VBTJC


def _widen(typing_context: Any, number: Any) -> Any:
    """The bits of a float16 (uint16), or a float32, as float32."""
    if number == types.float32:
        return types.float32(types.float32), lambda context, builder, signature, args: args[0]

    def widen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), widen


_as_float32: Any = intrinsic(_widen)  # inside kernels: one argument


@njit(**_OPTIONS)
def _clip_views(
    numbers_N, width, height, b, index_VBT, flip_VB, rotation_VB, scale_VB, hidden_VBJ, wide_N, scratch_TF, views_VBTJC
):
    """Both views of clip `b`. The clip is normalised once, and the views gather from the result."""
    for i in range(len(numbers_N)):
        wide_N[i] = _as_float32(numbers_N[i])
    num_frames = len(numbers_N) // (3 * NUM_WHOLEBODY)
    usable = _normalise(wide_N, num_frames, width, height, scratch_TF)
    keep_J = np.empty(NUM_JOINTS, np.float32)
    for v in range(len(index_VBT)):
        if not usable:
            views_VBTJC[v, b] = 0
            continue
        for j in range(NUM_JOINTS):
            keep_J[j] = _ZERO if hidden_VBJ[v, b, j] else _ONE
        cos = np.cos(rotation_VB[v, b]) * scale_VB[v, b]
        sin = np.sin(rotation_VB[v, b]) * scale_VB[v, b]
        _view(scratch_TF, index_VBT[v, b], flip_VB[v, b], cos, sin, keep_J, views_VBTJC[v, b].reshape(-1))


@njit(**_OPTIONS)
def _view(scratch_TF, index_T, flip, cos, sin, keep_J, view_N):
    """Gather, flip, rotate, scale and hide, from rows to three numbers a joint."""
    mirrored_F = np.empty(3 * _ROW_J, np.float32)
    mirror = -_ONE if flip else _ONE
    for t in range(len(index_T)):
        frame_F = scratch_TF[index_T[t]]
        if flip:
            for j in range(NUM_JOINTS):
                source = FLIP[j]
                mirrored_F[j] = frame_F[source]
                mirrored_F[_ROW_J + j] = frame_F[_ROW_J + source]
                mirrored_F[2 * _ROW_J + j] = frame_F[2 * _ROW_J + source]
            frame_F = mirrored_F
        joints_N = view_N[3 * NUM_JOINTS * t :]
        for j in range(NUM_JOINTS):
            x, y, keep = mirror * frame_F[j], frame_F[_ROW_J + j], keep_J[j]
            joints_N[3 * j] = keep * (cos * x - sin * y)
            joints_N[3 * j + 1] = keep * (sin * x + cos * y)
            joints_N[3 * j + 2] = keep * frame_F[2 * _ROW_J + j]


@njit(**_OPTIONS)
def _normalise(wide_N, num_frames, width, height, out_TF):
    """Fill `out` with the normalised clip; False if it is unusable."""
    points = 0
    left = top = np.float32(np.inf)
    right = bottom = np.float32(-np.inf)
    for t in range(num_frames):
        for k in _BODY:
            at = 3 * (NUM_WHOLEBODY * t + k)
            x, y, confidence = wide_N[at], wide_N[at + 1], wide_N[at + 2]
            if confidence > _CONFIDENT:
                left, right = min(left, x), max(right, x)
                top, bottom = min(top, y), max(bottom, y)
                points += 1
    if points < _MIN_BODY_POINTS:
        return False
    side = max((right - left) / width, (bottom - top) / height)
    if not side > 0:
        return False
    unit_x, unit_y = np.float32(2 / (side * width)), np.float32(2 / (side * height))
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2

    rows_F, body_F = np.empty(3 * _ROW_K, np.float32), np.empty(3 * _ROW_K, np.float32)
    for t in range(num_frames):
        points_N, out_F = wide_N[3 * NUM_WHOLEBODY * t :], out_TF[t]
        for k in range(NUM_WHOLEBODY):
            rows_F[k] = points_N[3 * k]
            rows_F[_ROW_K + k] = points_N[3 * k + 1]
            rows_F[2 * _ROW_K + k] = points_N[3 * k + 2]
        for run in range(len(_RUNS)):
            last, joint, anchor, stand_in = _RUNS[run]
            if not rows_F[2 * _ROW_K + anchor] > _CONFIDENT:
                anchor = stand_in
            known = _ONE if rows_F[2 * _ROW_K + anchor] > _CONFIDENT else _ZERO
            x, y = rows_F[anchor], rows_F[_ROW_K + anchor]
            _put(rows_F[last + 1 - _RUN :], out_F[joint + 1 - _RUN :], _RUN, x, y, unit_x, unit_y, known)
        for c in range(3):
            for j in range(len(_BODY)):
                body_F[c * _ROW_K + j] = rows_F[c * _ROW_K + _BODY[j]]
        _put(body_F, out_F, len(_BODY), centre_x, centre_y, unit_x, unit_y, _ONE)
    return True


@njit(**_OPTIONS, inline="always")
def _put(rows_F, out_F, num, origin_x, origin_y, unit_x, unit_y, known):
    """Normalise `num` points from `rows` on; `known` is 0 where there is nothing to measure them from."""
    for i in range(num):
        x = (rows_F[i] - origin_x) * unit_x
        y = (rows_F[_ROW_K + i] - origin_y) * unit_y
        confidence = rows_F[2 * _ROW_K + i] * known
        out_F[i] = min(max(x, -_ONE), _ONE) if confidence > _CONFIDENT else _ZERO
        out_F[_ROW_J + i] = min(max(y, -_ONE), _ONE) if confidence > _CONFIDENT else _ZERO
        out_F[2 * _ROW_J + i] = confidence if confidence > _CONFIDENT else _ZERO
