"""The card of a packed data set: what is in it, how good its keypoints are, where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cclslr.keypoints import CONFIDENT, WHOLEBODY
from cclslr.shards.format import SPLITS, BadClip, part_of, side_of
from cclslr.shards.reader import ShardSet

CARD_NAME = "CARD.md"


@dataclass(frozen=True)
class StatisticsTask:
    """Clips of one shard to look into."""

    folder: str
    name: str
    clip_ids: np.ndarray


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
    return [StatisticsTask(str(folder), name, ids) for name, ids in ShardSet([str(folder)]).rows.by_shard()]


def collect_statistics(task: StatisticsTask) -> Statistics:
    """Read the poses, masks and descriptions of one shard."""
    shards, result = ShardSet([task.folder]), Statistics()
    for clip_id in task.clip_ids.tolist():
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


def card(name: str, shards: ShardSet, found: Statistics) -> str:
    """The card in Markdown."""
    rows, info = shards.rows, shards.info
    frames, rates = rows.numbers("num_frames"), rows.numbers("fps")
    seconds, sizes = frames / rates, rows.sizes_N
    labels, splits = rows.labels_N, rows.splits_N
    shapes = Counter(
        {
            f"{width}x{height}" if width else "no video": count
            for (width, height), count in _counted(np.stack([rows.numbers("width"), rows.numbers("height")], axis=1))
        }
    )
    per_second: Counter[str] = Counter()
    for (rate,), count in _counted(rates[:, None]):
        per_second[f"{rate:.4g}"] += count
    signers: dict[str, set[str]] = {split: set() for split in SPLITS}
    for (_, signer), split in zip(rows.texts(), splits.tolist(), strict=True):
        if signer:
            signers[SPLITS[split]].add(signer)
    lines = [f"# {name}", "", "| split | clips | hours | classes | signers |", "|---|---:|---:|---:|---:|"]
    for number, split in enumerate((*SPLITS, "all")):
        chosen = splits == number if split != "all" else np.ones(len(rows), bool)
        if chosen.any():
            of_split = labels[chosen]
            num_classes = len(np.unique(of_split[of_split >= 0]))
            num_signers = len(signers[split] if split != "all" else set().union(*signers.values()))
            hours = seconds[chosen].sum() / 3600
            lines.append(f"| {split} | {int(chosen.sum()):,} | {hours:.2f} | {num_classes:,} | {num_signers:,} |")
    shared = signers["train"] & signers["test"]
    unlabelled = int((labels < 0).sum())
    per_class = np.bincount(labels[(labels >= 0) & (splits == SPLITS.index("train"))])
    lines += ["", "## Clips", ""]
    if len(per_class):
        lines.append(f"- training clips a class: {_spread(per_class[per_class > 0], '.0f')}")
    if unlabelled:
        lines.append(f"- without a label: {unlabelled:,}")
    lines += [
        f"- signers in both train and test: {len(shared):,}",
        f"- frames: {_spread(frames, '.0f')}",
        f"- seconds: {_spread(seconds, '.2f')}",
        f"- kB: {_spread(sizes / 1e3, '.1f')}; together {sizes.sum() / 1e9:.2f} GB in {len(info['shards']):,} shards",
        f"- frame size: {_most(shapes)}; frames a second: {_most(per_second)}",
        f"- rejected while packing: {info.get('rejected', 0):,}",
    ]
    lines += [f"- {line}" for line in smaller_lines(rows.bytes_by_component())]
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
    lines += [
        f"- {key}: {info[key]}"
        for key in ("codec", "size", "smaller", "crop", "quality", "format_version")
        if key in info
    ]
    for key, value in (info.get("settings") or {}).items():
        lines.append(f"- {key}: {value}")
    lines += [f"- content hash: {info['content_hash']}", ""]
    if found.bad:
        lines += ["## Damaged", "", *(f"- {reason}" for reason in found.bad[:20]), ""]
    return "\n".join(lines)


def smaller_lines(bytes_by_component: dict[str, int]) -> list[str]:
    """What each smaller size of the videos costs on the disk, the largest first; nothing where there is none."""
    sides = {name: side for name in bytes_by_component if (side := side_of(name)) is not None}
    full = sum(size for name, size in bytes_by_component.items() if part_of(name) == "video")
    return [
        f"frames of {sides[name]} pixels: {bytes_by_component[name] / 1e6:,.1f} MB more, "
        f"{_share(bytes_by_component[name], full)} of the videos in full size"
        for name in sorted(sides, key=lambda name: -sides[name])
    ]


def _counted(rows_NC: np.ndarray) -> Iterator[tuple[list[Any], int]]:
    """Different rows and how often they are there, those first that come first."""
    values, first, counts = np.unique(rows_NC, axis=0, return_index=True, return_counts=True)
    for number in np.argsort(first):
        yield values[number].tolist(), int(counts[number])


def _spread(values: np.ndarray, form: str) -> str:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{low:{form}} to {high:{form}}, median {middle:{form}}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _most(counts: Counter[str], shown: int = 4) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} ({_share(count, total)})" for name, count in counts.most_common(shown) if name)
