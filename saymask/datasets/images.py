"""Where the images of a dataset lie, and whether they are the annotated ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from saymask.datasets.files import read_size_hw
from saymask.datasets.model import DatasetImage
from saymask.errors import DatasetError

_IMAGE_FOLDERS = (
    "images/mscoco/images/train2014",
    "images/train2014",
    "train2014",
    "images",
    "images/VG_100K",
    "VG_100K",
)
# What common file systems allow.
_MAX_NAME_BYTES = 255


def find_image(root: Path, file_name: str, folders: Sequence[str] = ()) -> Path:
    """Return where an image is, or the first place where it was looked for.

    A name never leads out of the root.

    Raises:
        DatasetError: the name is longer than a file system allows.
    """
    plain = Path(file_name).name
    if len(plain.encode()) > _MAX_NAME_BYTES:
        raise DatasetError(
            f"An image has a name of {len(plain)} characters: {plain[:60]}...",
            "Shorten it in the dataset and on disk.",
        )
    places = [root / folder / plain for folder in (*folders, *_IMAGE_FOLDERS)]
    return next((place for place in places if place.is_file()), places[0])


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


def check_images(images: Sequence[DatasetImage], root: Path) -> None:
    """Check that every image exists, has a unique name and the size it was annotated at.

    Raises:
        DatasetError: names the first image for which this does not hold.
    """
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(images)} images are missing, first {missing[0].name}.",
            f"Put the images into one of these folders of {root}: {', '.join(_IMAGE_FOLDERS)}.",
        )
    counts = Counter(image.path.name for image in images)
    name, count = counts.most_common(1)[0]
    if count > 1:
        raise DatasetError(f"{count} images are named {name}.", "Give every image its own name.")
    for image in images:
        _check_image(image)


def _check_image(image: DatasetImage) -> None:
    if len({expression.id for expression in image.expressions}) < len(image.expressions):
        raise DatasetError(f"Two sentences about {image.path.name} have the same id.")
    size_hw = read_size_hw(image.path)
    if size_hw != image.size_hw:
        raise DatasetError(
            f"{image.path} is {size_hw}, annotated as {image.size_hw}.",
            "Use the images that the annotations were made on.",
        )
