"""AV1 by SVT-AV1, decoded by dav1d.

libavcodec's own decoder of the name "av1" works on GPUs only; dav1d is asked for by its name. It reads `skip_frame`
when it is opened and never again, so no frame can be passed over: told before the first packet to skip what nobody
wants, it lost wanted frames for the rest of the clip.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass

import av
import numpy as np

from cclslr.codecs.video import GOP, VideoCodec

THREADS = "/proc/self/task"


@dataclass(frozen=True, kw_only=True)
class Av1(VideoCodec):
    """See `VideoCodec`."""

    def encode(self, frames_THWC: np.ndarray, fps: float, quality: int | None = None) -> tuple[bytes, list[int]]:
        os.environ.setdefault("SVT_LOG", "1")  # errors; else each clip writes 20 lines to stderr
        return super().encode(frames_THWC, fps, quality)

    def open(self, encoder: av.VideoCodecContext) -> None:
        """Open the encoder, and give its threads and the caller back the scheduling that the caller had.

        Where root runs it, as in most containers, SVT-AV1 sets all of them to SCHED_FIFO with the highest priority, and
        so every process that the caller starts later: then no other program runs until they wait for something.
        """
        policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
        before = set(os.listdir(THREADS))
        super().open(encoder)
        for thread in {*os.listdir(THREADS)} - before | {str(threading.get_native_id())}:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread), policy, parameters)


AV1 = Av1(
    name="av1",
    about="the fewest bytes, CPU threads and NVDEC of newer GPUs",
    clip_kb=56.0,
    quality=30,
    smallest=64,
    dali_cpu=False,
    dali_gpu=True,
    triangle=False,
    encoder="libsvtav1",
    settings={"preset": "8", "g": GOP, "svtav1-params": "lp=1:fast-decode=1"},
    decoder="libdav1d",
    sample_entries=("av01",),
    parameters="av1C",
    skips=False,
    trials=("crf=25", "crf=35", "preset=6"),
)
