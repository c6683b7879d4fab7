"""Packed data sets into another one: other shards, several sets as one, smaller sizes of the videos in addition.

Clips are decoded only for smaller sizes; videos, poses and masks keep their bytes, and so does the description of a
clip unless its label gets another number. Clips are dealt to shards as packing deals them, so a set that is dealt anew
is the one that packing with these --clips-per-shard would have made, and has its content hash.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cclslr.errors import UserError
from cclslr.shards.clip import PackOptions, smaller_videos
from cclslr.shards.deal import MAX_KEY
from cclslr.shards.done import ShardPart, keep
from cclslr.shards.executor import run_tasks
from cclslr.shards.format import FORMAT_VERSION, BadClip
from cclslr.shards.pack import PackReport, pack_tasks, writing_shard
from cclslr.shards.place import place_of
from cclslr.shards.reader import ShardSet
from cclslr.shards.rejections import Rejected
from cclslr.shards.sources import Sources, joined, read_sources
from cclslr.shards.writer import PackedClip

_SAME = ("codec", "size", "smaller", "crop", "quality")


@dataclass(frozen=True)
class ReshardTask:
    """All that a worker needs to build one shard of clips that are packed already."""

    name: str
    folder: str
    sources: tuple[str, ...]
    clip_ids: np.ndarray  # in the `ShardSet` of the sources
    prefixes: tuple[str, ...]  # of the keys, for each source
    labels: np.ndarray  # the new number of each label of the `ShardSet`
    smaller: tuple[int, ...]  # sizes that the videos are made in, which the sources lack
    fingerprint: str

    @property
    def clips(self) -> int:
        """How many it is to hold."""
        return len(self.clip_ids)

    @property
    def keys(self) -> list[str]:
        """Of its clips, in order."""
        shards = ShardSet(list(self.sources))
        return [_key(shards, clip_id, self.prefixes) for clip_id in self.clip_ids.tolist()]


def reshard(
    sources: Sequence[str],
    out: str | Path,
    clips_per_shard: int,
    *,
    smaller: Sequence[int] = (),
    prefix: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
) -> PackReport:
    """Pack the clips of `sources` into `out`; continues where it was stopped. Packed sets are folders or URLs.

    Classes of several sets that have one gloss become one class.

    Args:
        smaller: sizes of the videos in pixels of the short side, beside those that the sources have.
        prefix: put the name of its folder before each key.
        workers, scheduler: see `run_tasks`.

    Raises:
        FileNotFoundError: there is no packed data set.
        UserError: sets that do not fit together; keys that are in two of them; and as `pack`.
    """
    if clips_per_shard < 1:
        raise UserError(f"clips per shard is {clips_per_shard}; choose at least 1")
    place = place_of(out)
    local = [path if "://" in path else str(Path(path).resolve()) for path in sources]
    if place.name in [path.rstrip("/") for path in local]:
        raise UserError(f"{place.name} cannot be packed into itself; choose another folder")
    shards = ShardSet(local)
    about = _about(shards, list(sources))
    there = about.get("smaller", [])
    if new := sorted({*smaller} - {*there}, reverse=True):
        about["smaller"] = sorted([*there, *new], reverse=True)
        PackOptions(about["codec"], about["size"], smaller=tuple(about["smaller"]))  # refuses what cannot be
    prefixes = tuple(f"{_name(path)}-" if prefix else "" for path in local)
    classes, labels = _classes(shards)
    order = _order(shards, prefixes)
    tasks = []
    count = -(-len(order) // clips_per_shard)
    content = json.dumps([FORMAT_VERSION, about, prefixes, classes, [info["index_sha256"] for info in shards.infos]])
    for number in range(count):
        clip_ids = order[len(order) * number // count : len(order) * (number + 1) // count]
        fingerprint = hashlib.sha256(content.encode() + clip_ids.tobytes()).hexdigest()
        name = f"shard-{number:05d}.tar"
        tasks.append(ReshardTask(name, place.name, tuple(local), clip_ids, prefixes, labels, tuple(new), fingerprint))
    about["recipe"] = hashlib.sha256("".join(task.fingerprint for task in tasks).encode()).hexdigest()
    running = partial(run_tasks, workers=workers, scheduler=scheduler, description="packing")
    known = _sources(shards, local, prefixes, labels)
    if known.command is not None:
        known.command["options"]["clips_per_shard"] = clips_per_shard
    return pack_tasks(place, tasks, build_from_packed, running, classes, about, [], known)


def build_from_packed(task: ReshardTask) -> ShardPart:
    """Build one shard; clips that are damaged are left out and named."""
    shards, rejected = ShardSet(list(task.sources)), []
    with writing_shard(task.folder, task.name) as (writer, shard):
        for clip_id in task.clip_ids.tolist():
            row, key = shards.rows[clip_id], _key(shards, clip_id, task.prefixes)
            try:
                parts = shards.read_bytes(clip_id)
                if row.has("video") and task.smaller:
                    codec, quality = shards.codec(clip_id), shards.info["quality"]
                    frames_THWC = codec.decode(parts[codec.extension])
                    parts |= smaller_videos(frames_THWC, row.fps, task.smaller, codec, quality)
            except BadClip as error:
                rejected.append(Rejected(key, str(error), str(shards.path(clip_id))))
                continue
            label = int(task.labels[row.label]) if row.label >= 0 else -1
            if label >= 0 and "json" in parts and (meta := json.loads(parts["json"])).get("label") != label:
                parts["json"] = json.dumps({**meta, "label": label}, sort_keys=True).encode()
            writer.add(PackedClip(replace(row, key=key, label=label, shard="", components={}), parts))
    shards.close()
    return keep(task, shard, rejected)


def _sources(shards: ShardSet, local: list[str], prefixes: tuple[str, ...], labels: np.ndarray) -> Sources:
    """What is known of where the clips are from."""
    parts, begin = [], 0
    for path, prefix, info in zip(local, prefixes, shards.infos, strict=True):
        places = np.arange(len(info["classes"]))
        same = np.array_equal(labels[begin : begin + len(places)], places)
        parts.append((read_sources(place_of(path)), prefix, same))
        begin += len(places)
    return joined(parts)


def _key(shards: ShardSet, clip_id: int, prefixes: tuple[str, ...]) -> str:
    return prefixes[shards.rows.dataset(clip_id)] + shards.rows[clip_id].key


def _name(path: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in path.rstrip("/").split("/")[-1])


def _about(shards: ShardSet, sources: list[str]) -> dict[str, Any]:
    """What dataset.json says of the whole; refuses sets that are packed otherwise."""
    first = shards.info
    for path, info in zip(sources, shards.infos, strict=True):
        for name in _SAME:
            if info.get(name) != first.get(name):
                mend = "add sizes with --from ONE --smaller PIXELS" if name == "smaller" else "pack one of them again"
                raise UserError(
                    f"{path} is packed with {name}={info.get(name)}, {sources[0]} with {first.get(name)}; "
                    f"only sets that are packed alike become one: {mend}"
                )
        if (info["masks"] or {}).get("recipe") != (first["masks"] or {}).get("recipe"):
            raise UserError(f"{path} and {sources[0]} have other masks; make them alike with cclslr masks")
    masks = first["masks"]
    if masks is not None and len(sources) > 1:
        totals: Counter[str] = Counter()
        for info in shards.infos:
            totals.update((info["masks"] or {}).get("totals", {}))
        whole = all((info["masks"] or {}).get("complete") for info in shards.infos)
        masks = {**masks, "totals": dict(totals), "complete": whole}
        masks["share_kept"] = totals["kept"] / max(1, totals["clips"])
        latents = totals["with_latents"]
        masks["share_latents_masked"] = totals["latents_masked"] / latents if latents else None
    notes = dict.fromkeys(note for info in shards.infos if (note := info.get("licence_note")))
    origin = [
        {"name": _name(path), "content_hash": info["content_hash"], "settings": info.get("settings", {})}
        for path, info in zip(sources, shards.infos, strict=True)
    ]
    same = {name: first[name] for name in _SAME if name in first}  # type: ignore[literal-required]
    return {**same, "masks": masks, "licence_note": "; ".join(notes), "settings": {"from": origin}}


def _classes(shards: ShardSet) -> tuple[list[str], np.ndarray]:
    """The glosses of the new labels, and the new label of each of the `ShardSet`'s."""
    places: dict[tuple[str, int], int] = {}
    labels = []
    for info in shards.infos:
        seen: Counter[str] = Counter()  # classes of one set that have one gloss stay apart
        for gloss in info["classes"]:
            labels.append(places.setdefault((gloss, seen[gloss]), len(places)))
            seen[gloss] += 1
    return [gloss for gloss, _ in places], np.array(labels, np.int64)


def _order(shards: ShardSet, prefixes: tuple[str, ...]) -> np.ndarray:
    """All clip ids by the hash of their keys, as packing sorts them; refuses keys that cannot be."""
    datasets = shards.dataset_ids
    hash_N = np.empty(len(shards), ">u8")
    for clip_id, (key, _) in enumerate(shards.rows.texts()):
        key = prefixes[datasets[clip_id]] + key
        if len(key) > MAX_KEY:
            raise UserError(f"the key {key} is longer than {MAX_KEY} characters; call the folder otherwise")
        hash_N[clip_id] = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
    order = np.argsort(hash_N.astype(np.uint64), kind="stable")
    ordered = hash_N[order]
    for place in np.flatnonzero(ordered[1:] == ordered[:-1]).tolist():
        keys = [_key(shards, int(order[n]), prefixes) for n in (place, place + 1)]
        if keys[0] == keys[1]:
            raise UserError(f"clip {keys[0]} is in two of the sets; --prefix puts the name of its set before each key")
    return order
