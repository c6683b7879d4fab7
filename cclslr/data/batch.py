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

    @property
    def tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """RGB, pose, clip ids, labels."""
        return self.rgb_VBTHWC, self.pose_VBTJC, self.clip_ids_B, self.labels_B

    def to(self, device: torch.device) -> Batch:
        """This batch on `device`; asynchronous where the memory is pinned."""
        rgb, pose, clip_ids, labels = self.tensors
        move = lambda x: None if x is None else x.to(device, non_blocking=True)  # noqa: E731
        return Batch(
            move(rgb), move(pose), clip_ids.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        )

    def pin(self) -> Batch:
        """This batch with what is not on a GPU yet in page-locked memory."""
        rgb, pose, clip_ids, labels = self.tensors
        pin = lambda x: x if x is None or x.is_cuda else x.pin_memory()  # noqa: E731
        return Batch(pin(rgb), pin(pose), clip_ids.pin_memory(), labels.pin_memory())

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Say that `stream` reads all of it: its memory, made on another stream, is not given away before that ends."""
        for tensor in self.tensors:
            if tensor is not None and tensor.is_cuda:
                tensor.record_stream(stream)


def to_device(batch: Batch, device: torch.device, stream: torch.cuda.Stream | None) -> Batch:
    """The batch on `device`, complete; through pinned memory and `stream` if that is a GPU.

    One stream serves a loader for good: PyTorch keeps freed memory for the stream that it was made on.
    """
    if stream is None:
        return batch
    with torch.cuda.stream(stream):
        moved = batch.pin().to(device)
        stream.synchronize()
    return moved
