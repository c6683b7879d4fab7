"""Broken annotations: each is an error that names its file, or a report in which every row is booked.

250 a set, or as many as CCLSLR_EXAMPLES says: docs/results/importers was made with 1,000.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cclslr.datasets import autsl, msasl, nmfs_csl, slr500, wlasl
from cclslr.datasets.base import Import, importers
from cclslr.shards.format import KEY_PATTERN, SPLITS

EXAMPLES = int(os.environ.get("CCLSLR_EXAMPLES", "250"))
MANY = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["train", "test", "00001", "../x", "\0", "ä/ö", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def break_tree(document: Any, random_: random.Random, values: list[Any]) -> Any:
    """Replace, delete, repeat or rename something at a random depth, once for each of `values`."""
    document = copy.deepcopy(document)
    for value in values:
        node = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = random_.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and random_.random() < 0.8:
                node = node[key]
                continue
            action = random_.choice(["replace", "delete", "repeat"])
            if action == "replace":
                node[key] = value
            elif action == "delete":
                del node[key]
            elif isinstance(node, list):
                node.insert(random_.randrange(len(node) + 1), copy.deepcopy(node[key]))
            else:
                node[str(value)] = node[key]
            break
    return document


@st.composite
def broken_json(draw: st.DrawFn, document: Any) -> bytes:
    """Bytes of a JSON file: a document broken in up to four places, sometimes cut short or spoilt as text, too."""
    tree = break_tree(document, draw(st.randoms(use_true_random=False)), draw(st.lists(json_values, max_size=4)))
    data = json.dumps(tree).encode()
    return draw(spoilt(data))


@st.composite
def broken_lines(draw: st.DrawFn, lines: list[str]) -> bytes:
    """Bytes of a text list: lines repeated, dropped, shuffled, replaced, and sometimes spoilt as text."""
    alphabet = st.characters(exclude_categories=["Cs"])
    tokens = st.sampled_from([*lines, ",", " ", '"', "0/a,", "1/b -1", "P01_01_00_1", "99999999999", "\t", "\0"])
    replaced = draw(st.lists(tokens | st.text(alphabet, max_size=12), max_size=5))
    kept = draw(st.lists(st.sampled_from(lines), max_size=8))
    return draw(spoilt("\n".join(draw(st.permutations(kept + replaced))).encode()))


@st.composite
def spoilt(draw: st.DrawFn, data: bytes) -> bytes:
    how = draw(st.sampled_from(["whole"] * 8 + ["cut", "byte"]))
    if how == "whole" or not data:
        return data
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] if how == "cut" else data[:at] + bytes([draw(st.integers(128, 255))]) + data[at + 1 :]


def check(load: Callable[[], Import], names: tuple[str, ...], rows: Callable[[], int]) -> None:
    """`load` names one of the files, or its report accounts for all `rows`, counted independently."""
    try:
        result = load()
    except ValueError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert any(name in message for name in names)
        return
    report = result.report
    assert report.rows == rows()
    booked = report.found + len(report.missing) + len(report.duplicates) + len(report.rejected)
    assert report.rows == booked
    assert report.found == len(result.rows)
    assert report.classes == len(result.classes)
    assert sum(report.splits.values()) <= report.rows
    keys = [row.key for row in result.rows]
    assert len(set(keys)) == len(keys)
    for row in result.rows:
        assert KEY_PATTERN.fullmatch(row.key)
        assert row.split in SPLITS
        assert row.label is not None
        assert 0 <= row.label < len(result.classes)
    json.dumps(report.to_json())


def loader(module: ModuleType, *arguments: Any) -> Callable[[], Import]:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    args = parser.parse_args([str(argument) for argument in arguments])
    return lambda: module.load(args)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, write_video: Callable[..., Path]) -> Path:
    """A folder with a few files of each set."""
    root = tmp_path_factory.mktemp("fuzz")
    write_video(root / "videos" / "00001.mp4", 20)
    write_video(root / "videos" / "ri3NrdgfAtE.mp4", 60)
    write_video(root / "videos" / "000" / "P01_01_00_1._color.mp4", 5)
    (root / "videos" / "0" / "a").mkdir(parents=True)
    return root


WLASL = [
    {
        "gloss": gloss,
        "instances": [
            {
                "bbox": [1, 2, 30, 40],
                "fps": 25,
                "frame_end": end,
                "frame_start": start,
                "signer_id": 3,
                "split": split,
                "video_id": video_id,
            }
            for video_id, split, start, end in instances
        ],
    }
    for gloss, instances in (
        ("book", [("00001", "train", 3, -1), ("00002", "val", 1, -1)]),
        ("drink", [("00003", "test", 7686, 7832), ("00001", "test", 1, 15)]),
    )
]
NSLT = {"00001": {"subset": "train", "action": [0, 3, 20]}, "00002": {"subset": "test", "action": [7, 1, 30]}}
MSASL = [
    {
        "text": "absent",
        "label": label,
        "url": url,
        "start_time": start,
        "end_time": start + 1,
        "start": round(start * 25),
        "end": round(start * 25) + 25,
        "fps": 25.0,
        "signer_id": 4,
        "box": [0.1, 0.2, 0.9, 0.8],
    }
    for label, url, start in (
        (0, "https://www.youtube.com/watch?v=ri3NrdgfAtE", 0.0),
        (837, "www.youtube.com/watch?v=ri3NrdgfAtE&t=1s", 1.0),
        (3, "https://www.youtube.com/watch?v=aaaaaaaaaaa", 2.5),
    )
]
SLR500 = [
    "video_path,class_name",
    "000/P01_01_00_1._color.mp4,丈夫",
    "499/P36_25_19_0._color.mp4,b",
    "1/P2_1_1_3.avi,c",
]
AUTSL = ["signer0_sample1,41", "signer0_sample2,225", "signer31_sample1,0", "signer31_sample1,226", "a,b"]
NMFS = ["file,label", "0/a,0", "0/a 0", "1066/b,1066", "1066/b 1066", "5/c"]


def num_lines(*files: Path, header: str | None) -> int:
    """Lines that are not blank, without the header of each file."""
    total = 0
    for file in files:
        lines = [line for line in file.read_bytes().decode("utf-8-sig").splitlines() if line.strip()]
        total += len(lines) - bool(lines and lines[0].strip().split(",")[0].strip('" ') == header)
    return total


def num_instances(file: Path) -> int:
    """Instances of a WLASL list; a gloss without a list of them counts as one row."""
    total = 0
    for gloss in json.loads(file.read_bytes())[:2000]:
        instances = gloss.get("instances") if isinstance(gloss, dict) else None
        total += len(instances) if isinstance(instances, list) else 1
    return total


def num_entries(file: Path) -> int:
    """Entries of an nslt list but for those that say a class from 2000 on."""
    actions = [v.get("action") if isinstance(v, dict) else None for v in json.loads(file.read_bytes()).values()]
    return sum(not (isinstance(a, list) and len(a) == 3 and type(a[0]) is int and a[0] >= 2000) for a in actions)


def num_clips(folder: Path, subset: int) -> int:
    """Rows of MS-ASL's lists but for those that say a label of a larger sub-split."""
    rows = [row for name in ("train", "test") for row in json.loads((folder / f"MSASL_{name}.json").read_bytes())]
    labels = [row.get("label") if isinstance(row, dict) else None for row in rows]
    return sum(not (type(label) is int and subset <= label < 1000) for label in labels)


