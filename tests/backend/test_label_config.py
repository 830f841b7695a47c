"""Labelling configs as real projects have them: the recommended one, and what they add to it."""

from __future__ import annotations

from typing import Any

import pytest

from saymask.errors import InvalidLabelConfig
from saymask_backend.label_studio.label_config import default_label_config, load_label_config
from saymask_backend.records.stores import Stores
from tests.backend.submissions import A, process
from tests.factories import annotation, brush, event, offer, typed, verdict

OWN_FIELDS = {
    "text": '<TextArea name="remark" toName="image" smart="false" rows="1"/>',
    "text of a region": '<TextArea name="note" toName="image" perRegion="true" smart="false"/>',
    "choice of a region": (
        '<Choices name="occlusion" toName="image" perRegion="true" smart="false">'
        '<Choice value="visible"/><Choice value="ambiguous"/></Choices>'
    ),
    "rating": '<Rating name="stars" toName="image" perRegion="true" smart="false"/>',
    "number": '<Number name="count" toName="image" perRegion="true" smart="false"/>',
    "taxonomy": (
        '<Taxonomy name="kind" toName="image" perRegion="true" smart="false">'
        '<Choice value="thing"><Choice value="helmet"/></Choice></Taxonomy>'
    ),
    "polygons": (
        '<PolygonLabels name="outline" toName="image" smart="false"><Label value="roof"/>'
        "</PolygonLabels>"
    ),
    "landmarks": (
        '<KeyPointLabels name="landmark" toName="image"><Label value="nose"/></KeyPointLabels>'
    ),
    "relations": '<Relations><Relation value="beside"/></Relations>',
    "words": '<Header value="Read the guide"/>',
}


def build_config(*fields: str) -> str:
    """The recommended config with a project's own fields before ours."""
    return default_label_config().replace(
        '<View className="saymask-expression">',
        f'{"".join(fields)}<View className="saymask-expression">',
    )


@pytest.mark.parametrize("fields", [*([f] for f in OWN_FIELDS.values()), OWN_FIELDS.values()])
def test_own_fields_are_not_taken_for_ours(fields: list[str]) -> None:
    assert load_label_config(build_config(*fields)) == load_label_config(default_label_config())


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ('<TextArea name="remark" toName="image"/>', r'smart TextArea.*"remark", "expression"'),
        ('<BrushLabels name="parts" toName="image"><Label value="x"/></BrushLabels>', '"parts"'),
        ('<Image name="second" value="$second"/>', '"second"'),
    ],
)
def test_what_cannot_be_told_from_ours_is_refused_by_name(field: str, named: str) -> None:
    with pytest.raises(InvalidLabelConfig, match=named):
        load_label_config(build_config(field))


def test_of_several_texts_of_a_region_the_one_with_our_name_is_taken() -> None:
    config = default_label_config().replace('name="region_expression"', 'name="words"')
    assert load_label_config(config).region_expression == "words"
    both = config.replace("</View>\n", f"{OWN_FIELDS['text of a region']}</View>\n")
    with pytest.raises(InvalidLabelConfig, match=r'"words", "note"') as caught:
        load_label_config(both)
    assert '"region_expression"' in caught.value.cure


def with_config(body: dict[str, Any], config: str) -> dict[str, Any]:
    return {**body, "project": {**body["project"], "label_config": config}}


ALIASES = (
    default_label_config()
    .replace('<Label value="top-1"', '<Label value="top-1" alias="best"')
    .replace('<Choice value="no referent"', '<Choice value="no referent" alias="none"')
    .replace('<Choice value="ambiguous"', '<Choice value="mehrdeutig" alias="ambiguous"')
)


@pytest.mark.parametrize("label", ["best", "top-1"])
def test_a_label_may_have_an_alias(stores: Stores, label: str) -> None:
    config = load_label_config(ALIASES)
    assert [config.label_for_rank(rank) for rank in (1, 2, 9)] == ["best", "top-2", "top-5"]
    (name,) = offer(stores, 1, "the cat", [A])
    body = event(1, annotation(5, brush(name, A, label, "prediction", "the cat")))
    (record,) = process(stores, with_config(body, ALIASES))
    assert record.outcome == "accepted"


@pytest.mark.parametrize(
    ("choice", "outcome"),
    [
        ("none", "no_referent"), ("no referent", "no_referent"), ("ambiguous", "ambiguous"),
        ("mehrdeutig", "ambiguous"), ("other", "no_mask"),
    ],
)  # fmt: skip
def test_a_verdict_may_have_an_alias(stores: Stores, choice: str, outcome: str) -> None:
    body = event(1, annotation(5, [typed("the cat"), verdict(choice)]))
    (record,) = process(stores, with_config(body, ALIASES))
    assert record.outcome == outcome
    assert load_label_config(ALIASES).choice_for("no referent") == "none"


def of_region(region: dict[str, Any], name: str, kind: str, value: Any) -> dict[str, Any]:
    """A field of a region, as Label Studio sends it: with the region's own value."""
    return {**region, "from_name": name, "type": kind, "value": {**region["value"], **value}}


def test_what_people_say_about_regions_is_left_out_and_named(stores: Stores) -> None:
    (name,) = offer(stores, 1, "the cat", [A])
    region, text = brush(name, A, "top-1", "prediction", "the cat")
    result = [
        region, text, typed("the cat"),
        of_region(region, "note", "textarea", {"text": ["a very old cat"]}),
        of_region(region, "occlusion", "choices", {"choices": ["ambiguous"]}),
        of_region(region, "nested", "choices", {"choices": [["thing", "cat"]]}),
        of_region(region, "stars", "rating", {"rating": 4}),
        of_region(region, "count", "number", {"number": 2}),
        of_region(region, "kind", "taxonomy", {"taxonomy": [["thing", "cat"]]}),
        {"type": "relation", "from_id": name, "to_id": "x", "direction": "right", "labels": []},
        {**typed("so far so good"), "from_name": "remark", "id": None},
    ]  # fmt: skip
    body = event(1, annotation(5, result))
    (record,) = process(stores, with_config(body, build_config(*OWN_FIELDS.values())))
    assert (record.outcome, record.expression) == ("accepted", "the cat")
    assert record.notes == [
        "2 of type choices left out", "1 of type number left out", "1 of type rating left out",
        "1 of type relation left out", "1 of type taxonomy left out",
        "2 of type textarea left out",
    ]  # fmt: skip
