"""The rasteriser: a body of tapered capsules and ellipses, painted back to front over a textured background.

A primitive is nine numbers. Capsule: x0, y0, r0, x1, y1, r1 (a thick line whose radius changes from r0 to r1); ellipse:
x, y, half width, half height, angle, -1 (the negative number says which). Then red, green, blue. All in pixels.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from .body import mouth_shape
from .signer import Colour, Signer

_CHAIN = ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20))
_DOWN = np.array((0.0, 1.0, 0.0))


@numba.njit(nogil=True, cache=True, fastmath=True)
def paint(frames_THWC: np.ndarray, primitives_TN9: np.ndarray, rim: float) -> None:
    """Paint the primitives of every frame in order, in place, anti-aliased over one pixel; `rim` darkens their edges.

    Only the bounding box of each primitive is visited, which is why a frame costs microseconds, not milliseconds.
    """
    height, width = frames_THWC.shape[1:3]
    for t in range(frames_THWC.shape[0]):
        for n in range(primitives_TN9.shape[1]):
            ax, ay, ar, bx, by, br = primitives_TN9[t, n, :6]
            ellipse = br < 0
            if ellipse:
                cos, sin, reach = math.cos(by), math.sin(by), max(ar, bx)
                left, right, top, bottom = ax - reach, ax + reach, ay - reach, ay + reach
            else:
                left, right = min(ax - ar, bx - br), max(ax + ar, bx + br)
                top, bottom = min(ay - ar, by - br), max(ay + ar, by + br)
                dx, dy = bx - ax, by - ay
                inverse = 1.0 / max(dx * dx + dy * dy, 1e-6)
            for y in range(max(0, int(top) - 1), min(height, int(bottom) + 3)):
                for x in range(max(0, int(left) - 1), min(width, int(right) + 3)):
                    px, py = x + 0.5 - ax, y + 0.5 - ay
                    if ellipse:
                        u, v = (px * cos + py * sin) / ar, (py * cos - px * sin) / bx
                        level = u * u + v * v
                        slope = 2 * math.sqrt((u / ar) ** 2 + (v / bx) ** 2) + 1e-6
                        inside = (1 - level) / slope  # distance to the edge, to first order
                    else:
                        along = min(1.0, max(0.0, (px * dx + py * dy) * inverse))
                        px -= along * dx
                        py -= along * dy
                        inside = ar + along * (br - ar) - math.sqrt(px * px + py * py)
                    alpha = inside + 0.5
                    if alpha <= 0:
                        continue
                    alpha = min(alpha, 1.0)
                    shade = 1 - rim * max(0.0, 1 - 0.6 * inside) if inside < 1.6 else 1.0
                    for c in range(3):
                        old = frames_THWC[t, y, x, c]
                        new = min(255.0, primitives_TN9[t, n, 6 + c] * shade)
                        frames_THWC[t, y, x, c] = np.uint8(old + alpha * (new - old) + 0.5)


@numba.njit(nogil=True, cache=True)
def expose(frames_THWC: np.ndarray, light_HW: np.ndarray, grain: float, seed: int) -> None:
    """Light every frame and add a sensor's noise of standard deviation `grain`, in place (one xorshift a pixel)."""
    state = np.uint64(seed) | np.uint64(1)
    for t in range(frames_THWC.shape[0]):
        for y in range(frames_THWC.shape[1]):
            for x in range(frames_THWC.shape[2]):
                state ^= state << np.uint64(13)
                state ^= state >> np.uint64(7)
                state ^= state << np.uint64(17)
                # The sum of two uniform 16-bit numbers, one for all channels: triangular, standard deviation 26754.
                total = np.int64(state & np.uint64(0xFFFF)) + np.int64((state >> np.uint64(16)) & np.uint64(0xFFFF))
                noise = np.float32(total - 65535) * np.float32(grain / 26754.0)
                for c in range(3):
                    value = np.float32(frames_THWC[t, y, x, c]) * light_HW[y, x] + noise
                    frames_THWC[t, y, x, c] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))


