"""How signers differ: proportions, colours, background, tempo, amplitude. All nuisance, none of it the sign."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]  # RGB, 0 … 255

SKINS: tuple[Colour, ...] = (
    (246, 212, 185),
    (229, 184, 148),
    (205, 150, 112),
    (168, 114, 78),
    (124, 80, 54),
    (82, 54, 40),
)


@dataclass(frozen=True)
class Signer:
    """One person in front of one background. Lengths are in mean shoulder widths, colours RGB 0 … 255."""

    left_handed: bool
    shoulders: float
    arm: float  # factor on the length of both arm bones
    hand: float  # wrist to tip of the middle finger
    head: tuple[float, float]  # half width, half height
    neck: float  # shoulders to chin
    skin: Colour
    hair: Colour
    hair_length: float  # 0 short … 1 to the shoulders
    lips: Colour
    clothing: Colour
    stripes: Colour
    sleeves: float  # share of the forearm that is covered
    amplitude: float  # factor on the size of movements
    tempo: float  # factor on the duration of the sign
    mouthing: float  # factor on the movement of the mouth
    offset: tuple[float, float, float]  # habitual displacement of the place of signing
    turn: float  # habitual turn of the hand, degrees
    background: int  # seed of the texture
    light: tuple[float, float]  # strength and direction (radians) of the fall of light


def _any_colour(rng: np.random.Generator) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.8), rng.uniform(0.15, 0.9))
    return 255 * red, 255 * green, 255 * blue


def draw_signer(rng: np.random.Generator) -> Signer:
    """A signer drawn from `rng`."""
    skin = np.array(SKINS[rng.integers(len(SKINS))]) * rng.uniform(0.9, 1.05)
    clothing = _any_colour(rng)
    if rng.uniform() < 0.25:  # clothes of nearly the skin's colour: hands are hard to see
        clothing = tuple(np.clip(skin * rng.uniform(0.8, 1.1) + rng.normal(0, 10, 3), 0, 255))
    hair = np.array((30, 24, 20)) + rng.uniform() ** 2 * np.array((170, 120, 60))
    return Signer(
        left_handed=bool(rng.uniform() < 0.1),
        shoulders=rng.uniform(0.86, 1.14),
        arm=rng.uniform(0.9, 1.1),
        hand=rng.uniform(0.54, 0.68),
        head=(rng.uniform(0.27, 0.34), rng.uniform(0.36, 0.44)),
        neck=rng.uniform(0.08, 0.2),
        skin=tuple(np.clip(skin, 0, 255)),
        hair=tuple(hair),
        hair_length=rng.uniform(),
        lips=tuple(np.clip(skin * (0.85, 0.55, 0.55), 0, 255)),
        clothing=clothing,
        stripes=_any_colour(rng) if rng.uniform() < 0.4 else clothing,
        sleeves=rng.uniform(0.0, 0.85),
        amplitude=rng.uniform(0.65, 1.4),
        tempo=rng.uniform(0.75, 1.3),
        mouthing=rng.uniform(0.6, 1.15),
        offset=tuple(rng.normal(0, (0.1, 0.12, 0.05))),
        turn=rng.normal(0, 12),
        background=int(rng.integers(2**31)),
        light=(rng.uniform(0.0, 0.35), rng.uniform(0, 2 * np.pi)),
    )
