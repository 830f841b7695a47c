"""One export: photos read, conflicts settled, files written aside, renamed when whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

from backend.errors import SaymaskError
from backend.export.coco import CocoWriter
from backend.export.huggingface import HuggingFaceWriter
from backend.export.merge import NO_REFERENT, SAME_REFERENT_IOU, MergeRule, merge_photo
from backend.export.model import ExportPhoto
from backend.export.refcoco import GrefcocoWriter, RefcocoWriter
from backend.export.splits import SplitRule
from backend.export.yolo import YoloWriter
from backend.records.ledger import RecordView

Format = Literal["coco", "refcoco", "grefcoco", "huggingface", "yolo"]
FORMATS: tuple[Format, ...] = ("coco", "refcoco", "grefcoco", "huggingface", "yolo")
Images = Literal["copy", "link", "none"]
MANIFEST = "manifest.json"

WITH_MASK = ("accepted", "edited", "relabelled", "drawn_after_rejection", "drawn")
_KNOWS_NO_REFERENT = ("grefcoco", "huggingface")
_SIGNATURES = (
    (b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
    (b"II*\0", ".tif"), (b"MM\0*", ".tif"),
)  # fmt: skip


class ExportError(SaymaskError):
    """The export cannot be made as asked; nothing half done is left under its name."""


@dataclass(frozen=True)
class ExportPlan:
    """What is asked for.

    Attributes:
        query: what was selected, for the manifest.
        skip_missing: leave out photos that cannot be read, instead of stopping.
        licence: of all photos, where known.
    """

    format: Format
    out: Path
    query: dict[str, Any]
    split: SplitRule
    images: Images
    merge: MergeRule
    polygons: bool = False
    categories: Mapping[str, str] | None = None
    licence: str | None = None
    skip_missing: bool = False


@dataclass(frozen=True)
class ExportSummary:
    """What was written, or would be."""

    photos: int
    referents: int
    expressions: int
    no_referent: int
    per_split: dict[str, int]
    per_outcome: dict[str, int]
    shared: int
    contradictions: int
    agreement_iou: float | None
    left_out: tuple[str, ...]
    model_versions: tuple[str, ...]


class Writer(Protocol):
    """One format. ``image_folder`` is where its photos lie, None when they are inside its files."""

    image_folder: str | None

    def add(self, photo: ExportPhoto, data: bytes | None) -> None: ...

    def close(self) -> None: ...


PhotoReader = Callable[[RecordView], bytes]
Progress = Callable[[int], None]


def outcomes_of(format_: Format, chosen: tuple[str, ...]) -> tuple[str, ...]:
    """Which outcomes a format can hold, restricted to the chosen ones."""
    able = (*WITH_MASK, NO_REFERENT) if format_ in _KNOWS_NO_REFERENT else WITH_MASK
    return tuple(name for name in able if not chosen or name in chosen)


def count_export(
    plan: ExportPlan, groups: Iterator[list[RecordView]], progress: Progress
) -> ExportSummary:
    """What an export would hold; nothing is read but records, nothing written."""
    tally = _Tally()
    for records in groups:
        photo = _build_photo(plan, records, ".jpg", tally)
        tally.add(photo)
        progress(len(records))
    return tally.summarise()


def run_export(
    plan: ExportPlan,
    groups: Iterator[list[RecordView]],
    read_photo: PhotoReader,
    photo_store: Path,
    progress: Progress,
    left_out: Sequence[str] = (),
) -> ExportSummary:
    """Write an export.

    Args:
        groups: records photo by photo, as ``Ledger.by_photo`` gives them.
        read_photo: gets the bytes of a record's photo.
        photo_store: with ``images="link"``, where photos are kept once for all exports.
        left_out: what was left out before, for the summary.

    Raises:
        ExportError: the directory exists, nothing was selected, a photo is missing or changed, or
            the disk is full. What was read so far is kept aside and used by the next try.
    """
    if plan.out.exists():
        raise ExportError(f"{plan.out} exists already.", "Name another directory, or remove it.")
    aside = plan.out.with_name(f".{plan.out.name}.partial")
    try:
        aside.mkdir(parents=True, exist_ok=True)
        photos = _PhotoBox(plan, aside, photo_store)
        summary = _write(plan, groups, read_photo, aside, photos, progress, left_out)
        if summary.referents == 0:
            shutil.rmtree(aside)
            raise ExportError(
                "Nothing was selected to export.",
                "Widen --project, --since, --outcome, --min-iou; see: saymask records list",
            )
        photos.forget_unused()
        _write_manifest(plan, summary, aside)
        os.replace(aside, plan.out)
    except OSError as error:
        raise ExportError(
            f"{plan.out} could not be written: {error}.",
            f"Make room or name another place. What was read stays in {aside} for the next try.",
        ) from error
    return summary


def _write(
    plan: ExportPlan,
    groups: Iterator[list[RecordView]],
    read_photo: PhotoReader,
    aside: Path,
    photos: _PhotoBox,
    progress: Progress,
    left_out: Sequence[str],
) -> ExportSummary:
    photos.clear_but_read()
    tally = _Tally(left_out)
    writer = _open_writer(plan, aside)
    try:
        for records in groups:
            try:
                data = photos.read(records, read_photo) if plan.images != "none" else None
            except SaymaskError as error:
                if not plan.skip_missing:
                    raise ExportError(
                        f"The photo of record {records[0].id} cannot be exported: {error.cause}",
                        f"{error.cure} Or leave such photos out: --skip-missing".strip(),
                    ) from error
                tally.left_out.append(f"record {records[0].id}: {error.cause}")
                progress(len(records))
                continue
            suffix = photos.suffix_of(data) if data is not None else ".jpg"
            photo = _build_photo(plan, records, suffix, tally)
            tally.add(photo)
            if photo.referents:
                writer.add(photo, data)
                if data is not None and writer.image_folder is not None:
                    photos.place(photo, writer.image_folder.format(split=photo.split))
            progress(len(records))
        summary = tally.summarise()
        if isinstance(writer, HuggingFaceWriter):
            writer.agreement = (summary.shared, summary.contradictions, summary.agreement_iou)
    finally:
        writer.close()
    return summary


def _open_writer(plan: ExportPlan, folder: Path) -> Writer:
    info = {"description": f"saymask {version('saymask')}", "split": plan.query["split"]}
    if plan.format == "huggingface":
        return HuggingFaceWriter(folder, info, with_images=plan.images != "none")
    writers: dict[str, Callable[..., Writer]] = {
        "coco": CocoWriter, "refcoco": RefcocoWriter, "grefcoco": GrefcocoWriter,
        "yolo": YoloWriter,
    }  # fmt: skip
    return writers[plan.format](folder, info, polygons=plan.polygons)


def _build_photo(
    plan: ExportPlan, records: list[RecordView], suffix: str, tally: _Tally
) -> ExportPhoto:
    first = records[0]
    sha256 = str(first.photo_sha256)
    sizes = {tuple(r.coco_rle["size"]) for r in records if r.coco_rle is not None}
    if len(sizes) > 1:
        raise ExportError(
            f"Masks of the photo {sha256[:12]} have different sizes: {sorted(sizes)}.",
            f"See: saymask records show {first.id}",
        )
    height, width = next(iter(sizes), (first.height_px or 1, first.width_px or 1))
    referents, conflicts = merge_photo(records, plan.merge, plan.categories or {})
    tally.conflicts(conflicts.shared, conflicts.contradictions, conflicts.ious)
    if plan.format not in _KNOWS_NO_REFERENT:
        referents = tuple(r for r in referents if r.coco_rle is not None)
    return ExportPhoto(
        sha256=sha256,
        file_name=f"{sha256[:32]}{suffix}",
        size_hw=(int(height), int(width)),
        source=first.photo if len(first.photo) < 500 else first.photo[:100] + " ...",
        licence=plan.licence,
        split=plan.split.choose(sha256),
        referents=referents,
    )


class _Tally:
    """Counts, as photos go by."""

    def __init__(self, left_out: Sequence[str] = ()) -> None:
        self.left_out = list(left_out)
        self._photos = self._referents = self._expressions = self._none = 0
        self._splits: dict[str, int] = {}
        self._outcomes: dict[str, int] = {}
        self._versions: set[str] = set()
        self._shared = self._contradictions = self._compared = 0
        self._iou_sum = 0.0

    def conflicts(self, shared: int, contradictions: int, ious: tuple[float, ...]) -> None:
        self._shared += shared
        self._contradictions += contradictions
        self._compared += len(ious)
        self._iou_sum += sum(ious)

    def add(self, photo: ExportPhoto) -> None:
        if not photo.referents:
            return
        self._photos += 1
        self._splits[photo.split] = self._splits.get(photo.split, 0) + 1
        for referent in photo.referents:
            self._referents += 1
            self._none += referent.coco_rle is None
            for sentence in referent.sentences:
                self._expressions += 1
                name = sentence.outcome
                self._outcomes[name] = self._outcomes.get(name, 0) + 1
                if sentence.model_version:
                    self._versions.add(sentence.model_version)

    def summarise(self) -> ExportSummary:
        mean = round(self._iou_sum / self._compared, 4) if self._compared else None
        return ExportSummary(
            photos=self._photos,
            referents=self._referents,
            expressions=self._expressions,
            no_referent=self._none,
            per_split=dict(sorted(self._splits.items())),
            per_outcome=dict(sorted(self._outcomes.items())),
            shared=self._shared,
            contradictions=self._contradictions,
            agreement_iou=mean,
            left_out=tuple(self.left_out),
            model_versions=tuple(sorted(self._versions)),
        )


class _PhotoBox:
    """Photos of an export: read once, checked against the hash they were annotated under."""

    FOLDER = "images"
    READ = ".read"

    def __init__(self, plan: ExportPlan, aside: Path, store: Path) -> None:
        self._plan = plan
        self._aside = aside
        self._kept = store if plan.images == "link" else aside / self.READ
        self._kept.mkdir(parents=True, exist_ok=True)

    def clear_but_read(self) -> None:
        """What an interrupted export wrote is written anew; the photos it read are kept."""
        for path in self._aside.iterdir():
            if path.is_dir() and path.name != self.READ:
                shutil.rmtree(path)
            elif not path.is_dir():
                path.unlink()

    def read(self, records: list[RecordView], read_photo: PhotoReader) -> bytes:
        """Bytes from an earlier try, else from where the task keeps them.

        Raises:
            SaymaskError: unreadable, or not the photo that was annotated.
        """
        sha256 = str(records[0].photo_sha256)
        path = self._kept / sha256
        if path.is_file():
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
        data = read_photo(records[0])
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ExportError(
                f"{records[0].photo[:120]} is not the photo that was annotated (its content"
                " changed).",
                "Put the old photo back.",
            )
        aside = path.with_name(f"{sha256}.writing")
        aside.write_bytes(data)
        os.replace(aside, path)
        return data

    @staticmethod
    def suffix_of(data: bytes) -> str:
        """By content, not by name."""
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return ".webp"
        return next((suffix for head, suffix in _SIGNATURES if data.startswith(head)), ".jpg")

    def place(self, photo: ExportPhoto, folder: str) -> None:
        """Give a photo its name in the export; a link, for the bytes are there already."""
        target = self._aside / folder / photo.file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        source = self._kept / photo.sha256
        try:
            os.link(source, target)
        except OSError:
            # Another file system, or one without links.
            shutil.copyfile(source, target)

    def forget_unused(self) -> None:
        """Drop what only this try needed."""
        shutil.rmtree(self._aside / self.READ, ignore_errors=True)


def _write_manifest(plan: ExportPlan, summary: ExportSummary, folder: Path) -> None:
    """What was asked, what came of it, and the hash of every file but the photos."""
    files = {
        path.relative_to(folder).as_posix(): _hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != _PhotoBox.FOLDER
    }
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
        "left_out": list(summary.left_out),
        "model_versions": list(summary.model_versions),
        "files": files,
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
