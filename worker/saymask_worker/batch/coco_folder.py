"""Proposing expressions for a folder of images: a dataset that people can check.

The dataset is a COCO instances file whose annotations carry ``expressions``, as exports have them,
each with the provenance ``proposed``; ``proposals.jsonl`` next to it is what an interrupted run
continues from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from saymask.contract import Describer, ProposedPair
from saymask.datasets.images import require_inside
from saymask.errors import DatasetError, SaymaskError
from saymask.image_files import (
    IMAGE_SUFFIXES,
    NAME_NOT_UTF8,
    find_suffix,
    is_image_name,
    is_utf8,
    to_printable,
)
from saymask.left_out import OnProgress
from saymask.masks import compute_area, decode_coco_rle
from saymask.private_files import replace_atomically
from saymask_worker.images.jsonl_log import ResumableLog
from saymask_worker.pipeline.pipeline import Pipeline, open_image

LOG_FILE = "proposals.jsonl"
INSTANCES_FILE = Path("annotations") / "instances_proposed.json"
_IMAGE_FOLDER = "images"


@dataclass(frozen=True)
class ProposeOptions:
    """See ``Pipeline.propose``."""

    per_image: int = 2
    confidence_min: float = 0.6
    seed: int = 0
    describer: Describer = "rules"


class ProposedImage(BaseModel):
    """What was proposed for one file; ``failure`` says why nothing, else it is empty."""

    file: str
    sha256: str = ""
    size_hw: tuple[int, int] = (0, 0)
    pairs: tuple[ProposedPair, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class FolderReport:
    """What was done: ``photos``, ``expressions`` proposed for them, ``empty`` photos without any.

    ``before`` of the photos were done by an earlier run; ``failed`` says why files gave nothing.
    """

    photos: int
    before: int
    expressions: int
    empty: int
    failed: tuple[str, ...]


def list_images(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted; not the hidden ones.

    Raises:
        DatasetError: there is none.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if is_image_name(path.relative_to(folder).as_posix()) and path.is_file()
    )
    if not files:
        raise DatasetError(
            f"{folder} holds no image.", f"Name a folder of files {', '.join(IMAGE_SUFFIXES)}."
        )
    return files


def propose_folder(
    pipeline: Pipeline, folder: Path, out: Path, options: ProposeOptions, progress: OnProgress
) -> FolderReport:
    """Propose expressions for every image of a folder, and write the dataset.

    An interrupted run is continued by the same call; files that could not be read are tried again.

    Raises:
        DatasetError: the folder holds no image, or ``out`` belongs to another run.
        ConfigError: the method gives no probabilities.
    """
    files = list_images(folder)
    run = {"model_version": pipeline.model_version, "folder": str(folder.resolve())}
    log = ResumableLog(out / LOG_FILE, ProposedImage, {**run, **vars(options)})
    done = {image.file: image for image in log.read() if not image.failure}
    before = len(done)
    images = []
    for path in files:
        name = path.relative_to(folder).as_posix()
        image = done.get(name) or _propose(pipeline, folder, name, options)
        if name not in done:
            log.append(image)
        images.append(image)
        progress(len(images), len(files))
    _write_dataset(images, folder, out, pipeline.model_version)
    return FolderReport(
        photos=len(images),
        before=before,
        expressions=sum(len(image.pairs) for image in images),
        empty=sum(not image.pairs and not image.failure for image in images),
        failed=tuple(f"{image.file}: {image.failure}" for image in images if image.failure),
    )


def _propose(pipeline: Pipeline, folder: Path, name: str, options: ProposeOptions) -> ProposedImage:
    if not is_utf8(name):
        return ProposedImage(file=to_printable(name), failure=NAME_NOT_UTF8)
    path = folder / name
    try:
        # The dataset takes it along, and importing that uploads it.
        require_inside([path], folder)
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        prepared, _ = open_image(pipeline, data, path.stem)
        pairs = pipeline.propose(
            prepared,
            data,
            options.per_image,
            options.confidence_min,
            options.seed,
            options.describer,
        )
    except OSError as error:
        return ProposedImage(file=name, failure=str(error))
    except SaymaskError as error:
        if error.concerns_all:
            raise
        return ProposedImage(file=name, failure=str(error))
    return ProposedImage(file=name, sha256=sha256, size_hw=prepared.proposals.size_hw, pairs=pairs)


def _write_dataset(images: Sequence[ProposedImage], folder: Path, out: Path, version: str) -> None:
    """Write the instances file, and link the images that it names."""
    unique = {image.sha256: image for image in reversed(images) if image.pairs}
    chosen = [unique[key] for key in sorted(unique)]
    nouns = sorted({pair.noun for image in chosen for pair in image.pairs})
    categories = {noun: number for number, noun in enumerate(nouns, start=1)}
    target = out / _IMAGE_FOLDER
    target.mkdir(exist_ok=True)
    content = {
        "info": {"description": f"proposed by {version}, not checked by a person"},
        "images": [
            _build_image(number, image, _link(folder / image.file, image.sha256, target))
            for number, image in enumerate(chosen, start=1)
        ],
        "annotations": list(_build_annotations(chosen, categories)),
        "categories": [{"id": number, "name": noun} for noun, number in categories.items()],
    }
    path = out / INSTANCES_FILE
    path.parent.mkdir(exist_ok=True)
    with replace_atomically(path) as part:
        part.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def _build_image(number: int, image: ProposedImage, file_name: str) -> dict[str, Any]:
    height, width = image.size_hw
    return {
        "id": number,
        "file_name": file_name,
        "height": height,
        "width": width,
        "source": image.file,
    }


def _build_annotations(
    images: Sequence[ProposedImage], categories: dict[str, int]
) -> Iterator[dict[str, Any]]:
    number = 0
    for image_id, image in enumerate(images, start=1):
        for pair in image.pairs:
            number += 1
            rle = pair.candidate.mask.as_dict()
            yield {
                "id": number,
                "image_id": image_id,
                "category_id": categories[pair.noun],
                "segmentation": rle,
                "area": compute_area(decode_coco_rle(rle)),
                "bbox": list(pair.candidate.box_xywh),
                "iscrowd": 0,
                "expressions": [
                    {
                        "raw": text,
                        "provenance": "proposed",
                        "described_by": pair.described_by,
                        "confidence": pair.confidence,
                    }
                    for text in pair.expressions
                ],
            }


def _link(source: Path, sha256: str, folder: Path) -> str:
    """Put an image into the dataset, without copying where the file system can; returns its name.

    Name and suffix are of the content: files of one name in different folders do not meet, and
    Label Studio takes a JPEG as ``.jpg`` only.
    """
    with source.open("rb") as file:
        suffix = find_suffix(file.read(16)) or source.suffix.lower()
    target = folder / f"{sha256[:16]}{suffix}"
    if not target.exists():
        try:
            # The file itself: a link to a link inside the folder would lead nowhere from here.
            os.link(source.resolve(), target)
        except OSError:
            shutil.copyfile(source, target)
    return target.name
