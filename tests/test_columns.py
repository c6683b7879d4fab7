"""index.columns: the rows of index.parquet, whatever happens to either file."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.errors import BadClip, UserError
from cclslr.files import hold_file
from cclslr.shards import index as index_module
from cclslr.shards.columns import COLUMNS, COLUMNS_NAME, PREFIX, Columns, DamagedColumns
from cclslr.shards.convert import convert, folder_columns, open_columns
from cclslr.shards.format import SPLITS, Component, IndexRow
from cclslr.shards.index import INDEX_NAME, IndexBytes, IndexFile, index_writer, read_index, table_of, write_index
from cclslr.shards.info import DatasetInfo, load_info
from cclslr.shards.parts import whole_clip
from cclslr.shards.reader import ShardSet
from cclslr.shards.selection import Rows

offsets = st.lists(st.integers(1, 2**32 - 2), max_size=5).map(lambda sizes: (0, *np.cumsum(sizes).tolist()))
index_rows = st.builds(
    IndexRow,
    key=st.from_regex(r"[A-Za-z0-9_-]{1,90}", fullmatch=True),
    shard=st.sampled_from(["a.tar", "b.tar", "c.tar"]),
    label=st.integers(-1, 10**6),
    split=st.sampled_from(SPLITS),
    signer=st.text(st.characters(codec="utf-8"), max_size=10),
    num_frames=st.integers(1, 10**6),
    width=st.integers(0, 4000),
    height=st.integers(0, 4000),
    fps=st.floats(1, 240),
    components=st.dictionaries(
        st.sampled_from(["mjpg", "pose.npy", "mask.png", "json", "x"]),
        st.builds(Component, st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 2**32 - 1)),
    ),
    frame_offsets=st.just(()) | offsets,
)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def columns_of(folder: Path, rows: list[IndexRow]) -> Columns:
    write_index(folder / INDEX_NAME, rows)
    return convert(IndexFile(folder / INDEX_NAME), sha256_of(folder / INDEX_NAME), folder / COLUMNS_NAME)


def row(number: int) -> IndexRow:
    parts = {"json": Component(512, 10, number), "mp4": Component(1536, 1000 + number, 7 * number)}
    shard = f"shard-{number // 8:05d}.tar"
    return IndexRow(f"c{number}", shard, number % 5, SPLITS[number % 3], f"s{number % 4}", 9, 64, 64, 25.0, parts, ())


@given(st.lists(index_rows, max_size=12), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_columns_say_what_the_index_says(rows: list[IndexRow], at_once: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "_ROWS_AT_ONCE", at_once)
        columns = columns_of(Path(name), rows)
        assert list(columns.rows()) == rows
        assert list(columns.texts()) == [(row.key, row.signer) for row in rows]
        assert list(columns.texts(np.arange(len(rows))[::-1])) == [(row.key, row.signer) for row in rows[::-1]]
        if all(part.size < 2**50 for row in rows for part in row.components.values()):
            sizes = [sum(part.size for part in row.components.values()) for row in rows]
            assert columns.sizes().tolist() == sizes
        assert columns["label"].all().tolist() == [row.label for row in rows]
        for split in SPLITS:
            assert columns[split].all().tolist() == [n for n, row in enumerate(rows) if row.split == split]
        found = {shard: numbers.tolist() for shard, numbers in columns.by_shard()}
        assert found == {s: [n for n, row in enumerate(rows) if row.shard == s] for s in {row.shard for row in rows}}
        for split in (None, *SPLITS):
            chosen = Rows([columns, columns], [10**6 + 1, 1], split)
            kept = [row for row in rows if split in (None, row.split)]
            again = [replace(row, label=row.label + 10**6 + 1) if row.label >= 0 else row for row in kept]
            assert list(chosen) == kept + again == chosen[:]
            assert chosen.labels_N.tolist() == [row.label for row in kept + again]
            assert chosen.dataset_ids.tolist() == [0] * len(kept) + [1] * len(kept)
            assert chosen.numbers("fps").tolist() == [row.fps for row in kept + again]
            for part in ("video", "pose", "mask", "json"):
                assert chosen.lacking(part).tolist() == [n for n, row in enumerate(chosen) if not row.has(part)]
            assert chosen.labelled_splits == {row.split for row in kept if row.label >= 0}


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 40])
@pytest.mark.parametrize("portion", [1, 3, 8, 100])
def test_an_index_in_parts_has_the_same_bytes(
    tmp_path: Path, rows: int, portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "ROWS_PER_GROUP", 8)
    items = [row(number) for number in range(rows)]
    write_index(tmp_path / "whole", items)
    with index_writer(tmp_path / "parts") as writer:
        for first in range(0, rows, portion):
            writer.add(table_of(items[first : first + portion]))
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert read_index(tmp_path / "parts") == items


@pytest.mark.parametrize(
    "wrong", [(0, 9, 5, 20), (-3, 9, 15, 20), (0, 9, 9, 20), (0, 9, 2**40, 20), (0, 9, 15 + 2**32, 20)]
)
def test_frame_offsets_that_no_clip_has_are_that_clips_fault(tmp_path: Path, wrong: tuple[int, ...]) -> None:
    from cclslr.codecs.jpeg import JPEG

    good = replace(row(0), num_frames=3, frame_offsets=(0, 9, 15, 20))
    columns = columns_of(tmp_path, [good, replace(good, frame_offsets=wrong)])
    video = memoryview(bytes(20))
    assert whole_clip(columns.row(0), JPEG, video, None, None, None).row == good
    with pytest.raises(BadClip, match="frame offsets"):
        whole_clip(columns.row(1), JPEG, video, None, None, None)


def test_a_flipped_bit_is_told_or_changes_nothing(tmp_path: Path) -> None:
    rows = [row(number) for number in range(300)]
    path = columns_of(tmp_path, rows).path
    whole = path.read_bytes()
    told = []
    for place in np.random.default_rng(0).integers(0, len(whole), 400).tolist():
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            columns = Columns(path)
            assert list(columns.rows()) == rows
            assert {name: columns[name].all().tobytes() for name in COLUMNS if name != "check"}
        except DamagedColumns as error:
            told.append(str(error))
    assert len(told) > 100  # the others lie between the arrays
    assert all(message.startswith(f"{path} is damaged") and "remove it" in message for message in told)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index with what dataset.json says of it, as far as it is asked here."""
    from cclslr.files import write_json

    rows = [row(number) for number in range(20)]
    write_index(tmp_path / INDEX_NAME, rows)
    shards = [{"name": f"shard-{n:05d}.tar", "clips": 8, "bytes": 10**6, "sha256": "a" * 64} for n in range(3)]
    sha256 = sha256_of(tmp_path / INDEX_NAME)
    info = {"format_version": 1, "clips": {}, "classes": list("abcde"), "content_hash": "a" * 64, "shards": shards}
    rest = {"index_sha256": sha256, "codec": "h264", "size": 64, "crop": "none", "quality": None, "masks": None}
    write_json(tmp_path / "dataset.json", {**info, **rest})
    return tmp_path


