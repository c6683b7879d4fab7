"""Which clip when: pure functions of the seed, the epoch and the step; nothing remembers how far it got.

Both plans answer the same two questions, `steps` and `rank_batch`, which is all that the loader asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cclslr.config import DataConfig
from cclslr.data.draw import Purpose, hash_words, purpose
from cclslr.data.permutation import permute
from cclslr.errors import UserError
from cclslr.schedule import ByEpoch, Timeline
from cclslr.shards.reader import ShardSet

MOST_SORTED = 1 << 22  # clips that are sorted once an epoch, unless data.order says otherwise
_REPEAT = 1 << 40  # beyond any row number
_EPOCH, _ENDLESS = purpose("order of an epoch, by network"), purpose("order of a data set, by network")


@dataclass(frozen=True)
class Slots:
    """The clips of one batch, or of one rank's part of it."""

    clip_ids_B: np.ndarray  # int64
    keys_B: np.ndarray  # int64, what views are drawn from: the clip id, but for a clip's repetitions within one epoch

    def __getitem__(self, part: slice) -> Slots:
        return Slots(self.clip_ids_B[part], self.keys_B[part])

    def __len__(self) -> int:
        return len(self.clip_ids_B)


class BatchPlan(Protocol):
    """What the loader asks of a plan."""

    @property
    def clip_ids(self) -> np.ndarray | range:
        """The clips that take part."""
        ...

    def steps(self, rank: int, world: int) -> int:
        """Batches of `rank` in one pass; asked of an evaluation only, a training does not end here."""
        ...

    def place(self, step: int) -> tuple[int, int]:
        """The epoch of a step that is counted over all epochs, and its number there."""
        ...

    def rank_batch(self, epoch: int, step: int, rank: int, world: int) -> Slots:
        """Batch `step` of `rank`."""
        ...

    def rank_clips(self, world: int, epoch: int) -> int:
        """Most clips in a batch of one rank in an epoch."""
        ...


def select_clips(
    labels_N: np.ndarray, seed: int, share: float = 1.0, labels_per_class: int | None = None
) -> np.ndarray:
    """Rows of the clips that are used, ascending, int64: a `share` of all, or so many of each class, by hash.

    Smaller selections of the same seed are subsets of larger ones. Clips without a label (-1) belong to no class.

    Raises:
        UserError: the share is not in (0, 1], or nothing is left.
    """
    if not 0 < share <= 1:
        raise UserError(f"data.share is {share}; it must lie in (0, 1]")
    clip_ids = np.arange(len(labels_N), dtype=np.int64)
    if share < 1:
        order = np.argsort(hash_words(seed, Purpose.SHARE, clip_ids), kind="stable")
        clip_ids = np.sort(clip_ids[order[: round(share * len(clip_ids))]])
    if labels_per_class is not None:
        clip_ids = clip_ids[labels_N[clip_ids] >= 0]
        labels = labels_N[clip_ids]
        order = np.lexsort((hash_words(seed, Purpose.LABELS, clip_ids), labels))
        ordered = labels[order]
        rank_in_class = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        clip_ids = np.sort(clip_ids[order[rank_in_class < labels_per_class]])
    if not len(clip_ids):
        raise UserError(
            f"no clip of {len(labels_N)} is left with data.share={share}, data.labels_per_class={labels_per_class}"
        )
    return clip_ids


