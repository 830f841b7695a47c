"""RefCOCO's and gRefCOCO's layout, as the REFER toolkit reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.export.coco import build_annotation, build_image
from backend.export.files import InstancesFile, JsonList, PickledList
from backend.export.model import (
    ExportPhoto,
    Referent,
    to_category_id,
    to_id,
    to_mask_id,
    to_sentence,
)

SPLIT_BY = "saymask"
NO_TARGET = -1


def build_sentences(referent: Referent, ref_id: int) -> list[dict[str, Any]]:
    """``raw`` as typed, ``sent`` and ``tokens`` as REFER's."""
    sentences = []
    for sentence in referent.sentences:
        sent = to_sentence(sentence.raw)
        sentences.append(
            {
                "sent_id": to_id(str(ref_id), sentence.raw),
                "raw": sentence.raw,
                "sent": sent,
                "tokens": sent.split(),
            }
        )
    return sentences


def _to_refer(annotation: dict[str, Any]) -> dict[str, Any]:
    """REFER looks into ``segmentation[0]``, so a run-length code stands in a list."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        return {**annotation, "segmentation": [segmentation]}
    return annotation


class RefcocoWriter:
    """``refs(saymask).p`` and ``instances.json``: every referent one ref with one mask."""

    image_folder: str | None = "images"

    def __init__(self, folder: Path, info: dict[str, Any], *, polygons: bool) -> None:
        self._polygons = polygons
        self._refs = PickledList(folder / f"refs({SPLIT_BY}).p")
        self._instances = InstancesFile(folder / "instances.json", info)

    def add(self, photo: ExportPhoto, _data: bytes | None) -> None:
        self._instances.images.add(build_image(photo))
        for referent in photo.referents:
            if referent.coco_rle is None:
                continue
            annotation = build_annotation(
                photo, referent.coco_rle, referent.category, polygons=self._polygons
            )
            self._instances.name_category(annotation["category_id"], referent.category)
            self._instances.annotations.add(_to_refer(annotation))
            self._refs.add(_build_ref(photo, referent, annotation["id"], annotation["category_id"]))

    def close(self) -> None:
        self._refs.close()
        self._instances.close()


class GrefcocoWriter:
    """``grefs(saymask).json`` and ``instances.json``: several objects, or none, for one ref."""

    image_folder: str | None = "images"

    def __init__(self, folder: Path, info: dict[str, Any], *, polygons: bool) -> None:
        self._polygons = polygons
        self._refs = JsonList(folder / f"grefs({SPLIT_BY}).json")
        self._instances = InstancesFile(folder / "instances.json", info)

    def add(self, photo: ExportPhoto, _data: bytes | None) -> None:
        self._instances.images.add(build_image(photo))
        written: set[int] = set()
        for referent in photo.referents:
            masks = referent.parts or ((referent.coco_rle,) if referent.coco_rle else ())
            for mask in masks:
                number = to_mask_id(photo, mask)
                if number in written:
                    continue
                written.add(number)
                annotation = build_annotation(
                    photo, mask, referent.category, polygons=self._polygons
                )
                self._instances.annotations.add(_to_refer(annotation))
            category_id = to_category_id(referent.category)
            if masks:
                self._instances.name_category(category_id, referent.category)
            ids = sorted({to_mask_id(photo, mask) for mask in masks}) or [NO_TARGET]
            categories = [category_id] * len(ids) if masks else [NO_TARGET]
            self._refs.add({**_build_ref(photo, referent, ids, categories), "no_target": not masks})

    def close(self) -> None:
        self._refs.close()
        self._instances.close()


def _build_ref(
    photo: ExportPhoto, referent: Referent, ann_id: Any, category_id: Any
) -> dict[str, Any]:
    ref_id = to_id(str(ann_id), *(s.raw for s in referent.sentences), photo.sha256)
    if isinstance(ann_id, int):
        # A mask that gets another sentence stays the same ref.
        ref_id = ann_id
    sentences = build_sentences(referent, ref_id)
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": category_id,
        "image_id": photo.image_id,
        "file_name": photo.file_name,
        "split": photo.split,
        "sentences": sentences,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
    }
