"""The messages between backend and worker, and the Redis keys and job names that both use.

JSON only. A message that does not validate is refused where it arrives. Fields that the receiver
does not know are ignored, so that a newer version may add some; the schema version changes whenever
a field changes its meaning, and a worker refuses other versions. In JSON an image is called
``photo``: names on the wire stay as they were when the first version wrote them.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from saymask.errors import InvalidRequest

SCHEMA_VERSION: Literal[1] = 1

# What a job is called on the queue. These are names, not import paths: a worker maps them to the
# methods of its job handler.
JOB_SEGMENT = "worker.jobs.segment"
JOB_PREPARE = "worker.jobs.prepare"
JOB_REFINE = "worker.jobs.refine"
JOB_TRAIN = "saymask.train"
JOB_PROPOSE = "saymask.propose"
# RQ would treat a longer run as lost.
TRAIN_TIMEOUT_S = 14 * 24 * 3600
# Each is first in, first out. Expressions about prepared images take milliseconds; other
# expressions, and images that an annotator waits for, take seconds.
QUEUE_PREPARED = "saymask-interactive-prepared"
QUEUE_INTERACTIVE = "saymask-interactive"
QUEUE_BACKGROUND = "saymask-background"
QUEUE_TRAINING = "saymask-training"

IMAGE_KEY = "saymask:photo:{sha256}"
# Lock, held while a lost job is replaced.
REPLACE_KEY = "saymask:replace:{job}"
REPLACE_S = 10
# Sorted set per host: worker names, each scored with the time until which it may be answering an
# annotator. Background workers on that host pause meanwhile.
ANSWERING_KEY = "saymask:answering:{host}"
# Hash: number of images ``prepared`` and ``failed`` in the background, and the ``last_failure``.
PREPARED_KEY = "saymask:prepared"
WORKER_KEY = "saymask:worker:{name}"
WORKER_KEY_PATTERN = "saymask:worker:*"
# Hash per image: names of the workers that process it, or crashed on it.
ATTEMPTS_KEY = "saymask:attempts:{sha256}"
HEARTBEAT_TTL_S = 6.0
HEARTBEAT_INTERVAL_S = 1.5

# In a job's meta: the call on whose behalf it was enqueued, for the worker's log.
CALL_META = "call"
# In a preparation's meta, as soon as an annotator waits for it.
AWAITED_META = "awaited"
# In the training job's meta: its ``TrainingStatus``. There is one job, that of the newest run.
TRAINING_META = "training"
TRAINING_JOB_ID = "saymask-train"

PROPOSALS_SOURCE = "proposals"
"""The source of candidates that is always available; ``CLICKS_SOURCE`` is clicks and boxes."""
CLICKS_SOURCE = "clicks"

NOTHING_MEANT = "The photo may not show this. If so, choose 'no referent'."
"""The notice in a result when the image probably shows no referent."""

MAX_EXPRESSION_CHARS = 2000
MAX_K = 50
MAX_CLICKS = 100

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ImageSha256 = Annotated[Sha256, Field(alias="photo_sha256")]


def normalise_expression(text: str) -> str:
    """Return the text in Unicode's composed form (NFC).

    Keyboards, browsers and files spell the same letter in one code point or in two, which look the
    same and compare as different. Everything that brings expressions in calls this once: Label
    Studio's fields and task data, datasets, tables and command lines.
    """
    return unicodedata.normalize("NFC", text)


def check_k(k: int) -> None:
    """Raise InvalidRequest if this number of candidates is not allowed."""
    if not 1 <= k <= MAX_K:
        raise InvalidRequest(f"k must be from 1 to {MAX_K}, got {k}.")


class _Message(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, serialize_by_alias=True
    )


class CocoRle(_Message):
    """COCO run-length encoding: column-major, compressed ``counts``; ``size`` is (H, W)."""

    size: tuple[int, int]
    counts: str

    def as_dict(self) -> dict[str, Any]:
        """Return ``{"size": [H, W], "counts": str}``."""
        return {"size": list(self.size), "counts": self.counts}


class SegmentRequest(_Message):
    """One referring expression for one image, whose bytes are in Redis under ``IMAGE_KEY``.

    Attributes:
        accepts_first_look: an image that is not prepared yet may get a first look instead.
        prepares: an image that is not prepared yet is prepared by the same job. Otherwise a worker
            that does not have it answers with ``ImageNotPrepared``.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    image_sha256: ImageSha256
    expression: str = Field(min_length=1, max_length=MAX_EXPRESSION_CHARS)
    k: int = Field(ge=1, le=MAX_K)
    accepts_first_look: bool = False
    prepares: bool = False


