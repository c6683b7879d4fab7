"""From shards to batches in the order of the plan, from any step: read, draw, decode and augment ahead of the trainer.

Threads, not processes: reading, DALI, numba and libavcodec all let go of the GIL. Reading threads fetch clips; one
conductor hands them to the RGB backend and makes pose views. At most `prefetch` batches are anywhere between being
asked for and being taken, which bounds memory whatever the speeds.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
import zlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cclslr.config import DataConfig, ViewConfig
from cclslr.data.backend import BadVideo, RgbBackend, encoded_clip
from cclslr.data.backends import backends
from cclslr.data.batch import Batch, ViewParams, to_device
from cclslr.data.good_clips import GoodClips
from cclslr.data.placement import backend_name, check_sizes, decodes_on, make_backend
from cclslr.data.plan import BatchPlan, Slots
from cclslr.data.pose import pose_views
from cclslr.data.quarantine import Quarantine
from cclslr.data.views import draw_views, eval_views, in_frames
from cclslr.distributed import Process
from cclslr.schedule import ByEpoch
from cclslr.shards.format import BadClip
from cclslr.shards.parts import ClipData
from cclslr.shards.reader import ShardSet


@dataclass
class _Job:
    """A batch on its way."""

    epoch: int
    slots: Slots
    reading: list[Future[tuple[int, ClipData] | None]]
    clip_ids: list[int] = field(default_factory=list)  # what was read, substitutes included
    clips: list[ClipData] = field(default_factory=list)
    params: ViewParams | None = None
    pose_VBTJC: np.ndarray | None = None
    batch: Batch | None = None
    fetched: float = 0.0  # when, by time.perf_counter
    decoded: float = 0.0


class Loader:
    """Batches of one rank; an iterator, and a context manager that ends its threads.

    Args:
        cfg: of the data.
        views: of the views; where they change between epochs, the loader goes on with a backend for the new ones.
        shards: the clips.
        plan: which clip when.
        process: this process among all, and the device that batches go to.
        modalities: what is made of "rgb" and "pose".
        seed: of the views and of substitution.
        augment: two random views for training, endlessly; else the evaluation view, one pass. A bad clip is replaced by
            another one in training, chosen by hash; in evaluation it is left out.

    Attributes:
        waited: seconds that the consumer waited for data since the start, by what the batch was waiting for: "fetch"
            (reading), "decode" (decoding and augmentation), "copy" (to the device).
        quarantine: the bad clips.

    Raises:
        UserError: a modality that the shards lack; shards of several codecs; views that the backend cannot make.
    """

    def __init__(
        self,
        cfg: DataConfig,
        views: ViewConfig | ByEpoch[ViewConfig],
        shards: ShardSet,
        plan: BatchPlan,
        process: Process,
        modalities: Sequence[str],
        seed: int,
        augment: bool = True,
    ) -> None:
        if cfg.backend != "auto":
            shards = backends()[cfg.backend].read(shards)
        self.cfg, self.shards, self.plan, self.process = cfg, shards, plan, process
        self.views = ByEpoch(((0, views),)) if isinstance(views, ViewConfig) else views
        self.modalities, self.seed, self.augment = modalities, seed, augment
        self.waited = {"fetch": 0.0, "decode": 0.0, "copy": 0.0}
        self.quarantine = Quarantine(cfg.max_bad_share)
        self._clips = GoodClips(shards, plan, self.views, modalities, seed, augment, self.quarantine)
        self.codec = self._clips.codec
        if self.codec is not None:
            self.sizes = [of_phase.size for of_phase in self.views.all]
            check_sizes(cfg, self.sizes)
        self._conductor: threading.Thread | None = None
        self._copies = torch.cuda.Stream(process.device) if process.device.type == "cuda" else None

    def start(self, step: int = 0) -> Loader:
        """Begin at global step `step`, counted over all epochs."""
        assert self._conductor is None, "start a loader once"
        end = self.plan.steps(self.process.rank, self.process.world) if not self.augment else None
        self._to_issue = itertools.count(step) if end is None else iter(range(step, end))
        self._issued: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[_Job | BaseException | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._readers = ThreadPoolExecutor(self.cfg.workers, "reader")
        self._conductor = threading.Thread(target=self._conduct, name="conductor", daemon=True)
        self._conductor.start()
        for _ in range(self.cfg.prefetch):
            self._issue()
        return self

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            StopIteration: an evaluation is complete.
            UserError: too many bad clips; and whatever else went wrong in a thread.
        """
        asked = time.perf_counter()
        job = self._ready.get()
        got = time.perf_counter()
        if job is None:
            self._ready.put(None)
            raise StopIteration
        if isinstance(job, BaseException):
            self._ready.put(job)
            raise job
        self._issue()
        assert job.batch is not None
        marks = [asked, *(min(max(mark, asked), got) for mark in (job.fetched, job.decoded)), got]
        for name, begin, end in zip(self.waited, marks, marks[1:]):
            self.waited[name] += max(end - begin, 0.0)
        if self._copies is not None:
            job.batch.record_stream(torch.cuda.current_stream(self.process.device))
        return job.batch

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; what they were working on is dropped."""
        if self._conductor is None:
            return
        self._closing.set()
        self._issued.put(None)
        self._readers.shutdown(cancel_futures=True)
        self._conductor.join()
        self._conductor = None

    def smaller(self, epoch: int) -> str:
        """The smaller sizes of frames, in pixels of the short side, that views are made from; empty: the full ones."""
        return ", ".join(map(str, self._clips.smaller(epoch)))

    def batch_hashes(self, batch: Batch) -> list[int]:
        """CRC-32 of each clip of a batch: its id and the bytes of its views, the same at any number of ranks."""
        hashes = []
        for b, clip_id in enumerate(batch.clip_ids_B.tolist()):
            crc = zlib.crc32(clip_id.to_bytes(8, "little"))
            for views_VB in (batch.rgb_VBTHWC, batch.pose_VBTJC):
                if views_VB is not None:
                    crc = zlib.crc32(views_VB[:, b].contiguous().cpu().numpy().data, crc)
            hashes.append(crc)
        return hashes

    # Reading

    def _issue(self) -> None:
        """Ask for the next batch of the plan."""
        step = next(self._to_issue, None)
        if step is None:
            self._issued.put(None)
            return
        epoch, step = self.plan.place(step)
        slots = self.plan.rank_batch(epoch, step, self.process.rank, self.process.world)
        reading = [
            self._readers.submit(self._clips.read, epoch, int(clip_id), int(key))
            for clip_id, key in zip(slots.clip_ids_B, slots.keys_B, strict=True)
        ]
        self._issued.put(_Job(epoch, slots, reading))

    # Conducting

    def _conduct(self) -> None:
        backend: RgbBackend | None = None
        work: tuple[ViewConfig, int] | None = None  # what `backend` is made for
        try:
            in_flight: deque[_Job] = deque()
            waiting: _Job | None = None
            exhausted = False
            while not self._closing.is_set():
                if waiting is None and not exhausted:
                    try:
                        waiting = self._issued.get(block=not in_flight)
                        exhausted = waiting is None
                    except queue.Empty:
                        pass
                # Give to the backend what has been read before asking it for results: it always has work ahead.
                if waiting is not None and not in_flight and self._work(waiting) != work:  # the phase before is out
                    work = self._work(waiting)
                    backend = self._other_backend(backend, *work)
                if (
                    waiting is not None
                    and self._work(waiting) == work
                    and (not in_flight or all(future.done() for future in waiting.reading))
                ):
                    if self._prepare(waiting) and self._submit(backend, waiting):
                        in_flight.append(waiting)
                    else:
                        self._issue()
                    waiting = None
                elif in_flight:
                    self._finish(backend, in_flight)
                elif exhausted:
                    break
            self._ready.put(None)
        except BaseException as error:  # it belongs to the consumer, who is waiting for it
            self._ready.put(error)
        finally:
            if backend is not None:
                backend.close()

    def _work(self, job: _Job) -> tuple[ViewConfig, int]:
        """What the backend of a batch is made for: its views, and the most clips that a batch has."""
        return self.views.at(job.epoch), self.plan.rank_clips(self.process.world, job.epoch)

    def _other_backend(self, backend: RgbBackend | None, views: ViewConfig, clips: int) -> RgbBackend | None:
        """The backend for other work, in the place of the one before."""
        if self.codec is None:
            return None
        if backend is not None:
            backend.close()
        name = backend_name(self.cfg, self.sizes, decodes_on(self.cfg, self.process.device.type))
        return make_backend(name, self.cfg, views, self.codec, clips, 2 if self.augment else 1, self.process)

    def _prepare(self, job: _Job) -> bool:
        """Take what was read; False if nothing is left of the batch."""
        read = [result for future in job.reading if (result := future.result()) is not None]
        job.reading = []
        job.clip_ids = [clip_id for clip_id, _ in read]
        job.clips = [clip for _, clip in read]
        job.fetched = time.perf_counter()
        return bool(read)

    def _draw(self, job: _Job) -> ViewParams:
        """The views. A substitute is drawn with the key of the clip it stands in for."""
        num_frames_B = np.array([clip.row.num_frames for clip in job.clips])
        sizes_B2 = _sizes(job.clips)
        views = self.views.at(job.epoch)
        if not self.augment:
            return eval_views(views, num_frames_B, sizes_B2)
        return draw_views(views, self.seed, job.epoch, job.slots.keys_B, num_frames_B, sizes_B2)

    def _submit(self, backend: RgbBackend | None, job: _Job) -> bool:
        """Hand a batch to the backend and make its pose views; False if nothing is left of it."""
        while job.clips:
            job.params = self._draw(job)
            if backend is None:
                break
            encoded, bad = [], {}
            for b, (clip_id, clip) in enumerate(zip(job.clip_ids, job.clips, strict=True)):
                try:
                    encoded.append(encoded_clip(self.shards, clip_id, clip, bool(job.params.masked_VB[:, b].any())))
                except BadClip as error:  # its masks do not decode
                    bad[b] = str(error)
            if not bad:
                frames_B2 = np.array([(clip.width, clip.height) for clip in encoded])
                backend.submit(encoded, in_frames(job.params, _sizes(job.clips), frames_B2))
                break
            self._exchange(job, bad)
        if job.clips and "pose" in self.modalities:
            assert job.params is not None
            poses = [clip.pose_TKC for clip in job.clips if clip.pose_TKC is not None]
            job.pose_VBTJC = pose_views(poses, _sizes(job.clips), job.params)
        return bool(job.clips)

    def _finish(self, backend: RgbBackend | None, in_flight: deque[_Job]) -> None:
        """Take the oldest batch from the backend and hand it to the consumer."""
        job = in_flight[0]
        rgb: Tensor | None = None
        if backend is not None:
            try:
                rgb = backend.result()
            except BadVideo as bad:
                self._replace(backend, in_flight, bad)
                return
        in_flight.popleft()
        job.decoded = time.perf_counter()
        labels = [clip.row.label for clip in job.clips]
        batch = Batch(
            rgb,
            None if job.pose_VBTJC is None else torch.from_numpy(job.pose_VBTJC),
            torch.tensor(job.clip_ids, dtype=torch.int64),
            torch.tensor(labels, dtype=torch.int64),
        )
        job.batch = to_device(batch, self.process.device, self._copies)
        job.clips = []  # their memory is free for others
        self._ready.put(job)

    def _replace(self, backend: RgbBackend, in_flight: deque[_Job], bad: BadVideo) -> None:
        """Quarantine clips that the backend could not decode, and submit again all that it dropped."""
        self._exchange(in_flight[0], bad.reasons)
        dropped = list(in_flight)
        in_flight.clear()
        for job in dropped:
            if self._submit(backend, job):
                in_flight.append(job)
            else:
                self._issue()

    def _exchange(self, job: _Job, reasons: dict[int, str]) -> None:
        """Quarantine clips of a batch, by position; in training others stand in for them, else they are left out."""
        for b, reason in reasons.items():
            self.quarantine.add(job.clip_ids[b], reason)
        keys = job.slots.keys_B if self.augment else job.clip_ids
        read = [
            self._clips.read(job.epoch, clip_id, int(key)) if b in reasons else (clip_id, clip)
            for b, (clip_id, clip, key) in enumerate(zip(job.clip_ids, job.clips, keys, strict=True))
        ]
        job.clip_ids = [clip_id for clip_id, _ in (r for r in read if r is not None)]
        job.clips = [clip for _, clip in (r for r in read if r is not None)]


def _sizes(clips: Sequence[ClipData]) -> np.ndarray:
    """(B, 2): width and height of the packed frames of each clip, whichever size of them was read."""
    return np.array([(clip.row.width, clip.row.height) for clip in clips])
