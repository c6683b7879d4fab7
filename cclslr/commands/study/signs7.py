"""Does pre-training help on real keypoints?

7 signs, 210 MediaPipe sequences, 5 labelled sequences a class. For each seed, 15 sequences of each sign are held out
for the test; the pose branch is pre-trained without labels on the other 105, then fine-tuned with 5 labelled sequences
of each sign. It is compared with the same network from scratch and with a logistic regression on the standardised raw
coordinates of every third frame: x and y, as the network has them, and all 258 numbers, depth and visibility included.

    cclslr study signs7 ../shared/real/keypoints/signs7_mediapipe.npz --out docs/results/signs7
"""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.files import atomic_write, read_json
from cclslr.shards.format import ManifestRow, RawClip
from cclslr.shards.pack import PackOptions, pack

WIDTH, HEIGHT = 640, 480  # pixels of the webcam; MediaPipe's coordinates are fractions of them
BODY = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)  # MediaPipe's pose landmarks of COCO's 17 joints
TEST, LABELLED = 15, 5  # sequences of each sign


@dataclass(frozen=True)
class Sequence:
    """One row of the file: 33 pose landmarks (x, y, z, visibility), then 21 of each hand (x, y, z); 0 is not found."""

    path: str
    row: int

    def load(self) -> RawClip:
        x_TF = np.load(self.path)["X"][self.row]
        frames = len(x_TF)
        pose = x_TF[:, :132].reshape(frames, 33, 4)
        keypoints_TKC = np.zeros((frames, 133, 3), np.float32)
        keypoints_TKC[:, :17] = pose[:, BODY][..., [0, 1, 3]]
        for first, columns in ((91, slice(132, 195)), (112, slice(195, 258))):
            hand = x_TF[:, columns].reshape(frames, 21, 3)
            found = (hand != 0).any((1, 2))[:, None]
            keypoints_TKC[:, first : first + 21, :2] = hand[..., :2]
            keypoints_TKC[:, first : first + 21, 2] = found
        keypoints_TKC[..., :2] *= (WIDTH, HEIGHT)
        return RawClip(None, keypoints_TKC, fps=25.0)


def split(labels_N: np.ndarray, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Rows that are labelled, unlabelled, held out."""
    rng = np.random.default_rng(seed)
    labelled: list[int] = []
    unlabelled: list[int] = []
    test: list[int] = []
    for label in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == label)).tolist()
        labelled += rows[:LABELLED]
        unlabelled += rows[LABELLED:-TEST]
        test += rows[-TEST:]
    return labelled, unlabelled, test


def baseline(features_NF: np.ndarray, labels_N: np.ndarray, labelled: list[int], test: list[int]) -> float:
    """Top-1 (%) of a logistic regression on standardised features."""
    scaler = StandardScaler().fit(features_NF[labelled])
    model = LogisticRegression(max_iter=2000).fit(scaler.transform(features_NF[labelled]), labels_N[labelled])
    return 100 * model.score(scaler.transform(features_NF[test]), labels_N[test])


def raw_coordinates(x_NTF: np.ndarray) -> dict[str, np.ndarray]:
    """Every third frame of the file's numbers, flat: x and y alone, and all of them."""
    third_NTF = x_NTF[:, ::3]
    pose, hands = third_NTF[..., :132].reshape(-1, 33, 4), third_NTF[..., 132:].reshape(-1, 42, 3)
    xy = np.concatenate([pose[..., :2], hands[..., :2]], axis=1)
    return {"logistic_xy": xy.reshape(len(x_NTF), -1), "logistic_all": third_NTF.reshape(len(x_NTF), -1)}


def one_seed(path: Path, seed: int, folder: Path, overrides: list[str]) -> dict[str, float]:
    """Pack, pre-train, fine-tune twice; top-1 (%) on the held-out sequences."""
    content = np.load(path)
    labels_N, names = content["y"], [str(name) for name in content["classes"]]
    labelled, unlabelled, test = split(labels_N, seed)

    def rows(numbers: list[int], split: str) -> list[ManifestRow]:
        return [
            ManifestRow(f"signs7-{n:03d}", Sequence(str(path), n), int(labels_N[n]), names[labels_N[n]], split, None)
            for n in numbers
        ]

    # Fine-tuning sees a data set of its own, so that "5 labelled" is this split's choice and not the trainer's.
    everything, few = folder / "shards_pretrain", folder / "shards_finetune"
    pack(
        rows(labelled + unlabelled, "train") + rows(test, "test"), everything, PackOptions(codec="jpeg"), classes=names
    )
    pack(rows(labelled, "train") + rows(test, "test"), few, PackOptions(codec="jpeg"), classes=names)

    def run(module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", module, *arguments, f"run.seed={seed}", *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    run("cclslr.train", "--config", "configs/signs7_pretrain.yaml", f"data.shards=[{everything}]",
        f"run.dir={folder}/pretrain")  # fmt: skip
    result = {name: baseline(x, labels_N, labelled, test) for name, x in raw_coordinates(content["X"]).items()}
    for start, checkpoint in (("pretrained", f"{folder}/pretrain/last.pt"), ("scratch", "null")):
        run("cclslr.finetune", "--config", "configs/signs7_finetune.yaml", f"data.shards=[{few}]",
            f"pretrained={checkpoint}", f"run.dir={folder}/{start}")  # fmt: skip
        result[start] = read_json(folder / start / "test.json")["scores"]["pose"]["per_instance_top1"]
    return result


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("file", type=Path, help="npz with X (210, 30, 258), y and classes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="default 1 to 5")
    parser.add_argument("--out", type=Path, default=Path("docs/results/signs7"), help="folder of the table")
    parser.add_argument("--runs", type=Path, default=Path("runs/signs7"), help="folder of the runs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for both training programs")
    args = parser.parse_intermixed_args(argv)
    results = []
    for seed in args.seeds:
        folder = args.runs / f"seed{seed}"
        results.append({"seed": seed} | one_seed(args.file, seed, folder, args.overrides))
        console.print(results[-1])
    with atomic_write(args.out / "signs7.csv", "w") as file:
        writer = csv.DictWriter(file, results[0])
        writer.writeheader()
        writer.writerows(results)
    table = Table(
        "start", "top-1, mean", "standard deviation", title=f"7 signs, 5 labels each, {len(args.seeds)} seeds"
    )
    for name in list(results[0])[1:]:
        values = [result[name] for result in results]
        table.add_row(name, f"{np.mean(values):.1f}", f"{np.std(values, ddof=1) if len(values) > 1 else 0:.1f}")
    console.print(table)
