"""A clip that is a folder of numbered JPEG frames."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from cclslr.shards.format import BadClip, RawClip
from cclslr.shards.keypoint_file import PoseReading


@dataclass(frozen=True)
class FrameFolder:
    """A `ClipSource`: numbered JPEG frames, with whole-body keypoints from a file beside them."""

    path: str
    pose: str | None
    fps: float
    reading: PoseReading | None = field(default=None, repr=False)  # how the keypoint file is to be read

    def fingerprint(self) -> str:
        """Changes when a frame is added, removed or written again, or the keypoints are."""
        paths = sorted(Path(self.path).iterdir()) + ([] if self.pose is None else [Path(self.pose)])
        stats = repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths])
        said = "" if self.reading is None else f" {self.reading!r}"
        return f"{self!r} {zlib.crc32(stats.encode('utf-8', 'surrogateescape')):08x}{said}"

    def load(self) -> RawClip:
        """Decode the frames in the order of their numbers.

        Raises:
            BadClip: no frames, a gap in the numbers, a broken image, two sizes, keypoints of another length.
        """
        # Imported where they work: importers decode nothing.
        from cclslr.shards.foreign import check_size, reading
        from cclslr.shards.keypoint_file import read_pose, to_pixels

        names = sorted(Path(self.path).iterdir())
        pattern = _FRAME if any(_FRAME.fullmatch(path.name) for path in names) else _ANY_FRAME
        matches = ((pattern.fullmatch(path.name), path) for path in names)
        numbers = {int(match[1]): path for match, path in matches if match}
        if not numbers:
            raise BadClip("the folder has no image_00001.jpg")
        first, last = min(numbers), max(numbers)
        if len(numbers) != last - first + 1:
            gap = next(number for number in range(first, last) if number not in numbers)
            raise BadClip(f"frame {gap} is missing between {first} and {last}")
        frames: list[np.ndarray] = []
        for number in sorted(numbers):
            with reading(numbers[number]), Image.open(numbers[number]) as image:
                check_size(image.width, image.height, len(numbers))
                frames.append(np.asarray(image.convert("RGB")))
                if frames[-1].shape != frames[0].shape:
                    raise BadClip("the frame size changes within the clip")
        span = [0, len(frames)]
        meta = {"source": Path(self.path).name, "span": span, "source_frames": len(frames)}
        clip = RawClip(np.stack(frames), None, self.fps, meta)
        if self.pose is not None:
            clip.keypoints_TKC, texts = read_pose(self.pose, self.reading)
            if len(clip.keypoints_TKC) != len(frames):
                raise BadClip(f"the pose has {len(clip.keypoints_TKC)} frames, the folder {len(frames)}")
            size = (frames[0].shape[1], frames[0].shape[0])
            clip.keypoints_TKC = to_pixels(clip.keypoints_TKC, size, self.reading)
            if texts:
                clip.meta["pose"] = texts
        return clip


_FRAME = re.compile(r"(?:image|img|frame)?_?(\d+)\.jpe?g", re.IGNORECASE)
_ANY_FRAME = re.compile(r".*?(\d+)\.jpe?g", re.IGNORECASE)
