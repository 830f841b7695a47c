"""Photos of every unpleasant kind."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from saymask.errors import DatasetError, ImageTooLarge, ImageUnreadable
from saymask.image_decoding import decode_picture
from saymask_backend.services.draw_decision import _decode
from saymask_worker.images.decode import decode_image
from saymask_worker.images.resize import resize_pixels
from saymask_worker.training.samples import load_pixels


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def gradient(mode: str = "RGB") -> Image.Image:
    values = np.zeros((20, 30, 3), np.uint8)
    values[..., 0] = np.arange(30) * 8
    values[..., 1] = np.arange(20)[:, None] * 12
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int, kind: str) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255
    # How the camera stores it so that this orientation makes it upright again.
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a[::-1], -1)[:, :],
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    if orientation == 7:
        undo = lambda a: a[::-1, ::-1].transpose(1, 0, 2)  # noqa: E731
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(undo(upright))), kind, exif=exif)
    photo = decode_image(data)
    assert photo.size_hw == (16, 24)
    assert np.array_equal(photo.pixels, upright)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1", "CMYK", "LA", "RGBA"])
def test_modes_become_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    photo = decode_image(encoded(gradient(mode), kind))
    assert photo.pixels.shape == (20, 30, 3)
    if mode in ("RGB", "CMYK"):
        assert np.abs(photo.pixels.astype(int) - np.asarray(gradient()).astype(int)).max() <= 2


def test_cmyk_jpeg() -> None:
    data = encoded(gradient("CMYK"), "JPEG", quality=95)
    assert decode_image(data).pixels.shape == (20, 30, 3)


def test_transparency_shows_white_and_says_so() -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    photo = decode_image(encoded(image, "PNG"))
    assert (photo.pixels == 255).all()
    assert "white" in photo.notices[0]


def test_sixteen_bits_keep_their_range() -> None:
    deep = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    photo = decode_image(encoded(Image.fromarray(deep), "PNG"))
    assert np.abs(photo.pixels[..., 0].astype(float) - deep / 257).max() <= 1
    assert "16 bits" in photo.notices[0]


@pytest.mark.parametrize("top", [20, 1023, 4095, 16383])
def test_dark_greys_of_sixteen_bits_are_brightened(top: int) -> None:
    deep = np.linspace(0, top, 400).astype(np.uint16).reshape(20, 20)
    deep = np.tile(deep, (10, 10))
    deep[7, 7] = 65535
    photo = decode_image(encoded(Image.fromarray(deep), "PNG"))
    expected = deep.clip(0, top) / top * 255
    assert np.abs(photo.pixels[..., 0].astype(float) - expected).max() <= 1, "but for hot pixels"
    assert photo.notices == (
        "The photo's 16 bits per channel were reduced to 8, and its dark values brightened.",
    )


def test_a_photo_that_is_nearly_black_is_named() -> None:
    night = np.full((20, 30, 3), 9, np.uint8)
    assert "nearly black" in decode_image(encoded(Image.fromarray(night), "PNG")).notices[0]
    night[:4] = 60
    assert decode_image(encoded(Image.fromarray(night), "PNG")).notices == ()
    black = np.zeros((20, 30), np.uint16)
    assert "nearly black" in decode_image(encoded(Image.fromarray(black), "PNG")).notices[1]


@pytest.mark.parametrize("kind", ["transparent", "deep", "turned", "damaged"])
def test_training_and_drawings_see_what_the_models_see(kind: str, tmp_path: Path) -> None:
    image, exif = gradient(), Image.Exif()
    if kind == "transparent":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    if kind == "deep":
        image = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30))
    if kind == "turned":
        exif[0x0112] = 6
    data = encoded(image, "PNG", exif=exif)
    path = tmp_path / "photo.png"
    path.write_bytes(data[:70] if kind == "damaged" else data)
    record: Any = SimpleNamespace(id=7)
    if kind == "damaged":
        with pytest.raises(DatasetError, match="is damaged"):
            load_pixels(path)
        with pytest.raises(ImageUnreadable, match="record 7 cannot be read"):
            _decode(path.read_bytes(), record)
        return
    pixels = decode_image(data).pixels
    assert np.array_equal(load_pixels(path), pixels)
    assert np.array_equal(_decode(data, record), pixels)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageUnreadable, match="animated"):
        decode_image(data)


def test_still_gif_is_read() -> None:
    assert decode_image(encoded(gradient("P"), "GIF")).size_hw == (20, 30)


def test_multi_picture_jpeg_of_a_phone_is_read() -> None:
    data = encoded(gradient(), "MPO", save_all=True, append_images=[gradient()])
    assert decode_image(data).size_hw == (20, 30)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(gradient(), "JPEG")[:200],
        encoded(gradient(), "PNG")[:60],
        b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
        b"GIF89a" + b"\xff" * 30,
        b"II*\0" + b"\xff" * 40,
    ],
)
def test_damaged_files_are_refused(data: bytes) -> None:
    with pytest.raises(ImageUnreadable):
        decode_image(data)


def test_decompression_bomb_is_refused_before_decoding() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
    with pytest.raises(ImageTooLarge):
        decode_image(data)


def test_sizes_at_the_limits() -> None:
    with pytest.raises(ImageUnreadable, match="1 x 1"):
        decode_image(encoded(Image.new("RGB", (1, 1)), "PNG"))
    large = encoded(Image.new("L", (12000, 9000)), "PNG")
    assert decode_image(large).size_hw == (9000, 12000)
    with pytest.raises(ImageTooLarge, match="108 megapixels"):
        decode_picture(large, 100.0)


def landscape(height: int, width: int) -> np.ndarray:
    """Smooth colours without a symmetry, so that a turned or shifted one differs."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return (255 * np.stack([x, y, (x * y) ** 0.5], axis=2)).astype(np.uint8)


@pytest.mark.parametrize("orientation", [1, 6, 7, 8])
@pytest.mark.parametrize(
    ("kind", "size_hw"), [("JPEG", (403, 801)), ("PNG", (170, 90)), ("TIFF", (170, 90))]
)
def test_a_large_photo_is_reduced_and_keeps_its_own_size(
    kind: str, size_hw: tuple[int, int], orientation: int
) -> None:
    """As if it was decoded in full and reduced then, whichever way the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(landscape(*size_hw))
    options = {"quality": 95} if kind == "JPEG" else {}
    data = encoded(stored, kind, exif=exif, **options)
    full, reduced = decode_image(data), decode_image(data, 64)
    assert reduced.size_hw == full.size_hw
    assert max(reduced.pixels.shape) == 64
    expected = resize_pixels(full.pixels, reduced.pixels.shape[:2])
    # A shift of half a pixel would be a difference of 2.
    assert np.abs(reduced.pixels.astype(int) - expected).mean() < 1.5
    assert decode_image(data, 4000).pixels.shape == full.pixels.shape


def test_a_jpeg_is_decoded_no_larger_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(landscape(600, 800)), "JPEG")
    decoded: list[tuple[int, int]] = []
    transpose = ImageOps.exif_transpose

    def note(image: Image.Image) -> Image.Image:
        decoded.append(image.size)
        return transpose(image)

    monkeypatch.setattr(ImageOps, "exif_transpose", note)
    for longer_px in (None, 401, 400, 100, 50):
        decode_image(data, longer_px)
    assert decoded == [(800, 600), (800, 600), (400, 300), (100, 75), (100, 75)]
