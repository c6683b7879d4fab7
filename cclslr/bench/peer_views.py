"""Two RGB views of a clip as a user would write them: its wanted frames by a decoder of choice, the views by torch."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cclslr.bench.jobs import Job
from cclslr.codecs import Codec
from cclslr.errors import UserError


def torch_view(frames_THWC: torch.Tensor, job: Job, v: int, size: int) -> torch.Tensor:
    """Crop, resize, flip and colour in torch: (T, size, size, 3) uint8.

    The resize takes channels-last uint8, as torchvision advises; a convolution was the fastest way to colour.
    """
    x0, y0, x1, y1 = job.crop(v)
    x_TCHW = frames_THWC[:, y0:y1, x0:x1].permute(0, 3, 1, 2)
    x_TCHW = F.interpolate(x_TCHW, (size, size), mode="bilinear", align_corners=False)
    if job.params.flip_VB[v, job.b]:
        x_TCHW = x_TCHW.flip(3)
    matrix = torch.from_numpy(job.params.colour_VB34[v, job.b])
    x_TCHW = F.conv2d(x_TCHW.float(), matrix[:, :3, None, None], matrix[:, 3])
    return x_TCHW.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)


def torch_views(frames_THWC: torch.Tensor, job: Job, size: int) -> torch.Tensor:
    """(2, T, size, size, 3) uint8 from the frames that are wanted."""
    return torch.stack([torch_view(frames_THWC[job.positions_VT[v]], job, v, size) for v in range(2)])


Decode = Callable[[bytes, Job], torch.Tensor]

# Decoders: the wanted frames of a clip as RGB, uint8 (T, H, W, 3).


def open_video(data: bytes, codec: Codec) -> av.container.InputContainer:
    container = av.open(io.BytesIO(data), "r", format="mjpeg" if codec.alone else None)
    container.streams.video[0].codec_context.thread_count = 1  # clips are decoded side by side instead
    return container


def decode_pyav(data: bytes, job: Job) -> torch.Tensor:
    """libavcodec through PyAV, up to the last wanted frame; only wanted frames become RGB."""
    wanted = job.wanted
    with open_video(data, job.codec) as container:
        shown = itertools.islice(container.decode(video=0), int(wanted[-1]) + 1)
        keep = set(wanted.tolist())
        return torch.from_numpy(np.stack([f.to_ndarray(format="rgb24") for n, f in enumerate(shown) if n in keep]))


def decode_pillow(data: bytes, job: Job) -> torch.Tensor:
    """Each wanted JPEG by Pillow."""
    return torch.from_numpy(
        np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in job.images(data)])
    )


def decode_decord(data: bytes, job: Job) -> torch.Tensor:
    """decord2, one thread."""
    import decord

    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
    return torch.from_numpy(reader.get_batch(job.wanted.tolist()).asnumpy())


def decode_torchcodec(data: bytes, job: Job) -> torch.Tensor:
    """torchcodec, one thread, frames by number; of JPEG frames it gets the wanted ones alone."""
    from torchcodec.decoders import VideoDecoder

    wanted = job.wanted
    if job.codec.alone:
        data, wanted = b"".join(job.images(data)), np.arange(len(wanted))
    decoder = VideoDecoder(data, num_ffmpeg_threads=1, dimension_order="NHWC")
    return decoder.get_frames_at(wanted.tolist()).data


_tables: dict[int, str] = {}  # of frames, by clip: torchcodec's documentation keeps them beside the videos


def decode_torchcodec_mapped(data: bytes, job: Job) -> torch.Tensor:
    """torchcodec that is given each video's table of frames, so that it need not scan the video first."""
    from torchcodec.decoders import VideoDecoder

    if job.codec.alone:
        raise UserError(f"a table of frames is for video, not for {job.codec.name}")
    if job.clip_id not in _tables:
        with open_video(data, job.codec) as container:
            packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
        frames = [{"pts": p.pts, "duration": p.duration, "key_frame": int(p.is_keyframe)} for p in packets]
        _tables[job.clip_id] = json.dumps({"frames": sorted(frames, key=lambda frame: int(frame["pts"] or 0))})
    decoder = VideoDecoder(
        data, num_ffmpeg_threads=1, dimension_order="NHWC", custom_frame_mappings=_tables[job.clip_id]
    )
    return decoder.get_frames_at(job.wanted.tolist()).data


def usual_decoder(codec: Codec) -> Decode:
    """What most would take where a loader brings no decoder: Pillow for JPEG, PyAV for video."""
    return decode_pillow if codec.alone else decode_pyav
