"""What a way of making masks is, and its options.

Adding one is adding a module to this package that defines a `MaskMethod`; `methods` finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cclslr import registry
from cclslr.errors import UserError
from cclslr.masking.flow import Flow

CHOICES = {
    "keep": ("high", "low"),
    "threshold": ("absolute", "quantile"),
    "binarize": ("decoded_deviation", "decoded_motion", "decoded_difference", "gray_otsu"),
}


MOTION_ALONE: dict[str, Any] = {
    "method": "flow",
    "keep": "high",
    "threshold": "absolute",
    "p": 0.5,
    "binarize": "decoded_deviation",
    "radius": 0.06,
}
"""Options of masks from motion alone, with the paper's threshold and one mask for all frames: the first default."""


@dataclass(frozen=True)
class MpmOptions:
    """How masks are made."""

    method: str = "flow+pose"  # of `methods`
    keep: str = "high"  # high: moving latents survive; low: Eq. 5 to the letter
    threshold: str = "quantile"  # absolute: sigma against p; quantile: a share p of the latents counts as static
    p: float = 0.5
    binarize: str = "decoded_motion"
    radius: float = 0.06  # of each disc, in widths of the frame

    def __post_init__(self) -> None:
        for name, choices in {"method": tuple(methods()), **CHOICES}.items():
            if getattr(self, name) not in choices:
                raise UserError(f"mask option {name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        if not self.p > 0 or (self.threshold == "quantile" and not self.p < 1):
            raise UserError(f"mask option p is {self.p}; it must be positive, and below 1 as a quantile")

    def recorded(self) -> dict[str, Any]:
        """What a data set says of them. Options that the method does not use always read as in `MOTION_ALONE`."""
        uses = ("method", *methods()[self.method].uses)
        return {name: value if name in uses else MOTION_ALONE[name] for name, value in vars(self).items()}


def motion_alone(**changes: Any) -> MpmOptions:
    """`MOTION_ALONE`, but for these."""
    return MpmOptions(**{**MOTION_ALONE, **changes})


@dataclass(frozen=True)
class MpmReport:
    """What became of one clip."""

    share_kept: float  # of the masks' pixels
    share_latents_masked: float | None  # None without a flow
    degenerate: str | None  # why the mask is all ones; None where it is a real mask
    note: str | None = None  # what the mask had to do without

    def recorded(self) -> dict[str, Any]:
        """What a clip's json says of it."""
        return {name: value for name, value in vars(self).items() if name != "note" or value is not None}


Masks = tuple[np.ndarray, MpmReport]  # uint8 {0, 1} (T, 64, 64) of a clip, and what became of it


def as_prepared(prepared: list[Masks], options: MpmOptions, flow: Flow | None) -> list[Masks]:
    """`MaskMethod.masks` of a method that has made each clip's masks by itself."""
    return prepared


@dataclass(frozen=True)
class MaskMethod:
    """One way of making masks: an entry of the table that the command, the options and the tests share."""

    name: str
    help: str  # half a line
    # Of one clip, on a thread of its own: uint8 frames (T, H, W, 3), keypoints (T, 133, 3) if it has any, the options,
    # the flow; the masks, or what `masks` takes.
    prepare: Callable[[np.ndarray, np.ndarray | None, MpmOptions, Flow | None], Any]
    # Of several clips together, from what `prepare` gave: where a device wants many frames at once.
    masks: Callable[[list[Any], MpmOptions, Flow | None], list[Masks]] = as_prepared
    needs_flow: bool = False
    uses: tuple[str, ...] = ()  # options


def methods() -> dict[str, MaskMethod]:
    """Every way of making masks, by name."""
    return registry.find(__package__, MaskMethod)


def motion_mask(
    frames_THWC: np.ndarray, options: MpmOptions, flow: Flow | None = None, keypoints_TKC: np.ndarray | None = None
) -> Masks:
    """The masks of one clip: uint8 frames (T, H, W, 3) → uint8 {0, 1} (T, 64, 64) and a report. A pure function.

    Raises:
        UserError: the method lacks its flow or its keypoints.
    """
    method = methods()[options.method]
    if method.needs_flow and flow is None:
        raise UserError(f"masks of method {method.name} need a flow; train one with cclslr flow")
    return method.masks([method.prepare(frames_THWC, keypoints_TKC, options, flow)], options, flow)[0]
