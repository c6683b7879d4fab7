"""Where keypoints say that the signer is: boxes, discs, and hands while nobody finds them.

Shapes: T frames, N points, K = 133 whole-body keypoints (x and y in pixels, confidence). A pixel's middle is at whole
numbers; a mask of MASK_SIZE squared covers the whole frame.
"""

from __future__ import annotations

import numpy as np

from cclslr.keypoints import CONFIDENT
from cclslr.shards.format import MASK_SIZE

MARGIN = 0.1  # of the longer side of the keypoints' box: hair, fingertips and shoulders lie beyond the points
HOLD = 8  # frames that a hand's shape outlives its last sight, or comes before its first: a third of a second
HANDS = ((slice(91, 112), 9, 7), (slice(112, 133), 10, 8))  # points, wrist and elbow of the body: left, right
BEYOND = (0.0, 0.25, 0.5)  # forearms beyond the wrist: where a hand that nobody found begins, has its middle, and ends


def discs(points_TNC: np.ndarray, size: tuple[int, int], radius: float) -> np.ndarray:
    """Which cells of a mask have their middle within `radius` widths of the frame from a confident point: (T, 64, 64).

    Args:
        points_TNC: float32 (T, N, 3).
        size: height and width of the frames in pixels.
        radius: in widths of the frame.
    """
    height, width = size
    x_W, y_H = middles(width), middles(height)
    inside_THW = np.zeros((len(points_TNC), MASK_SIZE, MASK_SIZE), bool)
    for inside_HW, points_NC in zip(inside_THW, points_TNC):
        found_NC = points_NC[points_NC[:, 2] > CONFIDENT]
        across_NW, down_NH = (x_W - found_NC[:, :1]) ** 2, (y_H - found_NC[:, 1:2]) ** 2
        inside_HW[:] = (across_NW[:, None] + down_NH[:, :, None] <= (radius * width) ** 2).any(0)
    return inside_THW


def fill_hands(points_TKC: np.ndarray, hold: int = HOLD) -> np.ndarray:
    """Keypoints with a hand in every frame that tells where it is: float32 (T, 133, 3), a copy.

    A hand without a confident point takes its points from the nearest frame within `hold` that has some, moved as its
    wrist has moved since. Where there is no such frame it is a few points from the wrist on, along the forearm; where
    the wrist is not confident either, it stays as it is.
    """
    filled_TKC = points_TKC.copy()
    sure_TK = points_TKC[..., 2] > CONFIDENT
    for hand, wrist, elbow in HANDS:
        found_T = sure_TK[:, hand].any(1)
        seen = np.flatnonzero(found_T)
        for t in np.flatnonzero(~found_T):
            near = int(seen[np.abs(seen - t).argmin()]) if len(seen) else None
            if near is not None and abs(near - t) <= hold:
                filled_TKC[t, hand] = points_TKC[near, hand]
                if sure_TK[t, wrist] and sure_TK[near, wrist]:
                    filled_TKC[t, hand, :2] += points_TKC[t, wrist, :2] - points_TKC[near, wrist, :2]
            elif sure_TK[t, wrist]:
                forearm_2 = points_TKC[t, wrist, :2] - points_TKC[t, elbow, :2] if sure_TK[t, elbow] else np.zeros(2)
                for k, share in enumerate(BEYOND, hand.start):
                    filled_TKC[t, k] = points_TKC[t, wrist]
                    filled_TKC[t, k, :2] += np.float32(share) * forearm_2
    return filled_TKC


def signer_boxes(points_TKC: np.ndarray, margin: float = MARGIN) -> np.ndarray:
    """Box of each frame's confident points, `margin` of its longer side larger on every side.

    Returns:
        float (T, 4): left, top, right, bottom in pixels; NaN in a frame without such a point.
    """
    boxes_T4 = np.full((len(points_TKC), 4), np.nan)
    for box_4, points_KC in zip(boxes_T4, points_TKC):
        found_K2 = points_KC[(points_KC[:, 2] > CONFIDENT) & np.isfinite(points_KC).all(-1), :2]
        if len(found_K2):
            low_2, high_2 = found_K2.min(0), found_K2.max(0)
            grow = margin * (high_2 - low_2).max()
            box_4[:] = *(low_2 - grow), *(high_2 + grow)
    return boxes_T4


def around(boxes_T4: np.ndarray, hold: int) -> np.ndarray:
    """The box of the boxes at most `hold` frames away: (T, 4); NaN where these frames have none."""
    count = len(boxes_T4)
    low_T2 = np.where(np.isnan(boxes_T4[:, :2]), np.inf, boxes_T4[:, :2])
    high_T2 = np.where(np.isnan(boxes_T4[:, 2:]), -np.inf, boxes_T4[:, 2:])
    near = [slice(max(0, t - hold), t + hold + 1) for t in range(count)]
    boxes = np.array([[*low_T2[frames].min(0), *high_T2[frames].max(0)] for frames in near])
    return np.where(np.isinf(boxes), np.nan, boxes)


def outside(boxes_T4: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which cells of a mask have their middle outside of the frame's box: (T, 64, 64) bool; none without a box."""
    height, width = size
    x_W, y_H = middles(width), middles(height)
    left, top, right, bottom = boxes_T4.T[:, :, None]
    beside_TW, above_TH = (x_W < left) | (x_W > right), (y_H < top) | (y_H > bottom)
    return beside_TW[:, None] | above_TH[:, :, None]


def middles(pixels: int) -> np.ndarray:
    """Where the middles of a mask's cells lie along a side of so many pixels: (64,)."""
    return (np.arange(MASK_SIZE) + 0.5) * pixels / MASK_SIZE - 0.5
