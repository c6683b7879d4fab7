"""Signatures of many clips, packed or about to be, and what is the same take in two splits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cclslr.shards.executor import run_tasks
from cclslr.shards.format import SPLITS, BadClip, ManifestRow, RawClip
from cclslr.shards.leaks import Leak, Signature, find_leaks, signature
from cclslr.shards.reader import ShardSet

_CLIPS_A_TASK = 64


@dataclass(frozen=True)
class Clip:
    """What a leak's line says of a clip."""

    name: str  # its key; of several data sets, with the folder
    split: str
    signer: str


@dataclass
class Search:
    """What was found."""

    clips: list[Clip]
    leaks: list[Leak]
    unread: list[str]  # names of clips that do not decode
    still: int  # clips in which too little moves for anything but their bytes

    def of(self, folder: str, folders: Sequence[str]) -> list[Clip]:
        """The clips of one of the packed data sets."""
        return [clip for clip in self.clips if len(folders) == 1 or clip.name.startswith(f"{folder}/")]

    def pair(self, leak: Leak) -> tuple[Clip, Clip]:
        """Its clips in the order train, val, test."""
        first, second = self.clips[leak.first], self.clips[leak.second]
        return (first, second) if SPLITS.index(first.split) < SPLITS.index(second.split) else (second, first)

    def line(self, leak: Leak) -> str:
        """One leak as a line."""
        train, held = self.pair(leak)
        return f"{held.split} {held.name} is {train.split} {train.name}: {evidence(leak)}"


def evidence(leak: Leak) -> str:
    """Why two clips are one."""
    if leak.kind == "bytes":
        return "the same bytes"
    return f"{leak.kind} agree to {100 * leak.agreement:.0f} %{', mirrored' if leak.mirrored else ''}"


def search_packed(folders: Sequence[str], workers: int, scheduler: str | None) -> Search:
    """The leaks within and between packed data sets."""
    shards = ShardSet(list(folders))
    tasks = [
        (tuple(folders), begin, min(begin + _CLIPS_A_TASK, len(shards)))
        for begin in range(0, len(shards), _CLIPS_A_TASK)
    ]
    names = [f"{folders[number]}/" if len(folders) > 1 else "" for number in shards.dataset_ids.tolist()]
    clips = [Clip(name + row.key, row.split, row.signer) for name, row in zip(names, shards.rows)]
    return _search(_sign_packed, tasks, clips, workers, scheduler)


def search_rows(rows: Sequence[ManifestRow], workers: int, scheduler: str | None) -> Search:
    """The leaks of clips that are not packed yet: each is decoded once for it."""
    tasks = [(begin, tuple(rows[begin : begin + _CLIPS_A_TASK])) for begin in range(0, len(rows), _CLIPS_A_TASK)]
    clips = [Clip(row.key, row.split, row.signer or "") for row in rows]
    return _search(_sign_rows, tasks, clips, workers, scheduler)


def shared_signers(clips: Sequence[Clip]) -> list[str]:
    """Signers of one data set with clips to train on and clips to validate or test on."""
    by_split = {split: {clip.signer for clip in clips if clip.split == split and clip.signer} for split in SPLITS}
    return sorted(by_split["train"] & (by_split["val"] | by_split["test"]))


Signed = list[tuple[int, Signature | None]]


def _search(function, tasks, clips: list[Clip], workers: int, scheduler: str | None) -> Search:  # type: ignore[no-untyped-def]
    signatures: list[Signature | None] = [None] * len(clips)
    unread = []
    for signed in run_tasks(
        function, tasks, workers=workers, scheduler=scheduler, description="looking for leaks",
        sizes=[min(_CLIPS_A_TASK, len(clips))] * len(tasks),
    ):  # fmt: skip
        for clip, found in signed:
            signatures[clip] = found
            if found is None:
                unread.append(clips[clip].name)
    still = sum(s is not None and s.frames_TD is None and s.keypoints_TD is None for s in signatures)
    return Search(clips, find_leaks(signatures, [clip.split for clip in clips]), sorted(unread), still)


@functools.lru_cache(maxsize=1)
def _open(folders: tuple[str, ...]) -> ShardSet:
    return ShardSet(list(folders))


def _sign_packed(task: tuple[tuple[str, ...], int, int]) -> Signed:
    folders, begin, end = task
    shards = _open(folders)
    signed: Signed = []
    for clip_id in range(begin, end):
        try:
            clip = shards.read(clip_id, ("video", "pose"))
            frames_THWC = None if clip.video is None else shards.codec(clip_id).decode(clip.video)
            pose_TKC = None if clip.pose_TKC is None else clip.pose_TKC.astype(np.float32)
            signed.append((clip_id, signature(RawClip(frames_THWC, pose_TKC, clip.row.fps))))
        except BadClip:
            signed.append((clip_id, None))
    return signed


def _sign_rows(task: tuple[int, tuple[ManifestRow, ...]]) -> Signed:
    begin, rows = task
    signed: Signed = []
    for number, row in enumerate(rows, start=begin):
        try:
            signed.append((number, signature(row.source.load())))
        except BadClip:  # packing names it
            signed.append((number, None))
    return signed
