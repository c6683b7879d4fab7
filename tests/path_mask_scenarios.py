"""What can happen while masks are made, and what must come of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from path_matrix import Cell
from path_runs import Accident, Workshop, launch, refused, small_disk, used, victims
from path_use_scenarios import stop
from small_runs import finish

from cclslr.data.beton import BETON_NAME
from cclslr.files import read_json
from cclslr.shards.reader import ShardSet

CLIPS = 40
SHARD = "cclslr.masking.rewrite.mask_shard"


def masks(folder: Path, ranks: int = 1, accident: Accident | None = None) -> subprocess.Popen[str]:
    """Start `cclslr masks` without a flow, in the ranks' own processes."""
    alone = ["--workers", "0"] if ranks == 1 else []
    return launch("masks", [str(folder), "--method", "temporal_std", "--device", "cpu", *alone], ranks, accident)


def copied(shards: Path, folder: Path) -> Path:
    return Path(shutil.copytree(shards, folder, ignore=shutil.ignore_patterns(BETON_NAME)))


def whole(cell: Cell, workshop: Workshop) -> Path:
    """The set after an undisturbed run on one rank."""

    def build(folder: Path) -> None:
        finish(masks(copied(workshop.shards(cell.codec), folder)))

    return workshop.make(f"masked-{cell.codec}", build)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_readable(folder: Path) -> None:
    shards = ShardSet([str(folder)])
    assert len(shards) == CLIPS
    for clip_id in range(CLIPS):
        assert shards.read(clip_id).video
    shards.close()  # nothing can be unmounted below an open file


def masked(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    alone = ShardSet([str(whole(cell, workshop))])
    assert all(alone.read(clip_id).masks_THW is not None for clip_id in range(CLIPS))
    if cell.ranks > 1:
        folder = copied(workshop.shards(cell.codec), tmp_path / "set")
        finish(masks(folder, cell.ranks))
        assert content(folder) == content(whole(cell, workshop))


def damaged_clips(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    both = copied(workshop.damaged(cell.codec, "train"), tmp_path / "both")
    garbled, flipped = victims(both, "train")
    refused(masks(both, cell.ranks), cell.ranks, flipped, "damaged")
    one = copied(workshop.damaged(cell.codec, "train", flipped=False), tmp_path / "one")
    finish(masks(one, cell.ranks))
    assert read_json(one / "dataset.json")["masks"]["totals"]["degenerate"]["undecodable video"] == 1
    shards = ShardSet([str(one)])
    for clip_id, row in enumerate(shards.rows):
        masks_THW = shards.read(clip_id).masks_THW
        assert masks_THW is not None
        assert row.key != garbled or masks_THW.all()


def interrupted(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    folder = copied(workshop.shards(cell.codec), tmp_path / "set")
    call = 2 - cell.ranks  # two shards: one of them is made before, where there is one rank
    do, ranks = ("die", (1,)) if cell.accident == "a rank dies" else ("hold", (0, 1))
    stop(masks(folder, cell.ranks, Accident(do, SHARD, tmp_path, call, ranks)), cell, tmp_path)
    check_readable(folder)
    finish(masks(folder))
    assert content(folder) == content(whole(cell, workshop))


def no_room(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as remount:
        folder = copied(workshop.shards(cell.codec), tmp_path / "disk/set")
        before = content(folder)
        full = cell.accident == "full disk"
        remount(f"size={used(folder) + 65536}" if full else "ro")
        reason = "No space left on device" if full else "Read-only file system"
        refused(masks(folder, cell.ranks), cell.ranks, reason)
        check_readable(folder)
        assert before.items() <= content(folder).items()
        remount("rw,size=64m")
        finish(masks(folder))
        assert content(folder) == content(whole(cell, workshop))


MASKS = {
    "none": masked,
    "damaged clips": damaged_clips,
    "kill -9": interrupted,
    "SIGTERM": interrupted,
    "Ctrl-C": interrupted,
    "a rank dies": interrupted,
    "full disk": no_room,
    "read-only folder": no_room,
}