class Click(_Message):
    """A point in the image, pixels; ``positive`` when it belongs to the referent."""

    x: float = Field(ge=0, allow_inf_nan=False)
    y: float = Field(ge=0, allow_inf_nan=False)
    positive: bool


class RefineRequest(_Message):
    """Masks for clicks or a box, for an expression that may have been typed before.

    Attributes:
        box_xyxy: left, top, right, bottom in pixels, or None.
        start: the candidate to be changed, or None.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    image_sha256: ImageSha256
    expression: str = Field(max_length=MAX_EXPRESSION_CHARS)
    clicks: tuple[Click, ...] = Field(max_length=MAX_CLICKS)
    box_xyxy: tuple[float, float, float, float] | None = None
    start: CocoRle | None = None
    k: int = Field(ge=1, le=MAX_K)


class PrepareRequest(_Message):
    """Prepare an image before any expression is typed for it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    image_sha256: ImageSha256


Describer = Literal["rules", "endpoint"]
"""What writes proposed expressions: rules about nouns, colours and places, or a chat server."""


class ProposeRequest(_Message):
    """Propose expressions for the objects of an image, each with its mask.

    Attributes:
        count: maximum number of objects.
        confidence_min: objects of lower confidence are left out.
        seed: for the choice among usual wordings; equal seeds give equal expressions.
        prepares: as in ``SegmentRequest``.
        describer: what writes the expressions.
        accepted: expressions that are true of the image; where there are any, false ones are made
            of them instead, at most ``count``.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    image_sha256: ImageSha256
    count: int = Field(ge=1, le=MAX_K)
    confidence_min: float = Field(ge=0, le=1)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    prepares: bool = False
    describer: Describer = "rules"
    accepted: tuple[str, ...] = ()


class TrainRequest(_Message):
    """Train a model on exported records, and serve it if it is better.

    Attributes:
        project_id: whose records; 0 for all.
        run: folder in the folder of models, which holds the export as ``data``.
        epochs: passes over the records, or None for the worker's default.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    project_id: int = Field(ge=0)
    run: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    epochs: int | None = Field(None, ge=1, le=10_000)


class Candidate(_Message):
    """A proposal ranked against the expression.

    Attributes:
        rank: 1 is best.
        score: sum of the scoring terms, comparable within one image and one model version; with
            several sources, the log-odds of being the referent.
        mask: at original image size (after EXIF orientation).
        box_xywh: tight box of the mask, pixels.
        predicted_iou, stability_score: the generator's estimate of its own mask, 0 to 1.
        confidence: probability, 0 to 1, that it is the referent; None where it is unknown.
        source: proposals, clicks, or a source of ``SAYMASK_SOURCES``.
    """

    rank: int = Field(ge=1)
    score: float
    mask: CocoRle
    box_xywh: tuple[int, int, int, int]
    predicted_iou: float
    stability_score: float
    confidence: float | None = None
    source: str = Field(PROPOSALS_SOURCE, min_length=1, max_length=64)


class Timings(_Message):
    """Milliseconds per stage; 0 for a stage that was served from the cache."""

    decode_ms: float = 0.0
    proposals_ms: float = 0.0
    visual_features_ms: float = 0.0
    language_ms: float = 0.0
    text_features_ms: float = 0.0
    scoring_ms: float = 0.0
    sources_ms: float = 0.0
    refine_ms: float = 0.0