def background(size: int, seed: int) -> np.ndarray:
    """A wall with blotches, stripes or furniture: (size, size, 3) uint8, the same for the same `seed`."""
    rng = np.random.default_rng(seed)
    at = (np.arange(size) + 0.5) / size
    base, other = rng.uniform(40, 220, 3), rng.uniform(20, 235, 3)
    weight = np.zeros((size, size))
    for _ in range(5):
        fx, fy, phase = rng.uniform(-5, 5), rng.uniform(-5, 5), rng.uniform(0, 2 * np.pi)
        weight += np.sin(2 * np.pi * (fx * at[None, :] + fy * at[:, None]) + phase)
    if rng.uniform() < 0.5:
        weight += 3 * np.sign(np.sin(2 * np.pi * rng.uniform(4, 12) * at + 1))[None, :]
    weight = 0.5 + 0.5 * np.tanh(weight * rng.uniform(0.2, 1.0))
    wall = base + (weight * rng.uniform(0.2, 0.8))[..., None] * (other - base)
    for _ in range(rng.integers(0, 7)):
        x0, y0 = (rng.uniform(0, 0.9, 2) * size).astype(int)
        x1, y1 = (np.array((x0, y0)) + rng.uniform(0.05, 0.45, 2) * size).astype(int)
        wall[y0:y1, x0:x1] = rng.uniform(0, 255, 3) + 0.2 * (wall[y0:y1, x0:x1] - 128)
    return np.clip(wall, 0, 255).astype(np.uint8)


def _capsule(a: np.ndarray, ra: float, b: np.ndarray, rb: float, colour: np.ndarray | Colour) -> np.ndarray:
    """Capsules of T frames: (T, 9)."""
    rows = np.empty((len(a), 9))
    rows[:, 0:2], rows[:, 2], rows[:, 3:5], rows[:, 5], rows[:, 6:] = a[:, :2], ra, b[:, :2], rb, colour
    return rows


def _ellipse(centre: np.ndarray, half: np.ndarray, angle: float, colour: np.ndarray | Colour) -> np.ndarray:
    """Ellipses of T frames: (T, 9)."""
    rows = np.empty((len(centre), 9))
    rows[:, 0:2], rows[:, 2:4], rows[:, 4], rows[:, 5], rows[:, 6:] = centre[:, :2], half, angle, -1, colour
    return rows


