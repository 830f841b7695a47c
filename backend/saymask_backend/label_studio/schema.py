"""Label Studio's JSON as pydantic models: everything that comes from it is validated here, once.

Observed with Label Studio 1.23. Unknown fields are ignored, for every version adds some.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SkipValidation,
    Tag,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from saymask.contract import MAX_K, normalise_expression
from saymask.errors import SaymaskError
from saymask_backend.records.types import ProjectKey

MAX_ID = 2**31 - 1
_MAX_SIDE_PX = 100_000
_MAX_ERRORS_SHOWN = 3
_MAX_DIGITS = 12
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)

Model = TypeVar("Model")


def to_storable(text: str) -> str:
    """Replace null characters and lone surrogates: legal in JSON, refused by databases."""
    return text.replace("\0", " ").encode("utf-8", errors="replace").decode("utf-8")


def _clean(value: object) -> object:
    return to_storable(value) if isinstance(value, str) else value


def _only_mapping(value: object) -> object:
    """Return an empty mapping for a task without data; the missing photo is reported later."""
    return value if isinstance(value, dict) else {}


def _only_list(value: object) -> object:
    """Return an empty list for drafts of another shape: they are looked at, never needed."""
    return value if isinstance(value, list) else []


def _to_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _drop_paths(value: object) -> object:
    """Choices without nested ones, which are lists: they are the project's own."""
    return [v for v in value if not isinstance(v, list)] if isinstance(value, list) else value


def _none_to(empty: object) -> BeforeValidator:
    """For fields that may be null."""
    return BeforeValidator(lambda value: empty if value is None else value)


def _split_versions(value: object) -> object:
    """Model versions, which come as a list or separated by commas."""
    versions = value.split(",") if isinstance(value, str) else value or ()
    if not isinstance(versions, list | tuple | frozenset):
        return versions
    return frozenset(name.strip() for name in map(str, versions) if name.strip())


def to_utc(moment: datetime) -> datetime:
    """A time in UTC that every database can keep."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        utc = aware.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time cannot be expressed in UTC") from error
    if not _EARLIEST <= utc < _LATEST:
        raise ValueError(f"the time must lie in {_EARLIEST.year} to {_LATEST.year}, got {utc}")
    return utc


def _read_project_name(value: object) -> object:
    """``"<id>.<unix time>"`` or a number."""
    number, _, created = str(value or 0).partition(".")
    if not number.isdecimal() or len(number) > _MAX_DIGITS or int(number) > MAX_ID:
        raise ValueError(f"expected the number of a project, got {str(value)[:40]!r}")
    is_time = created.isdecimal() and len(created) <= _MAX_DIGITS
    return ProjectKey(int(number), int(created) if is_time else 0)


def _read_user(value: object) -> object:
    """A user id, or in some answers of the API an object with one."""
    user_id = value.get("id") if isinstance(value, dict) else value
    return to_storable(str(user_id))[:200] if user_id is not None else None


def _read_seconds(value: object) -> float | None:
    """Seconds, or None for anything that cannot be a duration."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if value >= 0 else None


Text = Annotated[str, BeforeValidator(_clean)]
OptionalText = Annotated[Text, _none_to("")]
Texts = Annotated[list[Text], BeforeValidator(_to_list)]
Expression = Annotated[Text, AfterValidator(normalise_expression)]
Expressions = Annotated[list[Expression], BeforeValidator(_to_list)]
Id = Annotated[int, Field(ge=0, le=MAX_ID)]
OptionalId = Annotated[Id, _none_to(0)]
OptionalDict = Annotated[dict[str, Any], _none_to({})]
UtcTime = Annotated[datetime, AfterValidator(to_utc)]
Side = Annotated[int, Field(gt=0, lt=_MAX_SIDE_PX)]
Percent = Annotated[float, Field(allow_inf_nan=False)]


