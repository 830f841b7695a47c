"""The messages that cross Redis between backend and worker, and the names both use.

JSON only. A message that does not validate is refused where it arrives. The schema
version changes whenever a field changes meaning; a worker refuses other versions.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal[1] = 1

JOB_SEGMENT = "worker.jobs.segment"
JOB_PREPARE = "worker.jobs.prepare"
JOB_REFINE = "worker.jobs.refine"
QUEUE_INTERACTIVE = "saymask-interactive"
QUEUE_BACKGROUND = "saymask-background"

PHOTO_KEY = "saymask:photo:{sha256}"
# Names of the workers of a machine that answer somebody now, each with the time it counts until;
# photos nobody looks at wait.
ANSWERING_KEY = "saymask:answering:{host}"
# A hash: photos ``prepared`` and ``failed`` ahead of any expression, and the ``last_failure``.
PREPARED_KEY = "saymask:prepared"
WORKER_KEY = "saymask:worker:{name}"
WORKER_KEY_PATTERN = "saymask:worker:*"
WORKER_TTL_S = 6.0
WORKER_BEAT_S = 1.5

MAX_EXPRESSION_CHARS = 2000
MAX_K = 50
MAX_CLICKS = 100

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CocoRle(_Message):
    """COCO run-length encoding: column-major, compressed ``counts``; ``size`` is (H, W)."""

    size: tuple[int, int]
    counts: str

    def as_dict(self) -> dict[str, Any]:
        return {"size": list(self.size), "counts": self.counts}


class SegmentRequest(_Message):
    """One expression for one photo. The bytes lie in Redis under ``PHOTO_KEY``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    photo_sha256: Sha256
    expression: str = Field(min_length=1, max_length=MAX_EXPRESSION_CHARS)
    k: int = Field(ge=1, le=MAX_K)


class Click(_Message):
    """A place in the photo, pixels; ``positive`` when it belongs to what is meant."""

    x: float = Field(ge=0, allow_inf_nan=False)
    y: float = Field(ge=0, allow_inf_nan=False)
    positive: bool


class RefineRequest(_Message):
    """Masks for clicks or a box, for an expression that may have been typed before.

    Attributes:
        box_xyxy: left, top, right, bottom in pixels, or None.
        start: the candidate that is to be changed, or None.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    photo_sha256: Sha256
    expression: str = Field(max_length=MAX_EXPRESSION_CHARS)
    clicks: tuple[Click, ...] = Field(max_length=MAX_CLICKS)
    box_xyxy: tuple[float, float, float, float] | None = None
    start: CocoRle | None = None
    k: int = Field(ge=1, le=MAX_K)


class PrepareRequest(_Message):
    """Prepare a photo ahead of any expression."""

    schema_version: Literal[1] = SCHEMA_VERSION
    photo_sha256: Sha256


class Candidate(_Message):
    """A proposal ranked against the expression.

    Attributes:
        rank: 1 is best.
        score: how well it fits, comparable within one photo and one model version.
        mask: at original photo size (after EXIF orientation).
        box_xywh: tight box of the mask, pixels.
        predicted_iou, stability_score: the generator's own opinion of the mask, 0 to 1.
    """

    rank: int = Field(ge=1)
    score: float
    mask: CocoRle
    box_xywh: tuple[int, int, int, int]
    predicted_iou: float
    stability_score: float


class Timings(_Message):
    """Milliseconds per stage; a stage that was served from the cache says 0."""

    decode_ms: float = 0.0
    proposals_ms: float = 0.0
    visual_features_ms: float = 0.0
    language_ms: float = 0.0
    text_features_ms: float = 0.0
    scoring_ms: float = 0.0
    refine_ms: float = 0.0


class SegmentResult(_Message):
    """What the worker found.

    Attributes:
        size_hw: original photo size after EXIF orientation.
        confidence: 0 to 1, how sure it is that the first candidate is what is meant; None where
            nothing is known.
        head_noun_phrase: the phrase that was scored beside the sentence, or None.
        notices: things a person should know (expression truncated, no noun found, ...).
        from_cache: the photo was already prepared.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    photo_sha256: Sha256
    expression: str
    size_hw: tuple[int, int]
    candidates: tuple[Candidate, ...]
    confidence: float | None = None
    head_noun_phrase: str | None
    notices: tuple[str, ...] = ()
    proposals_count: int
    model_version: str
    from_cache: bool
    timings: Timings


class PrepareResult(_Message):
    schema_version: Literal[1] = SCHEMA_VERSION
    photo_sha256: Sha256
    proposals_count: int
    model_version: str
    from_cache: bool
    timings: Timings


class JobFailure(_Message):
    """An error that crossed the queue: ``code`` names a class of ``backend.errors``."""

    code: str
    cause: str
    cure: str


class JobReply(_Message):
    """Every job returns exactly one of these."""

    segment: SegmentResult | None = None
    prepare: PrepareResult | None = None
    failure: JobFailure | None = None


Queues = Literal["all", "interactive", "background"]


class WorkerStatus(_Message):
    """What a worker says about itself every ``WORKER_BEAT_S`` seconds."""

    name: str
    pid: int
    host: str
    state: Literal["loading", "idle", "busy"]
    model_version: str
    encoder: str
    proposals: str
    device: str
    started_at: float
    rss_mb: float
    jobs_done: int
    queues: Queues = "all"
    cache_entries: int = 0
    cache_mb: float = 0.0
    cache_hits: int = 0
    cache_misses: int = 0

    @property
    def answers_people(self) -> bool:
        """Whether it takes typed expressions, and not only photos to prepare."""
        return self.serves(background=False)

    def serves(self, *, background: bool) -> bool:
        """Whether it takes jobs of that queue."""
        return self.queues in ("all", "background" if background else "interactive")


def build_job_id(kind: str, model_version: str, message: _Message) -> str:
    """Same photo, expression, k and configuration: same id, so the result is shared."""
    body = json.dumps(message.model_dump(mode="json"), sort_keys=True, ensure_ascii=True)
    digest = hashlib.sha256(f"{kind}\n{model_version}\n{body}".encode()).hexdigest()
    return f"saymask-{kind}-{digest[:32]}"
