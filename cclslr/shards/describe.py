"""The card of a packed data set: what is in it, how good its keypoints are, where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cclslr.keypoints import CONFIDENT, WHOLEBODY
from cclslr.shards.format import SPLITS, BadClip, IndexRow
from cclslr.shards.info import DatasetInfo
from cclslr.shards.reader import ShardSet

CARD_NAME = "CARD.md"


@dataclass(frozen=True)
class StatisticsTask:
    """Clips of one shard to look into."""

    folder: str
    name: str
    clip_ids: tuple[int, ...]


@dataclass
class Statistics:
    """Sums over clips; they add up over shards."""

    points: Counter[str] = field(default_factory=Counter)  # keypoints by part
    confident: Counter[str] = field(default_factory=Counter)  # of these, confident ones
    hand_frames: Counter[str] = field(default_factory=Counter)  # frames in which most of a hand is confident
    frames: int = 0
    kept: list[float] = field(default_factory=list)  # share of each mask that is kept
    estimators: Counter[str] = field(default_factory=Counter)
    as_stored: Counter[str] = field(default_factory=Counter)  # clips that a player would show otherwise
    points_not_finite: int = 0
    bad: list[str] = field(default_factory=list)

    def merge(self, other: Statistics) -> None:
        """Add another shard's."""
        for name in ("points", "confident", "hand_frames", "estimators", "as_stored"):
            getattr(self, name).update(getattr(other, name))
        self.frames += other.frames
        self.points_not_finite += other.points_not_finite
        self.kept += other.kept
        self.bad += other.bad


def plan_statistics(folder: str | Path) -> list[StatisticsTask]:
    """One task a shard.

    Raises:
        FileNotFoundError, UserError: as `ShardSet`.
    """
    by_shard: dict[str, list[int]] = {}
    for clip_id, row in enumerate(ShardSet([str(folder)]).rows):
        by_shard.setdefault(row.shard, []).append(clip_id)
    return [StatisticsTask(str(folder), name, tuple(ids)) for name, ids in by_shard.items()]


def collect_statistics(task: StatisticsTask) -> Statistics:
    """Read the poses, masks and descriptions of one shard."""
    shards, result = ShardSet([task.folder]), Statistics()
    for clip_id in task.clip_ids:
        try:
            clip = shards.read(clip_id, ("pose", "mask", "json"))
        except BadClip as error:
            result.bad.append(str(error))
            continue
        result.as_stored.update(clip.meta.get("as_stored", ()))
        result.points_not_finite += clip.meta.get("points_not_finite", 0)
        if clip.pose_TKC is not None:
            confident_TK = clip.pose_TKC[..., 2] > CONFIDENT
            result.frames += len(confident_TK)
            for part, joints in WHOLEBODY.items():
                part_TJ = confident_TK[:, list(joints)]
                result.points[part] += part_TJ.size
                result.confident[part] += int(part_TJ.sum())
                if part.endswith("hand"):
                    result.hand_frames[part] += int((part_TJ.mean(axis=1) > 0.5).sum())
            result.estimators[", ".join(f"{k} {v}" for k, v in sorted(clip.meta.get("pose", {}).items()))] += 1
        if (masks_THW := clip.masks_THW) is not None:
            result.kept.append(float(masks_THW.mean()))
    shards.close()
    return result


def card(name: str, rows: Sequence[IndexRow], info: DatasetInfo, found: Statistics) -> str:
    """The card in Markdown."""
    seconds = np.array([row.num_frames / row.fps for row in rows])
    frames = np.array([row.num_frames for row in rows])
    sizes = np.array([sum(part.size for part in row.components.values()) for row in rows])
    shapes = Counter(f"{row.width}x{row.height}" if row.width else "no video" for row in rows)
    rates = Counter(f"{row.fps:.4g}" for row in rows)
    lines = [f"# {name}", "", "| split | clips | hours | classes | signers |", "|---|---:|---:|---:|---:|"]
    for split in (*SPLITS, "all"):
        chosen = [row for row in rows if split in ("all", row.split)]
        if chosen:
            hours = sum(row.num_frames / row.fps for row in chosen) / 3600
            labels = {row.label for row in chosen if row.label >= 0}
            signers = {row.signer for row in chosen if row.signer}
            lines.append(f"| {split} | {len(chosen):,} | {hours:.2f} | {len(labels):,} | {len(signers):,} |")
    shared = {r.signer for r in rows if r.split == "train" and r.signer} & {
        r.signer for r in rows if r.split == "test" and r.signer
    }
    unlabelled = sum(row.label < 0 for row in rows)
    per_class = Counter(row.label for row in rows if row.label >= 0 and row.split == "train")
    lines += ["", "## Clips", ""]
    if per_class:
        lines.append(f"- training clips a class: {_spread(np.array(list(per_class.values())), '.0f')}")
    if unlabelled:
        lines.append(f"- without a label: {unlabelled:,}")
    lines += [
        f"- signers in both train and test: {len(shared):,}",
        f"- frames: {_spread(frames, '.0f')}",
        f"- seconds: {_spread(seconds, '.2f')}",
        f"- kB: {_spread(sizes / 1e3, '.1f')}; together {sizes.sum() / 1e9:.2f} GB in {len(info['shards']):,} shards",
        f"- frame size: {_most(shapes)}; frames a second: {_most(rates)}",
        f"- rejected while packing: {info.get('rejected', 0):,}",
    ]
    lines += [
        f"- {kind}: {count:,} clips, packed as their files store them"
        for kind, count in sorted(found.as_stored.items())
    ]
    lines += ["", "## Keypoints", ""]
    if found.frames:
        lines += [f"Confident means above {CONFIDENT}.", "", "| part | confident |", "|---|---:|"]
        lines += [
            f"| {part.replace('_', ' ')} | {_share(found.confident[part], found.points[part])} |"
            for part in found.points
        ]
        for part, count in found.hand_frames.items():
            lines.append(f"| frames with a {part.replace('_', ' ')} | {_share(count, found.frames)} |")
        lines += ["", f"- estimator: {_most(found.estimators) or 'not recorded'}"]
        if found.points_not_finite:
            lines.append(f"- points with a number that is not finite, taken as not found: {found.points_not_finite:,}")
    else:
        lines.append("none")
    lines += ["", "## Masks", ""]
    if found.kept:
        kept = np.array(found.kept)
        lines.append(f"- {len(kept):,} clips have one; share of pixels kept: {_spread(kept, '.3f')}")
        lines += [
            f"- {key}: {value}" for key, value in (info.get("masks") or {}).items() if not isinstance(value, dict)
        ]
    else:
        lines.append("none")
    lines += ["", "## Packing", "", f"- licence, as noted by who packed it: {info.get('licence_note') or 'not noted'}"]
    lines += [f"- {key}: {info[key]}" for key in ("codec", "size", "crop", "quality", "format_version")]
    for key, value in (info.get("settings") or {}).items():
        lines.append(f"- {key}: {value}")
    lines += [f"- content hash: {info['content_hash']}", ""]
    if found.bad:
        lines += ["## Damaged", "", *(f"- {reason}" for reason in found.bad[:20]), ""]
    return "\n".join(lines)


def _spread(values: np.ndarray, form: str) -> str:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{low:{form}} to {high:{form}}, median {middle:{form}}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _most(counts: Counter[str], shown: int = 4) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} ({_share(count, total)})" for name, count in counts.most_common(shown) if name)
