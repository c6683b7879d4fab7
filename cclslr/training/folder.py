"""What lies in the folder of a run beside its checkpoints and metrics: what was asked for, and where it ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cclslr.config import to_dict
from cclslr.environment import describe
from cclslr.files import atomic_write, write_json


def config_yaml(cfg: Any) -> str:
    """A config as YAML with every key, which `--config` reads back into the same config."""
    return yaml.safe_dump(to_dict(cfg), sort_keys=False, allow_unicode=True)


def describe_run(run_dir: str | Path, cfg: Any) -> None:
    """Write config.yaml and environment.json, the newest start's."""
    with atomic_write(Path(run_dir) / "config.yaml", "w") as file:
        file.write(config_yaml(cfg))
    write_json(Path(run_dir) / "environment.json", describe())
