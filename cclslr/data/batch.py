"""The types that cross the border between the data rooms and the trainer.

Axis letters in names: V views (query, key), B clips, T frames, H W C pixels and channels, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ViewParams:
    """Everything random about the views of B clips, drawn before a byte is read; both modalities obey it.

    Geometry is in packed-frame pixels with the origin in the top left corner of the top left pixel.
    """

    rgb_index_VBT: np.ndarray  # int32, frame numbers of the RGB view
    pose_index_VBT: np.ndarray  # int32, frame numbers of the pose view, over the same temporal crop
    crop_VB4: np.ndarray  # float32, x0 y0 x1 y1 of the spatial crop
    flip_VB: np.ndarray  # bool, horizontal flip of RGB and pose alike
    colour_VB34: np.ndarray  # float32, out = M[:, :3] @ rgb + M[:, 3], for values in 0..255, clamped afterwards
    masked_VB: np.ndarray  # bool, multiply the RGB view by its motion-preserving mask
    rotation_VB: np.ndarray  # float32, radians, of the pose about the origin of its normalised frame
    scale_VB: np.ndarray  # float32, of the pose
    hidden_VBJ: np.ndarray  # bool, joints zeroed by joint masking


@dataclass
class Batch:
    """One rank's clips of one global batch, on the training device. A modality that is not used is None."""

    rgb_VBTHWC: Tensor | None  # uint8, 0..255
    pose_VBTJC: Tensor | None  # float32: x, y in [-1, 1], confidence
    clip_ids_B: Tensor  # int64, row of the clip in the data set
    labels_B: Tensor  # int64, -1 where unknown

    def to(self, device: torch.device) -> Batch:
        """This batch on `device`; asynchronous where the memory is pinned."""
        move = lambda x: None if x is None else x.to(device, non_blocking=True)  # noqa: E731
        return Batch(move(self.rgb_VBTHWC), move(self.pose_VBTJC), self.clip_ids_B.to(device), self.labels_B.to(device))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`, complete: through pinned memory and a stream of its own if that is a GPU."""
    if device.type != "cuda":
        return batch
    with torch.cuda.stream(torch.cuda.Stream(device)):
        pin = lambda x: x if x is None or x.is_cuda else x.pin_memory()  # noqa: E731
        moved = Batch(pin(batch.rgb_VBTHWC), pin(batch.pose_VBTJC), batch.clip_ids_B, batch.labels_B).to(device)
        torch.cuda.current_stream(device).synchronize()
    return moved
