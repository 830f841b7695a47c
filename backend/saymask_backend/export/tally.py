"""Counting an export while its images go by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from saymask_backend.export.merge import Conflicts
from saymask_backend.export.model import ExportImage
from saymask_backend.export.plan import ExportSummary


class Tally:
    """Counts of one export; ``left_out`` grows with the images that could not be read."""

    def __init__(self, left_out: Sequence[str] = ()) -> None:
        self.left_out = list(left_out)
        self._images = self._referents = self._expressions = self._no_referent = 0
        self._turned = 0
        self._splits: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._versions: set[str] = set()
        self._shared = self._contradictions = self._compared = 0
        self._iou_sum = 0.0

    def add_conflicts(self, conflicts: Conflicts) -> None:
        """Count how annotators agreed on one image."""
        self._shared += conflicts.shared
        self._contradictions += conflicts.contradictions
        self._compared += len(conflicts.ious)
        self._iou_sum += sum(conflicts.ious)

    def add(self, image: ExportImage) -> None:
        """Count an image and its referents."""
        if not image.referents:
            return
        self._images += 1
        self._turned += image.is_turned
        self._splits[image.split] += 1
        for referent in image.referents:
            self._referents += 1
            self._no_referent += referent.coco_rle is None
            for sentence in referent.sentences:
                self._expressions += 1
                self._outcomes[sentence.outcome] += 1
                if sentence.model_version:
                    self._versions.add(sentence.model_version)

    def summarise(self) -> ExportSummary:
        """Return the counts so far."""
        mean = round(self._iou_sum / self._compared, 4) if self._compared else None
        return ExportSummary(
            photos=self._images,
            referents=self._referents,
            expressions=self._expressions,
            no_referent=self._no_referent,
            per_split=dict(sorted(self._splits.items())),
            per_outcome=dict(sorted(self._outcomes.items())),
            shared=self._shared,
            contradictions=self._contradictions,
            agreement_iou=mean,
            turned=self._turned,
            left_out=tuple(self.left_out),
            model_versions=tuple(sorted(self._versions)),
        )
