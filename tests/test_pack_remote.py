"""Packing into object storage: the objects are the files that a folder would have, whatever is killed or cut off."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_storage import S3Server
from packing import contents, pack_command

from cclslr.commands.check import main as check
from cclslr.commands.pack import main
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.errors import UserError
from cclslr.shards import remote
from cclslr.shards.format import ManifestRow
from cclslr.shards.info import load_info
from cclslr.shards.pack import PackOptions, pack
from cclslr.shards.place import UrlPlace, place_of
from cclslr.shards.reshard import reshard
from cclslr.shards.verify import Fault, check_shard, plan_checks

OPTIONS = PackOptions("jpeg", 32, "none", clips_per_shard=4)


def rows() -> list[ManifestRow]:
    return list(manifest(SynthOptions(classes=4, clips_per_class=(6, 2, 2), size=32, frames=(8, 8))))


def command(out: str, *more: str) -> list[str]:
    """The same clips by the command."""
    return pack_command(out, *more, classes=4, clips_per_shard=4)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    for module in ("boto3", "moto.server", "s3fs"):
        pytest.importorskip(module)
    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, known to this process and its children, which keep temporary files in a folder of the test."""
    import s3fs
    from fsspec.config import conf, set_conf_env

    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    set_conf_env(conf)
    s3fs.S3FileSystem.clear_instance_cache()
    return server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "set"
    pack(rows(), out, OPTIONS, workers=0)
    return out


def test_the_objects_are_the_files_of_a_folder(s3: S3Server, folder: Path, tmp_path: Path) -> None:
    report = pack(rows(), "s3://bucket/same/", OPTIONS, workers=2)
    assert (report.clips, report.shards_reused) == (40, 0)
    assert s3.objects("same/") == contents(folder)
    assert not list((tmp_path / "temporary").glob("cclslr-*"))
    assert pack(rows(), "s3://bucket/same", OPTIONS, workers=0).shards_reused == 10
    assert s3.objects("same/") == contents(folder)


