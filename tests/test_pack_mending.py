"""Packing again over what was lost or damaged, and what packing says of clips that it rejects or finds wanting."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from packing import contents

import cclslr
from cclslr.commands._pack_report import human_bytes
from cclslr.commands.pack import main as command
from cclslr.console import roughly
from cclslr.datasets.base import VideoFile
from cclslr.distributed import Process
from cclslr.masking.methods import MpmOptions
from cclslr.masking.rewrite import make_masks
from cclslr.masking.settings import MaskSettings
from cclslr.shards.format import BadClip, ManifestRow, RawClip
from cclslr.shards.pack import NothingPacked, PackOptions, pack, read_rejected
from cclslr.shards.rejections import CURES, Rejected, by_kind, cure_of, in_general, in_lines
from cclslr.shards.verify import plan_checks

OPTIONS = PackOptions("jpeg", 32, "none", clips_per_shard=3)


@dataclass(frozen=True)
class Made:
    """A clip of noise, or a bad one; perhaps with keypoints."""

    number: int
    bad: bool = False
    pose: bool = True

    def load(self) -> RawClip:
        if self.bad:
            raise BadClip("unreadable: of no use")
        rng = np.random.default_rng(self.number)
        frames = rng.integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
        return RawClip(frames, keypoints("pixels", rng) if self.pose else None, 25.0)


def keypoints(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Keypoints of a 64x48 clip, or what people take for them."""
    pose = rng.uniform(0, 1, (4, 133, 3)).astype(np.float32)
    pose[..., :2] *= {"signed": 2, "fractions": 1}.get(kind, np.array([64, 48]))
    pose[..., :2] -= kind == "signed"
    pose[..., :2] *= 3 if kind == "other resolution" else 1
    pose[..., 2] *= {"percents": 100, "rtmw": 10}.get(kind, 1)
    pose[..., 2] = np.floor(pose[..., 2]) if kind == "cut to int" else pose[..., 2]
    return pose


