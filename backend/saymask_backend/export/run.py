"""One export: images read, conflicts settled, files written aside and renamed when complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from saymask.errors import SaymaskError
from saymask.image_files import find_suffix, strip_secrets
from saymask.private_files import recover_folder, replace_folder
from saymask_backend.export.coco import AnnotationBuilder, CocoWriter
from saymask_backend.export.earlier import MANIFEST, hash_files, read_earlier
from saymask_backend.export.huggingface import HuggingFaceWriter
from saymask_backend.export.image_store import ImageStore, ReadImage
from saymask_backend.export.json_lines import GroundingWriter, TaoWriter
from saymask_backend.export.merge import SAME_REFERENT_IOU, merge_records, to_category, to_noun
from saymask_backend.export.model import Categories, ExportImage
from saymask_backend.export.plan import ExportError, ExportPlan, ExportSummary, Tally, Writer
from saymask_backend.export.reasonseg import ReasonSegWriter
from saymask_backend.export.refcoco import GrefcocoWriter, RefcocoWriter
from saymask_backend.export.upright import JPEG_QUALITY, Photo, read_upright, to_jpeg
from saymask_backend.export.yolo import YoloWriter
from saymask_backend.records.types import RecordView

_DEFAULT_SUFFIX = ".jpg"
_MAX_SOURCE_CHARS = 500

Progress = Callable[[int], None]
"""Called with the number of records just finished."""


def count_export(
    plan: ExportPlan, groups: Iterator[list[RecordView]], progress: Progress
) -> ExportSummary:
    """Count what an export would hold; only records are read, nothing is written."""
    tally = Tally()
    for records in groups:
        image = _build_image(plan, records, None, tally)
        if image is not None:
            tally.add(image)
        progress(len(records))
    return tally.summarise()


def run_export(
    plan: ExportPlan,
    groups: Iterator[list[RecordView]],
    read_image: ReadImage,
    image_dir: Path,
    progress: Progress,
    failed: Sequence[str] = (),
    head_noun_phrases: Sequence[str | None] = (),
) -> ExportSummary:
    """Write an export.

    Args:
        plan: what is asked for.
        groups: records image by image, see ``RecordStore.iterate_by_image``.
        read_image: fetches the bytes of a record's image.
        image_dir: with ``images="link"``, where images are kept once for all exports.
        progress: called after each image.
        failed: images that were left out before, for the summary.
        head_noun_phrases: in the order in which their categories are numbered.

    Raises:
        ExportError: the directory exists and is not to be replaced, nothing was selected, an image
            is missing, damaged or changed, or the disk is full. What was read so far is kept aside
            and used by the next try.
    """
    earlier = _check_out(plan)
    nouns = (to_noun(phrase) for phrase in head_noun_phrases)
    categories = Categories([*earlier, *(to_category(n, plan.categories or {}) for n in nouns)])
    partial = plan.out.with_name(f".{plan.out.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        images = ImageStore(plan, partial, image_dir)
        images.clear_partial()
        annotations = AnnotationBuilder(categories, polygons=plan.polygons)
        writer = _open_writer(plan, partial, annotations)
        export = _Export(plan, images, read_image, Tally(failed), writer)
        summary = export.write(groups, progress)
        if summary.referents == 0:
            shutil.rmtree(partial)
            raise _explain_empty(summary)
        if plan.polygons:
            summary = replace(summary, inexact=annotations.segmentations["run_lengths"])
        images.forget()
        _write_manifest(plan, summary, annotations, partial)
        replace_folder(partial, plan.out)
    except OSError as error:
        raise ExportError(
            f"{plan.out} could not be written: {error}.",
            f"Make room or name another place. What was read stays in {partial} for the next try.",
        ) from error
    return summary


def _explain_empty(summary: ExportSummary) -> ExportError:
    if summary.failed:
        return ExportError(f"None of the selected photos can be exported. {summary.failed[0]}")
    return ExportError(
        "Nothing was selected to export.",
        "Widen --project, --since, --outcome, --min-iou; see: saymask records list",
    )


def _check_out(plan: ExportPlan) -> list[str]:
    """The categories of the export that is replaced, none where there is none."""
    recover_folder(plan.out)
    if not plan.out.exists():
        return []
    if not plan.replace:
        raise ExportError(
            f"{plan.out} exists already.",
            "Name another directory, or remove it; an earlier export is replaced with --replace.",
        )
    return read_earlier(plan.out)


class _Export:
    """One export while it is written."""

    def __init__(
        self,
        plan: ExportPlan,
        images: ImageStore,
        read_image: ReadImage,
        tally: Tally,
        writer: Writer,
    ) -> None:
        self._plan = plan
        self._images = images
        self._read_image = read_image
        self._tally = tally
        self._writer = writer

    def write(self, groups: Iterator[list[RecordView]], progress: Progress) -> ExportSummary:
        """Write all images; the files are finished even when one fails."""
        summary = None
        try:
            for records in groups:
                self._write_image(records)
                progress(len(records))
            summary = self._tally.summarise()
        finally:
            self._writer.close(summary)
        return summary

    def _write_image(self, records: list[RecordView]) -> None:
        try:
            photo = self._read(records)
        except SaymaskError as error:
            if not self._plan.skip_missing:
                raise ExportError(
                    f"The photo of record {records[0].id} cannot be exported: {error.cause}",
                    f"{error.cure} Or leave such photos out: --skip-missing".strip(),
                ) from error
            self._tally.failed.append(f"record {records[0].id}: {error.cause}")
            return
        image = _build_image(self._plan, records, photo, self._tally)
        if image is None:
            return
        self._tally.add(image)
        if image.referents:
            self._writer.add(image, photo.data if photo else None)
            if photo is not None and self._writer.image_folder is not None:
                folder = self._writer.image_folder.format(split=image.split)
                self._images.place(image, folder, photo.data)

    def _read(self, records: list[RecordView]) -> Photo | None:
        if self._plan.images == "none":
            return None
        photo = read_upright(self._images.read(records, self._read_image))
        return to_jpeg(photo) if self._plan.format == "reasonseg" else photo


def _open_writer(plan: ExportPlan, folder: Path, annotations: AnnotationBuilder) -> Writer:
    info = {"description": f"saymask {version('saymask')}", "split": plan.query["split"]}
    if plan.format == "huggingface":
        return HuggingFaceWriter(
            folder, info, with_images=plan.images != "none", verification=plan.verification
        )
    if plan.format == "yolo":
        return YoloWriter(folder, info, annotations.categories)
    if plan.format == "reasonseg":
        return ReasonSegWriter(folder)
    if plan.format == "grounding":
        return GroundingWriter(folder, plan.coordinates, polygons=plan.polygons)
    if plan.format == "tao":
        return TaoWriter(folder)
    writers: dict[str, Callable[[Path, dict[str, Any], AnnotationBuilder], Writer]] = {
        "coco": CocoWriter, "refcoco": RefcocoWriter, "grefcoco": GrefcocoWriter,
    }  # fmt: skip
    return writers[plan.format](folder, info, annotations)


def _build_image(
    plan: ExportPlan, records: list[RecordView], photo: Photo | None, tally: Tally
) -> ExportImage | None:
    """Build an image of an export; None, and named in the tally, where sizes contradict each other.

    ``photo`` is None where the photo is not read.
    """
    first = records[0]
    sha256 = str(first.image_sha256)
    try:
        size_hw = _find_size_hw(records, photo)
    except ExportError as error:
        tally.failed.append(f"record {first.id}: {error}")
        return None
    suffix = (find_suffix(photo.data) if photo else None) or _DEFAULT_SUFFIX
    referents, conflicts = merge_records(records, plan.merge, plan.categories or {})
    tally.add_conflicts(conflicts)
    if not plan.holds_no_referent:
        referents = tuple(r for r in referents if r.coco_rle is not None)
    source = strip_secrets(first.image)
    return ExportImage(
        sha256=sha256,
        file_name=f"{sha256[:32]}{suffix}",
        size_hw=size_hw,
        source=source if len(source) < _MAX_SOURCE_CHARS else source[:100] + " ...",
        licence=plan.licence,
        split=plan.split.choose(sha256),
        referents=referents,
        is_turned=photo is not None and photo.is_turned,
        is_converted=photo is not None and photo.is_converted,
    )


def _find_size_hw(records: list[RecordView], photo: Photo | None) -> tuple[int, int]:
    """The size of the masks, which must be that of the photo; without masks the photo's own."""
    first = records[0]
    sizes = {tuple(r.coco_rle["size"]) for r in records if r.coco_rle is not None}
    if len(sizes) > 1:
        raise ExportError(
            f"The masks of its photo have different sizes: {sorted(sizes)}.",
            f"See: saymask records show {first.id}",
        )
    known = photo.size_hw if photo else None
    height, width = next(iter(sizes), known or (first.height_px or 1, first.width_px or 1))
    if known not in (None, (height, width)):
        raise ExportError(
            f"Its photo is {known[1]} x {known[0]} pixels; its masks were drawn on"
            f" {width} x {height}.",
            f"See: saymask records show {first.id}",
        )
    return int(height), int(width)


