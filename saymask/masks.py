"""Masks and their two encodings, in numpy alone.

* ``coco_rle``: ``{"size": [H, W], "counts": str}``, column-major, beginning with the
  zero run, compressed as pycocotools does. It is stored in the database and sent over the queue.
* ``brush_rle``: the list of byte values Label Studio's brush tool reads and writes: a
  bit-packed run-length code over the row-major RGBA picture of the mask (four equal
  channels). It is what the annotator's browser reads and writes.

A mask is a 2-D bool array (H, W). Both codecs are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saymask.errors import InvalidMask

Mask = NDArray[np.bool_]
"""One mask, (H, W) bool."""
Masks = NDArray[np.bool_]
"""Several masks of one size, (N, H, W) bool."""

# A brush stroke drawn in the browser is anti-aliased; half covered and more counts as inside.
ALPHA_THRESHOLD = 128
MAX_PIXELS = 200_000_000
"""Largest mask that is decoded; a few bytes can claim any size."""

_CHANNELS = 4
_WORD_BITS = 8
_RUN_BITS = (3, 4, 8, 16)
_HEADER_BITS = 32 + 5 + 4 * len(_RUN_BITS)


def _require_mask(mask: Mask) -> Mask:
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype != np.bool_:
        raise InvalidMask(
            f"Expected a 2-D bool mask, got shape {array.shape} of {array.dtype}.",
            "Threshold the array first.",
        )
    if array.size == 0:
        raise InvalidMask(f"The mask has no pixels: shape {array.shape}.", "Give it a size.")
    return array


def _run_lengths(flat: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of alternating runs; the first is the zero run and may be 0."""
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate(([0], changes, [flat.size]))
    lengths = np.diff(edges).astype(np.int64)
    return np.concatenate(([0], lengths)) if flat[0] else lengths


def encode_coco_rle(mask: Mask) -> dict[str, Any]:
    """Encode a mask (H, W) as compressed COCO RLE, byte for byte as pycocotools does."""
    array = _require_mask(mask)
    return pack_coco_rle((array.shape[0], array.shape[1]), _column_run_lengths(array))


def pack_coco_rle(size_hw: tuple[int, int], counts: NDArray[np.int64]) -> dict[str, Any]:
    """Compress run lengths (N,), column by column and beginning with the zero run, to COCO RLE."""
    return {"size": [int(size_hw[0]), int(size_hw[1])], "counts": _pack_counts(counts)}


