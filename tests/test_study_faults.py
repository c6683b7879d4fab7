"""cclslr study faults: damage is drawn from a seed alone, checksums of hostile damage fit, verdicts are right."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from rgb_reference import SmallClip

from cclslr.bench.damage import Damage, damage_a_file, damage_on_purpose
from cclslr.commands.study.faults import OUTCOMES, Stream, Way, judge, read_stream, table
from cclslr.files import read_json
from cclslr.shards.clip import PackOptions
from cclslr.shards.format import ManifestRow
from cclslr.shards.pack import pack
from cclslr.shards.parts import encode_masks
from cclslr.shards.reader import ShardSet
from cclslr.shards.writer import PackedClip

WAY = Way("jpeg", "numba", "auto")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sets")
    rows = [ManifestRow(f"c{n}", SmallClip(n, frames=9), n % 3, f"g{n % 3}", "train", None) for n in range(9)]
    with pytest.MonkeyPatch.context() as patch:  # masks, as packing itself makes none
        init = PackedClip.__init__

        def with_mask(self: PackedClip, row, parts: dict[str, bytes]) -> None:
            init(self, row, {**parts, "mask.png": encode_masks(np.ones((row.num_frames, 64, 64), np.uint8))})

        patch.setattr(PackedClip, "__init__", with_mask)
        pack(rows, out / "jpeg", PackOptions("jpeg", 48, "none", clips_per_shard=4), workers=0)
    return out


@pytest.fixture(scope="module")
def whole(sets: Path) -> Stream:
    return read_stream(sets / "jpeg", WAY)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("damage", [damage_a_file, damage_on_purpose])
def test_damage_is_a_function_of_the_seed(sets: Path, tmp_path: Path, damage) -> None:
    made = []
    for number in (0, 1):
        for seed in range(8):
            shutil.copytree(sets / "jpeg", tmp_path / f"{number}{seed}")
            done = damage(tmp_path / f"{number}{seed}", np.random.default_rng(seed))
            made.append((done, contents(tmp_path / f"{number}{seed}")))
    assert made[:8] == made[8:]
    assert any(after != contents(sets / "jpeg") for _, after in made)


def test_checksums_of_hostile_damage_fit(sets: Path, tmp_path: Path) -> None:
    for seed in range(20):
        folder = tmp_path / str(seed)
        shutil.copytree(sets / "jpeg", folder)
        done = damage_on_purpose(folder, np.random.default_rng(seed))
        if not done.victims:
            continue
        info, digests = read_json(folder / "dataset.json"), contents(folder)
        assert info["index_sha256"] == digests["index.parquet"]
        assert all(shard["sha256"] == digests[shard["name"]] for shard in info["shards"])


def test_verdicts(sets: Path, whole: Stream, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(sets / "jpeg", folder)
    nothing = Damage("tar", "nothing")
    assert judge(whole, sets, folder, WAY, nothing, hostile=False)[0] == "same"
    row = ShardSet([str(folder)]).rows[1]
    data = bytearray((folder / row.shard).read_bytes())
    data[row.components["mjpg"].offset + 200] ^= 1
    (folder / row.shard).write_bytes(data)
    outcome, why = judge(whole, sets, folder, WAY, nothing, hostile=False)
    assert outcome == "substituted"
    assert row.key in why
    (folder / "dataset.json").write_text("{")
    assert judge(whole, sets, folder, WAY, nothing, hostile=False)[0] == "named"
    # Another set than the one that is meant, and not a word about it:
    other = Stream([batch[::-1] for batch in whole.batches], {}, True)
    assert judge(other, sets, sets / "jpeg", WAY, nothing, hostile=False)[0] == "silent"


def test_the_table_counts_every_trial() -> None:
    row = {"codec": "jpeg", "backend": "numba", "decode": "auto", "target": "tar", "check": "found"}
    rows = [{**row, "hostile": n % 2 == 1, "outcome": OUTCOMES[n % 3]} for n in range(12)]
    lines = table(rows).splitlines()
    assert "| random: tar | 6 | 2 | 2 | 2 | 0 | 0 | 0 | 0 |" in lines
    assert lines.count("| all | 12 | 4 | 4 | 4 | 0 | 0 | 0 | 0 |") == 2
