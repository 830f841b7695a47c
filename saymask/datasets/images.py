"""Where the images of a dataset lie, and whether they are the annotated ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from saymask.datasets.model import DatasetImage, Rle
from saymask.errors import DatasetError, ImageUnreadable
from saymask.image_files import NAME_NOT_UTF8, is_utf8, list_spellings, to_printable
from saymask.masks import Mask, decode_coco_rle, encode_coco_rle

log = logging.getLogger(__name__)

_IMAGE_FOLDERS = (
    "images/mscoco/images/train2014",
    "images/train2014",
    "train2014",
    "images",
    "images/VG_100K",
    "VG_100K",
    "data",
)
# What common file systems allow.
_MAX_NAME_BYTES = 255
_SEPARATORS = re.compile(r"[/\\]+")
_UPRIGHT = 1
# EXIF orientations of images that are turned by a quarter, for whose masks ``_turn`` has a case.
_QUARTER_TURNS = (5, 6, 7, 8)


def find_image(root: Path, file_name: str, folders: Sequence[str] = ()) -> Path:
    """Return where an image is, or the first place where it was looked for.

    A name may have folders, separated by slashes or backslashes, of which the first may lie
    outside the dataset. It never leads out of the root.

    Raises:
        DatasetError: the name is not UTF-8, or longer than a file system allows.
    """
    if not is_utf8(file_name):
        raise DatasetError(f"{to_printable(file_name)}: {NAME_NOT_UTF8}")
    parts = [part for part in _SEPARATORS.split(file_name) if part not in ("", ".")]
    plain = parts[-1] if parts else ""
    if len(plain.encode()) > _MAX_NAME_BYTES:
        raise DatasetError(
            f"An image has a name of {len(plain)} characters: {plain[:60]}...",
            "Shorten it in the dataset and on disk.",
        )
    all_folders = (*folders, *_IMAGE_FOLDERS)
    places = (root / folder / tail for tail in _list_tails(parts) for folder in all_folders)
    return next((place for place in places if place.is_file()), root / all_folders[0] / plain)


def _list_tails(parts: Sequence[str]) -> Iterator[str]:
    """The whole name, then with fewer and fewer of its folders; none before a step upwards."""
    for start in range(len(parts)):
        if ".." not in parts[start:]:
            tail = "/".join(parts[start:])
            yield from list_spellings(tail)


def require_inside(paths: Sequence[Path], root: Path) -> None:
    """Check that files lie in a folder, wherever links lead.

    Raises:
        DatasetError: names the first that does not.
    """
    folder = root.resolve()
    outside = [path for path in paths if not path.resolve().is_relative_to(folder)]
    if outside:
        raise DatasetError(
            f"{len(outside)} of {len(paths)} images are not in {root}, first {outside[0]}, which is"
            f" {outside[0].resolve()}.",
            "Copy them into the dataset, or move the dataset to where they are: what lies outside"
            " of it is not sent to Label Studio.",
        )


def choose_usable(
    images: Sequence[DatasetImage], root: Path
) -> tuple[list[DatasetImage], list[str]]:
    """Return the images whose files can be used, as ``to_upright`` does, and why others cannot.

    Raises:
        DatasetError: none can be used.
    """
    existing = [image for image in images if image.path.is_file()]
    if not existing:
        raise DatasetError(
            f"No image exists: {len(images)} missing, first {images[0].path.name}.",
            f"Put the images into one of these folders of {root}: {', '.join(_IMAGE_FOLDERS)}.",
        )
    left_out = [f"{image.path} is missing." for image in images if not image.path.is_file()]
    upright, errors = to_upright(existing)
    if not upright:
        raise errors[0]
    return upright, [*left_out, *map(str, errors)]


def to_upright(images: Sequence[DatasetImage]) -> tuple[list[DatasetImage], list[DatasetError]]:
    """Bring the masks of images onto the upright image, which is what annotators see.

    A photo may be stored turned by a quarter, with its orientation in EXIF. Its masks were drawn
    on the upright or on the stored one, whichever has their size; the latter are turned.

    Returns:
        The images, and errors of those that cannot be used, because the file is not an image or
        not the annotated one.
    """
    upright: list[DatasetImage] = []
    errors: list[DatasetError] = []
    turned = unsure = 0
    for image in images:
        try:
            stored_hw, orientation = _read_header(image.path)
            turn = _find_turn(image, stored_hw, orientation)
        except DatasetError as error:
            errors.append(error)
            continue
        turned += turn != _UPRIGHT
        unsure += orientation != _UPRIGHT and _is_ambiguous(stored_hw, orientation)
        upright.append(_turn_image(image, turn))
    if turned:
        log.warning("Masks of %d photos were drawn on the photo as stored; turned upright.", turned)
    if unsure:
        log.warning(
            "%d photos are stored upside down, mirrored or square and turned: sizes cannot tell how"
            " their masks were drawn; they are taken as drawn on the upright photo.",
            unsure,
        )
    return upright, errors


def _read_header(path: Path) -> tuple[tuple[int, int], int]:
    """Height and width as stored, and EXIF's orientation, 1 to 8, from the header alone.

    Raises:
        DatasetError: it is not an image; names the file.
    """
    # Pillow is imported by readers of datasets; the server starts without it.
    from saymask.image_decoding import open_picture, read_stored_hw

    try:
        with open_picture(path) as image:
            stored_hw = read_stored_hw(image)
            orientation = image.getexif().get(0x0112, _UPRIGHT)
    except (OSError, ImageUnreadable) as error:
        raise DatasetError(f"{path} is not an image: {error}") from error
    return stored_hw, orientation if orientation in range(1, 9) else _UPRIGHT


def _is_ambiguous(stored_hw: tuple[int, int], orientation: int) -> bool:
    """Whether the stored and the upright image have one size."""
    return orientation not in _QUARTER_TURNS or stored_hw[0] == stored_hw[1]


def _find_turn(image: DatasetImage, stored_hw: tuple[int, int], orientation: int) -> int:
    """The EXIF orientation in which the masks are; 1 where they are upright.

    Raises:
        DatasetError: they are of another image; or two sentences have one id.
    """
    if len({expression.id for expression in image.expressions}) < len(image.expressions):
        raise DatasetError(f"Two sentences about {image.path.name} have the same id.")
    upright_hw = stored_hw[::-1] if orientation in _QUARTER_TURNS else stored_hw
    if image.size_hw == upright_hw:
        return _UPRIGHT
    if image.size_hw == stored_hw:
        return orientation
    raise DatasetError(
        f"{image.path} is {upright_hw}, annotated as {image.size_hw}.",
        "Use the images that the annotations were made on.",
    )


def _turn_image(image: DatasetImage, orientation: int) -> DatasetImage:
    """The image with its masks as EXIF's orientation shows them, a quarter turn or none."""
    if orientation == _UPRIGHT:
        return image
    height, width = image.size_hw
    return replace(
        image,
        size_hw=(width, height),
        expressions=tuple(
            replace(
                expression,
                target=_turn_rle(expression.target, orientation),
                parts=tuple(_turn_rle(part, orientation) for part in expression.parts),
            )
            for expression in image.expressions
        ),
        instances=tuple(
            replace(instance, mask=_turn_rle(instance.mask, orientation))
            for instance in image.instances
        ),
    )


def _turn_rle(rle: Rle, orientation: int) -> Rle:
    return encode_coco_rle(_turn(decode_coco_rle(rle), orientation))


def _turn(mask: Mask, orientation: int) -> Mask:
    """Apply one of ``_QUARTER_TURNS``, as a viewer does to the stored image."""
    if orientation == 6:
        return np.rot90(mask, -1)
    if orientation == 8:
        return np.rot90(mask)
    return mask.T if orientation == 5 else mask[::-1, ::-1].T
