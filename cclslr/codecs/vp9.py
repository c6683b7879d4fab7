"""VP9 by libvpx."""

from __future__ import annotations

from cclslr.codecs.video import GOP, VideoCodec

VP9 = VideoCodec(
    name="vp9",
    about="DALI's CPU decoder",
    clip_kb=80.0,
    quality=30,
    smallest=16,
    dali_cpu=True,
    dali_gpu=True,
    triangle=True,
    encoder="libvpx-vp9",
    settings={
        "b": "0",
        "deadline": "good",
        "cpu-used": "4",
        "row-mt": "0",
        "auto-alt-ref": "0",
        "g": GOP,
    },
    decoder="vp9",
    sample_entries=("vp09",),
    parameters=None,
    skips=True,
    trials=("crf=27", "crf=33"),
)