def trunk(points_TK3: np.ndarray, mouth_T2: np.ndarray, signer: Signer, unit: float) -> np.ndarray:
    """Everything behind the arms, back to front: torso, neck, head, features of the face: (T, N, 9)."""
    p = points_TK3
    skin, hair, cloth = np.array(signer.skin), np.array(signer.hair), np.array(signer.clothing)
    neck, hips = (p[:, 5] + p[:, 6]) / 2, (p[:, 11] + p[:, 12]) / 2
    half = unit * np.array(signer.head)
    face = p[:, 23:91]
    head = p[:, 53] - 0.15 * half[1] * _DOWN
    inner_lip, lip = mouth_shape(head[:, :2] / unit, mouth_T2, signer)
    down, wide = unit * _DOWN, unit * np.array((1.0, 0.0, 0.0))
    rows = [
        _ellipse(
            head + (0.05 + 0.5 * signer.hair_length) * half[1] * _DOWN,
            half * (1.15, 1.1 + 0.35 * signer.hair_length),
            0.0,
            hair,
        ),
        _capsule(
            neck + 0.45 * down, 0.42 * unit * signer.shoulders, hips + 0.6 * down, 0.4 * unit * signer.shoulders, cloth
        ),
        _capsule(
            p[:, 5] + 0.09 * down - 0.08 * wide, 0.17 * unit, p[:, 6] + 0.09 * down + 0.08 * wide, 0.17 * unit, cloth
        ),
    ]
    for band in (0.6, 1.0, 1.4):
        at = neck + band * down
        rows.append(_capsule(at - 0.38 * wide, 0.05 * unit, at + 0.38 * wide, 0.05 * unit, signer.stripes))
    rows += [
        _capsule(neck + 0.05 * down, 0.17 * unit, head + 0.6 * half[1] * _DOWN, 0.15 * unit, 0.9 * skin),
        _ellipse(head, half, 0.0, skin),
        _ellipse(head - 0.78 * half[1] * _DOWN, half * (0.8, 0.3), 0.0, hair),
    ]
    for brow, eye in ((17, 36), (22, 42)):
        middle = face[:, eye : eye + 6].mean(axis=1)
        rows.append(_capsule(face[:, brow], 0.018 * unit, face[:, brow + 4], 0.018 * unit, 0.6 * hair))
        rows.append(_ellipse(middle, half * (0.2, 0.1), 0.0, (235, 235, 230)))
        rows.append(_ellipse(middle, half * (0.09, 0.09), 0.0, (35, 25, 20)))
    rows.append(_capsule(face[:, 28], 0.02 * unit, face[:, 30], 0.05 * unit, 0.92 * skin))
    rows.append(_ellipse(inner_lip * unit, lip * unit + half * (0.08, 0.08), 0.0, signer.lips))
    rows.append(_ellipse(inner_lip * unit, lip * unit + 0.1, 0.0, (50, 12, 15)))
    return np.stack(rows, axis=1)


def arms(points_TK3: np.ndarray, signer: Signer, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Upper arms (T, 2, 9), and what moves: forearms and hands, far to near (T, M, 9)."""
    p = points_TK3
    skin, cloth = np.array(signer.skin), np.array(signer.clothing)
    hand = unit * signer.hand
    upper, rows, depth = [], [], []
    for first in (0, 1):
        shoulder, elbow, joints = p[:, 5 + first], p[:, 7 + first], p[:, 91 + 21 * first : 112 + 21 * first]
        wrist = joints[:, 0]
        upper.append(_capsule(shoulder + 0.08 * unit * _DOWN, 0.17 * unit, elbow, 0.13 * unit, 0.95 * cloth))
        cuff = elbow + signer.sleeves * (wrist - elbow)
        rows.append(_capsule(elbow, 0.12 * unit, wrist, 0.075 * unit, skin))
        rows.append(_capsule(elbow, 0.14 * unit, cuff, 0.14 * unit * (1 - 0.35 * signer.sleeves), cloth))
        depth += [0.5 * elbow[:, 2] + 0.5 * wrist[:, 2] - 0.3 * unit, 0.5 * (elbow + wrist)[:, 2] - 0.29 * unit]
        for root in (5, 9, 13, 17):  # the palm
            rows.append(_capsule(wrist, 0.11 * hand, joints[:, root], 0.10 * hand, skin))
            depth.append((0.5 * wrist + 0.5 * joints[:, root])[:, 2])
        for finger, chain in enumerate(_CHAIN):
            radius = (0.075, 0.068, 0.07, 0.066, 0.055)[finger] * hand
            start = wrist if finger == 0 else joints[:, chain[0]]
            for a, b in zip((start, *(joints[:, k] for k in chain[1:-1])), (joints[:, k] for k in chain[1:])):
                toward = ((a + b) / 2 - wrist)[:, 2] / hand  # nearer fingers catch more light
                rows.append(_capsule(a, radius, b, radius, skin * (0.97 + 0.25 * np.clip(toward, -0.6, 0.6))[:, None]))
                depth.append(((a + b) / 2)[:, 2])
    order = np.argsort(np.stack(depth, axis=1), axis=1, kind="stable")
    return np.stack(upper, axis=1), np.take_along_axis(np.stack(rows, axis=1), order[..., None], axis=1)