@given(data=broken_json(WLASL))
@MANY
def test_wlasl(root: Path, data: bytes) -> None:
    (root / "WLASL_v0.3.json").write_bytes(data)
    path = root / "WLASL_v0.3.json"
    load = loader(wlasl, "--annotations", path, "--videos", root / "videos")
    check(load, ("WLASL_v0.3.json",), lambda: num_instances(path))


@given(data=broken_json(NSLT))
@MANY
def test_nslt(root: Path, data: bytes) -> None:
    (root / "nslt_2000.json").write_bytes(data)
    path = root / "nslt_2000.json"
    load = loader(wlasl, "--annotations", path, "--videos", root / "videos")
    check(load, ("nslt_2000.json",), lambda: num_entries(path))


@given(train=broken_json(MSASL), subset=st.sampled_from([100, 1000]))
@MANY
def test_msasl(root: Path, train: bytes, subset: int) -> None:
    folder = root / "msasl"
    folder.mkdir(exist_ok=True)
    (folder / "MSASL_train.json").write_bytes(train)
    (folder / "MSASL_test.json").write_text(json.dumps(MSASL))
    load = loader(msasl, "--annotations", folder, "--videos", root / "videos", "--subset", subset)
    check(load, ("MSASL_train.json", "MSASL_{train,val,test}.json"), lambda: num_clips(folder, subset))


@given(train=broken_lines(SLR500), test=broken_lines(SLR500))
@MANY
def test_slr500(root: Path, train: bytes, test: bytes) -> None:
    folder = root / "slr500"
    folder.mkdir(exist_ok=True)
    (folder / "split.train.csv").write_bytes(train)
    (folder / "split.test.csv").write_bytes(test)
    load = loader(slr500, "--annotations", folder, "--videos", root / "videos")
    files = (folder / "split.train.csv", folder / "split.test.csv")
    check(load, ("split.", str(folder)), lambda: num_lines(*files, header="video_path"))


@given(train=broken_lines(NMFS), test=broken_lines(NMFS), suffix=st.sampled_from(["csv", "txt"]))
@MANY
def test_nmfs_csl(root: Path, train: bytes, test: bytes, suffix: str) -> None:
    folder = root / f"nmfs_{suffix}"
    folder.mkdir(exist_ok=True)
    prefix = "uni_" if suffix == "csv" else ""
    files = (folder / f"{prefix}trainlist01.{suffix}", folder / f"{prefix}testlist01.{suffix}")
    files[0].write_bytes(train)
    files[1].write_bytes(test)
    load = loader(nmfs_csl, "--annotations", folder, "--videos", root / "videos")
    check(load, ("list01", str(folder)), lambda: num_lines(*files, header="file" if suffix == "csv" else None))


