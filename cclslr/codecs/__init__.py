"""The codecs that clips are packed with, a file each in this folder; the table of them derives itself.

A codec's file holds one `Codec`. Every place that has to know something about codecs asks the entry: packing, reading,
the RGB backends, forecasts, benchmarks and help texts. So adding one is adding one file (docs/format.md says what a
codec must promise), and this package imports nothing of the rooms that use it.
"""

from __future__ import annotations

import functools

from cclslr.codecs.base import Codec
from cclslr.errors import UserError
from cclslr.registry import find

__all__ = ["Codec", "codec_named", "codecs", "video_extensions"]


@functools.cache
def codecs() -> dict[str, Codec]:
    """Every codec, by name."""
    return find(__name__, Codec)  # type: ignore[type-abstract]  # entries are of classes that are whole


def codec_named(name: str | None) -> Codec:
    """One codec.

    Raises:
        UserError: there is none of that name.
    """
    try:
        return codecs()[name or ""]
    except KeyError:
        raise UserError(f"unknown codec {name!r}; choose one of {', '.join(codecs())}") from None


@functools.cache
def video_extensions() -> frozenset[str]:
    """The names that a clip's video can have among its components: mjpg, mp4."""
    return frozenset(codec.extension for codec in codecs().values())
