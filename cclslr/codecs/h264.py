"""H.264 by x264."""

from __future__ import annotations

from cclslr.codecs.video import GOP, VideoCodec

H264 = VideoCodec(
    name="h264",
    about="NVDEC and CPU threads",
    clip_kb=80.0,
    quality=22,
    smallest=16,
    dali_cpu=False,
    dali_gpu=True,
    triangle=False,
    encoder="libx264",
    # cpu-independent: the vectorised macroblock tree reads memory that nobody wrote, and the bytes vary with it.
    # psy, aq-mode: bits that please the eye cost time to decode and bring no frame nearer to its source.
    settings={
        "preset": "fast",
        "tune": "fastdecode",
        "bf": "3",
        "g": GOP,
        "x264-params": "cpu-independent=1:psy=0:aq-mode=0:b-adapt=0:b-pyramid=none:weightb=0",
    },
    decoder="h264",
    sample_entries=("avc1",),
    parameters="avcC",
    skips=True,
    trials=(
        *("bf=0", "bf=1", "bf=2", "bf=5", "bf=7", "crf=20", "crf=24", "preset=medium"),
        "bf=0 crf=20 x264-params=cpu-independent=1",
    ),
)
