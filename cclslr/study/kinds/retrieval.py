"""A dictionary of the shards' training clips that is asked with those of a split: `cclslr evaluate --retrieval`.

The features are those of a trained stage (`from`); without one, coordinates: `cclslr study coordinates`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cclslr.errors import UserError
from cclslr.files import read_json
from cclslr.inference.retrieval import METRICS
from cclslr.study.baselines import COORDINATES
from cclslr.study.stage import Kind, Scores, Settings, Work

SETTINGS = {"split": "test", "shots": [1, 5], "draws": 5, "features": COORDINATES[0], "frames": 12}


def _resolve(settings: Settings, seed: int) -> dict[str, Any]:
    """All settings; features and frames are those of coordinates.

    Raises:
        UserError: an unknown one, or coordinates of another name.
    """
    if unknown := [key for key in settings if key not in SETTINGS]:
        raise UserError(f"unknown setting {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    config = SETTINGS | settings | {"seed": seed}
    if config["features"] not in COORDINATES:
        raise UserError(f"features is {config['features']!r}; choose one of {', '.join(COORDINATES)}")
    return config


def _commands(work: Work) -> list[list[str]]:
    config, shards = work.stage.config, work.inputs["shards"]
    commands = []
    source = work.one("from")
    if source is None:
        source = str(work.folder / "coordinates.parquet")
        how = ["--features", config["features"], "--frames", str(config["frames"]), "--out", source]
        commands.append(["study", "coordinates", *shards, *how])
    asked = ["--split", config["split"], "--draws", str(config["draws"]), "--seed", str(config["seed"])]
    asked += ["--shots", *map(str, config["shots"]), "--out", str(work.folder), "--shards", *shards]
    return [*commands, ["evaluate", source, "--retrieval", *asked]]


def _scores(folder: Path, config: dict[str, Any]) -> Scores:
    """By branch of g: each metric by examples a sign, `recall_1 of 5`, all in percent."""
    told = read_json(folder / f"{config['split']}_retrieval.json")["scores"]
    return {
        name.removeprefix("g_"): {
            f"{metric} of {shots}": scores[metric][0] * (1 if metric.startswith("recall") else 100)
            for shots, scores in of.items()
            for metric in METRICS
        }
        for name, of in told.items()
        if name.startswith("g_")
    }


KIND = Kind(
    "retrieval",
    inputs=("shards", "from"),
    resolve=_resolve,
    identity=lambda config: config,
    commands=_commands,
    output=lambda folder, config: str(folder),
    scores=_scores,
)
