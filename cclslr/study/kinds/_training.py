"""What stages share that a typed config describes."""

from __future__ import annotations

import copy
import json
from typing import Any

from cclslr.config import Config, FinetuneConfig, PretrainConfig, load_config, to_dict
from cclslr.errors import UserError
from cclslr.files import atomic_write
from cclslr.keys import list_keys
from cclslr.study.stage import Settings, Work

GIVEN = ("data.shards", "pretrained", "run.dir")  # by the study, out of other stages


def resolve(kind: type[Config], settings: Settings, seed: int) -> dict[str, Any]:
    """The full config: defaults, the file that `config` names, the seed, the settings.

    Raises:
        UserError: an unknown key, a value that it cannot have.
    """
    settings = dict(settings)
    path = settings.pop("config", None)
    for key in GIVEN:
        if key in settings:
            raise UserError(f"{key} is given by the study; name stages in `shards` and `from` instead")
    values = {"run.seed": seed} | settings
    overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return to_dict(load_config(kind, path, overrides))


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The config without what changes no number, and what stands elsewhere."""
    kept = copy.deepcopy(config)
    keys = [*list_keys(PretrainConfig), *list_keys(FinetuneConfig)]
    for key in {*GIVEN, *(key.name for key in keys if key.effect == "none")}:
        *sections, last = key.split(".")
        node = kept
        for section in sections:
            node = node.get(section, {})
        node.pop(last, None)
    return kept


def write_config(work: Work, **more: Any) -> str:
    """Write the config that the stage's program reads; its path. `more`: other sections or keys."""
    config = copy.deepcopy(work.stage.config)
    config["data"]["shards"] = work.inputs["shards"]
    config["run"]["dir"] = str(work.folder)
    config |= more
    path = work.folder / "stage.yaml"
    with atomic_write(path, "w") as file:
        json.dump(config, file, indent=1, ensure_ascii=False)  # JSON is YAML
    return str(path)
