"""HEVC (H.265) by x265."""

from __future__ import annotations

from dataclasses import dataclass

from cclslr.codecs.video import GOP, VideoCodec


@dataclass(frozen=True, kw_only=True)
class Hevc(VideoCodec):
    """See `VideoCodec`."""

    def options(self, shape: tuple[int, ...], quality: int | None) -> dict[str, str]:
        options = super().options(shape, quality)
        num_frames, height, width, _ = shape
        if max(height, width) <= 64:  # a picture of one coding tree unit: the bytes vary with memory that nobody wrote
            options["x265-params"] += ":ctu=32"
        if num_frames == 1:  # x265 would read the type of a next frame, which nobody wrote
            options["x265-params"] += ":bframes=0"
        return options


HEVC = Hevc(
    name="hevc",
    about="NVDEC and CPU threads, fewer bytes than h264",
    clip_kb=60.0,
    quality=22,
    smallest=64,  # at widths of 34 to 48, x265's vectors write beyond its rows and the heap is corrupt
    dali_cpu=False,
    dali_gpu=True,
    triangle=False,
    encoder="libx265",
    settings={
        "preset": "fast",
        "tune": "fastdecode",
        "x265-params": f"keyint={GOP}:bframes=3:b-adapt=0:b-pyramid=0:weightb=0"
        ":pools=1:frame-threads=1:wpp=0:info=0:log-level=error",
    },
    tag="hvc1",
    decoder="hevc",
    sample_entries=("hvc1", "hev1"),
    parameters="hvcC",
    skips=True,
    trials=("crf=20", "crf=24"),
)
