"""Who turns bytes into RGB views, and where."""

from __future__ import annotations

from cclslr.codecs import Codec
from cclslr.config import DataConfig, ViewConfig
from cclslr.data.backend import RgbBackend
from cclslr.data.backends import RgbWork, backends
from cclslr.distributed import Process


def backend_name(cfg: DataConfig, views: ViewConfig, device: str) -> str:
    """What `data.backend=auto` is, where RGB is decoded on `device` (cpu or gpu)."""
    if cfg.backend != "auto":
        return cfg.backend
    return "numba" if device == "cpu" and cfg.decode != "dali" and views.size % 4 == 0 else "dali"


def make_backend(
    cfg: DataConfig, views: ViewConfig, codec: Codec, clips: int, num_views: int, process: Process
) -> RgbBackend:
    """The backend that `data.backend`, `data.decode` and `data.device` ask for.

    Args:
        cfg: of the data.
        views: of the views.
        codec: of the shards.
        clips: most clips in a batch of this rank.
        num_views: of a clip.
        process: this process and its device.

    `auto` is DALI on a GPU, and the fused numba path on a CPU.
    """
    device = cfg.device if cfg.device != "auto" else "gpu" if process.device.type == "cuda" else "cpu"
    work = RgbWork(
        codec=codec,
        size=views.size,
        frames=views.rgb_frames,
        clips=clips,
        views=num_views,
        decode=cfg.decode,
        device=device,
        device_id=process.device.index or 0,
        threads=cfg.workers,
        depth=cfg.prefetch,
        pinned=process.device.type == "cuda",
    )
    return backends()[backend_name(cfg, views, device)].make(work)
