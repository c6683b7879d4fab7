"""Keys of a config: default, meaning, choices and range of each stand where the key is declared (cclslr/config.py).

`--help`, the checks, the suggestions for mistyped keys, resuming and studies all read that one declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from dataclasses import dataclass
from typing import Any

from cclslr.errors import UserError

EFFECTS = {
    "steps": "what a step computes; a run that goes on with another value says so",
    "result": "not what a step is meant to compute, but how many there are, how they are rounded, what is measured",
    "none": "where things lie and how often they are told: no number of a run depends on it",
}


def key(
    default: Any,
    meaning: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    also: tuple[str, ...] = (),
    effect: str = "steps",
) -> Any:
    """The dataclass field of one key.

    Args:
        default: its value where nobody sets it.
        meaning: one line for people.
        choices: the values that it may have; of a list, each at most once.
        low, above, high: least value, bound below that is no value itself, largest value; of a list, for each element.
        also: what other projects call it; whoever types that is pointed here.
        effect: one of `EFFECTS`.
    """
    assert effect in EFFECTS, effect
    metadata = {"meaning": meaning, "choices": choices, "low": low, "above": above, "high": high, "also": also}
    metadata["effect"] = effect
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Key:
    """One key of a kind of config."""

    name: str  # with its section, e.g. optim.batch
    kind: Any  # type annotation
    default: Any
    meaning: str
    choices: tuple[str, ...]
    low: float | None
    above: float | None
    high: float | None
    also: tuple[str, ...]
    effect: str

    @property
    def is_list(self) -> bool:
        return any(typing.get_origin(kind) is list for kind in (self.kind, *typing.get_args(self.kind)))

    @property
    def parts(self) -> list[Key]:
        """Where the value is a list of dataclasses, such as phases: the keys of one of them; else none."""
        (part,) = typing.get_args(self.kind) if typing.get_origin(self.kind) is list else (None,)
        return list_keys(part) if dataclasses.is_dataclass(part) else []

    @property
    def range_text(self) -> str:
        """The range in words; empty where there is none."""
        if self.low is not None and self.high is not None:
            return f"from {self.low:g} to {self.high:g}"
        bounds = (("at least", self.low), ("above", self.above), ("at most", self.high))
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)

    @property
    def choice_text(self) -> str:
        """The choices in words; empty where there are none."""
        how = "" if not self.choices else "some of " if self.is_list else "one of "
        return how + ", ".join(self.choices)

    def check(self, value: Any) -> None:
        """Raise a `UserError` that names key, value and range if `value` is not one that the key may have."""
        if value is None:
            return
        if parts := self.parts:
            for number, element in enumerate(value):
                for part in parts:
                    dataclasses.replace(part, name=f"{self.name}[{number}].{part.name}").check(get(element, part.name))
            return
        elements = value if isinstance(value, list | tuple) else [value]
        if self.choices and sorted(elements) != sorted({*elements} & {*self.choices}):
            raise UserError(f"{self.name} is {show(value)}; choose {self.choice_text}")
        if self.choices and not elements:
            raise UserError(f"{self.name} is empty; choose {self.choice_text}")
        for number in elements:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{self.name} is {show(value)}; it must be finite")
            good = (
                (self.low is None or number >= self.low)
                and (self.above is None or number > self.above)
                and (self.high is None or number <= self.high)
            )
            if not good:
                raise UserError(f"{self.name} is {show(value)}; it must be {self.range_text}")
        if isinstance(value, tuple) and list(value) != sorted(value):
            raise UserError(f"{self.name} is {show(value)}; it goes from the smaller to the larger")


def list_keys(kind: Any, prefix: str = "") -> list[Key]:
    """All keys of a config class, section by section, in the order of their declaration."""
    keys, default, hints = [], kind(), typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        value = getattr(default, item.name)
        if dataclasses.is_dataclass(value):
            # The section's own default differs between kinds of config: its keys are read from it, not from its class
            keys += [
                dataclasses.replace(inner, default=get(value, inner.name.removeprefix(f"{prefix}{item.name}.")))
                for inner in list_keys(type(value), f"{prefix}{item.name}.")
            ]
        else:
            keys.append(Key(f"{prefix}{item.name}", hints[item.name], value, **item.metadata))
    return keys


def get(config: Any, name: str) -> Any:
    """The value of a key, e.g. get(cfg, "optim.batch")."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def nearest(name: str, keys: list[Key]) -> str:
    """The key that was probably meant by `name`: its last word counts most, then its section."""

    def alike(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a, b).ratio()

    section, _, word = name.rpartition(".")

    def score(known: Key) -> float:
        known_section, _, known_word = known.name.rpartition(".")
        return max(alike(word, name) for name in (known_word, *known.also)) + 0.3 * alike(section, known_section)

    return max(keys, key=score).name


def show(value: Any) -> str:
    """A value as it is typed: null, true, [rgb,pose], 0.5."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(show, value))}]"
    if isinstance(value, dict):  # of a list of dataclasses: what is set of one
        return f"{{{', '.join(f'{name}: {show(x)}' for name, x in value.items() if x is not None)}}}"
    return str(value)