class SegmentResult(_Message):
    """The ranked candidates for one expression.

    Attributes:
        size_hw: original image size after EXIF orientation.
        confidence: probability, 0 to 1, that rank 1 is the referent; None where it is unknown.
        head_noun_phrase: the phrase that was scored in addition to the sentence, or None.
        notices: messages for the annotator (expression truncated, no noun found, ...).
        from_cache: whether the image had been prepared before.
        is_first_look: whether the answer is a first look.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    image_sha256: ImageSha256
    expression: str
    size_hw: tuple[int, int]
    candidates: tuple[Candidate, ...]
    confidence: float | None = None
    head_noun_phrase: str | None
    notices: tuple[str, ...] = ()
    proposals_count: int
    model_version: str
    from_cache: bool
    is_first_look: bool = False
    timings: Timings


class ProposedPair(_Message):
    """An object, and expressions that refer to it.

    Attributes:
        expressions: wordings with which the pipeline finds the object, the usual one first.
        noun: the object's name.
        confidence: probability that the first expression refers to the object, 0 to 1.
        candidate: the object's mask; rank 1 is the object of the highest confidence.
        described_by: the model that wrote the expressions; empty for rules.
    """

    expressions: tuple[str, ...] = Field(min_length=1)
    noun: str
    confidence: float
    candidate: Candidate
    described_by: str = ""


class FalseExpression(_Message):
    """An expression that fits nothing in the image: an ``accepted`` one with one word changed."""

    expression: str
    accepted: str


class ProposeResult(_Message):
    """The proposed pairs of an image, the most certain first; or false expressions.

    ``false`` is None where no expressions were sent, or the worker does not know them.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    image_sha256: ImageSha256
    size_hw: tuple[int, int]
    pairs: tuple[ProposedPair, ...]
    false: tuple[FalseExpression, ...] | None = None
    model_version: str
    from_cache: bool
    timings: Timings


class PrepareResult(_Message):
    """The result of preparing an image."""

    schema_version: Literal[1] = SCHEMA_VERSION
    image_sha256: ImageSha256
    proposals_count: int
    model_version: str
    from_cache: bool
    timings: Timings


class TrainResult(_Message):
    """The result of a training run.

    Attributes:
        run: its folder.
        held_out_iou: mean IoU of the model alone on held-out images.
        is_served: whether the model is in use from now on.
        difference: of the mean IoU of rank 1 on held-out images, with the model minus before;
            ``low`` and ``high`` bound its 95 % interval.
    """

    run: str
    held_out_iou: float
    is_served: bool
    difference: float
    low: float
    high: float


TrainingState = Literal["waiting", "training", "comparing", "served", "not better", "failed"]


class TrainingStatus(_Message):
    """The progress of a training run, in its job's meta.

    Attributes:
        state: ``waiting`` for a worker, at work, or how it ended.
        epoch: number of finished epochs, of ``epochs``.
        loss: of the last epoch; ``held_out_iou`` after it.
        seconds_left: of training, estimated.
        text: the outcome or the error, for people.
        updated_at: seconds since 1970.
    """

    run: str
    project_id: int
    state: TrainingState
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    held_out_iou: float | None = None
    seconds_left: float | None = None
    text: str = ""
    updated_at: float

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.state in ("served", "not better", "failed")


class JobFailure(_Message):
    """An error that crossed the queue; ``code`` names a class of ``saymask.errors``."""

    code: str
    cause: str
    cure: str


class JobReply(_Message):
    """What every job returns: a result or a failure, exactly one of the five."""

    segment: SegmentResult | None = None
    prepare: PrepareResult | None = None
    propose: ProposeResult | None = None
    train: TrainResult | None = None
    failure: JobFailure | None = None

    @model_validator(mode="after")
    def _require_one_part(self) -> Self:
        parts = [name for name in JobReply.model_fields if getattr(self, name) is not None]
        if len(parts) != 1:
            raise ValueError(
                f"a reply has exactly one part, this one has: {', '.join(parts) or 'none'}"
            )
        return self


Queues = Literal["all", "interactive", "background", "training"]


class WorkerStatus(_Message):
    """A worker's heartbeat, sent every ``HEARTBEAT_INTERVAL_S`` seconds."""

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

    def serves(self, *, background: bool) -> bool:
        """Return whether the worker takes jobs of the background or the interactive queue."""
        return self.queues in ("all", "background" if background else "interactive")


def build_job_id(kind: str, model_version: str, message: _Message) -> str:
    """Return the job id: equal image, expression, k and configuration share one result."""
    values = message.model_dump(mode="json")
    # A flag that is not set leaves the id as it was before there was such a flag.
    values = {name: value for name, value in values.items() if value is not False}
    body = json.dumps(values, sort_keys=True, ensure_ascii=True)
    digest = hashlib.sha256(f"{kind}\n{model_version}\n{body}".encode()).hexdigest()
    return f"saymask-{kind}-{digest[:32]}"
