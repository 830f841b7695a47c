"""Twenty photos annotated in a real Chromium on a real Label Studio: how long one waits, how often
one clicks. Needs Chromium and the tests' packages; ``make bench`` names the Label Studio."""

from __future__ import annotations

import io
import statistics
import tempfile
from contextlib import closing
from pathlib import Path

from PIL import Image, ImageOps

from backend.label_studio.client import LabelStudioClient
from backend.local_stack.up import sample_images
from benchmarks.measure import Row
from tests.browser.editor import Editor, open_editor
from tests.stack.running import Running, running, tasks_of

PHOTOS, COLD = 20, 6
SETTINGS = {"SAYMASK_SYNC_EVERY_S": "0", "SAYMASK_ENCODER": "starter"}
_SAID = {
    "astronaut": ("the woman", "the american flag"), "chelsea": ("the cat", "the wall"),
    "china": ("the temple", "the sky"), "coffee": ("the cup", "the spoon"),
    "flower": ("the flower", "the leaves"), "rocket": ("the rocket", "the sky"),
}  # fmt: skip


def make_photos(folder: Path) -> list[Path]:
    """The sample photos, mirrored and cropped until there are enough; each is another file."""
    made = []
    for number in range(PHOTOS):
        path = sample_images()[number % len(_SAID)]
        image = Image.open(path).convert("RGB")
        turn = number // len(_SAID)
        if turn % 2:
            image = ImageOps.mirror(image)
        inset = 6 * turn
        image = image.crop((inset, inset, image.width - inset, image.height - inset))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=92)
        target = folder / f"{path.stem}-{number}.jpg"
        target.write_bytes(buffer.getvalue())
        made.append(target)
    return made


def _annotate(editor: Editor, task: int, said: tuple[str, ...]) -> list[float]:
    """Open, ask, accept the first, ask, accept the first, submit; seconds of each answer."""
    editor.open(1, task)
    times = []
    for expression in said:
        times.append(editor.type(expression))
        editor.accept(1)
    editor.submit()
    return times


def _add(client: LabelStudioClient, photos: list[Path]) -> list[int]:
    known = {task["id"] for task in tasks_of(client)}
    client.import_images(1, photos)
    return [task["id"] for task in tasks_of(client) if task["id"] not in known]


def _work(stack: Running, folder: Path) -> tuple[list[float], list[float], list[float], float]:
    """Seconds for the first expression on a cold photo, on a prepared one, for the second on any;
    and actions per accepted mask."""
    photos = make_photos(folder)
    cold, warm, second = [], [], []
    with closing(stack.client()) as client, open_editor(stack, folder / "profile") as editor:
        stack.saymask("prepare", "--project", "1", "--json")
        editor.actions = 0
        for photo in photos[:COLD]:
            (task,) = _add(client, [photo])
            times = _annotate(editor, task, _SAID[photo.stem.split("-")[0]])
            cold.append(times[0])
            second.append(times[1])
        tasks = _add(client, photos[COLD:])
        stack.saymask("prepare", "--project", "1", "--json")
        for task, photo in zip(tasks, photos[COLD:], strict=True):
            times = _annotate(editor, task, _SAID[photo.stem.split("-")[0]])
            warm.append(times[0])
            second.append(times[1])
        return cold, warm, second, editor.actions / (2 * PHOTOS)


def compare() -> list[Row]:
    """Medians, and the slowest answer."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with running(folder, SETTINGS) as stack:
            cold, warm, second, actions = _work(stack, folder)
    a, b = statistics.median(cold), statistics.median(warm)
    return [
        Row(
            f"a session of {PHOTOS} photos in a browser, Enter to suggestions on the screen: photo"
            f" just uploaded ({COLD}) / prepared ({PHOTOS - COLD})",
            f"{a:.2f} s (worst {max(cold):.2f} s)", f"{b:.2f} s (worst {max(warm):.2f} s)",
            f"{a / b:.0f}x", "B 0.3 s",
        ),
        Row(
            "the same: second expression on a photo / clicks and keys per accepted mask, with"
            " choosing the field, Enter, accepting and submitting",
            f"{statistics.median(second):.2f} s", f"{actions:.1f}", "",
        ),
    ]  # fmt: skip