def test_a_set_without_columns_gets_them_once(folder: Path) -> None:
    rows = read_index(folder / INDEX_NAME)
    assert ShardSet([str(folder)]).rows == rows
    made = (folder / COLUMNS_NAME).stat()
    assert ShardSet([str(folder)]).rows == rows
    again = (folder / COLUMNS_NAME).stat()
    assert (made.st_ino, made.st_mtime_ns) == (again.st_ino, again.st_mtime_ns)
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", COLUMNS_NAME, INDEX_NAME]


def test_many_processes_make_one_file(folder: Path) -> None:
    program = (
        "import sys, hashlib; from cclslr.shards.reader import ShardSet; "
        "print(hashlib.sha256(repr(list(ShardSet([sys.argv[1]]).rows)).encode()).hexdigest())"
    )
    command = [sys.executable, "-c", program, str(folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert len({process.communicate()[0] for process in running}) == 1
    assert [process.returncode for process in running] == [0] * 8
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", COLUMNS_NAME, INDEX_NAME]


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damage_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[PREFIX.size + 5] ^= 4
    path.write_bytes(data)


def damage_all(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_cut, damage_header, damage_all])
def test_columns_that_are_seen_to_be_damaged_are_made_again(folder: Path, damage) -> None:
    rows = list(ShardSet([str(folder)]).rows)
    damage(folder / COLUMNS_NAME)
    assert ShardSet([str(folder)]).rows == rows


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_an_index_that_changed_after_its_columns_were_made_is_told(folder: Path, how: str) -> None:
    ShardSet([str(folder)])
    path = folder / INDEX_NAME
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        with pytest.raises(FileNotFoundError, match=r"index\.parquet is not there"):
            ShardSet([str(folder)])
        return
    if how == "cut":
        del data[-100:]
    else:
        data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"index\.parquet is not the one"):
        ShardSet([str(folder)])


def test_an_index_that_is_only_newer_is_read_once_more(folder: Path) -> None:
    rows = list(ShardSet([str(folder)]).rows)
    made = (folder / COLUMNS_NAME).stat().st_ino
    os.utime(folder / INDEX_NAME)
    assert ShardSet([str(folder)]).rows == rows
    assert (folder / COLUMNS_NAME).stat().st_ino != made


def test_columns_of_another_index_are_not_used(folder: Path) -> None:
    ShardSet([str(folder)])
    rows = [replace(each, label=4) for each in read_index(folder / INDEX_NAME)]
    write_index(folder / INDEX_NAME, rows)
    text = (folder / "dataset.json").read_text()
    old = load_info(folder)["index_sha256"]
    (folder / "dataset.json").write_text(text.replace(old, sha256_of(folder / INDEX_NAME)))
    assert ShardSet([str(folder)]).rows == rows


def test_where_nothing_can_be_kept_they_are_this_processes_own(folder: Path) -> None:
    info: DatasetInfo = load_info(folder)
    source = IndexBytes("memory", (folder / INDEX_NAME).read_bytes)
    nowhere = Path("/proc/cclslr")
    columns = open_columns(source, info, nowhere, nowhere)
    assert list(columns.rows()) == read_index(folder / INDEX_NAME)
    assert list(pickle.loads(pickle.dumps(columns)).rows()) == list(columns.rows())
    cached = open_columns(source, info, nowhere, folder / "cache")
    assert cached.path == folder / "cache" / f"index-{info['index_sha256']}.columns"
    calls: Iterator[bytes] = iter(())
    again = open_columns(IndexBytes("memory", lambda: next(calls)), info, None, folder / "cache")  # not loaded again
    assert list(again.rows()) == list(columns.rows())


def test_folder_columns_pickle_as_their_path(folder: Path) -> None:
    columns = folder_columns(folder, load_info(folder))
    data = pickle.dumps(columns)
    assert len(data) < 500
    assert list(pickle.loads(data).rows()) == list(columns.rows())


def test_one_at_a_time_holds_a_file(tmp_path: Path) -> None:
    """Whoever waited for a lock file that its owner then removed waits for the next one, too."""
    inside, most = [], []

    def hold() -> None:
        for _ in range(50):
            with hold_file(tmp_path / ".lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(1e-4)
                inside.pop()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(hold) for _ in range(4)]:
            done.result()
    assert (max(most), len(most)) == (1, 200)
    assert list(tmp_path.iterdir()) == []
