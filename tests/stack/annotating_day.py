"""A day's work by script: every outcome there is, handed in to a real Label Studio by its API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from saymask.masks import Mask, decode_brush_rle, encode_brush_rle
from saymask_backend.label_studio.client import LabelStudioClient
from tests.factories import brush, typed, verdict

Result = list[dict[str, Any]]

# What the day below amounts to, worked out by hand.
TRUTH = {
    "outcomes": {
        "accepted": 3, "edited": 1, "relabelled": 1, "drawn_after_rejection": 1, "drawn": 1,
        "no_referent": 1, "ambiguous": 1, "skipped": 1,
    },
    "samples": 10,
    "judged": 6,
    "acceptance_at": {"1": round(3 / 6, 4), "3": round(5 / 6, 4), "k": round(5 / 6, 4)},
    "ranks": {"1": 3, "2": 1, "3": 1},
    "edit_rate": 0.2,
    "drawn_rate": round(2 / 7, 4),
    "dabs": 1,
    "seconds_count": 10,
    "seconds_total": 10 + 20 + 30 + 4 + 60 + 50 + 3 + 5 + 6,
}  # fmt: skip


def pick(regions: Result, rank: int) -> tuple[Result, Mask]:
    """The entries of one candidate and its mask."""
    (mask,) = [r for r in regions if r["type"] == "brushlabels"
               and r["value"]["brushlabels"] == [f"top-{rank}"]]  # fmt: skip
    size_hw = (mask["original_height"], mask["original_width"])
    entries = [r for r in regions if r["id"] == mask["id"]]
    return entries, decode_brush_rle(mask["value"]["rle"], size_hw)


def with_mask(entries: Result, mask: Mask) -> Result:
    """As the editor hands in an edited candidate."""
    edited = []
    for entry in entries:
        value = {**entry["value"]}
        if entry["type"] == "brushlabels":
            value["rle"] = encode_brush_rle(mask)
        edited.append({**entry, "value": value, "origin": "prediction-changed"})
    return edited


def with_label(entries: Result, label: str) -> Result:
    """As the editor hands in a candidate accepted while a label was chosen."""
    return [
        {**e, "value": {**e["value"], "brushlabels": [label]}} if e["type"] == "brushlabels" else e
        for e in entries
    ]


def dab_below(mask: Mask) -> Mask:
    """What an active brush leaves where the mark to accept lies."""
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    centre_y, centre_x = min(rows.max() + 8, mask.shape[0] - 4), columns.mean()
    return (y - centre_y) ** 2 + (x - centre_x) ** 2 <= 9


def work(client: LabelStudioClient, tasks: list[int], ask: Callable[..., Result]) -> None:
    """Hand in one of everything. ``ask`` types lines and returns the suggestions."""

    def hand_in(task: int, result: Result, seconds: float | None, **more: Any) -> int:
        body = {"result": result, "lead_time": seconds, **more}
        return int(client.request("POST", f"/api/tasks/{task}/annotations", json=body)["id"])

    # accepted: rank 1 with a stray dab, and two expressions on one photo
    one, mask = pick(ask(tasks[0], "the woman"), 1)
    stray = brush("strayDab01", dab_below(mask), "top-1", "manual")
    hand_in(tasks[0], [typed("the woman"), *one, *stray], 10)
    first, _ = pick(ask(tasks[1], "the cat", "2"), 2)
    second, _ = pick(ask(tasks[1], "an eye"), 1)
    hand_in(tasks[1], [typed("an eye"), *first, *second], 20)
    # edited: first handed in as it was, then half of it erased and updated
    entries, mask = pick(ask(tasks[2], "the cup"), 1)
    number = hand_in(tasks[2], [typed("the cup"), *entries], 11)
    half = mask.copy()
    half[:, : int(np.nonzero(mask)[1].mean())] = False
    result = [typed("the cup"), *with_mask(entries, half)]
    client.request("PATCH", f"/api/annotations/{number}/", json={"result": result, "lead_time": 30})
    entries, _ = pick(ask(tasks[3], "the rocket", "3"), 3)
    hand_in(tasks[3], [typed("the rocket"), *with_label(entries, "referent")], 4)
    # rejected and drawn; drawn without having asked
    _, mask = pick(ask(tasks[4], "the sky"), 1)
    drawn = np.zeros_like(mask)
    drawn[: mask.shape[0] // 4] = True
    hand_in(tasks[4], [typed("the sky"), *brush("ownDrawn01", drawn, "referent", "manual")], 60)
    hand_in(
        tasks[4], [typed("the upper part"), *brush("ownDrawn02", drawn, "referent", "manual")], 50
    )
    hand_in(tasks[5], [typed("the elephant"), verdict("no referent")], 3)
    hand_in(tasks[5], [typed("the thing"), verdict("ambiguous")], 5)
    hand_in(tasks[3], [typed("the rocket")], 6, was_cancelled=True)
    # handed in by mistake
    number = hand_in(tasks[0], [typed("oops"), verdict("ambiguous")], 9)
    client.request("DELETE", f"/api/annotations/{number}/")