def test_packing_killed_again_and_again(s3: S3Server) -> None:
    kills = 0
    for count in (1, 5):
        process = subprocess.Popen(command("s3://bucket/killed", "--workers", "1"), stdout=subprocess.DEVNULL)
        while len([key for key in s3.objects("killed/") if key.endswith(".tar")]) < count and process.poll() is None:
            time.sleep(0.01)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills == 2
    assert "dataset.json" not in s3.objects("killed/")
    done = subprocess.run(command("s3://bucket/killed"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "shards were already there" in done.stdout
    assert "40 clips packed in 10 shards, none rejected" in done.stdout
    pack_by_command = subprocess.run(command("s3://bucket/whole"), capture_output=True)
    assert pack_by_command.returncode == 0
    assert s3.objects("killed/") == s3.objects("whole/")


def test_a_server_that_is_away_for_a_while(s3: S3Server, folder: Path) -> None:
    helper = threading.Thread(target=interrupt, args=(s3,))
    helper.start()
    pack(rows(), "s3://bucket/away", OPTIONS, workers=0)
    helper.join()
    assert s3.objects("away/") == contents(folder)


def interrupt(server: S3Server) -> None:
    while not server.objects("away/"):
        time.sleep(0.01)
    server.cut()
    time.sleep(1.0)
    server.answer()


@pytest.mark.parametrize("lost", ["shard-00003.tar", "shard-00003.idx", "index.parquet", "cut shard-00003.tar"])
def test_an_object_that_is_gone_is_made_again(s3: S3Server, folder: Path, lost: str) -> None:
    for name, data in contents(folder).items():
        s3.client().put_object(Bucket="bucket", Key=f"mended/{name}", Body=data)
    if lost.startswith("cut "):
        name = lost.removeprefix("cut ")
        s3.client().put_object(Bucket="bucket", Key=f"mended/{name}", Body=contents(folder)[name][:-512])
    else:
        s3.client().delete_object(Bucket="bucket", Key=f"mended/{lost}")
    report = pack(rows(), "s3://bucket/mended", OPTIONS, workers=0)
    assert report.shards_reused == (0 if lost.startswith("index") else 9)
    assert s3.objects("mended/") == contents(folder)


def test_checking_finds_there_what_it_finds_in_a_folder(s3: S3Server, folder: Path, tmp_path: Path) -> None:
    damaged = {name: bytearray(data) for name, data in contents(folder).items()}
    first = load_info(folder)["shards"][0]["name"]
    damaged[first][700] ^= 1
    del damaged["shard-00004.idx"]
    damaged["more.tar"] = bytearray(10)
    (tmp_path / "set").mkdir()
    for name, data in damaged.items():
        (tmp_path / "set" / name).write_bytes(data)
        s3.client().put_object(Bucket="bucket", Key=f"checked/{name}", Body=bytes(data))
    here, there = (found(path) for path in (str(tmp_path / "set"), "s3://bucket/checked"))
    assert {(fault.shard, fault.key) for fault in here} == {(fault.shard, fault.key) for fault in there}
    assert {first, "shard-00004.tar", "more.tar"} == {fault.shard for fault in there}
    (tmp_path / "set/.parts").mkdir()  # packing has begun anew, and no shard is done yet
    assert {fault.shard for fault in found(str(tmp_path / "set"))} == {fault.shard for fault in here} | {".parts"}
    pack(rows(), "s3://bucket/good", OPTIONS, workers=0)
    assert check(["s3://bucket/good", "--decode"]) == 0
    s3.client().delete_object(Bucket="bucket", Key="good/shard-00003.tar")
    assert [(fault.shard, fault.what) for fault in found("s3://bucket/good")] == [
        ("shard-00003.tar", "unreadable: it is not there")
    ]
    with pytest.raises(FileNotFoundError, match="s3://bucket/nothing"):
        check(["s3://bucket/nothing"])


def test_a_check_that_gets_no_answer_is_no_verdict(s3: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in contents(folder).items():
        s3.client().put_object(Bucket="bucket", Key=f"cut_off/{name}", Body=data)
    tasks, faults = plan_checks("s3://bucket/cut_off", decode=False)
    assert faults == []
    monkeypatch.setattr(remote, "PATIENCE", 0.5)
    s3.cut()
    try:
        with pytest.raises(ConnectionError, match="s3://bucket/cut_off"):
            check_shard(tasks[0])
    finally:
        s3.answer()


def found(path: str) -> list[Fault]:
    """All faults of a set."""
    tasks, faults = plan_checks(path, decode=True)
    return faults + [fault for task in tasks for fault in check_shard(task).faults]


def test_another_set_is_not_written_over(s3: S3Server, folder: Path) -> None:
    pack(rows(), "s3://bucket/taken", OPTIONS, workers=0)
    with pytest.raises(UserError, match="s3://bucket/taken already holds a data set of other clips or settings"):
        pack(rows(), "s3://bucket/taken", dataclasses.replace(OPTIONS, size=48), workers=0)
    assert s3.objects("taken/") == contents(folder)


def test_packed_sets_go_up_and_come_down(s3: S3Server, folder: Path, tmp_path: Path) -> None:
    up = reshard([str(folder)], "s3://bucket/up", OPTIONS.clips_per_shard, workers=0)
    down = reshard(["s3://bucket/up"], tmp_path / "down", OPTIONS.clips_per_shard, workers=0)
    assert up.info["content_hash"] == down.info["content_hash"] == load_info(folder)["content_hash"]
    for name, data in contents(folder).items():
        if name != "dataset.json":  # it says where the clips are from
            assert s3.objects("up/")[name] == (tmp_path / "down" / name).read_bytes() == data


def test_where_nothing_can_be_written_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = UrlPlace(f"http://127.0.0.1:{server.server_address[1]}/set")
    with pytest.raises(UserError, match=r"/a: .*(not allowed|Unsupported method)"), place.writing("a") as here:
        (here / "a").write_bytes(b"x")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("option", [["--masks"], ["--estimate", "mediapipe"]])
def test_what_needs_a_folder_is_refused_before_any_work(option: list[str]) -> None:
    pytest.importorskip("s3fs")
    with pytest.raises(UserError, match="pack into one, then cclslr pack --from FOLDER"):
        main(command("s3://bucket/x", *option)[4:])


def test_a_server_that_stays_away_is_an_error(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE", 0.3)
    place = place_of("s3://bucket/nowhere")
    s3.cut()
    try:
        with pytest.raises(ConnectionError, match="no answer"):
            place.read("dataset.json")
    finally:
        s3.answer()


def test_the_temporary_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = UrlPlace("memory://set")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UserError, match="another user's"), place.hold():
        pass
