"""RefCOCO's and gRefCOCO's layout, as the REFER toolkit reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saymask_backend.export.coco import AnnotationBuilder, build_image
from saymask_backend.export.files import InstancesFile, JsonList, PickledList
from saymask_backend.export.model import (
    ExportImage,
    Referent,
    to_id,
    to_mask_id,
    to_sentence,
)
from saymask_backend.export.plan import ExportSummary

SPLIT_BY = "saymask"
NO_TARGET = -1


def build_sentences(referent: Referent, ref_id: int) -> list[dict[str, Any]]:
    """Build sentences: ``raw`` as typed, ``sent`` and ``tokens`` as REFER's."""
    sentences = []
    for sentence in referent.sentences:
        sent = to_sentence(sentence.raw)
        sentences.append(
            {
                "sent_id": to_id(str(ref_id), sentence.raw),
                "raw": sentence.raw,
                "sent": sent,
                "tokens": sent.split(),
                "provenance": sentence.provenance,
            }
        )
    return sentences


def _to_refer(annotation: dict[str, Any]) -> dict[str, Any]:
    """REFER reads ``segmentation[0]``, so an RLE is put into a list."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        return {**annotation, "segmentation": [segmentation]}
    return annotation


class RefcocoWriter:
    """Writes ``refs(saymask).p`` and ``instances.json``: one ref with one mask per referent."""

    image_folder: str | None = "images"

    def __init__(self, folder: Path, info: dict[str, Any], annotations: AnnotationBuilder) -> None:
        self._annotations = annotations
        self._refs = PickledList(folder / f"refs({SPLIT_BY}).p")
        self._instances = InstancesFile(folder / "instances.json", info, annotations.categories)

    def add(self, image: ExportImage, data: bytes | None) -> None:  # noqa: ARG002
        """Write an image, its annotations and refs."""
        self._instances.images.add(build_image(image))
        for referent in image.referents:
            if referent.coco_rle is None:
                continue
            annotation = self._annotations.build(image, referent.coco_rle, referent.category)
            self._instances.annotations.add(_to_refer(annotation))
            self._refs.add(_build_ref(image, referent, annotation["id"], annotation["category_id"]))

    def close(self, summary: ExportSummary | None) -> None:  # noqa: ARG002
        """Finish all files."""
        self._refs.close()
        self._instances.close()


class GrefcocoWriter:
    """Writes ``grefs(saymask).json`` and ``instances.json``: any number of objects per ref."""

    image_folder: str | None = "images"

    def __init__(self, folder: Path, info: dict[str, Any], annotations: AnnotationBuilder) -> None:
        self._annotations = annotations
        self._refs = JsonList(folder / f"grefs({SPLIT_BY}).json")
        self._instances = InstancesFile(folder / "instances.json", info, annotations.categories)

    def add(self, image: ExportImage, data: bytes | None) -> None:  # noqa: ARG002
        """Write an image, its annotations and refs."""
        self._instances.images.add(build_image(image))
        written: set[int] = set()
        for referent in image.referents:
            masks = referent.objects
            for mask in masks:
                mask_id = to_mask_id(image, mask)
                if mask_id in written:
                    continue
                written.add(mask_id)
                annotation = self._annotations.build(image, mask, referent.category)
                self._instances.annotations.add(_to_refer(annotation))
            ids = sorted({to_mask_id(image, mask) for mask in masks}) or [NO_TARGET]
            categories = [NO_TARGET]
            if masks:
                categories = [self._annotations.find_category_id(referent.category)] * len(ids)
            self._refs.add({**_build_ref(image, referent, ids, categories), "no_target": not masks})

    def close(self, summary: ExportSummary | None) -> None:  # noqa: ARG002
        """Finish all files."""
        self._refs.close()
        self._instances.close()


def _build_ref(
    image: ExportImage, referent: Referent, ann_id: Any, category_id: Any
) -> dict[str, Any]:
    ref_id = to_id(str(ann_id), *(s.raw for s in referent.sentences), image.sha256)
    if isinstance(ann_id, int):
        # A mask that gets another sentence stays the same ref.
        ref_id = ann_id
    sentences = build_sentences(referent, ref_id)
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": category_id,
        "image_id": image.image_id,
        "file_name": image.file_name,
        "split": image.split,
        "sentences": sentences,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
    }
