"""What an encoder's settings cost: bytes, error, decoding time.

A setting is that of `cclslr pack` with a few of the encoder's options changed. PSNR is against the frames that were
encoded. Times are CPU times of one thread, a pass over all clips at a time, settings in turns; the first pass is
warm-up. "All" is every frame, "wanted" the frames of two training views.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from cclslr.cli import command_parser
from cclslr.codecs import codecs
from cclslr.codecs.video import VideoCodec
from cclslr.config import ViewConfig
from cclslr.console import console, progress_bar
from cclslr.data.views import draw_views
from cclslr.datasets.base import VideoFile
from cclslr.environment import describe
from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.shards.crop import crop_and_resize

VIDEO_CODECS = {name: codec for name, codec in codecs().items() if isinstance(codec, VideoCodec)}
EXAMPLES = """examples:
  cclslr bench encoder my_signs/*/*.mp4
  cclslr bench encoder my_signs/*/*.mp4 --codec hevc --setting "crf=26" --setting "preset=slow crf=24" """


@dataclass(frozen=True)
class Source:
    """A clip as it goes into the encoder."""

    frames_THWC: np.ndarray
    fps: float


@dataclass(frozen=True)
class Encoded:
    """The clips, encoded with one setting."""

    setting: str  # "" as packed
    clips: list[bytes]
    psnr_db: float  # mean over all frames


def load_clip(path: Path, size: int) -> Source:
    """A video as `cclslr pack folder` takes it: cropped to the signer where a keypoint file lies beside it."""
    pose = path.with_suffix(".npz")
    clip = crop_and_resize(VideoFile(str(path), str(pose) if pose.exists() else None).load(), size, "signer")
    assert clip.frames_THWC is not None
    return Source(clip.frames_THWC, clip.fps)


def encode(clips: list[Source], codec: VideoCodec, setting: str) -> Encoded:
    """All clips with the default options, and those of `setting` instead ("crf=24 bf=0").

    Raises:
        UserError: a setting that is none.
    """
    if not all("=" in option for option in setting.split()):
        raise UserError(f"--setting {setting!r}: expected encoder options as NAME=VALUE, with blanks between them")
    changed = dict(option.split("=", 1) for option in setting.split())
    encoded, psnr_db = [], []
    quality = changed.pop("crf", None)
    codec = dataclasses.replace(codec, settings={**codec.settings, **changed})
    for clip in clips:
        encoded.append(codec.encode(clip.frames_THWC, clip.fps, None if quality is None else int(quality))[0])
        for frame, decoded in zip(clip.frames_THWC, codec.decode(encoded[-1]), strict=True):
            error = np.square(np.subtract(frame, decoded, dtype=np.float64)).mean()
            psnr_db.append(10 * np.log10(255**2 / error))
    return Encoded(setting, encoded, float(np.mean(psnr_db)))


def decode(clips: list[bytes], codec: VideoCodec, wanted: list[list[int] | None]) -> float:
    """Milliseconds of the processor a clip."""
    began = time.thread_time()
    for data, numbers in zip(clips, wanted, strict=True):
        deque(codec.planes(data, wanted=numbers), maxlen=0)
    return 1e3 * (time.thread_time() - began) / len(clips)


def draw_wanted(clips: list[Source], size: int, epoch: int) -> list[list[int] | None]:
    """The frames that two training views of each clip want."""
    num_frames_B = np.array([len(clip.frames_THWC) for clip in clips])
    sizes_B2 = np.full((len(clips), 2), size)
    params = draw_views(ViewConfig(), 0, epoch, np.arange(len(clips)), num_frames_B, sizes_B2)
    return [np.unique(params.rgb_index_VBT[:, b]).tolist() for b in range(len(clips))]


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("videos", nargs="+", type=Path, help="video files; keypoints of the same name beside them")
    parser.add_argument("--codec", choices=VIDEO_CODECS, default="h264", help="default h264")
    parser.add_argument("--setting", action="append", metavar="OPTIONS", help="to try; by default a list of them")
    parser.add_argument("--size", type=int, default=256, help="pixels of the packed square (default 256)")
    parser.add_argument("--repeats", type=int, default=9, help="counted passes, each with other views (default 9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single time")
    args = parser.parse_args(argv)

    codec = VIDEO_CODECS[args.codec]
    clips = [load_clip(path, args.size) for path in args.videos]
    settings = ["", *(codec.trials if args.setting is None else args.setting)]
    with progress_bar("settings") as bar:
        encoded = [encode(clips, codec, setting) for setting in bar.track(settings, description="encode")]
        times = []
        for turn in bar.track(range(args.repeats + 1), description="decode"):
            wanted = draw_wanted(clips, args.size, turn)
            every: list[list[int] | None] = [None] * len(clips)
            times.append([[decode(one.clips, codec, numbers) for numbers in (every, wanted)] for one in encoded])
    columns = ("kB a clip", "PSNR, dB", "all, ms", "wanted, ms")
    table = Table("setting", *columns, title=f"{args.codec}, {len(clips)} clips, n = {args.repeats}")
    rows = []
    for one, measured in zip(encoded, zip(*times[1:], strict=True), strict=True):
        all_ms, wanted_ms = (list(values) for values in zip(*measured, strict=True))
        kilobytes = sum(map(len, one.clips)) / len(clips) / 1e3
        table.add_row(
            one.setting or "as packed", f"{kilobytes:.0f}", f"{one.psnr_db:.2f}",
            f"{statistics.median(all_ms):.2f}", f"{statistics.median(wanted_ms):.2f}",
        )  # fmt: skip
        rows.append(
            {"setting": one.setting, "kb": kilobytes, "psnr_db": one.psnr_db, "all_ms": all_ms, "wanted_ms": wanted_ms}
        )
    console.print(table)
    if args.json is not None:
        write_json(args.json, {"environment": describe(), "codec": args.codec, "clips": len(clips), "settings": rows})