class Body(BaseModel):
    """Base of all models: frozen, unknown fields ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Numbered(Body):
    """An object of which only the id is read."""

    id: Id


class TaskBody(Body):
    """A task; ``data`` holds whatever the project's labelling config refers to."""

    id: OptionalId = 0
    data: Annotated[dict[Any, Any], BeforeValidator(_only_mapping)] = Field(default_factory=dict)
    annotations: Annotated[list[dict[str, Any]], _none_to([])] = Field(default_factory=list)
    drafts: Annotated[list[Any], BeforeValidator(_only_list)] = Field(default_factory=list)
    total_annotations: Annotated[int, _none_to(0)] = 0
    predictions_model_versions: Annotated[frozenset[str], BeforeValidator(_split_versions)] = (
        frozenset()
    )


class _TextValue(Body):
    text: Expressions = Field(default_factory=list)


class _ChoicesValue(Body):
    choices: Annotated[Texts, BeforeValidator(_drop_paths)] = Field(default_factory=list)


class BrushValue(Body):
    """A mask as RLE."""

    rle: list[int]
    labels: list[Text] = Field(default_factory=list, alias="brushlabels")


class BitmaskValue(Body):
    """A mask as the address of a picture, which holds the picture itself."""

    image: str = Field(alias="imageDataURL")
    labels: list[Text] = Field(default_factory=list, alias="bitmasklabels")


MaskValue = BrushValue | BitmaskValue


class _PointValue(Body):
    x: Percent
    y: Percent


class _BoxValue(_PointValue):
    width: Percent
    height: Percent


class _Entry(Body):
    id: OptionalText = ""
    from_name: OptionalText = ""
    type: OptionalText = ""
    origin: OptionalText = "manual"


class _SizedEntry(_Entry):
    original_width: Side
    original_height: Side

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image, pixels."""
        return self.original_height, self.original_width


class TextEntry(_Entry):
    """The content of a TextArea, of the image or of one region."""

    value: _TextValue = Field(default_factory=_TextValue)


class ChoicesEntry(_Entry):
    """The selection of a Choices tag."""

    value: _ChoicesValue = Field(default_factory=_ChoicesValue)


class MaskEntry(_SizedEntry):
    """A region with a mask."""

    id: Text = Field(min_length=1)
    value: MaskValue


class BrushEntry(MaskEntry):
    """A brush region; without any label its type is ``brush``."""

    value: BrushValue


class BitmaskEntry(MaskEntry):
    """A bitmask region; without any label its type is ``bitmask``."""

    value: BitmaskValue


class ClickEntry(_SizedEntry):
    """A keypoint, in per cent of the image's sides."""

    value: _PointValue
    is_positive: bool = True


class BoxEntry(_SizedEntry):
    """A rectangle, in per cent of the image's sides."""

    value: _BoxValue


class OtherEntry(_Entry):
    """A region or choice of a kind that saymask does not use."""


_KINDS = {
    "textarea": "text entry",
    "choices": "choices entry",
    "brush": "brush entry",
    "brushlabels": "brush entry",
    "bitmask": "bitmask entry",
    "bitmasklabels": "bitmask entry",
    "keypoint": "click entry",
    "keypointlabels": "click entry",
    "rectangle": "box entry",
    "rectanglelabels": "box entry",
}
_MASK_KINDS = ("brush entry", "bitmask entry")


def discriminate_by(field: str, tags: Mapping[str, str]) -> Discriminator:
    """Choose the member of a union by a field's value; ``other kind`` for unknown values."""

    def find_tag(body: object) -> str:
        value = body.get(field) if isinstance(body, dict) else getattr(body, field, None)
        return tags.get(str(value), "other kind")

    return Discriminator(find_tag)


def _find_kind(body: object) -> str:
    """The kind of a result entry, by its type.

    The editor gives the selected label to fields too when a suggestion changes them; such an
    entry of a mask's type has no mask.
    """
    if not isinstance(body, dict):
        return _KINDS.get(getattr(body, "type", ""), "other kind")
    type_name = str(body.get("type"))
    kind = _KINDS.get(type_name, "other kind")
    value = body.get("value")
    is_label_alone = isinstance(value, dict) and value.keys() == {type_name}
    return "other kind" if kind in _MASK_KINDS and is_label_alone else kind


