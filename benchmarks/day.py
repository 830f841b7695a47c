"""A working day in short: annotators type and submit while one fault after another happens.

Everything is real but Label Studio, which ``studio`` plays: it knows what was submitted. During the
first third of the time workers and the backend are killed too, and started again as a service
manager would. Then they must survive every fault on their own, and their memory must not grow.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measure import NOUNS, Cells, Table, percentile, timed
from benchmarks.site import PREDICT_TIMEOUT_S, PROGRAMS, SURVIVORS, Site, find_masks, running_site
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter

ANNOTATORS = 8
PHOTOS = 24
NEW_SHARE = 0.02
THINK_S = 2.5
FAULT_EVERY_S = 15.0
_WEBHOOK_TIMEOUT_S = 1.0
_ADJECTIVES = ("", "big ", "small ", "red ", "white ", "dark ", "nearest ")
_POSITIONS = (
    "", " on the left", " on the right", " at the top", " in the middle", " at the bottom",
)  # fmt: skip


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk that can be filled, in a folder; gives whether this user may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2500m", "tmpfs", str(folder)]
    is_mounted = not subprocess.run(mount, capture_output=True, check=False).returncode
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", folder], check=False)


def cause_faults(
    site: Site, disk: Path | None, done: Counter[str], is_over: threading.Event, deadly_until: float
) -> None:
    """Cause one fault after the other; until ``deadly_until`` saymask itself is killed too."""
    survivable: dict[str, Callable[[], None]] = {
        "queue killed and restarted": partial(site.kill_and_restart, "queue"),
        "queue paused": partial(_pause, site, 3),
        "queue paused for long": partial(_pause, site, 12),
        "PostgreSQL restarted": partial(site.kill_and_restart, "database", signal.SIGQUIT),
        "Label Studio down": partial(_stop_label_studio, site),
    }
    if disk is not None:
        survivable["disk full"] = partial(_fill, disk)
    deadly = {f"{name} killed": partial(site.kill_and_restart, name) for name in SURVIVORS}
    for number in count():
        if is_over.wait(FAULT_EVERY_S):
            return
        faults = survivable | (deadly if time.monotonic() < deadly_until else {})
        name = list(faults)[number % len(faults)]
        faults[name]()
        done[name] += 1


def _pause(site: Site, seconds: float) -> None:
    process = site.find("queue").process
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)


def _stop_label_studio(site: Site) -> None:
    site.studio.is_down = True
    time.sleep(3)
    site.studio.is_down = False


def _fill(disk: Path) -> None:
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"\0" * 1_000_000)
    time.sleep(3)
    filler.unlink()


class Annotator:
    """Types, submits, sometimes corrects or deletes; works through faults as people do."""

    def __init__(self, number: int, site: Site) -> None:
        self._site, self._number = site, number
        self._chance = random.Random(number)
        self._mine: list[tuple[int, int]] = []
        self.outcomes: Counter[str] = Counter()
        self.waits_s: dict[str, list[float]] = {"/predict": [], "/webhook": []}

    def work(self, is_over: threading.Event) -> None:
        with httpx.Client() as client:
            for turn in count():
                if is_over.wait(self._chance.random() * 2 * THINK_S):
                    return
                is_new = self._chance.random() < NEW_SHARE
                new_photo = self._number * 100_000 + turn
                photo = new_photo if is_new else self._chance.randrange(PHOTOS)
                noun, position = self._chance.choice(NOUNS), self._chance.choice(_POSITIONS)
                expression = f"the {self._chance.choice(_ADJECTIVES)}{noun}{position}"
                self._annotate(client, self._site.studio.add_photo_task(photo), expression)

    def _annotate(self, client: httpx.Client, task_id: int, expression: str) -> None:
        studio = self._site.studio
        predict = partial(self._site.type_expression, client, task_id, expression)
        answer = self._ask("/predict", predict)
        masks = find_masks(answer) if answer is not None and answer.is_success else []
        typed = studio.build_typed(task_id, expression)["params"]["context"]["result"]
        hook = studio.save(task_id, typed + masks[:1])
        self._send(client, hook)
        self._mine.append((hook["annotation"]["id"], task_id))
        if self._chance.random() < 0.15:
            annotation_id, old_task_id = self._chance.choice(self._mine)
            again = studio.build_typed(old_task_id, f"{expression} again")
            text = again["params"]["context"]["result"]
            self._send(client, studio.save(old_task_id, text, annotation_id))
        if self._chance.random() < 0.08:
            annotation_id, _ = self._mine.pop(self._chance.randrange(len(self._mine)))
            self._send(client, studio.delete(annotation_id))

    def _send(self, client: httpx.Client, hook: dict[str, Any]) -> None:
        """As Label Studio: it waits one second and never tries again."""
        url = f"{self._site.url}/webhook"
        self._ask("/webhook", partial(client.post, url, json=hook, timeout=_WEBHOOK_TIMEOUT_S))

    def _ask(self, path: str, ask: Callable[[], httpx.Response]) -> httpx.Response | None:
        try:
            answer, seconds = timed(ask)
        except httpx.HTTPError as error:
            is_late = isinstance(error, httpx.TimeoutException)
            self.outcomes[f"{path} {'timeout' if is_late else 'refused'}"] += 1
            time.sleep(0.2)  # as quick as a browser
            return None
        self.outcomes[f"{path} {answer.status_code}"] += 1
        if answer.is_success:
            self.waits_s[path].append(seconds)
        return answer


def compare_records(site: Site) -> Cells:
    """Records against the truth, after one last sync as the backend does every few minutes."""
    environment = {**os.environ, **site.environment}
    command = [str(PROGRAMS / "saymask"), "sync", "--project", "1"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    with closing(Stores(site.environment["SAYMASK_DATABASE_URL"])) as stores:
        records = list(stores.records.iterate_records(RecordFilter()))
    found = Counter(record.annotation_id for record in records)
    texts = {record.annotation_id: record.expression for record in records}
    truth = {
        number: annotation["result"][0]["value"]["text"][0]
        for number, annotation in site.studio.annotations.items()
    }
    return {
        "annotations": len(truth),
        "records lost (0)": sum(texts.get(number) != text for number, text in truth.items()),
        "records duplicated (0)": found.total() - len(found) + len(found.keys() - truth.keys()),
    }


def measure(minutes: float) -> Table:
    with tempfile.TemporaryDirectory(prefix="saymask-day-") as scratch:
        disk = Path(scratch) / "disk"
        with (
            small_disk(disk) as is_mounted,
            running_site(disk / "site", has_postgresql=True, sync_every_s=20) as site,
        ):
            if not is_mounted:
                print("  disk full is left out: no right to mount a small disk", file=sys.stderr)
            site.prepare_photos(PHOTOS)
            rows = _play(site, disk if is_mounted else None, minutes * 60)
    return Table(f"A day of {minutes:g} minutes with faults; in brackets what is aimed at", rows)


def _play(site: Site, disk: Path | None, seconds: float) -> list[Cells]:
    is_over, faults = threading.Event(), Counter[str]()
    started = time.monotonic()
    deadly_until = started + seconds / 3
    team = [Annotator(number, site) for number in range(1, ANNOTATORS + 1)]
    threads = [threading.Thread(target=annotator.work, args=(is_over,)) for annotator in team]
    causing = (site, disk, faults, is_over, deadly_until)
    threads.append(threading.Thread(target=cause_faults, args=causing))
    for thread in threads:
        thread.start()
    samples = _sample_memory(site, deadly_until, started + seconds)
    is_over.set()
    for thread in threads:
        thread.join()
    ended = site.list_ended()
    if not ended:
        site.wait_until_ready()
    cells = {"faults": faults.total(), "processes that ended (0)": ", ".join(ended) or 0}
    rows = cells | compare_records(site) | _summarise(team, faults) | _compare(samples)
    return [{"what": what, "measured": value} for what, value in rows.items()]


def _sample_memory(site: Site, start: float, until: float) -> list[dict[str, float]]:
    """Resident memory every ten seconds from ``start`` on."""
    samples: list[dict[str, float]] = []
    time.sleep(max(0.0, start - time.monotonic()))
    while (left_s := until - time.monotonic()) > 0:
        samples.append(site.read_memory_mb())
        print(f"  {left_s:5.0f} s left: {samples[-1]}", file=sys.stderr, flush=True)
        time.sleep(10)
    return samples


def _summarise(team: list[Annotator], faults: Counter[str]) -> Cells:
    """What annotators saw; each kind of outcome and fault goes to standard error."""
    outcomes = sum((annotator.outcomes for annotator in team), Counter[str]())
    for name, times in sorted((faults + outcomes).items()):
        print(f"  {times:5d}  {name}", file=sys.stderr)
    predict_s, webhook_s = (
        [seconds for annotator in team for seconds in annotator.waits_s[path]]
        for path in team[0].waits_s
    )
    return {
        "requests": outcomes.total(),
        f"expressions without an answer within {PREDICT_TIMEOUT_S:.0f} s (0)":
            outcomes["/predict timeout"],
        "expression answered, median s": percentile(predict_s, 0.5),
        "expression answered, 95 % s": percentile(predict_s, 0.95),
        "webhook answered, 95 % s (below 1)": percentile(webhook_s, 0.95),
    }  # fmt: skip


def _compare(samples: list[dict[str, float]]) -> Cells:
    """Medians of the first and last tenth: single samples catch a photo in preparation."""
    tenth = max(1, len(samples) // 10)
    cells = {}
    for name in SURVIVORS:
        early, late = (
            percentile([sample[name] for sample in part if name in sample], 0.5)
            for part in (samples[:tenth], samples[-tenth:])
        )
        if early is not None and late is not None:
            cells[f"{name}: memory, MB (grows by less than 100)"] = f"{early:.0f} to {late:.0f}"
    return cells
