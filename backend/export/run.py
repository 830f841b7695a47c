"""One export: images read, conflicts settled, files written aside and renamed when complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from backend.export.coco import CocoWriter
from backend.export.huggingface import HuggingFaceWriter
from backend.export.image_store import IMAGE_FOLDER, ImageStore, ReadImage
from backend.export.merge import SAME_REFERENT_IOU, merge_records
from backend.export.model import ExportImage
from backend.export.plan import ExportError, ExportPlan, ExportSummary, Writer
from backend.export.refcoco import GrefcocoWriter, RefcocoWriter
from backend.export.tally import Tally
from backend.export.yolo import YoloWriter
from backend.records.views import RecordView
from saymask.errors import SaymaskError
from saymask.image_files import find_suffix, strip_secrets

MANIFEST = "manifest.json"
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
        tally.add(_build_image(plan, records, _DEFAULT_SUFFIX, tally))
        progress(len(records))
    return tally.summarise()


def run_export(
    plan: ExportPlan,
    groups: Iterator[list[RecordView]],
    read_image: ReadImage,
    image_dir: Path,
    progress: Progress,
    left_out: Sequence[str] = (),
) -> ExportSummary:
    """Write an export.

    Args:
        plan: what is asked for.
        groups: records image by image, see ``RecordStore.iterate_by_image``.
        read_image: fetches the bytes of a record's image.
        image_dir: with ``images="link"``, where images are kept once for all exports.
        progress: called after each image.
        left_out: images that were left out before, for the summary.

    Raises:
        ExportError: the directory exists, nothing was selected, an image is missing or changed, or
            the disk is full. What was read so far is kept aside and used by the next try.
    """
    if plan.out.exists():
        raise ExportError(f"{plan.out} exists already.", "Name another directory, or remove it.")
    partial = plan.out.with_name(f".{plan.out.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        images = ImageStore(plan, partial, image_dir)
        images.clear_partial()
        export = _Export(plan, partial, images, read_image, Tally(left_out))
        summary = export.write(groups, progress)
        if summary.referents == 0:
            shutil.rmtree(partial)
            raise ExportError(
                "Nothing was selected to export.",
                "Widen --project, --since, --outcome, --min-iou; see: saymask records list",
            )
        images.forget()
        _write_manifest(plan, summary, partial)
        os.replace(partial, plan.out)
    except OSError as error:
        raise ExportError(
            f"{plan.out} could not be written: {error}.",
            f"Make room or name another place. What was read stays in {partial} for the next try.",
        ) from error
    return summary


class _Export:
    """One export while it is written."""

    def __init__(
        self,
        plan: ExportPlan,
        folder: Path,
        images: ImageStore,
        read_image: ReadImage,
        tally: Tally,
    ) -> None:
        self._plan = plan
        self._images = images
        self._read_image = read_image
        self._tally = tally
        self._writer = _open_writer(plan, folder)

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
            data = self._read(records)
        except SaymaskError as error:
            if not self._plan.skip_missing:
                raise ExportError(
                    f"The photo of record {records[0].id} cannot be exported: {error.cause}",
                    f"{error.cure} Or leave such photos out: --skip-missing".strip(),
                ) from error
            self._tally.left_out.append(f"record {records[0].id}: {error.cause}")
            return
        suffix = (find_suffix(data) if data is not None else None) or _DEFAULT_SUFFIX
        image = _build_image(self._plan, records, suffix, self._tally)
        self._tally.add(image)
        if image.referents:
            self._writer.add(image, data)
            if data is not None and self._writer.image_folder is not None:
                self._images.place(image, self._writer.image_folder.format(split=image.split))

    def _read(self, records: list[RecordView]) -> bytes | None:
        if self._plan.images == "none":
            return None
        return self._images.read(records, self._read_image)


def _open_writer(plan: ExportPlan, folder: Path) -> Writer:
    info = {"description": f"saymask {version('saymask')}", "split": plan.query["split"]}
    if plan.format == "huggingface":
        return HuggingFaceWriter(
            folder, info, with_images=plan.images != "none", verification=plan.verification
        )
    writers: dict[str, Callable[..., Writer]] = {
        "coco": CocoWriter, "refcoco": RefcocoWriter, "grefcoco": GrefcocoWriter,
        "yolo": YoloWriter,
    }  # fmt: skip
    return writers[plan.format](folder, info, polygons=plan.polygons)


def _build_image(
    plan: ExportPlan, records: list[RecordView], suffix: str, tally: Tally
) -> ExportImage:
    first = records[0]
    sha256 = str(first.image_sha256)
    referents, conflicts = merge_records(records, plan.merge, plan.categories or {})
    tally.add_conflicts(conflicts)
    if not plan.holds_no_referent:
        referents = tuple(r for r in referents if r.coco_rle is not None)
    source = strip_secrets(first.image)
    return ExportImage(
        sha256=sha256,
        file_name=f"{sha256[:32]}{suffix}",
        size_hw=_find_size_hw(records),
        source=source if len(source) < _MAX_SOURCE_CHARS else source[:100] + " ...",
        licence=plan.licence,
        split=plan.split.choose(sha256),
        referents=referents,
    )


def _find_size_hw(records: list[RecordView]) -> tuple[int, int]:
    """The size of the masks, which must agree; without masks the image's own."""
    first = records[0]
    sizes = {tuple(r.coco_rle["size"]) for r in records if r.coco_rle is not None}
    if len(sizes) > 1:
        raise ExportError(
            f"Masks of the photo {str(first.image_sha256)[:12]} have different sizes:"
            f" {sorted(sizes)}.",
            f"See: saymask records show {first.id}",
        )
    height, width = next(iter(sizes), (first.height_px or 1, first.width_px or 1))
    return int(height), int(width)


def _list_files(folder: Path) -> list[Path]:
    """All files but the images, sorted; images may be a million, which are not even listed."""
    beside = [path for path in folder.iterdir() if path.name != IMAGE_FOLDER]
    files = [path for path in beside if path.is_file()]
    for inner in (path for path in beside if path.is_dir()):
        files += [path for path in inner.rglob("*") if path.is_file()]
    return sorted(files)


def _write_manifest(plan: ExportPlan, summary: ExportSummary, folder: Path) -> None:
    """Write what was asked, the counts, and the hash of every file but the images."""
    files = {}
    for path in _list_files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = digest
    manifest = {
        "format": plan.format,
        "saymask": version("saymask"),
        "query": plan.query,
        "same_referent_iou": SAME_REFERENT_IOU,
        "counts": {
            "photos": summary.photos,
            "referents": summary.referents,
            "expressions": summary.expressions,
            "no_referent": summary.no_referent,
            "photos_per_split": summary.per_split,
            "expressions_per_outcome": summary.per_outcome,
        },
        "annotators": {
            "shared_expressions": summary.shared,
            "contradictions": summary.contradictions,
            "mean_iou": summary.agreement_iou,
        },
        "verification": asdict(plan.verification) if plan.verification else None,
        "left_out": list(summary.left_out),
        "model_versions": list(summary.model_versions),
        "files": files,
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
