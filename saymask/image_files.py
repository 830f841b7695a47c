"""Image files by name and by first bytes; references to images without their secrets."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import urlsplit, urlunsplit

# Those under which Pillow knows the formats that are decoded.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
NAME_NOT_UTF8 = "its name is not UTF-8. Rename the file."

_SIGNATURES = (
    (b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
    (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"P4", ".pbm"), (b"P5", ".pgm"), (b"P6", ".ppm"),
)  # fmt: skip

_SURROGATE = re.compile("[\ud800-\udfff]")


def is_image_name(name: str) -> bool:
    """Return whether a path below a folder is that of an image.

    Hidden files and those in hidden folders are not listed: macOS keeps ``._a.jpg`` for ``a.jpg``.
    """
    is_hidden = any(part.startswith(".") for part in name.split("/"))
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden


def list_spellings(name: str) -> list[str]:
    """Return a file's name as it is, and with its accents as other systems store them.

    macOS stores accents apart from their letters; keyboards and most programs do not.
    """
    forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return list(dict.fromkeys(forms))


def to_printable(name: str) -> str:
    r"""Return a file's name as text that can be printed and stored.

    Bytes that are not UTF-8, which Python keeps as surrogates, become ``\xe9``.
    """
    return _SURROGATE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", name)


def is_utf8(name: str) -> bool:
    """Return whether a file's name is UTF-8, as JSON, Parquet and Label Studio need it."""
    return _SURROGATE.search(name) is None


def find_suffix(data: bytes) -> str | None:
    """Return the suffix of an image file; None when it does not begin like one we can read."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for head, suffix in _SIGNATURES if data.startswith(head)), None)


def strip_secrets(reference: str) -> str:
    """Return an image's address without user, password, signature and fragment.

    References inside Label Studio, and those of cloud storage, hold none and stay as they are.
    """
    if not reference.strip().lower().startswith(("http://", "https://")):
        return reference
    try:
        parts = urlsplit(reference)
        # A slash in a password ends the host early: the rest of the password looks like a path.
        _ = parts.port
    except ValueError:
        return reference.rsplit("@", maxsplit=1)[-1].split("?", maxsplit=1)[0]
    return urlunsplit((parts.scheme, parts.netloc.rsplit("@", maxsplit=1)[-1], parts.path, "", ""))
