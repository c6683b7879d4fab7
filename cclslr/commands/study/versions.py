"""Do two checkouts compute the same?

Content hashes, streams, losses and scores, bit for bit.

    cclslr study versions ../before --out docs/results/versions/versions.json
    cclslr study versions ../before --codec hevc --size 80

For every codec that both checkouts know: the content hash of a packed set with masks; and for every backend and decoder
that takes it, checksums of all views and the loss terms of a pre-training, on one rank and (numba) on two; then the
losses and scores of a fine-tuning. Each runs as its own process in each checkout, with this one's Python. FFCV reads
only JPEG here, and DALI decodes only some codecs on a CPU: what one refuses the other must refuse too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cclslr.cli import command_parser
from cclslr.console import console, progress_bar
from cclslr.files import read_json, write_json

HERE = Path(__file__).resolve().parents[3]
CODECS = ("jpeg", "vp9", "h264", "hevc")  # of format version 1: what an older checkout knows
MASKS = ["--method", "flow", "--threshold", "absolute", "--binarize", "decoded_deviation"]  # the first default
BACKENDS = {
    "numba": ["data.backend=numba"],
    "dali, its decoder": ["data.backend=dali", "data.decode=dali"],
    "dali, libav": ["data.backend=dali", "data.decode=libav"],
    "ffcv": ["data.backend=ffcv"],
}
TINY = [
    "run.device=cpu", "run.log_every=1", "run.hash_stream=true", "model.rgb=r3d10_narrow",
    "model.gcn_width=16", "model.transformer_blocks=1", "model.transformer_heads=2", "model.transformer_width=32",
    "views.rgb_frames=8", "views.pose_frames=8", "views.size=64", "views.mask_alpha=0.5", "optim.batch=8",
    "optim.micro_batch=4", "optim.epochs=2", "data.workers=1",
]  # fmt: skip
KEPT = ("stream", "loss", "grad_norm", "skipped_steps", "lr")  # of a record, beside its loss terms


@dataclass
class Checkout:
    """One version of the project, its data and its runs in a folder of their own."""

    root: Path
    work: Path
    size: int  # of the packed frames, in pixels

    def call(self, *arguments: str, ranks: int = 1) -> str | None:
        """Run the checkout's own code; what it said if it refused, None if it went well."""
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        environment = {**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launcher, *arguments]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        return None if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]

    def pack(self, codec: str) -> Any:
        """The content hash of a set of rendered clips with masks."""
        refused = self.call(
            "tools/make_shards.py", "synthetic", "--out", str(self.work / codec), "--codec", codec,
            "--size", str(self.size), "--classes", "4", "--clips-per-class", "8", "0", "4", "--signers", "3", "1", "2",
            "--frames", "12", "20",
        ) or self.call("tools/make_masks.py", str(self.work / codec), *MASKS)  # fmt: skip
        return {"refused": refused} if refused else read_json(self.work / codec / "dataset.json")["content_hash"]

    def train(self, name: str, module: str, codec: str, *overrides: str, ranks: int = 1) -> Any:
        """Streams and losses of every step, and scores where there are any."""
        run = self.work / f"run_{name}"
        where = [f"data.shards=[{self.work / codec}]", f"run.dir={run}"]
        refused = self.call("-m", module, *TINY, *where, *overrides, ranks=ranks)
        if refused:
            return {"refused": True}
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        terms = [{k: v for k, v in record.items() if k in KEPT or k.startswith(("cl_", "spm_", "ce_")) or "_to_" in k}
                 for record in records]  # fmt: skip
        scores = read_json(run / "test.json")["scores"] if (run / "test.json").exists() else None
        return {"steps": [term for term in terms if term], "scores": scores}


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("other", type=Path, help="another checkout of this project")
    parser.add_argument("--codec", choices=CODECS, action="append", help="these alone; may be repeated")
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS", help="of the packed frames (default 64)")
    parser.add_argument("--out", type=Path, help="write everything that was compared, as JSON")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        checkouts = {}
        for name, root in (("this", HERE), ("other", args.other.resolve())):
            (Path(folder) / name).mkdir()
            checkouts[name] = Checkout(root, Path(folder) / name, args.size)
        results = compare(checkouts, args.codec or CODECS)
    table = Table("what", "codec", "path", "ranks", "result")
    for row in results:
        table.add_row(row["what"], row["codec"], row["path"], str(row["ranks"]), row["result"])
    console.print(table)
    if args.out:
        write_json(args.out, {"other": revision(args.other), "this": revision(HERE), "rows": results})
    return int(any(row["result"] == "DIFFERENT" for row in results))


def compare(checkouts: dict[str, Checkout], codecs: Sequence[str]) -> list[dict[str, Any]]:
    """Every comparison, one row each."""
    jobs: list[tuple[str, str, str, int, Any]] = []
    for codec in codecs:
        jobs.append(("content hash", codec, "pack", 1, lambda c, codec=codec: c.pack(codec)))
        for number, (path, backend) in enumerate(BACKENDS.items()):
            if path == "ffcv" and codec != "jpeg":
                continue
            jobs += [
                ("pre-training", codec, path, ranks, lambda c, a=(f"{codec}{number}x{ranks}", codec, backend, ranks): (
                    c.train(a[0], "cclslr.train", a[1], *a[2], "objective.bank_size=16", "run.knn_every=0", ranks=a[3])
                ))
                for ranks in ((1, 2) if path == "numba" else (1,))
            ]  # fmt: skip
        jobs.append(
            ("fine-tuning", codec, "numba", 1, lambda c, codec=codec: c.train(f"{codec}_ft", "cclslr.finetune", codec))
        )
    rows = []
    with progress_bar("comparisons") as bar:
        for what, codec, path, ranks, job in bar.track(jobs, description="comparing"):
            if path == "ffcv":
                for checkout in checkouts.values():
                    checkout.call("tools/make_beton.py", str(checkout.work / codec))
            values = {name: job(checkout) for name, checkout in checkouts.items()}
            same = _alike(values["this"], values["other"])
            refused = isinstance(values["this"], dict) and "refused" in values["this"]
            result = "DIFFERENT" if not same else "refused by both" if refused else "same"
            rows.append({"what": what, "codec": codec, "path": path, "ranks": ranks, "result": result} | values)
    return rows


def _alike(a: Any, b: Any) -> bool:
    """Whether two results agree in everything that both tell: a later version may record more of a step."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() & b.keys():
        return all(_alike(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return all(map(_alike, a, b))
    return bool(a == b)


def revision(root: Path) -> str:
    """The commit of a checkout."""
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()
