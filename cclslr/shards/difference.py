"""What is new in a data set's sources, clip by clip: what `cclslr pack --add` is to do, and tells before it does it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cclslr.errors import BadClip, UserError
from cclslr.shards.clip import PackOptions
from cclslr.shards.deal import check_rows
from cclslr.shards.done import READY_NAME, exchange
from cclslr.shards.format import ManifestRow, RawClip
from cclslr.shards.info import INFO_NAME, DatasetInfo, load_info
from cclslr.shards.place import FolderPlace
from cclslr.shards.reader import ShardSet
from cclslr.shards.rejections import Rejected
from cclslr.shards.sources import Sources, digest, read_sources, source_fingerprint


@dataclass(frozen=True)
class InSet:
    """The source of a clip that is in the data set and was not found now."""

    path: str  # of the data set
    known: str  # what told its source from others

    def fingerprint(self) -> str:
        """See `source_fingerprint`."""
        return f"in the set {self.known}"

    def load(self) -> RawClip:
        """There is nothing to decode.

        Raises:
            BadClip: always.
        """
        raise BadClip("the clip is damaged in the data set, and its source was not found")


@dataclass
class Difference:
    """What is to become of a data set, clip by clip."""

    out: Path
    index_sha256: str  # of the set as it was looked at
    rows: list[ManifestRow]  # all that it is to hold
    classes: list[str]
    clip_ids: dict[str, int]  # by key: clips that are taken from it as they are
    fingerprints: dict[str, str]  # by key, of the sources of all rows
    refused: list[Rejected]
    new: list[str] = field(default_factory=list)  # keys
    mended: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)  # rejected before, of the same source; they are tried again
    unchanged: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # not found now
    dropped: list[str] = field(default_factory=list)  # not found now, and not to be kept

    def lines(self) -> list[str]:
        """What to tell people before the work begins."""
        told = [f"{len(self.new):,} clips are new, {len(self.mended):,} mended, {len(self.unchanged):,} as they were"]
        if self.again:
            told.append(f"{len(self.again):,} that were rejected before are tried again, e.g. {self.again[0]}")
        if self.kept:
            told.append(
                f"{len(self.kept):,} clips of the set were not found now and are kept, e.g. {self.kept[0]}; "
                "--drop-gone takes them out"
            )
        if self.dropped:
            told.append(f"{len(self.dropped):,} clips of the set were not found now and are taken out")
        return told


def compare(
    out: str | Path,
    rows: Sequence[ManifestRow],
    options: PackOptions,
    classes: list[str],
    *,
    found: Collection[str] = (),
    drop_gone: bool = False,
) -> Difference:
    """Hold the clips that were found against those of the data set `out`.

    Args:
        classes: gloss of each label of `rows`.
        found: keys of other clips that were found and are not to be packed.

    Raises:
        FileNotFoundError: there is no packed data set.
        UserError: it is damaged.
    """
    out = Path(out).resolve()
    exchange_if_ready(out)
    shards, known = ShardSet([str(out)]), read_sources(FolderPlace(out))
    in_set = {key: clip_id for clip_id, (key, _) in enumerate(shards.rows.texts())}
    good, refused = check_rows(list(rows), options)
    difference = Difference(out, shards.info["index_sha256"], good, classes, {}, {}, refused)
    for row in good:
        fingerprint = difference.fingerprints[row.key] = source_fingerprint(row)
        as_before = known.source.get(row.key) == digest(fingerprint)
        if row.key in in_set:
            (difference.unchanged if as_before else difference.mended).append(row.key)
            if as_before:
                difference.clip_ids[row.key] = in_set[row.key]
        else:
            (difference.again if as_before else difference.new).append(row.key)
    here = {row.key for row in rows}.union(found)
    gone = [key for key in in_set if key not in here]
    if drop_gone:
        difference.dropped = gone
    elif gone:
        difference.kept = gone
        _keep(difference, shards, known, {key: in_set[key] for key in gone})
    return difference


def _keep(difference: Difference, shards: ShardSet, known: Sources, ids: dict[str, int]) -> None:
    """Add the rows of clips that were not found; labels of both become those of the classes of both."""
    old = shards.classes
    kept = [(key, clip_id, shards.rows[clip_id]) for key, clip_id in ids.items()]
    used = {row.label for _, _, row in kept if row.label >= 0}
    difference.classes, of_found, of_old = merged(difference.classes, old, used)
    difference.rows = [row if row.label is None else replace(row, label=of_found[row.label]) for row in difference.rows]
    for key, clip_id, row in kept:
        source = InSet(str(difference.out), known.source.get(key, b"").hex() or f"clip {key}")
        label, gloss = (None, None) if row.label < 0 else (of_old[row.label], old[row.label])
        difference.rows.append(ManifestRow(key, source, label, gloss, row.split, row.signer or None))
        difference.fingerprints[key] = source.fingerprint()
        difference.clip_ids[key] = clip_id


def merged(new: list[str], old: list[str], used: Collection[int]) -> tuple[list[str], dict[int, int], dict[int, int]]:
    """The classes of clips that were found and of clips that are kept, and the new labels of both.

    Two lists in alphabetical order become one in alphabetical order, as an importer that sorts its words makes it;
    otherwise the classes of the set keep their numbers, and others follow. Where `new` has all that is used it stays.

    Args:
        new, old: glosses of the importer and of the data set.
        used: labels of the data set that clips which are kept have.
    """
    names_new, names_old = _numbered(new), _numbered(old)
    if {names_old[label] for label in used} <= set(names_new):
        names = names_new
    elif new == sorted(new) and old == sorted(old):
        names = sorted({*names_new, *(names_old[label] for label in used)})
    else:
        names = list(dict.fromkeys([*names_old, *names_new]))
    places = {name: label for label, name in enumerate(names)}
    of_new = {label: places[name] for label, name in enumerate(names_new)}
    return [gloss for gloss, _ in names], of_new, {label: places[names_old[label]] for label in used}


def _numbered(classes: list[str]) -> list[tuple[str, int]]:
    """Classes of one gloss are told apart by their order."""
    seen: dict[str, int] = {}
    names = []
    for gloss in classes:
        names.append((gloss, seen.get(gloss, 0)))
        seen[gloss] = seen.get(gloss, 0) + 1
    return names


def exchange_if_ready(out: Path) -> None:
    """Complete what a run that was killed at its very end had begun."""
    if (out / READY_NAME).exists():
        with FolderPlace(out).hold():
            exchange(out)


def check_out(out: str | Path) -> DatasetInfo:
    """dataset.json of the data set that is added to.

    Raises:
        UserError: there is none.
    """
    out = Path(out)
    exchange_if_ready(out)
    if not (out / INFO_NAME).is_file():
        raise UserError(f"{out} holds no data set yet, or its packing has not ended; pack it without --add")
    return load_info(out)
