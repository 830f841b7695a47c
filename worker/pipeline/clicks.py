"""Checking clicks and boxes before a model sees them."""

from __future__ import annotations

from saymask.errors import InvalidRequest
from worker.stages import VisualPrompt


def check_prompt(prompt: VisualPrompt, size_hw: tuple[int, int]) -> None:
    """Check that a prompt has a click or a box, inside the image.

    Raises:
        InvalidRequest: it has none, one lies outside, or the mask to start from has another size.
    """
    if not prompt.points_xy and prompt.box_xyxy is None:
        raise InvalidRequest("Neither a click nor a box.", "Click on what you mean.")
    height, width = size_hw
    corners = prompt.box_xyxy or ()
    xs = [x for x, _ in prompt.points_xy] + list(corners[0::2])
    ys = [y for _, y in prompt.points_xy] + list(corners[1::2])
    if not _are_within(xs, width) or not _are_within(ys, height):
        raise InvalidRequest(f"A click lies outside the photo of {width} x {height} pixels.")
    if prompt.start is not None and prompt.start.shape != size_hw:
        raise InvalidRequest(
            f"The mask to start from is {prompt.start.shape}, the photo {size_hw}."
        )


def _are_within(values: list[float], side: int) -> bool:
    return all(0 <= value <= side for value in values)
