"""Label Studio's editor in a real Chromium, by mouse and keyboard."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.stack.running import Running

SCREENSHOTS = Path(os.environ.get("SCREENSHOT_DIR", "out"))
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]  # fmt: skip


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("Chromium is not installed (Debian package chromium)")
    return found


_STATE = """() => {
  const s = window.Htx?.annotationStore?.selected;
  if (!s) return null;
  const notice = [...s.areas.values()].flatMap(a => a.results)
    .find(r => r.from_name.name === 'saymask_notice');
  return {
    suggestions: [...s.suggestions.values()].map(a => [a.id, a.labelName, a.origin]),
    regions: [...s.areas.values()].filter(a => /^(brush|bitmask)region$/.test(a.type)).map(a => ({
      id: a.cleanId, label: a.labelName, origin: a.origin,
      text: a.results.filter(r => r.from_name.name === 'region_expression')
        .map(r => r.mainValue.toString())[0] ?? null})),
    clicks: [...s.areas.values()].filter(a => a.type === 'keypointregion').length,
    notice: notice ? notice.mainValue.toString() : null,
  };
}"""
_MARKS = """() => {
  const stage = window.Htx.annotationStore.selected.names.get('image').stageRef;
  const box = stage.container().getBoundingClientRect();
  return stage.find('Circle').filter(n => n.radius() > 5).map(n => { const r = n.getClientRect();
    return [box.x + r.x + r.width / 2, box.y + r.y + r.height / 2]; });
}"""
_REACHABLE = """([x, y]) => {
  const element = document.elementFromPoint(x, y);
  const stage = window.Htx.annotationStore.selected.names.get('image').stageRef;
  return element?.tagName === 'CANVAS' && stage.container().contains(element);
}"""
_LINES = """() => [...document.querySelectorAll(
  '.saymask-expression [data-testid=textarea-region]')].map(line => line.innerText)"""
_IMAGE = """() => {
  const image = window.Htx.annotationStore.selected.names.get('image');
  const box = image.stageRef.container().getBoundingClientRect();
  return [box.x, box.y, image.canvasSize.width, image.canvasSize.height];
}"""


class Editor:
    """What an annotator does and sees. ``actions`` counts mouse clicks, drags and key presses
    other than those of typing."""

    def __init__(self, page: Any, stack: Running) -> None:
        self.page = page
        self._stack = stack
        self.actions = 0

    def log_in(self) -> None:
        self.page.goto(f"{self._stack.studio_url}/user/login/")
        self.page.fill("input[name=email]", self._stack.login["email"])
        self.page.fill("input[name=password]", self._stack.login["password"])
        self.page.click("button[type=submit]")
        self.page.wait_for_function("!location.pathname.includes('login')", timeout=60_000)

    def open(self, project: int, task: int, *, has_expression: bool = True) -> None:
        self.page.goto(f"{self._stack.studio_url}/projects/{project}/data?task={task}")
        self.wait_open(has_expression=has_expression)

    def wait_open(self, *, has_expression: bool = True) -> None:
        if has_expression:
            self.page.wait_for_selector(".saymask-expression input", timeout=90_000)
        self.page.wait_for_function(
            "window.Htx?.annotationStore?.selected?.names?.get('image')?.stageRef", timeout=60_000
        )
        self.page.wait_for_timeout(500)

    def label_as_displayed(self, tab: str) -> None:
        """Begin the label stream of a tab of the Data Manager, given its address."""
        self.page.goto(tab)
        button = self.page.locator("button", has_text="Label All Tasks")
        button.wait_for(timeout=60_000)
        box = button.bounding_box()
        # The menu opens next to the button.
        self.page.mouse.click(box["x"] + box["width"] + 15, box["y"] + box["height"] / 2)
        self.page.locator('text="Label Tasks As Displayed"').first.click()
        self.actions += 3
        self.wait_open()

    def press_for_next(self, key: str) -> float:
        """Press a key that ends a task of the label stream; seconds until the next is there."""
        before = [region["id"] for region in self.state["regions"]]
        started = time.monotonic()
        self.page.keyboard.press(key)
        self.actions += 1
        while True:
            state = self.state
            regions = [region["id"] for region in state["regions"]] if state else before
            if (regions and regions != before) or self.has_no_more_tasks:
                return time.monotonic() - started
            assert time.monotonic() < started + 30, f"{key} brought no other task"
            self.page.wait_for_timeout(10)

    @property
    def has_no_more_tasks(self) -> bool:
        """Whether the label stream is at its end."""
        return self.page.locator("text=/no more tasks|all tasks .* completed/i").count() > 0

    def click_plain(self, x: float, y: float) -> None:
        """A click of the active tool at shares of the photo's sides."""
        left, top, width, height = self.page.evaluate(_IMAGE)
        self.page.mouse.click(left + x * width, top + y * height)
        self.actions += 1
        self.page.wait_for_timeout(300)

    @property
    def state(self) -> dict[str, Any]:
        return self.page.evaluate(_STATE)

    def wait_for_state(self, name: str, expected: object, timeout_s: float = 20) -> None:
        """Wait until a part of the editor's state is as expected, and stays so for a moment."""
        deadline = time.monotonic() + timeout_s
        since: float | None = None
        while since is None or time.monotonic() - since < 0.7:
            current = self.state[name]
            since = (since or time.monotonic()) if current == expected else None
            assert time.monotonic() < deadline, f"{name} is {current!r}, not {expected!r}"
            time.sleep(0.05)

    @property
    def lines(self) -> list[str]:
        """What was typed, as it stands below the field."""
        return self.page.evaluate(_LINES)

    def is_reachable(self, mark: tuple[float, float]) -> bool:
        """Whether a mark is in sight and nothing lies over it."""
        return self.page.evaluate(_REACHABLE, list(mark))

    @property
    def notice(self) -> str | None:
        return self.state["notice"]

    def type(self, expression: str, *, wait: bool = True) -> float:
        """Type and press Enter; seconds from there until the answer is on the screen."""
        self.page.locator(".saymask-expression input").first.click()
        self.actions += 1
        return self.enter(expression, wait=wait)

    def enter(self, text: str, *, wait: bool = True) -> float:
        """As ``type``, where the field has the focus."""
        before = self.notice
        self.page.keyboard.type(text)
        self.actions += 1
        started = time.monotonic()
        self.page.keyboard.press("Enter")
        if wait:
            self.wait_for_notice(before)
        return time.monotonic() - started

    def wait_for_notice(self, before: str | None, timeout_s: float = 90) -> str:
        deadline = time.monotonic() + timeout_s
        while (now := self.notice) == before or self.is_searching:
            assert time.monotonic() < deadline, f"no answer; the notice is still {before!r}"
            time.sleep(0.02)
        assert now is not None
        return now

    @property
    def is_searching(self) -> bool:
        return self.page.evaluate(
            "document.querySelector('.lsf-main-content')?.classList.contains('lsf-requesting')"
        )

    def find_mark(self, rank: int, *, accept: bool) -> tuple[float, float]:
        names = [label for _, label, _ in self.state["suggestions"]]
        pair = names.index(f"top-{rank}")
        x, y = self.page.evaluate(_MARKS)[2 * pair + accept]
        return x, y

    def accept(self, rank: int) -> None:
        """Click the mark under a suggestion; its rank is typed first if it is not shown."""
        if f"top-{rank}" not in [label for _, label, _ in self.state["suggestions"]]:
            self.type(str(rank))
        count = len(self.state["regions"])
        self.page.mouse.click(*self.find_mark(rank, accept=True))
        self.actions += 1
        deadline = time.monotonic() + 15
        while len(self.state["regions"]) == count:
            assert time.monotonic() < deadline, "nothing was accepted"
            time.sleep(0.05)

    def auto_annotation(self) -> None:
        """The switch at the bottom: for clicks, and to reject or accept all at once."""
        self.page.click('text="Auto-Annotation"')
        self.actions += 1
        self.page.wait_for_timeout(300)

    def auto_accept(self) -> None:
        """Both switches at the bottom: each suggestion becomes a region at once."""
        self.auto_annotation()
        self.page.click('text="Auto-Accept Suggestions"')
        self.actions += 1
        self.page.wait_for_timeout(300)

    def undo(self) -> None:
        """Out of the field, and undo, by keyboard."""
        for key in ("Tab", "Control+z"):
            self.page.keyboard.press(key)
            self.actions += 1
        self.page.wait_for_timeout(500)

    def submit_by_keyboard(self) -> None:
        """Out of the field, and submit."""
        with self.page.expect_response(
            lambda r: "/annotations" in r.url and r.request.method in ("POST", "PATCH"),
            timeout=60_000,
        ):
            for key in ("Tab", "Control+Enter"):
                self.page.keyboard.press(key)
                self.actions += 1
        self.page.wait_for_timeout(1200)

    def reject_all(self) -> None:
        self.page.locator('[data-testid="bottombar-reject-suggestions-button"]').click()
        self.actions += 1
        self.page.wait_for_timeout(300)

    def accept_all(self) -> None:
        self.page.locator('[data-testid="bottombar-accept-suggestions-button"]').click()
        self.actions += 1
        self.page.wait_for_timeout(300)

    def pick_smart_tool(self) -> None:
        """The last group of the toolbar; it has no name of its own."""
        self.page.locator(".lsf-tool:not([aria-label])").first.click()
        self.actions += 1
        self.page.wait_for_timeout(300)

    def pick_smart_box(self) -> None:
        """Choose in the menu that opens next to the smart tool."""
        self.page.locator(".lsf-tool:not([aria-label])").first.hover()
        self.page.wait_for_timeout(300)
        self.page.locator('[aria-label="rectangle-tool"]').first.click()
        self.actions += 1
        self.page.wait_for_timeout(300)

    def click_photo(self, x: float, y: float, *, outside: bool = False) -> str:
        """A click of the smart tool at shares of the photo's sides; Alt means outside."""
        before = self.notice
        left, top, width, height = self.page.evaluate(_IMAGE)
        if outside:
            self.page.keyboard.down("Alt")
        self.page.mouse.click(left + x * width, top + y * height)
        if outside:
            self.page.keyboard.up("Alt")
        self.actions += 1
        return self.wait_for_notice(before)

    def stroke(self, *places: tuple[float, float]) -> None:
        """Drag the active tool along places in shares of the photo's sides."""
        left, top, width, height = self.page.evaluate(_IMAGE)
        first, *rest = [(left + x * width, top + y * height) for x, y in places]
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for place in rest:
            self.page.mouse.move(*place, steps=8)
        self.page.mouse.up()
        self.actions += 1
        self.page.wait_for_timeout(400)

    def select_region(self) -> None:
        """The first in the list of regions."""
        self.page.locator(".lsf-outliner-item, [class*=outliner] [class*=title]").first.click()
        self.actions += 1
        self.page.wait_for_timeout(300)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)
        self.actions += 1
        self.page.wait_for_timeout(200)

    def choose(self, text: str) -> None:
        """A label or a choice."""
        self.page.locator(f'text="{text}"').first.click()
        self.actions += 1
        self.page.wait_for_timeout(200)

    def submit(self, word: str = "Submit") -> None:
        with self.page.expect_response(
            lambda r: "/annotations" in r.url and r.request.method in ("POST", "PATCH"),
            timeout=60_000,
        ):
            self.page.locator("button", has_text=word).last.click()
        self.actions += 1
        self.page.wait_for_timeout(1200)

    def picture(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


@contextmanager
def open_editor(
    stack: Running, profile: Path, size: tuple[int, int] = (1400, 900)
) -> Iterator[Editor]:
    """A fresh browser, logged in."""
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        closing(launch_browser(playwright, profile, size)) as context,
    ):
        editor = Editor(context.new_page(), stack)
        editor.log_in()
        yield editor


def launch_browser(playwright: Any, profile: Path, size: tuple[int, int] = (1400, 900)) -> Any:
    return playwright.chromium.launch_persistent_context(
        profile, executable_path=chromium(), headless=True, args=CHROMIUM_FLAGS,
        viewport={"width": size[0], "height": size[1]},
    )  # fmt: skip
