"""What every loader of a comparison is asked for: clips in the order and with the views of a training run."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cclslr.codecs import Codec
from cclslr.config import PretrainConfig
from cclslr.data.batch import ViewParams
from cclslr.data.plan import Plan, Slots
from cclslr.data.views import draw_views
from cclslr.errors import UserError
from cclslr.shards.format import IndexRow
from cclslr.shards.reader import ShardSet


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    folder: str  # the packed data set
    cfg: PretrainConfig
    scratch: Path  # for files that a loader makes first


@dataclass(frozen=True)
class Job:
    """One clip and its two views."""

    clip_id: int
    row: IndexRow
    codec: Codec
    params: ViewParams
    b: int  # of the clip in `params`

    @property
    def wanted(self) -> np.ndarray:
        """Frames that at least one view shows, ascending."""
        return np.unique(self.params.rgb_index_VBT[:, self.b])

    @property
    def positions_VT(self) -> np.ndarray:
        """Where the frames of the views are among those `wanted`."""
        return np.searchsorted(self.wanted, self.params.rgb_index_VBT[:, self.b])

    def crop(self, v: int) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of a view in whole pixels."""
        x0, y0, x1, y1 = (round(float(edge)) for edge in self.params.crop_VB4[v, self.b])
        return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)

    def images(self, data: bytes) -> list[bytes]:
        """The wanted frames of a clip of JPEG frames, encoded."""
        if not self.codec.alone:
            raise UserError(f"reads JPEG frames, not {self.codec.name}")
        return [data[slice(*self.row.frame_offsets[number : number + 2])] for number in self.wanted]


class Jobs:
    """The endless stream of jobs by number, and their bytes."""

    def __init__(self, setup: Setup) -> None:
        self.shards, self.cfg = ShardSet([setup.folder]), setup.cfg
        self.codec = self.shards.codec(0)
        self.plan = Plan(len(self.shards), min(setup.cfg.optim.batch, len(self.shards)), setup.cfg.run.seed)
        self._drawn: tuple[int, Slots, ViewParams] | None = None  # of the batch asked for last

    def __getitem__(self, number: int) -> Job:
        batch, b = divmod(number, self.plan.batch_size)
        drawn = self._drawn
        if drawn is None or drawn[0] != batch:
            epoch, step = divmod(batch, self.plan.batches_per_epoch)
            slots = self.plan.rank_batch(epoch, step, 0, 1)
            drawn = self._drawn = batch, slots, self._views(epoch, slots.clip_ids_B)
        clip_id = int(drawn[1].clip_ids_B[b])
        return Job(clip_id, self.shards.rows[clip_id], self.codec, drawn[2], b)

    def __iter__(self) -> Iterator[Job]:
        return map(self.__getitem__, itertools.count())

    def of_clip(self, clip_id: int) -> Job:
        """A clip with its views of the first epoch."""
        return Job(clip_id, self.shards.rows[clip_id], self.codec, self._views(0, np.array([clip_id])), 0)

    def read(self, job: Job) -> bytes:
        """The clip's video."""
        (part,) = (part for name, part in job.row.components.items() if name == self.codec.extension)
        with open(self.shards.path(job.clip_id), "rb", buffering=0) as shard:
            return os.pread(shard.fileno(), part.size, part.offset)

    def _views(self, epoch: int, clip_ids_B: np.ndarray) -> ViewParams:
        rows = [self.shards.rows[clip_id] for clip_id in clip_ids_B]
        num_frames, sizes = np.array([r.num_frames for r in rows]), np.array([(r.width, r.height) for r in rows])
        return draw_views(self.cfg.views, self.cfg.run.seed, epoch, clip_ids_B, num_frames, sizes)