ResultEntry = Annotated[
    Annotated[TextEntry, Tag("text entry")]
    | Annotated[ChoicesEntry, Tag("choices entry")]
    | Annotated[BrushEntry, Tag("brush entry")]
    | Annotated[BitmaskEntry, Tag("bitmask entry")]
    | Annotated[ClickEntry, Tag("click entry")]
    | Annotated[BoxEntry, Tag("box entry")]
    | Annotated[OtherEntry, Tag("other kind")],
    Discriminator(_find_kind),
]


class _Context(Body):
    result: list[ResultEntry]


class _Params(Body):
    context: _Context | None = None
    k: int | None = None

    @field_validator("k", mode="before")
    @classmethod
    def _check_k(cls, value: object) -> object:
        if value is None or (type(value) is int and 1 <= value <= MAX_K):
            return value
        raise ValueError(f"k must be a whole number from 1 to {MAX_K}, got {value!r}")


class PredictBody(Body):
    """The body of ``POST /predict``. ``project`` arrives as ``"<id>.<unix time>"``.

    Tasks are validated one by one, so that an odd one takes nothing from the others.
    """

    tasks: list[SkipValidation[TaskBody]] = Field(min_length=1)
    label_config: Text = Field(min_length=1)
    project: Annotated[
        ProjectKey,
        BeforeValidator(_read_project_name),
        WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,12})?$"}),
    ] = Field(ProjectKey(0), validate_default=False)
    params: Annotated[_Params, _none_to({})] = Field(default_factory=_Params)

    @model_validator(mode="after")
    def _check_task_count(self) -> PredictBody:
        if self.params.context is not None and len(self.tasks) != 1:
            raise ValueError(f"a typed expression belongs to one task, got {len(self.tasks)}")
        return self


class AnnotationBody(Body):
    """An annotation, from a webhook or from the API.

    ``content_hash`` is equal for states in which result and skip are equal, whichever way they
    came.
    """

    id: Id
    result: list[ResultEntry]
    updated_at: UtcTime
    was_cancelled: bool | None = False
    completed_by: Annotated[str | None, BeforeValidator(_read_user)] = None
    lead_time: Annotated[float | None, BeforeValidator(_read_seconds)] = None
    content_hash: str = ""

    @model_validator(mode="before")
    @classmethod
    def _hash(cls, data: object) -> object:
        return {**data, "content_hash": hash_content(data)} if isinstance(data, dict) else data


def hash_content(annotation: dict[str, Any]) -> str:
    """Return the hash of an annotation's result and skip; equal for a webhook and the API."""
    content = {
        "result": annotation.get("result"),
        "skipped": annotation.get("was_cancelled") is True,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def validate(
    parse: Callable[[Any], Model], value: object, error: type[SaymaskError], what: str
) -> Model:
    """Validate parsed JSON with a model's ``model_validate`` or an adapter's ``validate_python``.

    Raises:
        SaymaskError: of class ``error``; its message begins with ``what`` and names each wrong
            field.
    """
    try:
        return parse(value)
    except ValidationError as problem:
        raise error(f"{what} is not valid: {_describe(problem, value)}.") from problem


def _describe(problem: ValidationError, value: object) -> str:
    lines = []
    for item in problem.errors(include_url=False, include_context=False)[:_MAX_ERRORS_SHOWN]:
        # The path holds the tags of unions too; only they contain a space.
        path = [part for part in item["loc"] if " " not in str(part)]
        region_id = _find_region_id(value, path)
        place = ".".join(map(str, path))
        message = item["msg"].removeprefix("Value error, ")
        named = f"Region {region_id}, {place}" if region_id else place
        lines.append(f"{named}: {message}" if named else message)
    return "; ".join(lines)


def _find_region_id(value: Any, path: list[int | str]) -> str | None:
    """The editor's id of the result entry that a path leads into, or None."""
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
        if isinstance(value, dict) and "from_name" in value:
            return str(value.get("id"))
    return None
