"""The page: its answers are the model's, nothing stays behind, and what is no clip is refused with a reason."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import finetune_here, tiny_shards, train_here

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from served import Stub, rendered, serve, write_video
from websockets.sync.client import connect

import cclslr
from cclslr.commands.embed import main as embed
from cclslr.errors import UserError
from cclslr.inference.features import read_features
from cclslr.inference.model import Model
from cclslr.inference.retrieval import search
from cclslr.serve.answer import Answerer
from cclslr.serve.limits import Limits
from cclslr.serve.live import Live, hand_is_up
from cclslr.shards import decode
from cclslr.shards.format import RawClip

SIZE = 96


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a checkpoint of either program, a dictionary, clips."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("serve")
    shards = tiny_shards(out / "shards", (4, 0, 3))
    train_here(out / "pre", shards, "run.max_steps=1")
    finetune_here(out / "fine", shards, "optim.epochs=1")
    embed([str(out / "fine/last.pt"), "--out", str(out / "index.parquet")])
    frames, keypoints = rendered(SIZE)
    np.save(out / "keypoints.npy", keypoints)
    write_video(out / "clip.mp4", frames)
    write_video(out / "clip.webm", frames, "libvpx-vp9")
    write_video(out / "clip.avi", frames, "mjpeg")
    write_video(out / "long.mp4", np.repeat(frames, 4, 0))
    return out


@pytest.fixture(scope="module")
def model(made: Path) -> Model:
    return cclslr.load(made / "fine/last.pt")


@pytest.fixture
def stub(made: Path) -> Stub:
    return Stub(np.load(made / "keypoints.npy"), SIZE)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files lie."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def left_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_answer_is_the_models(made: Path, model: Model, stub: Stub, temporary: Path) -> None:
    index = read_features(made / "index.parquet")
    keypoints = np.load(made / "keypoints.npy")
    with serve(Answerer(model, stub, index)) as served:
        for name in ("clip.mp4", "clip.webm", "clip.avi"):
            status, answer = served.clip((made / name).read_bytes())
            assert (status, answer.get("error")) == (200, None)
            assert answer["frames"] == len(keypoints)
            said = model.predict(made / name, keypoints)
            for branch in ("rgb", "pose", "fused"):
                wanted = said.top(5, branch)
                assert [gloss for gloss, _ in answer["top"][branch]] == [gloss for gloss, _ in wanted]
                np.testing.assert_allclose([p for _, p in answer["top"][branch]], [p for _, p in wanted], atol=1e-3)
            hits = search(model.embed(made / name, keypoints).g["fused"], index, "g_fused", 5)
            assert [hit["key"] for hit in answer["nearest"]] == [index.keys[hit.row] for hit in hits]
            assert list(answer["stages"]) == ["decode", "keypoints", "recognise", "nearest", "film", "waiting"]
            film = Image.open(io.BytesIO(base64.b64decode(answer["film"].split(",")[1])))
            assert (film.format, film.n_frames, film.size) == ("WEBP", len(keypoints), (SIZE, SIZE))
            strip = Image.open(io.BytesIO(base64.b64decode(answer["nearest"][0]["strip"].split(",")[1])))
            assert np.asarray(strip.convert("L")).std() > 10
        assert left_in(temporary) == []
        status, about = served.ask("GET", "/about")
        assert (about["classes"], about["dictionary"], about["live"]) == (4, len(index), True)
    assert list(temporary.iterdir()) == []


def test_a_clip_is_decoded_once(made: Path, model: Model, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, decoded = decode._decode_span, []
    monkeypatch.setattr(decode, "_decode_span", lambda *args: decoded.append(args[0]) or honest(*args))
    answer = Answerer(model, stub)(made / "clip.mp4")
    assert decoded == [made / "clip.mp4"]
    told = model.predict(made / "clip.mp4", stub.keypoints_TKC)
    assert answer["top"]["fused"] == [(gloss, round(share, 4)) for gloss, share in told.top(5)]
    assert len(decoded) == 2


def open_shards() -> set[str]:
    """Files of this process that are shards, those of folders that are gone included."""
    descriptors = Path("/proc/self/fd").iterdir()
    return {name for each in descriptors if (name := os.path.realpath(each)) and ".tar" in name}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_answers_leave_no_file_open(made: Path, model: Model, stub: Stub) -> None:
    before = open_shards()
    answerer = Answerer(model, stub)
    answerer(made / "clip.mp4")
    model.embed(made / "clip.mp4", stub.keypoints_TKC)
    assert open_shards() <= before


def test_a_decoded_clip_that_cannot_be_used_is_told(model: Model) -> None:
    clip = RawClip(np.zeros((5, SIZE, SIZE, 3), np.uint8), np.zeros((4, 133, 3), np.float32), 25.0)
    with pytest.raises(UserError, match="the pose has 4 frames, the video 5"):
        model.embed(clip)


def test_the_film_shows_the_keypoints(made: Path, model: Model, stub: Stub) -> None:
    with serve(Answerer(model, stub)) as served:
        _, answer = served.clip((made / "clip.mp4").read_bytes())
    film = Image.open(io.BytesIO(base64.b64decode(answer["film"].split(",")[1])))
    frames, _ = rendered(SIZE)
    drawn = abs(np.asarray(film.convert("RGB")).astype(int) - frames[0]).max(2) > 60
    assert 0.005 < drawn.mean() < 0.3
    assert answer["nearest"] == []


def test_a_pretrained_model_shows_the_nearest_alone(made: Path, stub: Stub) -> None:
    with serve(Answerer(cclslr.load(made / "pre/last.pt"), stub)) as served:
        status, answer = served.clip((made / "clip.mp4").read_bytes())
        assert (status, answer["top"]) == (200, {})
        assert served.ask("GET", "/about")[1]["why_not_live"].startswith("signing live needs a fine-tuned model")
        with connect(f"ws://127.0.0.1:{served.port}/live") as socket:
            assert "fine-tuned" in json.loads(socket.recv())["error"]


def test_what_is_no_clip_is_refused_with_a_reason(made: Path, model: Model, stub: Stub, temporary: Path) -> None:
    whole = (made / "clip.mp4").read_bytes()
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "JPEG")
    bodies = {
        b"": (400, "no clip in the request"),
        b"/etc/passwd": (422, "no video file that the page takes"),
        b"file:///etc/passwd": (422, "no video file that the page takes"),
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n": (422, "no video file"),
        b"ffconcat version 1.0\nfile /etc/passwd\n": (422, "no video file"),
        pickle.dumps(print): (422, "no video file"),
        picture.getvalue(): (422, "no video file"),
        whole[: len(whole) // 2]: (422, "unreadable"),
        whole[:8] + b"\0" * 3000: (422, "unreadable"),
        b"\x1a\x45\xdf\xa3" + b"\0" * 100: (422, "unreadable"),
        (made / "long.mp4").read_bytes(): (422, "5 seconds are too long; a clip is one sign, of 4 at most"),
        whole + b"\0" * 400_000: (413, "larger than 0.4 MB"),
    }
    with serve(Answerer(model, stub, limits=Limits(megabytes=0.4, seconds=4))) as served:
        for body, (code, reason) in bodies.items():
            status, answer = served.clip(body)
            assert status == code, (body[:20], answer)
            assert reason in answer["error"], answer
            assert str(temporary) not in answer["error"]
            assert left_in(temporary) == []
        assert served.clip(whole)[0] == 200
    with serve(Answerer(model, stub, limits=Limits(pixels=SIZE * SIZE - 1))) as served:
        assert "are too large" in served.clip(whole)[1]["error"]
    nobody = Stub(np.zeros_like(stub.keypoints_TKC), SIZE)
    with serve(Answerer(model, nobody)) as served:
        assert "nobody was found" in served.clip(whole)[1]["error"]
    assert list(temporary.iterdir()) == []


def test_only_this_machine_and_this_page_are_answered(made: Path, model: Model, stub: Stub) -> None:
    whole = (made / "clip.mp4").read_bytes()
    with serve(Answerer(model, stub)) as served:
        assert served.ask("GET", "/", Host="evil.example")[0] == 400
        status, answer = served.clip(whole, Origin="http://evil.example")
        assert (status, "may not ask" in answer["error"]) == (403, True)
        assert served.clip(whole, Origin=f"http://127.0.0.1:{served.port}")[0] == 200
        with connect(f"ws://127.0.0.1:{served.port}/live", origin="http://evil.example") as socket:
            assert "may not ask" in json.loads(socket.recv())["error"]
        for path in ("/clip", "/../README.md", "/page.html", "/docs", "/clip?path=/etc/passwd"):
            assert served.ask("GET", path)[0] in (404, 405)
        status, page = served.ask("GET", "/")
        assert b"<title>cclslr serve</title>" in page
        assert b"http://" not in page.replace(b"https:", b"").replace(b"http:", b"")
    assert not stub.followed


def test_more_than_may_wait_are_turned_away(made: Path, model: Model, stub: Stub, temporary: Path) -> None:
    """With as many at once as may wait all are answered, each with its own answer; one more is told to come again."""
    whole = (made / "clip.mp4").read_bytes()
    gate = threading.Event()

    class Slow(Stub):
        def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
            gate.wait()
            return super().__call__(frames_THWC)

    slow = Slow(stub.keypoints_TKC, SIZE)
    answerer = Answerer(model, slow, limits=Limits(waiting=8))
    with serve(answerer) as served, ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(served.clip, whole) for _ in range(8)]
        while len(left_in(temporary)) < 8:  # all are there
            pass
        status, answer = served.clip(whole)
        assert (status, "8 clips wait already" in answer["error"]) == (503, True)
        gate.set()
        answers = [future.result() for future in asked]
        assert [status for status, _ in answers] == [200] * 8
        assert all(answer["top"] == answers[0][1]["top"] for _, answer in answers)
        assert served.clip(whole)[0] == 200
    assert list(temporary.iterdir()) == []


def frame(seconds: float, size: int = SIZE, grey: int = 128) -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (size, size), (grey, grey, grey)).save(picture, "JPEG")
    return struct.pack("<d", seconds) + picture.getvalue()


def test_a_sign_lies_between_two_rests(model: Model, stub: Stub) -> None:
    live, picture = Live(model, stub.follow()), np.zeros((SIZE, SIZE, 3), np.uint8)
    length = len(stub.keypoints_TKC)
    up_T = np.array([hand_is_up(points_KC) for points_KC in stub.keypoints_TKC])
    assert up_T.any()
    answers = [live(picture, number / 15) for number in range(12 + length + 12)]
    states = [answer["state"] for answer in answers]
    assert states[:12] == ["rest"] * 12
    assert "signing" in states[12 : 12 + length]
    finals = [number for number, answer in enumerate(answers) if answer.get("final")]
    assert len(finals) == 1
    guesses = [answer for answer in answers if answer.get("final") is False]
    assert guesses
    assert all(len(answer["top"]) == 4 for answer in [*guesses, answers[finals[0]]])
    live.close()
    assert stub.closed == 1


def test_a_window_is_named_as_its_clip_is(model: Model, stub: Stub) -> None:
    """By the pose branch, from keypoints at the window's own rate."""
    live = Live(model, stub.follow())
    window = [(number / 15, points) for number, points in enumerate(stub.keypoints_TKC.astype(np.float32))]
    found = live.name(window, (SIZE, SIZE))
    from cclslr.export.preprocess import prepare

    config = {"config": {"views": vars(model.config.views)}, "packing": model.how_to_pack()}
    views = prepare(None, stub.keypoints_TKC, config, frame_size=(SIZE, SIZE))
    with torch.inference_mode():
        logits = model.forward({"pose": torch.from_numpy(views["pose"])})["logits_pose"][0]
    wanted = logits.softmax(0).sort(descending=True, stable=True)
    assert [gloss for gloss, _ in found] == [model.classes[k] for k in wanted.indices]
    np.testing.assert_allclose([share for _, share in found], wanted.values, atol=1e-3)
    holes = [item for number, item in enumerate(window) if number % 3]  # a third was dropped
    assert live.name(holes, (SIZE, SIZE))[0][1] == pytest.approx(found[0][1], abs=0.2)