def _column_run_lengths(mask: Mask) -> NDArray[np.int64]:
    """``_run_lengths`` of the mask read column by column.

    Only the box around it is read: bringing a whole photo into this order takes most of the time.
    """
    height = mask.shape[0]
    x, y, box_width, box_height = compute_box_xywh(mask)
    if box_width == 0:
        return np.array([mask.size])
    # Columns of the box are apart, by at least one zero, unless they are those of the mask.
    stride = box_height + (box_height < height)
    columns = np.zeros((box_width, stride), dtype=np.bool_)
    columns[:, :box_height] = mask[y : y + box_height, x : x + box_width].T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False))
    edges = (changes // stride + x) * height + changes % stride + y
    end = [mask.size] if edges[-1] < mask.size else []
    return np.diff(np.concatenate(([0], edges, end))).astype(np.int64)


def decode_coco_rle(coco_rle: dict[str, Any]) -> Mask:
    """Decode compressed or uncompressed COCO RLE to a mask (H, W).

    Raises:
        InvalidMask: the counts are malformed or do not add up to H * W.
    """
    size_hw, counts = read_coco_counts(coco_rle)
    values = np.arange(counts.size) % 2 == 1
    return np.repeat(values, counts).reshape(size_hw, order="F")


def read_coco_counts(coco_rle: dict[str, Any]) -> tuple[tuple[int, int], NDArray[np.int64]]:
    """Read size (H, W) and run lengths (N,) of COCO RLE, which begin with the zero run.

    Raises:
        InvalidMask: the counts are malformed or do not add up to H * W.
    """
    height, width = _read_size(coco_rle)
    raw = coco_rle.get("counts")
    if isinstance(raw, bytes):
        raw = raw.decode("ascii", errors="replace")
    if isinstance(raw, str):
        counts = _unpack_counts(raw)
    elif isinstance(raw, list):
        try:
            counts = np.asarray(raw, dtype=np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidMask("RLE counts must be whole numbers.") from error
    else:
        raise InvalidMask(f"RLE counts must be a string or a list, got {type(raw).__name__}.")
    pixels = height * width
    # Each count by itself first: a sum may wrap around to the right number.
    in_range = counts.ndim == 1 and not ((counts < 0) | (counts > pixels)).any()
    if not in_range or int(counts.sum()) != pixels:
        total = int(counts.sum()) if in_range else "other than"
        raise InvalidMask(
            f"RLE counts add up to {total} pixels, expected {height} x {width} = {height * width}.",
            "The mask belongs to another image size, or the file is damaged.",
        )
    return (height, width), counts


def _read_size(coco_rle: dict[str, Any]) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in coco_rle["size"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidMask("RLE needs a size [H, W].") from error
    if height < 1 or width < 1:
        raise InvalidMask(f"RLE size must be positive, got {height} x {width}.")
    if height * width > MAX_PIXELS:
        raise InvalidMask(f"The RLE claims {height} x {width} pixels; the limit is {MAX_PIXELS:,}.")
    return height, width


def _pack_counts(counts: NDArray[np.int64]) -> str:
    """Each count, from the fourth on as difference to the one two before, in 5-bit groups."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    groups = np.zeros((counts.size, 13), dtype=np.uint8)
    used = np.zeros((counts.size, 13), dtype=bool)
    active = np.ones(counts.size, dtype=bool)
    for column in range(groups.shape[1]):
        low = values & 0x1F
        values = values >> 5
        more = np.where(low & 0x10, values != -1, values != 0) & active
        groups[:, column] = (low | np.where(more, 0x20, 0)) + 48
        used[:, column] = active
        active = more
        if not active.any():
            break
    return str(groups[used].tobytes(), "ascii")


def _unpack_counts(text: str) -> NDArray[np.int64]:
    codes = np.frombuffer(text.encode("ascii", errors="replace"), dtype=np.uint8).astype(np.int64)
    codes = codes - 48
    if codes.size == 0 or (codes < 0).any() or (codes > 63).any() or codes[-1] & 0x20:
        raise InvalidMask("RLE counts are not a compressed COCO string.", "The file is damaged.")
    ends = np.flatnonzero(codes & 0x20 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 12:
        raise InvalidMask("An RLE count is too large.", "The file is damaged.")
    group = np.arange(codes.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 0x1F) << (5 * group), starts)
    negative = codes[ends] & 0x10 != 0
    values = np.where(negative, values - (np.int64(1) << (5 * lengths)), values)
    # values[i] is counts[i] - counts[i - 2] from the fourth on: undo it on both interleaved chains.
    counts = values.copy()
    counts[1::2] = np.cumsum(values[1::2])
    counts[2::2] = np.cumsum(values[2::2])
    return counts


def compute_area(mask: Mask) -> int:
    """Return the number of pixels inside a mask (H, W)."""
    return int(np.count_nonzero(mask))


def compute_areas(masks: Masks) -> NDArray[np.int64]:
    """Return the number of pixels (N,) inside each of masks (N, H, W)."""
    # One at a time: counting along axes is far slower.
    return np.array([compute_area(mask) for mask in masks], dtype=np.int64)


def compute_box_xywh(mask: Mask) -> tuple[int, int, int, int]:
    """Return the tight box of a mask (H, W), pixels; (0, 0, 0, 0) for an empty mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return (0, 0, 0, 0)
    x, y = int(columns[0]), int(rows[0])
    return (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)


def compute_iou(a: Mask, b: Mask) -> float:
    """Return the intersection over union, 0 to 1, of two masks of one size.

    It is 0.0 when both are empty.

    Raises:
        InvalidMask: the sizes differ.
    """
    if a.shape != b.shape:
        raise InvalidMask(f"Masks of different sizes: {a.shape} and {b.shape}.")
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 0.0


def compute_ious(mask: Mask, others: Masks) -> NDArray[np.float64]:
    """Return the IoU (N,) of a mask (H, W) with each of (N, H, W); 0 where both are empty."""
    if len(others) == 0:
        return np.zeros(0)
    intersection = (others & mask).sum(axis=(1, 2))
    union = (others | mask).sum(axis=(1, 2))
    return np.asarray(intersection / np.maximum(union, 1), dtype=np.float64)


def encode_brush_rle(mask: Mask) -> list[int]:
    """Encode a mask as Label Studio's brush RLE: alpha 255 inside, 0 outside.

    Equal, byte for byte, to ``label_studio_sdk.converter.brush.mask2rle(mask * 255)``.
    """
    array = _require_mask(mask)
    return pack_brush_rle((array.shape[0], array.shape[1]), _run_lengths(array.ravel()))


def pack_brush_rle(size_hw: tuple[int, int], counts: NDArray[np.int64]) -> list[int]:
    """Pack run lengths (N,), row by row and beginning with the zero run, as brush RLE."""
    lengths = counts * _CHANNELS
    inside = np.arange(lengths.size) % 2 == 1
    if lengths[0] == 0:
        lengths, inside = lengths[1:], inside[1:]
    kinds = np.searchsorted([2**bits for bits in _RUN_BITS[:-1]], lengths)
    # A run too long for the longest code is written in pieces, all with that code.
    lengths, pieces = _split_long_runs(lengths)
    kinds, inside = np.repeat(kinds, pieces), np.repeat(inside, pieces)
    run_bits = np.asarray(_RUN_BITS)[kinds]
    code_bits = 1 + 2 + run_bits + _WORD_BITS
    words = np.where(inside, 255, 0)
    codes = (((1 << 2 | kinds) << run_bits | (lengths - 1)) << _WORD_BITS) | words
    header = size_hw[0] * size_hw[1] * _CHANNELS
    header = header << 5 | (_WORD_BITS - 1)
    for bits in _RUN_BITS:
        header = header << 4 | (bits - 1)
    stream = np.concatenate((_header_bits(header), _spread_bits(codes, code_bits)))
    # The reference encoder appends a zero byte even when the bits end on a byte boundary.
    padding = 8 - stream.size % 8
    packed = np.packbits(np.concatenate((stream, np.zeros(padding, dtype=np.uint8))))
    return [int(byte) for byte in packed]


def _header_bits(header: int) -> NDArray[np.uint8]:
    text = f"{header:0{_HEADER_BITS}b}"
    if len(text) > _HEADER_BITS:
        raise InvalidMask("The mask is too large for a brush RLE.", "Use a smaller image.")
    return np.frombuffer(text.encode(), dtype=np.uint8) - ord("0")


def _split_long_runs(
    lengths: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pieces of at most the longest code's reach, and how many each run gave."""
    longest = 2 ** _RUN_BITS[-1]
    pieces = -(-lengths // longest)
    split = np.full(int(pieces.sum()), longest, dtype=np.int64)
    split[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * longest
    return split, pieces


def _spread_bits(codes: NDArray[np.int64], code_bits: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Concatenate the lowest ``code_bits`` bits of each code, most significant first."""
    ends = np.cumsum(code_bits)
    shift = np.repeat(ends, code_bits) - 1 - np.arange(int(ends[-1]))
    return ((np.repeat(codes, code_bits) >> shift) & 1).astype(np.uint8)


def decode_brush_alpha(brush_rle: list[int], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode a brush RLE to its alpha channel (H, W), 0 to 255.

    Raises:
        InvalidMask: the list is not a brush RLE, or belongs to another size.
    """
    alphas, counts = read_brush_alphas(brush_rle, size_hw)
    return np.repeat(alphas, counts).reshape(size_hw)


def read_brush_alphas(
    brush_rle: list[int], size_hw: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read alpha values (N,), 0 to 255, and how many pixels in a row, row by row, have each.

    Raises:
        InvalidMask: the list is not a brush RLE, or belongs to another size.
    """
    try:
        data = np.asarray(brush_rle, dtype=np.uint8)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidMask("A brush RLE is a list of byte values.") from error
    if data.ndim != 1 or data.size * 8 < _HEADER_BITS:
        raise InvalidMask("The brush RLE is too short to hold a header.")
    height, width = size_hw
    if height * width > MAX_PIXELS:
        raise InvalidMask(
            f"The mask claims {height} x {width} pixels; the limit is {MAX_PIXELS:,}.",
            "original_width and original_height do not belong to an image that saymask reads.",
        )
    reader = _BitReader(data)
    total = reader.read(32)
    word_bits = reader.read(5) + 1
    run_bits = [reader.read(4) + 1 for _ in range(4)]
    if total != height * width * _CHANNELS:
        raise InvalidMask(
            f"The brush RLE holds {total} values, expected {height} x {width} x 4"
            f" = {height * width * _CHANNELS}.",
            "original_width and original_height do not belong to this mask.",
        )
    if word_bits != _WORD_BITS:
        raise InvalidMask(f"The brush RLE has values of {word_bits} bits, expected {_WORD_BITS}.")
    values, lengths = _read_runs(reader, run_bits, total)
    # Alpha is every fourth value: of each run, only those places count.
    ends = np.cumsum(lengths)
    return values, ends // _CHANNELS - (ends - lengths) // _CHANNELS


def _read_runs(
    reader: _BitReader, run_bits: list[int], total: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The values of the runs and their lengths, which add up to ``total``."""
    values: list[int] = []
    lengths: list[int] = []
    filled = 0
    while filled < total:
        is_run = reader.read(1)
        length = reader.read(run_bits[reader.read(2)]) + 1
        if is_run:
            values.append(reader.read(_WORD_BITS))
            lengths.append(length)
        else:
            values.extend(reader.read(_WORD_BITS) for _ in range(length))
            lengths.extend([1] * length)
        filled += length
    if filled != total:
        raise InvalidMask("The brush RLE runs past its own length.", "The data is damaged.")
    return np.asarray(values, dtype=np.uint8), np.asarray(lengths, dtype=np.int64)


def decode_brush_rle(brush_rle: list[int], size_hw: tuple[int, int]) -> Mask:
    """Decode a brush RLE to a mask: inside is alpha of at least ``ALPHA_THRESHOLD``."""
    return decode_brush_alpha(brush_rle, size_hw) >= ALPHA_THRESHOLD


class _BitReader:
    """Reads big-endian bit fields of up to 32 bits."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._bytes = data.tobytes() + b"\0" * 8
        self._bits = data.size * 8
        self._at = 0

    def read(self, bits: int) -> int:
        if self._at + bits > self._bits:
            raise InvalidMask("The brush RLE ends too early.", "The data is damaged.")
        byte, shift = divmod(self._at, 8)
        self._at += bits
        window = int.from_bytes(self._bytes[byte : byte + 5], "big")
        return (window >> (40 - shift - bits)) & ((1 << bits) - 1)
