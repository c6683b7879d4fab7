"""The page of a run folder: everything that it holds, and what its checkpoint makes of clips, in one file.

A section is a function of the run that gives HTML, or says why there is nothing to show.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from cclslr import checkpoint
from cclslr.config import ViewConfig
from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.files import read_json
from cclslr.inspect.films import films_of
from cclslr.inspect.html import html_code, html_figure, html_film, html_page, html_table, html_text
from cclslr.report.confusion import confusion_section
from cclslr.report.model import Trained, by_modality, features, grad_cam, trained, views_of
from cclslr.shards.format import BadClip
from cclslr.shards.reader import ShardSet
from cclslr.training.curves import draw_results
from cclslr.training.evaluation import match_classes
from cclslr.training.record import SCORES, numbers, read_metrics

ALONE = Process(0, 1, torch.device("cpu"))


class Missing(Exception):
    """Why a section is left out."""


@dataclass
class Run:
    """A run folder, read when asked for."""

    folder: Path
    split: str = "test"
    shards_at: list[str] | None = None  # instead of those of the config
    clips: int = 6  # films and Grad-CAM
    points: int = 400  # of t-SNE, at most
    use_shards: bool = True
    missing: list[str] = field(default_factory=list)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        return read_metrics(self.folder / "metrics.jsonl")

    @cached_property
    def state(self) -> dict[str, Any]:
        path = self.folder / "last.pt"
        if not path.exists():
            raise Missing("there is no last.pt")
        return checkpoint.load(path)

    @cached_property
    def model(self) -> Trained:
        if not self.use_shards:
            raise Missing("left out by --no-shards")
        more = [] if self.shards_at is None else [f"data.shards=[{','.join(self.shards_at)}]"]
        return trained(self.state, str(self.folder / "last.pt"), [*more, "data.workers=1", "run.device=cpu"])

    @cached_property
    def shards(self) -> ShardSet:
        found = self.model.cfg.data.shards
        try:
            return ShardSet(found, split=self.split)
        except (FileNotFoundError, UserError) as error:
            raise Missing(f"shards cannot be read ({error})") from None

    @cached_property
    def report(self) -> dict[str, Any]:
        path = self.folder / f"{self.split}.json"
        if not path.exists():
            raise Missing(f"there is no {self.split}.json: no evaluation on {self.split} was made")
        return read_json(path)

    @cached_property
    def labels_N(self) -> np.ndarray:
        """The labels of the shards' clips as the model numbers classes; -1 without."""
        place = np.arange(len(self.shards.classes))
        if "classes" in self.state:
            place = np.array(match_classes(self.shards, self.state["classes"]))
        return np.append(place, -1)[self.shards.rows.labels_N]

    @cached_property
    def classes(self) -> list[str]:
        return self.state.get("classes") or self.shards.classes


def curves(run: Run) -> str:
    """Losses, scores, learning rate, speed and waiting."""
    if not run.records:
        raise Missing("metrics.jsonl is not there or holds nothing")
    return html_figure(draw_results(run.records), "curves of the run")


def waits(run: Run) -> str:
    """Share of the time that training waited, by cause, and its speed."""
    names = list(dict.fromkeys(n for r in run.records for n in numbers(r, "speed")))
    rows = []
    for name in names:
        values = np.array([record[name] for record in run.records if name in record], float)
        if name.startswith("wait"):
            cause = name.removeprefix("wait_").replace("waiting", "all")
            rows.append({"waiting for": cause, "mean %": 100 * values.mean(), "last %": 100 * values[-1]})
    if not rows:
        raise Missing("no waiting was recorded")
    speed = [r["clips_per_second"] for r in run.records if r.get("clips_per_second", 0) > 0]
    text = f"Median speed {np.median(speed):.1f} clips/s." if speed else ""
    return html_table(rows) + html_text(text)