def _write_manifest(
    plan: ExportPlan, summary: ExportSummary, annotations: AnnotationBuilder, folder: Path
) -> None:
    """Write what was asked, the counts, and the hash of every file but the images."""
    manifest = {
        "format": plan.format,
        "saymask": version("saymask"),
        "query": plan.query,
        "images": plan.images,
        "same_referent_iou": SAME_REFERENT_IOU,
        "counts": {
            "photos": summary.photos,
            "referents": summary.referents,
            "expressions": summary.expressions,
            "no_referent": summary.no_referent,
            "photos_per_split": summary.per_split,
            "expressions_per_outcome": summary.per_outcome,
        },
        # How the masks of COCO's and RefCOCO's layouts are written.
        "segmentations": dict(annotations.segmentations),
        "photos_turned_upright": {"count": summary.turned, "jpeg_quality": JPEG_QUALITY},
        "photos_converted_to_jpeg": {"count": summary.converted, "jpeg_quality": JPEG_QUALITY},
        "annotators": {
            "shared_expressions": summary.shared,
            "contradictions": summary.contradictions,
            "mean_iou": summary.agreement_iou,
        },
        "verification": asdict(plan.verification) if plan.verification else None,
        "left_out": list(summary.failed),
        "model_versions": list(summary.model_versions),
        "categories": annotations.categories.names,
        "files": hash_files(folder),
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
