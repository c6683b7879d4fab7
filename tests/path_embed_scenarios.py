"""What can happen to `cclslr embed`, and what must come of it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from path_matrix import BACKENDS, USUAL, Cell
from path_runs import Accident, Workshop, ended, launch, refused, small_disk, used, victims
from path_use_scenarios import check_named, stop
from small_runs import ALONE, finish

import cclslr
from cclslr.errors import ExitCode
from cclslr.inference.features import read_features
from cclslr.inference.passes import over_clips
from cclslr.shards.reader import ShardSet

PART = 4  # clips: one batch
WRITING = "cclslr.inference.embed.write_part"


def pretrained(workshop: Workshop) -> Path:
    return workshop.run(Cell("train", "numba", USUAL, 1, "none")) / "last.pt"


def embed(cell: Cell, workshop: Workshop, shards: Path, out: Path, ranks: int = 1, accident: Accident | None = None):
    """Start `cclslr embed` on all clips of `shards`, by the cell's backend."""
    where = [str(pretrained(workshop)), str(shards), "--out", str(out), f"--part={PART}"]
    return launch("embed", [*where, *BACKENDS[cell.backend], "data.max_bad_share=0.5"], ranks, accident)


def undisturbed(cell: Cell, workshop: Workshop) -> Path:
    """The file of one rank to which nothing happened."""
    name = f"features-{cell.backend}-{cell.codec}".replace(", ", "+")

    def build(folder: Path) -> None:
        finish(embed(cell, workshop, workshop.shards(cell.codec), folder / "features.parquet"))

    return workshop.make(name, build) / "features.parquet"


def embedded(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    alone = undisturbed(cell, workshop)
    found = read_features(alone)
    shards = ShardSet([str(workshop.shards(cell.codec))])
    assert list(zip(found.keys, found.labels.tolist(), found.splits, found.signers)) == [
        (row.key, row.label, row.split, row.signer) for row in shards.rows
    ]
    assert found.glosses == [shards.classes[row.label] for row in shards.rows]
    model = cclslr.load(pretrained(workshop), overrides=[*BACKENDS[cell.backend], "run.device=cpu"])
    cfg = model.config
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the program had it
    try:
        here, _, _ = over_clips(
            model.forward, shards, cfg.data, cfg.views, model.modalities, PART, model.precision, ALONE
        )
    finally:
        torch.set_num_threads(threads)
    assert {name: x.tobytes() for name, x in found.values.items()} == {n: x.numpy().tobytes() for n, x in here.items()}
    assert [path.name for path in alone.parent.iterdir()] == [alone.name]
    if cell.ranks > 1:
        finish(embed(cell, workshop, workshop.shards(cell.codec), tmp_path / "out.parquet", cell.ranks))
        assert (tmp_path / "out.parquet").read_bytes() == alone.read_bytes()


def without_row(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    shards, out = workshop.damaged(cell.codec, "test"), tmp_path / "out.parquet"
    process = embed(cell, workshop, shards, out, cell.ranks)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == (ExitCode.SOME_BAD if cell.ranks == 1 else ExitCode.DONE), output
    keys = victims(shards, "test")
    check_named(output, keys)
    whole, found = read_features(undisturbed(cell, workshop)), read_features(out)
    assert set(found.about["left_out"]) == set(keys)
    expected = whole.chosen(np.array([key not in keys for key in whole.keys]))
    assert found.keys == expected.keys
    for name, x_ND in found.values.items():
        np.testing.assert_allclose(x_ND, expected[name], atol=1e-5)


def killed(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    shards, out = workshop.shards(cell.codec), tmp_path / "out.parquet"
    do, ranks = ("die", (1,)) if cell.accident == "a rank dies" else ("hold", (0, 1))
    happens = Accident(do, WRITING, tmp_path, 2, ranks)
    stop(embed(cell, workshop, shards, out, cell.ranks, happens), cell, tmp_path)
    parts = sorted((tmp_path / "out.parquet.parts").glob("part-*.parquet"))
    assert len(parts) >= 2
    assert not out.exists()
    output = finish(embed(cell, workshop, shards, out, 3 - cell.ranks))
    (told,) = re.findall(r"going on: (\d+) of 40 clips were done before", output)
    assert int(told) == PART * len(parts)
    same_and_nothing_else(out, undisturbed(cell, workshop))


def same_and_nothing_else(out: Path, whole: Path) -> None:
    assert out.read_bytes() == whole.read_bytes()
    assert not list(out.parent.glob(f"*{out.name}?*"))


def no_room(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    shards, whole = workshop.shards(cell.codec), undisturbed(cell, workshop)
    with small_disk(tmp_path / "disk") as remount:
        folder = tmp_path / "disk/out"
        folder.mkdir()
        out, before = folder / "out.parquet", folder / "before.parquet"
        before.write_bytes(whole.read_bytes())
        full = cell.accident == "full disk"
        remount(f"size={used(folder) + (24 << 10)}" if full else "ro")
        reason = "No space left on device" if full else "Read-only file system"
        process = embed(cell, workshop, shards, out, cell.ranks)
        if full and cell.ranks > 1:  # both ranks write parts, so both may say it
            assert reason in ended(process)
        else:
            refused(process, cell.ranks, reason)
        assert before.read_bytes() == whole.read_bytes()
        assert not out.exists()
        remount("rw,size=64m")
        finish(embed(cell, workshop, shards, out))
        same_and_nothing_else(out, whole)


EMBEDDING = {
    "none": embedded,
    "damaged clips": without_row,
    "kill -9": killed,
    "SIGTERM": killed,
    "Ctrl-C": killed,
    "a rank dies": killed,
    "full disk": no_room,
    "read-only folder": no_room,
}
