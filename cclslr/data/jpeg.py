"""A look at JPEG headers: DALI's decoder may crash, not only fail, on bytes that are no JPEG."""

from __future__ import annotations

from collections.abc import Iterable

from cclslr.data.backend import EncodedClip

_START, _END = b"\xff\xd8", b"\xff\xd9"
_FRAME_MARKERS = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
_SCAN_MARKER = 0xDA


def header_size(image: bytes, width: int, height: int) -> int:
    """Bytes before the entropy-coded data of one JPEG.

    Raises:
        ValueError: not a JPEG of this size.
    """
    at, seen_frame = 2, False
    if not image.startswith(_START):
        raise ValueError("no start of image")
    while at + 4 <= len(image) and image[at] == 0xFF:
        marker, length = image[at + 1], int.from_bytes(image[at + 2 : at + 4], "big")
        if marker in _FRAME_MARKERS:
            size = int.from_bytes(image[at + 7 : at + 9], "big"), int.from_bytes(image[at + 5 : at + 7], "big")
            if size != (width, height):
                raise ValueError(f"{size[0]}x{size[1]} pixels, expected {width}x{height}")
            seen_frame = True
        at += 2 + length
        if marker == _SCAN_MARKER and seen_frame and at < len(image):
            return at
    raise ValueError("damaged header")


def bad_frame(clip: EncodedClip, wanted: Iterable[int]) -> str | None:
    """Why one of the frames `wanted` cannot be decoded, or None.

    The images of a clip come from one encoder, so their headers are the same bytes: only the first is parsed.
    """
    header = b""
    for number in wanted:
        begin, end = clip.frame_offsets[number : number + 2]
        try:
            image = clip.video[begin:end]
            if not header or image[: len(header)] != header:
                header = bytes(image[: header_size(bytes(image), clip.width, clip.height)])
            if image[-2:] != _END:
                raise ValueError("no end of image")
        except ValueError as error:
            return f"{clip.name}: jpeg does not decode: frame {number}: {error}"
    return None
