"""The clips of several data sets one after the other, as rows and as columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import overload

import numpy as np

from cclslr.errors import UserError
from cclslr.shards.columns import PART_BITS, Column, Columns
from cclslr.shards.format import SPLITS, IndexRow


class Rows(Sequence[IndexRow]):
    """The clips of one split of some data sets; a row is made when it is asked for.

    A clip's id is its place here. Labels of the second data set begin after the last of the first.
    """

    def __init__(self, columns: Sequence[Columns], num_classes: Sequence[int], split: str | None) -> None:
        """`num_classes` of each data set; `split`: keep only these clips, None keeps all."""
        self._columns = columns
        self._kept: list[Column | None] = [None] * len(columns)  # numbers of the rows that are kept; None: all
        if split is not None:
            if split not in SPLITS:
                raise UserError(f"no clip of split {split!r}; there are {', '.join(SPLITS)}")
            self._kept = [each[split] for each in columns]
        self._lengths = [len(each if kept is None else kept) for each, kept in zip(columns, self._kept, strict=True)]
        self._begins = np.cumsum([0, *self._lengths])
        self._first_labels = np.cumsum([0, *num_classes])[:-1].tolist()

    def __len__(self) -> int:
        return int(self._begins[-1])

    @overload
    def __getitem__(self, index: int) -> IndexRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[IndexRow]: ...
    def __getitem__(self, index: int | slice) -> IndexRow | list[IndexRow]:
        """A row, or several; a negative index counts from the end.

        Raises:
            IndexError: there is no such row.
            UserError: index.columns is damaged there.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        clip_id = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= clip_id < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number = self.dataset(clip_id)
        place, kept = clip_id - int(self._begins[number]), self._kept[number]
        row = self._columns[number].row(place if kept is None else int(kept.part(place, place + 1)[0]))
        first = self._first_labels[number]
        return dataclasses.replace(row, label=row.label + first) if first and row.label >= 0 else row

    def __iter__(self) -> Iterator[IndexRow]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Key and signer of every clip, without the rest of the rows."""
        for each, kept in zip(self._columns, self._kept, strict=True):
            yield from each.texts(None if kept is None else kept.all())

    def find(self, keys: Collection[str]) -> dict[str, int]:
        """The ids of the clips with these keys, by key, ascending; of several clips with one key, the last one's."""
        return {key: clip_id for clip_id, (key, _) in enumerate(self.texts()) if key in keys} if keys else {}

    def dataset(self, clip_id: int) -> int:
        """The number of the data set that a clip is from."""
        return 0 if len(self._columns) == 1 else int(np.searchsorted(self._begins, clip_id, side="right")) - 1

    @property
    def dataset_ids(self) -> np.ndarray:
        """(N,) int32: which data set each clip is from."""
        return np.repeat(np.arange(len(self._lengths), dtype=np.int32), self._lengths)

    @property
    def labels_N(self) -> np.ndarray:
        """(N,) int32: the label of each clip; -1 where unknown."""
        labels = [
            np.where(each >= 0, each + first, each).astype(np.int32) if first else each
            for each, first in zip(self._each(lambda columns: columns["label"].all()), self._first_labels, strict=True)
        ]
        return labels[0] if len(labels) == 1 else np.concatenate(labels)

    @property
    def labelled_splits(self) -> set[str]:
        """The splits in which a clip has a label, of those that are kept."""
        return {SPLITS[number] for number in np.unique(self.splits_N[self.labels_N >= 0])}

    @property
    def splits_N(self) -> np.ndarray:
        """(N,) uint8: the split of each clip, as its place in SPLITS."""
        return self.numbers("split")

    def numbers(self, name: str) -> np.ndarray:
        """(N,) of "num_frames", "width", "height", "fps" or "split"."""
        found = self._each(lambda columns: columns.field(name))
        return found[0] if len(found) == 1 else np.concatenate(found)

    @property
    def sizes_N(self) -> np.ndarray:
        """(N,) int64: bytes of all components of each clip."""
        return np.concatenate(self._each(Columns.sizes))

    def bytes_by_component(self) -> dict[str, int]:
        """Bytes of all components of each name; of one whole data set."""
        assert len(self._columns) == 1
        return self._columns[0].bytes_by_component()

    def by_shard(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each shard and the ids of its clips, ascending; of one whole data set."""
        assert len(self._columns) == 1
        assert self._kept == [None]
        return self._columns[0].by_shard()

    def lacking(self, part: str) -> np.ndarray:
        """Ids of the clips without a "video", "pose", "mask" or "json", ascending, int64."""
        lacks = [
            np.flatnonzero(each & PART_BITS[part] == 0) for each in self._each(lambda columns: columns["parts"].all())
        ]
        return np.concatenate([each + begin for each, begin in zip(lacks, self._begins, strict=False)])

    def _each(self, values: Callable[[Columns], np.ndarray]) -> list[np.ndarray]:
        """What `values` says of the rows of each data set, for the clips that are kept."""
        return [
            values(each) if kept is None else values(each)[kept.all()]
            for each, kept in zip(self._columns, self._kept, strict=True)
        ]
