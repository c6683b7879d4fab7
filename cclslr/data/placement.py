"""Who turns bytes into RGB views, and where."""

from __future__ import annotations

from collections.abc import Sequence

from cclslr.codecs import Codec
from cclslr.config import DataConfig, ViewConfig
from cclslr.data.backend import RgbBackend
from cclslr.data.backends import RgbWork, backends
from cclslr.distributed import Process
from cclslr.errors import UserError


def backend_name(cfg: DataConfig, sizes: Sequence[int], device: str) -> str:
    """What `data.backend=auto` is, where RGB is decoded on `device` (cpu or gpu) to views of these sizes in pixels."""
    if cfg.backend != "auto":
        return cfg.backend
    return "numba" if device == "cpu" and cfg.decode != "dali" and makes("numba", sizes) else "dali"


def makes(name: str, sizes: Sequence[int]) -> bool:
    """Whether a backend makes views of these sizes."""
    return not any(size % backends()[name].multiple for size in sizes)


def check_sizes(cfg: DataConfig, sizes: Sequence[int]) -> None:
    """Refuse sizes of views, of all phases of a run, that the backend which was asked for cannot make.

    Raises:
        UserError: there is one.
    """
    for size in sizes:
        if cfg.backend != "auto" and not makes(cfg.backend, [size]):
            multiple = backends()[cfg.backend].multiple
            raise UserError(
                f"views of {size} pixels (views.size or schedule): data.backend={cfg.backend} needs a multiple of "
                f"{multiple}; set one, or data.backend=dali"
            )


def decodes_on(cfg: DataConfig, trains_on: str) -> str:
    """cpu or gpu: where `data.device` has RGB decoded, of a process that trains on a device of this type."""
    return cfg.device if cfg.device != "auto" else "gpu" if trains_on == "cuda" else "cpu"


def make_backend(
    name: str, cfg: DataConfig, views: ViewConfig, codec: Codec, clips: int, num_views: int, process: Process
) -> RgbBackend:
    """The backend `name` as `data.decode` and `data.device` ask for it.

    Args:
        name: as `backend_name` says.
        cfg: of the data.
        views: of the views.
        codec: of the shards.
        clips: most clips in a batch of this rank.
        num_views: of a clip.
        process: this process and its device.
    """
    work = RgbWork(
        codec=codec,
        size=views.size,
        frames=views.rgb_frames,
        clips=clips,
        views=num_views,
        decode=cfg.decode,
        device=decodes_on(cfg, process.device.type),
        device_id=process.device.index or 0,
        threads=cfg.workers,
        depth=cfg.prefetch,
        pinned=process.device.type == "cuda",
    )
    return backends()[name].make(work)
