"""What a class is: where a sign is made, how the hands move, their shape, and what the mouth does.

Signs come in pairs of twins that share place, path and use of the hands; twins differ by the handshape alone, by the
mouth alone, or by a fine movement of the hand alone. A classifier that knows the coarse movement is therefore right
once in two, and each of the three cues is carried better by one modality than by the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cclslr.errors import UserError

# Flexion of thumb, index, middle, ring, little finger (0 straight, 1 folded), then how far the fingers spread.
HANDSHAPES: dict[str, tuple[float, float, float, float, float, float]] = {
    "flat": (0.3, 0.0, 0.0, 0.0, 0.0, 0.0),
    "fist": (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    "five": (0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    "index": (1.0, 0.0, 1.0, 1.0, 1.0, 0.0),
    "vee": (1.0, 0.0, 0.0, 1.0, 1.0, 1.0),
    "claw": (0.2, 0.5, 0.5, 0.5, 0.5, 1.0),
    "thumb": (0.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    "horns": (0.0, 0.0, 1.0, 1.0, 0.0, 0.6),
    "three": (0.0, 0.0, 0.0, 1.0, 1.0, 0.8),
    "hook": (1.0, 0.5, 1.0, 1.0, 1.0, 0.0),
    "four": (1.0, 0.0, 0.0, 0.0, 0.0, 0.7),
    "little": (1.0, 1.0, 1.0, 1.0, 0.0, 0.0),
}
# Width and opening of the mouth, relative to the signer's own.
MOUTHS: dict[str, tuple[float, float]] = {
    "neutral": (1.0, 0.0),
    "open": (0.95, 1.0),
    "wide": (1.4, 0.3),
    "round": (0.5, 0.5),
}
# Centre of the hand, in shoulder widths from the middle of the shoulders: outwards, down, towards the camera.
PLACES: dict[str, tuple[float, float, float]] = {
    "chest": (0.20, 0.45, 0.5),
    "cheek": (0.40, -0.70, 0.4),
    "side": (0.90, 0.00, 0.4),
    "chin": (0.10, -0.40, 0.5),
    "neutral": (0.45, 0.80, 0.6),
    "forehead": (0.30, -1.05, 0.4),
    "belly": (0.15, 1.10, 0.5),
    "shoulder": (0.60, 0.25, 0.5),
}
PATHS = ("lift", "circle", "sweep", "tap", "arc", "shake", "zigzag", "nudge")
HANDS = ("one", "mirror", "base", "alternate")
FINE = ("wiggle", "twist", "nod")
CUES = ("handshape", "mouth", "fine")
MAX_CLASSES = 2 * len(PLACES) * len(PATHS) * len(HANDS)


@dataclass(frozen=True)
class Sign:
    """One class."""

    family: int
    differs: str  # from its twin by one of CUES; "plain" for the first of the two
    place: str
    path: str
    hands: str
    handshape: str
    mouth: str
    fine: str | None
    tilt: float  # degrees the fingers lean inwards from upright
    roll: float  # degrees the palm turns away from the camera

    @property
    def gloss(self) -> str:
        """A name to read in tables."""
        detail = {"handshape": self.handshape, "mouth": self.mouth, "fine": str(self.fine)}.get(self.differs)
        return f"{self.place}-{self.path}-{self.hands}" + (f"-{detail}" if detail else "")


def sign(label: int) -> Sign:
    """The class `label`; the same for every seed and every number of classes.

    Raises:
        UserError: `label` outside 0 … MAX_CLASSES - 1.
    """
    if not 0 <= label < MAX_CLASSES:
        raise UserError(f"class {label}: there are {MAX_CLASSES} classes, 0 to {MAX_CLASSES - 1}")
    family, twin = divmod(label, 2)
    handshapes, mouths, places = list(HANDSHAPES), list(MOUTHS), list(PLACES)
    round_, place = divmod(family, len(places))
    hands_round, path_round = divmod(round_, len(PATHS))
    plain = Sign(
        family=family,
        differs="plain",
        place=places[place],
        path=PATHS[(place + path_round) % len(PATHS)],
        hands=HANDS[(place + path_round + hands_round) % len(HANDS)],
        handshape=handshapes[(5 * family) % len(handshapes)],
        mouth=mouths[family % len(mouths)],
        fine=None,
        tilt=(15.0, 60.0, 35.0)[round_ % 3],
        roll=(0.0, 180.0, 40.0, 150.0)[family % 4],
    )
    differs = CUES[family % len(CUES)]
    if not twin:
        return plain
    if differs == "handshape":
        other = handshapes[(5 * family + 1 + family // 3 % 3) % len(handshapes)]
        return replace(plain, differs=differs, handshape=other)
    if differs == "mouth":
        return replace(plain, differs=differs, mouth=mouths[(family + 1 + family // 3 % 3) % len(mouths)])
    return replace(plain, differs=differs, fine=FINE[family // 3 % len(FINE)])


def path_offset(path: str, phase_T: np.ndarray) -> np.ndarray:
    """Displacement of the hand from its place at `phase_T` (0 … 1 through the sign): (T, 3), within [-1, 1]."""
    turn, zero = 2 * np.pi * phase_T, np.zeros_like(phase_T)
    ease = -np.cos(np.pi * phase_T)
    curves = {
        "lift": (zero, -ease, zero),
        "circle": (np.cos(2 * turn), np.sin(2 * turn), zero),
        "sweep": (ease, zero, zero),
        "tap": (zero, 1 - 2 * np.abs(np.sin(1.5 * turn)), 0.5 * np.abs(np.sin(1.5 * turn))),
        "arc": (ease, 1 - 2 * np.sin(np.pi * phase_T), zero),
        "shake": (np.sin(3 * turn), zero, zero),
        "zigzag": (np.sin(2.5 * turn), -ease, zero),
        "nudge": (zero, 0.3 * np.sin(2 * turn), np.sin(2 * turn)),
    }
    return np.stack(curves[path], axis=-1)
