"""Image files by their first bytes, and references to images without what is secret in them."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

_SIGNATURES = (
    (b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
    (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"P4", ".pbm"), (b"P5", ".pgm"), (b"P6", ".ppm"),
)  # fmt: skip


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