def test_an_endless_sign_slides(model: Model, stub: Stub) -> None:
    up = next(points for points in stub.keypoints_TKC if hand_is_up(points))
    forever = Stub(up[None], SIZE)
    camera = forever.follow()
    camera._frames = [up]
    live = Live(model, camera, longest=1.0)
    answers = [live(np.zeros((SIZE, SIZE, 3), np.uint8), number / 15) for number in range(60)]
    assert not any(answer.get("final") for answer in answers)
    assert sum("top" in answer for answer in answers) == pytest.approx(60 / 15 / live.every, abs=2)
    assert len(live._window) <= 16


def test_frames_that_come_too_fast_are_dropped_and_counted(model: Model, stub: Stub) -> None:
    stub.seconds = 0.05
    with serve(Answerer(model, stub)) as served:
        with connect(f"ws://127.0.0.1:{served.port}/live") as socket:
            for number in range(40):
                socket.send(frame(number / 15, grey=6 * number))
            answers = [json.loads(socket.recv())]
            while answers[-1]["dropped"] + len(answers) < 40:  # each frame is answered or counted
                answers.append(json.loads(socket.recv(timeout=60)))
        assert answers[-1]["came"] == 40
        assert answers[-1]["dropped"] > 0
        assert all(each["dropped"] + place <= each["came"] for place, each in enumerate(answers, 1))
        assert len(stub.seen) == len(answers) == 40 - answers[-1]["dropped"]  # none is used that is counted as dropped
        numbers = [round(grey / 6) for grey in stub.seen]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == 39  # the newest waits, older ones are dropped
        assert len(answers[0]["points"]) == 133
    assert stub.followed == stub.closed == 1