def hold_out(
    clip_ids: np.ndarray | range, labels_N: np.ndarray, seed: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held out), both ascending: a `share` of the clips of each class by hash, rounded, is held out.

    A class keeps at least one clip.
    """
    clip_ids = np.asarray(clip_ids, np.int64)
    labels = labels_N[clip_ids]
    order = np.lexsort((hash_words(seed, Purpose.HOLD_OUT, clip_ids), labels))
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    counts = np.minimum(np.rint(share * sizes), sizes - 1)
    rank_in_class = np.arange(len(order)) - np.repeat(first, sizes)
    held = rank_in_class < np.repeat(counts, sizes)
    return np.sort(clip_ids[order[~held]]), np.sort(clip_ids[order[held]])


def split_weights(num_clips: Sequence[int], weights: Sequence[float]) -> np.ndarray:
    """Clips of each data set in an epoch as long as all of them together, in proportion to `weights`, int64.

    Raises:
        UserError: a weight is missing, negative, or all are zero.
    """
    share = np.asarray(weights, dtype=np.float64)
    if len(share) != len(num_clips) or (share < 0).any() or not share.sum() > 0:
        raise UserError(f"data.weights is {list(weights)}; give each of {len(num_clips)} data sets one >= 0")
    exact = share / share.sum() * sum(num_clips)
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: sum(num_clips) - int(counts.sum())]
    counts[largest] += 1
    return counts


class Plan:
    """Training order: every epoch is a new permutation of the clips, cut into global batches.

    There are two ways to a permutation. "sorted" sorts hashes of all clips, once an epoch; it is the order of all runs
    of sets that fit, and stays so. "network" computes where a batch's places lead (`cclslr.data.permutation`) and holds
    nothing: for ten million clips a millisecond a batch instead of seconds and 0.7 GB. "auto" is "sorted" up to
    `MOST_SORTED` clips.

    The last incomplete global batch of an epoch is left out; as each epoch has an order of its own, no clip is left
    out for good. With weights, a data set takes part with `counts` clips an epoch, read off an endless row of
    permutations of its clips: all of them come equally often, whatever the weight.
    """

    def __init__(
        self,
        clip_ids: np.ndarray | int,
        batch: int | ByEpoch[int],
        seed: int,
        datasets: np.ndarray | None = None,
        weights: Sequence[float] | None = None,
        order: str = "auto",
    ) -> None:
        """
        Args:
            clip_ids: the clips that take part (`select_clips`), or their number, for all of 0..n-1; each once.
            batch: clips a step over all ranks; how an epoch is cut, its order does not depend on it.
            seed: of the order.
            datasets: number of the data set of each of `clip_ids`; only needed with weights.
            weights: sampling weight of each data set; None: every clip once an epoch.
            order: "sorted", "network" or "auto".

        Raises:
            UserError: fewer clips than one batch, or weights that fit no data sets.
        """
        self.clip_ids: np.ndarray | range = range(clip_ids) if isinstance(clip_ids, int) else np.asarray(clip_ids)
        self.seed = seed
        self.in_order = order != "network" and (order == "sorted" or len(self.clip_ids) <= MOST_SORTED)
        self.members: list[np.ndarray | range] = [self.clip_ids]
        self.counts = np.array([len(self.clip_ids)])
        if weights is not None:
            assert datasets is not None
            numbers = range(max(int(datasets.max()) + 1, len(weights)))
            self.members = [np.asarray(self.clip_ids)[datasets == number] for number in numbers]
            self.counts = split_weights([len(member) for member in self.members], weights)
            if any(count and not len(member) for count, member in zip(self.counts, self.members, strict=True)):
                raise UserError("a data set with a weight above 0 has no clips left")
        self.timeline = Timeline(len(self.clip_ids), ByEpoch(((0, batch),)) if isinstance(batch, int) else batch)
        self._epoch: tuple[int, Slots] | None = None

    @classmethod
    def for_training(cls, shards: ShardSet, cfg: DataConfig, batch: int | ByEpoch[int], seed: int) -> Plan:
        """The plan of a run: the clips that `cfg` selects, its weights, `batch` clips a step over all ranks."""
        clip_ids: np.ndarray | int = len(shards)
        if cfg.share != 1 or cfg.labels_per_class is not None:
            clip_ids = select_clips(shards.rows.labels_N, seed, cfg.share, cfg.labels_per_class)
        datasets = None
        if cfg.weights is not None:
            datasets = shards.dataset_ids if isinstance(clip_ids, int) else shards.dataset_ids[clip_ids]
        return cls(clip_ids, batch, seed, datasets, cfg.weights, cfg.order)

    @staticmethod
    def for_evaluation(shards: ShardSet, batch: int) -> EvalPlan:
        """The plan that visits every clip once, `batch` clips a step on each rank."""
        return EvalPlan(len(shards), batch)

    @property
    def batch_size(self) -> int:
        """Clips a step over all ranks; of a plan that keeps to one number."""
        (batch,) = set(self.timeline.batch.all)
        return batch

    @property
    def batches_per_epoch(self) -> int:
        """Steps of an epoch; of a plan that keeps to one number of clips a step."""
        return len(self.clip_ids) // self.batch_size

    def clips_in(self, epoch: int) -> int:
        """Clips in the global batches of an epoch."""
        return self.timeline.steps_in(epoch) * self.timeline.batch.at(epoch)

    def epoch_order(self, epoch: int) -> Slots:
        """Every clip of an epoch in order, those of the dropped last batch included."""
        if not self.in_order:
            return self._led_to(epoch, np.arange(self.counts.sum()))
        if self._epoch is not None and self._epoch[0] == epoch:
            return self._epoch[1]
        clip_ids, keys = [], []
        for number, (member, count) in enumerate(zip(self.members, self.counts, strict=True)):
            first = epoch * int(count)
            rounds = range(first // max(len(member), 1), -(-(first + int(count)) // max(len(member), 1)))
            if not count:
                continue
            row = np.concatenate([self._permutation(np.asarray(member), number, round_) for round_ in rounds])
            begin = first - rounds.start * len(member)
            repeat = (begin + np.arange(count)) // len(member)
            clip_ids.append(row[begin : begin + count])
            keys.append(clip_ids[-1] + repeat * _REPEAT)
        ids, draws = np.concatenate(clip_ids), np.concatenate(keys)
        order = np.argsort(hash_words(self.seed, Purpose.ORDER, epoch, draws), kind="stable")
        slots = Slots(ids[order], draws[order])
        self._epoch = (epoch, slots)  # the only thing kept, and it can be had again
        return slots

    def _permutation(self, member: np.ndarray, number: int, round_: int) -> np.ndarray:
        words = hash_words(self.seed, Purpose.EVERY_CLIP, number, round_, member)
        return member[np.argsort(words, kind="stable")]

    def _led_to(self, epoch: int, places_N: np.ndarray) -> Slots:
        """What lies at some places of an epoch's order, by the network."""
        total = int(self.counts.sum())
        drawn_N = permute(places_N, total, self.seed, _EPOCH, epoch)
        clip_ids_N, repeats_N = np.empty(len(drawn_N), np.int64), np.zeros(len(drawn_N), np.int64)
        begins = np.cumsum(self.counts) - self.counts
        number_N = np.searchsorted(begins + self.counts, drawn_N, side="right")
        for number in np.unique(number_N).tolist():
            here, member, count = number_N == number, self.members[number], int(self.counts[number])
            places, rounds = drawn_N[here] - begins[number], None
            if len(self.members) > 1:  # read off the endless row of permutations of this data set
                rounds, places = np.divmod(epoch * count + places, len(member))
                places = permute(places, len(member), self.seed, _ENDLESS, number, rounds)
                repeats_N[here] = rounds - epoch * count // len(member)
            clip_ids_N[here] = places if isinstance(member, range) else member[places]
        return Slots(clip_ids_N, clip_ids_N + repeats_N * _REPEAT)

    def slots(self, epoch: int, step: int) -> Slots:
        """Global batch `step` of `epoch`."""
        if not 0 <= step < self.timeline.steps_in(epoch):
            raise UserError(f"step {step} is not among the {self.timeline.steps_in(epoch)} of epoch {epoch}")
        batch = self.timeline.batch.at(epoch)
        begin, end = step * batch, (step + 1) * batch
        return self.epoch_order(epoch)[begin:end] if self.in_order else self._led_to(epoch, np.arange(begin, end))

    def batch(self, epoch: int, step: int) -> np.ndarray:
        """Clip ids of global batch `step` of `epoch`: (batch,) int64."""
        return self.slots(epoch, step).clip_ids_B

    def steps(self, rank: int, world: int) -> int:
        """Batches of any rank in one epoch; of a plan that keeps to one number of clips a step."""
        return self.batches_per_epoch

    def place(self, step: int) -> tuple[int, int]:
        """See `BatchPlan.place`."""
        return self.timeline.place(step)

    def rank_batch(self, epoch: int, step: int, rank: int, world: int) -> Slots:
        """The contiguous part of global batch `step` that belongs to `rank`.

        Raises:
            UserError: the global batch does not divide by the number of ranks.
        """
        return rank_slice(self.slots(epoch, step), rank, world)

    def rank_clips(self, world: int, epoch: int) -> int:
        """Clips in a batch of any rank in an epoch."""
        return self.timeline.batch.at(epoch) // world


