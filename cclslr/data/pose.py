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
vcvtph2ps for 8 numbers (30,000 numbers: 2.5 us; a lookup table 10 us, NumPy's astype 41 us).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from cclslr.data.batch import ViewParams
from cclslr.keypoints import FLIP, NUM_JOINTS, NUM_WHOLEBODY, SLICES, WHOLEBODY

CONFIDENT = 0.3
_MIN_BODY_POINTS = 4

_BODY = np.array(WHOLEBODY["body"])
_LEFT_WRIST, _RIGHT_WRIST, _NOSE, _NOSE_TIP = 9, 10, 0, 53
# First whole-body keypoint, number of points, first joint, reference point and its stand-in of each run of keypoints
_RUNS = np.array(
    [
        (91, 21, SLICES["left_hand"].start, 91, _LEFT_WRIST),
        (112, 21, SLICES["right_hand"].start, 112, _RIGHT_WRIST),
        (23, 17, SLICES["face"].start, _NOSE_TIP, _NOSE),
        (_NOSE_TIP, 1, SLICES["face"].start + 17, _NOSE_TIP, _NOSE),
        (83, 8, SLICES["mouth"].start, _NOSE_TIP, _NOSE),
    ]
)


def pose_views(keypoints: Sequence[np.ndarray], sizes_B2: np.ndarray, params: ViewParams) -> np.ndarray:
    """Normalised, augmented pose views: (V, B, T, 75, 3) float32.

    Args:
        keypoints: of each clip (T, 133, 3), C-contiguous float16 or float32: x, y in packed-frame pixels, confidence.
        sizes_B2: width and height of the packed frames; 0, 0 where a clip has no video: then its pixels are square.
        params: the views.
    """
    index_VBT = params.pose_index_VBT
    views_VBTJC = np.empty((*index_VBT.shape, NUM_JOINTS, 3), np.float32)
    scratch_T3J = np.empty((max((len(kp) for kp in keypoints), default=0), 3, NUM_JOINTS), np.float32)
    sizes = np.where(sizes_B2 > 0, sizes_B2, 1).astype(np.float32)
    for b, keypoints_TKC in enumerate(keypoints):
        assert keypoints_TKC.shape[1:] == (NUM_WHOLEBODY, 3)
        bits = keypoints_TKC.view(np.uint16) if keypoints_TKC.dtype == np.float16 else keypoints_TKC
        _clip_views(
            bits,
            sizes[b, 0],
            sizes[b, 1],
            b,
            index_VBT,
            params.flip_VB,
            params.rotation_VB,
            params.scale_VB,
            params.hidden_VBJ,
            scratch_T3J,
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


@njit(nogil=True, cache=True)
def _clip_views(
    keypoints_TKC, width, height, b, index_VBT, flip_VB, rotation_VB, scale_VB, hidden_VBJ, scratch_T3J, views_VBTJC
):
    """Both views of clip `b`. The clip is normalised once, and the views gather from the result."""
    usable = _normalise(keypoints_TKC, width, height, scratch_T3J)
    num_views, _, num_frames = index_VBT.shape
    source_J = np.empty(NUM_JOINTS, np.int32)
    keep_J = np.empty(NUM_JOINTS, np.float32)
    for v in range(num_views):
        if not usable:
            views_VBTJC[v, b] = 0
            continue
        for j in range(NUM_JOINTS):
            source_J[j] = FLIP[j] if flip_VB[v, b] else j
            keep_J[j] = np.float32(not hidden_VBJ[v, b, j])
        mirror = np.float32(-1 if flip_VB[v, b] else 1)
        cos = np.cos(rotation_VB[v, b]) * scale_VB[v, b]
        sin = np.sin(rotation_VB[v, b]) * scale_VB[v, b]
        for t in range(num_frames):
            frame_3J = scratch_T3J[index_VBT[v, b, t]]
            view_JC = views_VBTJC[v, b, t]
            for j in range(NUM_JOINTS):
                source, keep = source_J[j], keep_J[j]
                x, y = mirror * frame_3J[0, source], frame_3J[1, source]
                view_JC[j, 0] = keep * (cos * x - sin * y)
                view_JC[j, 1] = keep * (sin * x + cos * y)
                view_JC[j, 2] = keep * frame_3J[2, source]


@njit(nogil=True, cache=True)
def _normalise(keypoints_TKC, width, height, out_T3J):
    """Fill `out` with the normalised clip, coordinates apart so that loops over joints vectorise; False if unusable."""
    points = 0
    left = top = np.float32(np.inf)
    right = bottom = np.float32(-np.inf)
    for t in range(len(keypoints_TKC)):
        for k in _BODY:
            if _as_float32(keypoints_TKC[t, k, 2]) > CONFIDENT:
                x, y = _as_float32(keypoints_TKC[t, k, 0]), _as_float32(keypoints_TKC[t, k, 1])
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

    for t in range(len(keypoints_TKC)):
        frame_KC, out_3J = keypoints_TKC[t], out_T3J[t]
        for j in range(len(_BODY)):
            _put(frame_KC, _BODY[j], out_3J, j, centre_x, centre_y, unit_x, unit_y, np.float32(1))
        for run in range(len(_RUNS)):
            first, num, joint, anchor, stand_in = _RUNS[run]
            if not _as_float32(frame_KC[anchor, 2]) > CONFIDENT:
                anchor = stand_in
            known = np.float32(_as_float32(frame_KC[anchor, 2]) > CONFIDENT)
            anchor_x, anchor_y = _as_float32(frame_KC[anchor, 0]), _as_float32(frame_KC[anchor, 1])
            for i in range(num):
                _put(frame_KC, first + i, out_3J, joint + i, anchor_x, anchor_y, unit_x, unit_y, known)
    return True


@njit(nogil=True, cache=True, inline="always")
def _put(frame_KC, k, out_3J, j, origin_x, origin_y, unit_x, unit_y, known):
    """Normalise one point; `known` is 0 where there is nothing to measure it from."""
    x = (_as_float32(frame_KC[k, 0]) - origin_x) * unit_x
    y = (_as_float32(frame_KC[k, 1]) - origin_y) * unit_y
    confidence = _as_float32(frame_KC[k, 2]) * known
    one = np.float32(1)
    valid = confidence > CONFIDENT
    out_3J[0, j] = min(max(x, -one), one) if valid else np.float32(0)
    out_3J[1, j] = min(max(y, -one), one) if valid else np.float32(0)
    out_3J[2, j] = confidence if valid else np.float32(0)
