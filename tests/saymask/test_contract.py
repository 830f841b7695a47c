"""Replies on the queue: exactly one part, the same JSON as ever."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from saymask.contract import JobReply

SHA256 = "0" * 64
RESULT = {
    "photo_sha256": SHA256, "proposals_count": 0, "model_version": "v", "from_cache": False,
    "timings": {},
}  # fmt: skip
PARTS: dict[str, dict[str, Any]] = {
    "segment": {
        **RESULT, "expression": "cat", "size_hw": [4, 6], "candidates": [], "head_noun_phrase": None
    },
    "prepare": RESULT,
    "propose": {**RESULT, "size_hw": [4, 6], "pairs": []},
    "train": {
        "run": "run-0001", "held_out_iou": 0.5, "is_served": False, "difference": 0.0, "low": 0.0,
        "high": 0.0,
    },
    "failure": {"code": "InternalError", "cause": "A bug.", "cure": ""},
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_a_reply_with_one_part_names_all_five_on_the_wire(name: str) -> None:
    reply = JobReply.model_validate({name: PARTS[name], "added_later": 1})
    written = json.loads(reply.model_dump_json())
    assert list(written) == list(PARTS)
    assert [part for part, value in written.items() if value is not None] == [name]
    assert JobReply.model_validate(written) == reply


@given(st.sets(st.sampled_from(sorted(PARTS))).filter(lambda names: len(names) != 1))
def test_a_reply_with_no_part_or_with_several_is_refused(names: set[str]) -> None:
    with pytest.raises(ValidationError, match=", ".join(n for n in PARTS if n in names) or "none"):
        JobReply.model_validate({name: PARTS[name] for name in names})


@given(st.sets(st.sampled_from(sorted(PARTS))).filter(lambda names: len(names) != 1))
def test_the_constructor_refuses_them_too(names: set[str]) -> None:
    parts: dict[str, Any] = {name: getattr(JobReply(**{name: PARTS[name]}), name) for name in names}
    with pytest.raises(ValidationError, match="exactly one part"):
        JobReply(**parts)