def scores(run: Run) -> str:
    """k-NN, validation and test scores."""
    rows = []
    for group in SCORES:
        for name in dict.fromkeys(n for r in run.records for n in numbers(r, group)):
            values = [(r.get("epoch", r["step"]), r[name]) for r in run.records if name in r]
            if not name.endswith("_seconds"):
                best = max(values, key=lambda pair: pair[1])
                rows.append({"score": name, "last": values[-1][1], "best": best[1], "best at epoch": float(best[0])})
    tables = html_table(rows) if rows else ""
    if (run.folder / f"{run.split}.json").exists():
        found = [{"branch": name, **of_branch} for name, of_branch in run.report["scores"].items()]
        tables += f"<h3>{run.split}</h3>" + html_table(found)
    if not tables:
        raise Missing("no k-NN and no evaluation was recorded (run.knn_every, cclslr evaluate)")
    return tables


def confused(run: Run) -> str:
    """The confusion matrix of the evaluated split."""
    if "confusion" not in run.report:
        raise Missing(f"{run.split}.json holds no confusion matrix")
    return confusion_section(np.array(run.report["confusion"]), run.report["classes"])


def worst(run: Run) -> str:
    """Films of clips that are taken for another sign: those first whose sign is not among the five likeliest."""
    path = run.folder / f"{run.split}_predictions.csv"
    if not path.exists():
        raise Missing(f"there is no {path.name}: no evaluation on {run.split} was made")
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    branch = "fused" if rows and "fused_top1" in rows[0] else next(n for n in rows[0] if n.endswith("_top1"))[:-5]
    wrong = [r for r in rows if int(r["label"]) >= 0 and r["label"] != r[f"{branch}_top1"]]
    wrong.sort(key=lambda r: r["label"] in r[f"{branch}_top5"].split())
    places = run.shards.rows.find({r["key"] for r in wrong})
    films: list[str] = []
    for row in wrong:
        if len(films) == run.clips:
            break
        try:
            clip = films_of(run.shards, places[row["key"]], None, 16, ViewConfig(mask_alpha=0.0), 0, 0)
        except (KeyError, BadClip):
            continue
        taken = run.classes[int(row[f"{branch}_top1"])]
        shown = "".join(html_film(film.frames_THWC, film.title) for film in clip.films[:2])
        films.append(_card(shown, f"{row['gloss']} taken for {taken}", clip.key))
    return "".join(films) if films else html_text(f"No clip of {len(rows)} is taken for another sign.")