def rows(count: int = 10) -> list[ManifestRow]:
    return [ManifestRow(f"c{n}", Made(n, n == 4), 0, "sign", "train", None) for n in range(count)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mending") / "set"
    pack(rows(), out, OPTIONS, workers=0)
    return out


@pytest.mark.parametrize("harm", ["lost tar", "bit in a tar", "cut tar", "lost idx", "lost index", "bit in the index"])
def test_packing_again_mends_what_was_harmed(packed: Path, tmp_path: Path, harm: str) -> None:
    out = Path(shutil.copytree(packed, tmp_path / "set"))
    what, path = harm.split()[0], out / ("index.parquet" if harm.endswith("index") else "shard-00001.tar")
    path = path.with_suffix(".idx") if harm.endswith("idx") else path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    if what == "lost":
        path.unlink()
    else:
        path.write_bytes(data[:-512] if what == "cut" else data)
    report = pack(rows(), out, OPTIONS, workers=0)
    assert contents(out) == contents(packed)
    assert report.shards_reused == (0 if harm.endswith("index") else 3)
    assert [item.key for item in report.rejected] == ["c4"]


def test_a_set_with_masks_is_mended_and_masked_again(packed: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(packed, tmp_path / "set"))
    settings, alone = MaskSettings(MpmOptions(method="temporal_std")), Process(0, 1, torch.device("cpu"))
    make_masks(out, settings, 0, alone)
    masked = contents(out)
    pack(rows(), out, OPTIONS, workers=0)
    assert contents(out) == masked  # nothing is wrong with it
    next(out.glob("shard-00001-m*.tar")).unlink()
    pack(rows(), out, OPTIONS, workers=0)
    assert contents(out) == contents(packed)
    make_masks(out, settings, 0, alone)
    assert contents(out) == masked


def test_where_no_clip_is_good_no_data_set_is_written(tmp_path: Path) -> None:
    for bad in ([ManifestRow("a", Made(0, bad=True), 0, "x", "train", None)],
                [ManifestRow("a", Made(0), None, None, "train", None)], []):  # fmt: skip
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(NothingPacked, match="no clip to pack"):
            pack(bad, out, OPTIONS, workers=0)
        assert not (out / "dataset.json").exists()
        assert len(read_rejected(out)) == len(bad)


def test_a_set_of_no_clips_is_a_fault(packed: Path, tmp_path: Path) -> None:
    from cclslr.shards.pack import finish

    finish(tmp_path, [], [], {"codec": "jpeg", "size": 32, "crop": "none", "quality": 90, "masks": None})
    _, faults = plan_checks(tmp_path, decode=False)
    assert any("holds no clip" in fault.what for fault in faults)


@pytest.mark.parametrize(
    ("pose", "reason"),
    [("fractions", "fractions, not pixels"), ("signed", "fractions, not pixels"), ("percents", "confidences are about"),
     ("rtmw", "confidences are about 5, expected 0 to 1"), ("other resolution", "outside the frames of 64x48")],
)  # fmt: skip
def test_keypoints_that_are_no_pixels_are_refused(
    tmp_path: Path, write_video: Callable[..., Path], pose: str, reason: str
) -> None:
    video = write_video(tmp_path / "a.mp4", 4)
    for kind in (pose, "pixels", "cut to int"):  # the last has confidences of 0: nothing was found
        np.savez(tmp_path / f"{kind}.npz", keypoints=keypoints(kind, np.random.default_rng(1)))
    alone = VideoFile(None, str(tmp_path / f"{pose}.npz"))
    with_video = VideoFile(str(video), str(tmp_path / f"{pose}.npz"))
    clips = {kind: VideoFile(str(video), str(tmp_path / f"{kind}.npz")) for kind in ("pixels", "cut to int")}
    clips |= {"bad": with_video} | ({} if pose == "other resolution" else {"bad_alone": alone})
    listed = [ManifestRow(key.replace(" ", "_"), source, 0, "x", "train", None) for key, source in clips.items()]
    report = pack(listed, tmp_path / "set", OPTIONS, workers=0)
    assert {item.key for item in report.rejected} == clips.keys() - {"pixels", "cut to int"}
    assert all(reason in item.reason for item in report.rejected)
    assert by_kind(report.rejected)[0].cure


def test_clips_without_keypoints_are_counted(tmp_path: Path) -> None:
    clips = [
        ManifestRow(f"c{n}", Made(n, pose=bool(pose)), 0, "x", "train", None) for n, pose in enumerate((0, 1, 0, 1))
    ]
    for _ in range(2):
        report = pack(clips, tmp_path / "set", OPTIONS, workers=0)
        assert (report.without_keypoints, report.without_video, report.clips) == (2, 0, 4)


def test_rejections_are_shown_by_reason_each_with_its_cure() -> None:
    rejected = [Rejected(f"c{n}", f"a{n}.mp4: truncated: {n} of 100 frames are there", f"v/a{n}.mp4") for n in range(5)]
    rejected += [Rejected("", "list.csv row 7: split is 'x'; expected train", "csv"), Rejected("k", "[/b] odd", "p")]
    kinds = by_kind(rejected)
    assert [(kind.count, kind.example) for kind in kinds] == [(5, "c0"), (1, "list.csv row 7"), (1, "k")]
    assert kinds[0].reason == "truncated: N of N frames are there"
    assert "get the file again" in kinds[0].cure
    lines = in_lines(rejected)
    assert len(lines) == 6
    assert all(len(line) < 160 for line in lines)
    many = [Rejected("k", "abcdefghijklm"[n] * 3, "p") for n in range(12)]
    assert in_lines(many)[-1] == "      4  for 4 other reasons"


def test_square_brackets_are_no_markup(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In labels, file names, folders and other people's messages: `[/x]` is text."""
    (tmp_path / "[b]in" / "[/x]").mkdir(parents=True)
    (tmp_path / "[b]in" / "[/x]" / "[red]a.mp4").write_bytes(b"no video")
    (tmp_path / "t[b].csv").write_text("video,label,split\n[b]in/[/x]/[red]a.mp4,[/b]and,train\n")
    out = tmp_path / "[out]"
    for arguments in (["folder", str(tmp_path / "[b]in")], ["csv", str(tmp_path / "t[b].csv")]):
        with pytest.raises(NothingPacked, match=r"\[red\]a\.mp4"):
            command([*arguments, "--out", str(out / arguments[0])])
        shown = "".join(capfd.readouterr().out.split())
        assert "unreadable" in shown
    assert "_red_a" in shown  # its key


def test_sizes_and_times_as_people_say_them() -> None:
    assert [human_bytes(n) for n in (0, 999, 12_340, 820_000, 3_400_000_000)] == [
        "0 bytes", "999 bytes", "12.3 kB", "820 kB", "3.4 GB",
    ]  # fmt: skip
    assert [roughly(n) for n in (0, 42, 720, 12_600, 2e5)] == ["1 s", "42 s", "12 min", "3.5 h", "2.3 d"]


def test_the_docs_are_the_table_of_cures() -> None:
    text = (Path(__file__).parents[1] / "docs" / "rejections.md").read_text()
    shown = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| reason |")]
    assert shown == [f"| {known.reason} | {known.cure} |" for known in CURES]


def literal(node: ast.expr) -> str | None:
    """The text of an expression, N for what is filled in; None where it is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "N" for part in node.values)
    return None


def reasons() -> list[tuple[str, str]]:
    """Where a clip or a line of a list is refused in so many words, and the words."""
    found = []
    for room in ("codecs", "datasets", "poses", "shards"):
        for path in (Path(cclslr.__file__).parent / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and len(node.args):
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    place = {"BadClip": 0, "reject": 1, "Rejected": 1}.get(name)
                    text = literal(node.args[place]) if place is not None and place < len(node.args) else None
                    if text is not None and not re.fullmatch(r"[N/: ]+(clip N)?[: N]*", text):
                        found.append((f"{path.name}:{node.lineno}", text))
                if path.name == "deal.py" and isinstance(node, ast.Return) and node.value is not None:
                    text = literal(node.value)
                    found += [(f"{path.name}:{node.lineno}", text)] if text is not None else []
    return found


def test_every_reason_has_a_cure_and_every_cure_a_reason() -> None:
    said = reasons()
    assert len(said) > 60
    assert [(where, text) for where, text in said if not cure_of(in_general(text))] == []
    said += [("", "the same take as a clip to test on: c1"), ("", "keypoints: unreadable: EOFError"),
             ("", "duplicate key; the first clip of this key is kept")]  # fmt: skip
    unused = [
        known.reason for known in CURES if not any(re.search(known.pattern, in_general(text)) for _, text in said)
    ]
    assert unused == []
    assert cure_of("list.csv row N: something odd", of_list=True).startswith("mend that line of the list")
    assert cure_of("something odd") == ""


@pytest.mark.parametrize(
    ("reason", "source", "cure"),
    [("a1.npz: unreadable: BadZipFile: File is not a zip file", "v/a1.mp4", "cclslr poses"),
     ("split_1.mp4: unreadable: Invalid data", "v/split_1.mp4", "ffmpeg"),
     ("truncated video: 3 of 5 frames are there", "v/a.mp4", "get the file again"),
     ("a.npy: truncated: 3 of 5 bytes of an array are there", "v/a.mp4", "get the file again"),
     ("no label", "v/a.mp4", "--allow-unlabelled"),
     ("the pose has 3 frames, the video 5", "v/a.mp4", "extract the keypoints of this file again")],
)  # fmt: skip
def test_reasons_lead_to_their_cures(reason: str, source: str, cure: str) -> None:
    (kind,) = by_kind([Rejected("k1", reason, source), Rejected("k2", reason.replace("a1", "b2"), source)])
    assert cure in kind.cure
    assert kind.count == 2
