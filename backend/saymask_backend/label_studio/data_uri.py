"""``data:`` URIs, read as browsers read them (WHATWG Fetch, "data: URL processor")."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote_to_bytes

from saymask.errors import ImageTooLarge, ImageUnreadable

_SCHEME = re.compile(r"data:", re.IGNORECASE)
_BASE64_AT_END = re.compile(r";\s*base64\s*$", re.IGNORECASE)
_LINE_ENDS = re.compile(r"[\t\n\r]")
_WHITESPACE = re.compile(rb"[\t\n\f\r ]")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*")
# Each byte as %XX, then as base64.
_LONGEST_FORM = 4


def is_data_uri(reference: str) -> bool:
    """Return whether a reference holds the image itself."""
    return bool(_SCHEME.match(reference))


def decode_data_uri(reference: str, max_bytes: int) -> bytes:
    """Return the bytes in a ``data:`` URI.

    Args:
        reference: for which ``is_data_uri`` is true.
        max_bytes: of the result.

    Raises:
        ImageTooLarge.
        ImageUnreadable: it is damaged.
    """
    too_large = ImageTooLarge(
        f"The photo in the task is larger than {max_bytes / 1e6:g} MB.",
        "Shrink it, or raise SAYMASK_PHOTO_MAX_MB.",
    )
    if len(reference) > max_bytes * _LONGEST_FORM + 10_000:
        raise too_large
    head, comma, body = _LINE_ENDS.sub("", reference).partition("#")[0].partition(",")
    if not comma:
        raise ImageUnreadable("The data: address of the photo is damaged: it has no comma.")
    data = unquote_to_bytes(body)
    if _BASE64_AT_END.search(head):
        data = _decode_base64(data)
    if len(data) > max_bytes:
        raise too_large
    return data


def _decode_base64(encoded: bytes) -> bytes:
    """Decode with or without padding, as browsers do; they ignore whitespace and nothing else."""
    plain = _WHITESPACE.sub(b"", encoded)
    if len(plain) % 4 == 0:
        plain = re.sub(rb"={1,2}$", b"", plain)
    if len(plain) % 4 == 1 or not _BASE64.fullmatch(plain):
        raise ImageUnreadable(
            "The data: address of the photo is damaged: it is not base64.",
            "Import the task again, with the whole photo.",
        )
    return base64.b64decode(plain + b"=" * (-len(plain) % 4))