def looks(run: Run) -> str:
    """Grad-CAM of the RGB encoder."""
    if "rgb" not in run.model.modalities:
        raise Missing("the run has no RGB branch")
    ids = _spread(np.arange(len(run.shards)), run.clips)
    cards = []
    for batch in views_of(run.model, run.shards, ids, ALONE):
        x = by_modality(batch)
        labels_B = torch.from_numpy(run.labels_N[batch.clip_ids_B.numpy()])
        cams_BTHW = grad_cam(run.model, x, labels_B)
        for rgb_THWC, cam_THW, clip_id in zip(x["rgb"].numpy(), cams_BTHW, batch.clip_ids_B.tolist()):
            row = run.shards.rows[clip_id]
            frames = _spread(np.arange(len(rgb_THWC)), 16)
            film = np.concatenate([rgb_THWC[frames], overlay(rgb_THWC[frames], cam_THW[frames])], axis=2)
            times = -(-112 // film.shape[1])  # small views are drawn larger
            big = film.repeat(times, 1).repeat(times, 2)
            label = run.labels_N[clip_id]
            cards.append(_card(html_film(big, "Grad-CAM"), run.classes[label] if label >= 0 else "unlabelled", row.key))
    about = (
        "the logit of the label" if "classifier" in run.state else "the similarity of f of RGB and of pose"
        if "pose" in run.model.modalities else "the size of g"
    )  # fmt: skip
    return html_text(f"What raises {about}: red most.") + "".join(cards)


def overlay(rgb_THWC: np.ndarray, cam_THW: np.ndarray) -> np.ndarray:
    """Frames with a heat map over them, uint8."""
    heat_THWC = 255 * colormaps["jet"](cam_THW)[..., :3]
    weight_THW1 = 0.6 * cam_THW[..., None]
    return ((1 - weight_THW1) * rgb_THWC + weight_THW1 * heat_THWC).round().astype(np.uint8)


def embedded(run: Run) -> str:
    """t-SNE of g and f by class."""
    labelled = np.flatnonzero(run.labels_N >= 0)
    if len(labelled) < 5:
        raise Missing(f"{len(labelled)} labelled clips in {run.split} are too few")
    ids = _spread(labelled, run.points)
    found, clip_ids = features(run.model, views_of(run.model, run.shards, ids, ALONE))
    kinds = list(dict.fromkeys(name.split(",")[0] for name in found))
    branches = list(dict.fromkeys(name.split(", ")[1] for name in found))
    figure = Figure(figsize=(6 * len(branches), 5.5 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), len(branches), squeeze=False)
    labels_N = run.labels_N[clip_ids]
    present = np.unique(labels_N)
    for axis, (name, x_ND) in zip(axes.flat, found.items()):
        perplexity = min(30.0, (len(x_ND) - 1) / 3)
        places_N2 = TSNE(2, perplexity=perplexity, init="pca", random_state=0, metric="cosine").fit_transform(x_ND)
        for number, label in enumerate(present):
            at = places_N2[labels_N == label]
            few = len(present) <= 20
            name_of = run.classes[label] if few else None
            axis.scatter(*at.T, s=12, color=_colour(number), label=name_of, marker="os^Dv"[number // 10 % 5])
        axis.set(title=name, xticks=[], yticks=[])
    if len(present) <= 20:
        axes.flat[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    text = f"{len(clip_ids)} clips of {len(present)} classes of {run.split}, cosine distance."
    return html_text(text) + html_figure(figure, "t-SNE by class")


def environment(run: Run) -> str:
    path = run.folder / "environment.json"
    if not path.exists():
        raise Missing("there is no environment.json")
    found = dict(read_json(path))
    found |= {f"version of {name}": version for name, version in dict(found.pop("versions", {})).items()}
    rows = [{"what": name, "is": str(value)} for name, value in found.items()]
    return html_table(rows)


def config(run: Run) -> str:
    path = run.folder / "config.yaml"
    if not path.exists():
        raise Missing("there is no config.yaml")
    return html_code(path.read_text(encoding="utf-8"))


SECTIONS: dict[str, Callable[[Run], str]] = {
    "Curves": curves,
    "Waiting": waits,
    "Scores": scores,
    "Confusion": confused,
    "Worst clips": worst,
    "Where the RGB encoder looks (Grad-CAM)": looks,
    "t-SNE": embedded,
    "Environment": environment,
    "Config": config,
}


def run_page(run: Run, progress: Callable[[str], None] = lambda heading: None) -> str:
    """The page; what is missing is said in its section, and listed in `run.missing`.

    Raises:
        UserError: the folder is no run's.
    """
    if not (run.folder / "config.yaml").exists() and not run.records:
        raise UserError(f"{run.folder} is no run folder: it has neither config.yaml nor metrics.jsonl")
    sections = []
    for heading, section in SECTIONS.items():
        progress(heading)
        try:
            html = section(run)
        except Missing as why:
            html = html_text(f"Left out: {why}.")
            run.missing.append(f"{heading}: {why}")
        sections.append((heading, html))
    return html_page(str(run.folder), sections)


def _card(films: str, title: str, caption: str) -> str:
    style = "display:inline-block;margin:0 1rem 1rem 0;vertical-align:top"
    said = f"<figcaption>{escape(title)}<br><small>{escape(caption)}</small></figcaption>"
    return f'<figure style="{style}">{films}{said}</figure>'


def _spread(items: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of them, evenly spread."""
    return items[np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))]


def _colour(number: int) -> Any:
    return colormaps["tab20"](number % 20)