def rank_slice(batch: Slots, rank: int, world: int) -> Slots:
    """The `rank`-th of `world` equal, contiguous parts of a global batch."""
    if len(batch) % world:
        raise UserError(f"optim.batch={len(batch)} does not divide by {world} ranks")
    size = len(batch) // world
    return batch[rank * size : (rank + 1) * size]


class EvalPlan:
    """Evaluation order: each clip exactly once at any number of ranks, in the order of the data set.

    Ranks hold contiguous parts that differ by at most one clip; nothing is padded, so ranks may differ in their number
    of batches, and the last one may be short.
    """

    def __init__(self, clip_ids: np.ndarray | int, batch: int) -> None:
        """`batch` is the number of clips a step on one rank."""
        self.clip_ids: np.ndarray | range = range(clip_ids) if isinstance(clip_ids, int) else np.asarray(clip_ids)
        self.batch_size = batch

    def _part(self, rank: int, world: int) -> np.ndarray | range:
        num = len(self.clip_ids)
        return self.clip_ids[num * rank // world : num * (rank + 1) // world]

    def steps(self, rank: int, world: int) -> int:
        """Batches of `rank`."""
        return -(-len(self._part(rank, world)) // self.batch_size)

    def place(self, step: int) -> tuple[int, int]:
        """See `BatchPlan.place`; there is one pass."""
        return 0, step

    def rank_batch(self, epoch: int, step: int, rank: int, world: int) -> Slots:
        """Batch `step` of `rank`; every epoch is the same."""
        clip_ids = self._part(rank, world)[step * self.batch_size : (step + 1) * self.batch_size]
        return Slots(np.asarray(clip_ids, np.int64), np.asarray(clip_ids, np.int64))

    def rank_clips(self, world: int, epoch: int) -> int:
        """Most clips in a batch of one rank."""
        return self.batch_size