@given(train=broken_lines(AUTSL), test=broken_lines(AUTSL), glosses=broken_lines(["ClassId,TR,EN", "41,a,b", "0,c,d"]))
@MANY
def test_autsl(root: Path, train: bytes, test: bytes, glosses: bytes) -> None:
    folder = root / "autsl"
    folder.mkdir(exist_ok=True)
    (folder / "SignList_ClassId_TR_EN.csv").write_bytes(glosses)
    files = (folder / "train_labels.csv", folder / "test_labels.csv")
    files[0].write_bytes(train)
    files[1].write_bytes(test)
    load = loader(autsl, "--annotations", folder, "--videos", root / "videos")
    check(load, ("_labels.csv", "SignList", str(folder)), lambda: num_lines(*files, header=None))


# Lists that are one table, or a table a split: its file names, whether it has a header, and rows, the header first.
TABLES: dict[str, tuple[tuple[str, ...], bool, list[str]]] = {
    "asl_citizen": (
        ("train.csv", "test.csv"),
        True,
        ["Participant ID,Video file,Gloss,ASL-LEX Code", "P1,00001.mp4,DOG1,A", 'P2,"b, c.mp4","WELL, OK",B', "P1,,,"],
    ),
    "semlex": (
        ("semlex_metadata.csv",),
        True,
        [
            ",video_id,signer_id,split,label_type,label,phonology",
            "0,00001,1,train,asllex,na,x",
            "1,00001,1,test,asllex,na,x",
            "2,b,2,VAL,asllex,house,",
            "3,,1,train,asllex,,",
        ],
    ),
    "slovo": (
        ("annotations.csv",),
        True,
        [
            "\tattachment_id\tuser_id\tlength\ttext\ttrain\tbegin\tend",
            "0\t00001\tu\t14\tпривет\tTrue\t30\t45",
            "1\tb\tv\t14\tno_event\tFalse\t\t",
            "2\t00001\tu\t14\tутро\t0\t99999999999\t-1",
            "3\tc\tu\t14\t\tmaybe\t1\t2",
        ],
    ),
    "asl_signs": (
        ("train.csv",),
        True,
        ["path,participant_id,sequence_id,sign", "a/1.parquet,26734,1,TV", "a/2.parquet,26734,2,na", "b,1,3,", ",,,x"],
    ),
    "include": (
        ("include_train.txt", "include_test.txt"),
        False,
        ["Animals/4. Bird/MVI_2988.MOV", "Jobs/1. a/Extra/MVI (1).MOV", "../../x", "Animals//b.MOV", "a\\2. b\\c.mov"],
    ),
}


@st.composite
def broken_table(draw: st.DrawFn, rows: list[str], has_header: bool) -> bytes:
    """The same of a table, whose header mostly stays."""
    header = rows[0].encode() + b"\n" if has_header and draw(st.integers(0, 9)) else b""
    return header + draw(broken_lines(rows[has_header:]))


@pytest.mark.parametrize("name", TABLES)
@given(data=st.data())
@MANY
def test_tables(root: Path, name: str, data: st.DataObject) -> None:
    files, has_header, rows = TABLES[name]
    folder = root / name
    folder.mkdir(exist_ok=True)
    for file in files:
        (folder / file).write_bytes(data.draw(broken_table(rows, has_header)))
    importer, parser = importers()[name], argparse.ArgumentParser()
    importer.add_arguments(parser)
    videos = [] if name == "asl_signs" else ["--videos", str(root / "videos")]
    args = parser.parse_args(["--annotations", str(folder), *videos])

    def num_rows() -> int:
        return sum(num_lines(folder / file, header=None) - has_header for file in files)

    check(lambda: importer.load(args), (*files, str(folder)), num_rows)


# Sets without a list: what files are called is all there is.
NAMES: dict[str, list[str]] = {
    "karsl": ["01/train/0001/a.mp4", "03/03/TEST/0502/b.avi", "01/train/0503/a.mp4", "1/val/1/a.mp4", "a.mp4", "x.txt"],
    "lsa64": ["001_001_001.mp4", "064_010_005.MP4", "a/001_001_001.avi", "065_001_001.mp4", "1_1_1.mp4", "x.txt"],
}


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@MANY
def test_names(root: Path, name: str, data: st.DataObject) -> None:
    folder = root / f"{name}_files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    alphabet = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/.")
    odd = st.tuples(st.text(alphabet, max_size=8), st.sampled_from(NAMES[name])).map("".join)
    given_names = data.draw(st.lists(st.sampled_from(NAMES[name]) | odd, max_size=8))
    for given_name in given_names:
        (folder / given_name).parent.mkdir(parents=True, exist_ok=True)
        (folder / given_name).touch()
    importer, parser = importers()[name], argparse.ArgumentParser()
    importer.add_arguments(parser)
    args = parser.parse_args(["--videos", str(folder)])
    videos = {name for name in given_names if not name.endswith(".txt")}
    check(lambda: importer.load(args), (str(folder),), lambda: len(videos))


def test_every_list_is_fuzzed() -> None:
    """A new importer is fuzzed, too."""
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set(importers()) - {"folder", "csv", "keypoints", "synthetic"} <= tests | set(TABLES) | set(NAMES)