def test_what_is_no_frame_ends_the_camera(model: Model, stub: Stub) -> None:
    large = io.BytesIO()
    Image.new("RGB", (1400, 20)).save(large, "JPEG")
    png = io.BytesIO()
    Image.new("RGB", (20, 20)).save(png, "PNG")
    bad = {
        b"": "a frame is a time and a JPEG",
        struct.pack("<d", 1) + b"nothing": "no picture that can be read",
        struct.pack("<d", 1) + png.getvalue(): "no picture that can be read",
        struct.pack("<d", 1) + large.getvalue(): "1400x20 pixels is too large",
        struct.pack("<d", 1) + b"\0" * 600_000: "a frame is a time and a JPEG",
        struct.pack("<d", float("nan")) + b"x": "the times of the frames do not rise",
    }
    with serve(Answerer(model, stub)) as served:
        for body, reason in bad.items():
            with connect(f"ws://127.0.0.1:{served.port}/live") as socket:
                socket.send(body)
                assert reason in json.loads(socket.recv())["error"]
        with connect(f"ws://127.0.0.1:{served.port}/live") as socket:
            socket.send(frame(1))
            socket.recv()
            socket.send(frame(1))
            assert "do not rise" in json.loads(socket.recv())["error"]
    assert stub.followed == stub.closed


def test_two_cameras_at_most(model: Model, stub: Stub) -> None:
    with serve(Answerer(model, stub)) as served:
        address = f"ws://127.0.0.1:{served.port}/live"
        with connect(address) as one, connect(address) as two:
            for socket in (one, two):
                socket.send(frame(1))
                socket.recv()
            with connect(address) as three:
                assert "2 cameras sign already" in json.loads(three.recv())["error"]


HEAPS = """
import ctypes, sys, threading
from cclslr.serve.limits import one_arena
libc = ctypes.CDLL("libc.so.6")
if sys.argv[1] == "one":
    one_arena()
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
barrier = threading.Barrier(4)
def work():
    kept = [libc.malloc(1000) for _ in range(100)]
    barrier.wait()
    for block in kept:
        libc.free(block)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_threads_share_one_heap_of_malloc(tmp_path: Path) -> None:
    def heaps(how: str) -> int:
        out = tmp_path / how
        subprocess.run([sys.executable, "-c", HEAPS, how, str(out)], check=True)
        return len(re.findall("<heap nr", out.read_text()))

    assert heaps("one") == 1
    assert heaps("many") > 1
