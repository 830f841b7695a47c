"""Which trained model is served: order, roll back, refusals, readers during a write."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from saymask.errors import ConfigError, InvalidRequest
from saymask.model_registry import ModelRegistry, Verdict


def add_model(registry: ModelRegistry, iou: float) -> str:
    name = registry.create_run()
    folder = registry.model_folder(name)
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps({"metrics": {"held_out_iou": iou}}), "utf-8")
    return name


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "models")


def test_serve_and_roll_back(registry: ModelRegistry) -> None:
    assert registry.list_models() == []
    assert registry.read_served() == ""
    first, second = add_model(registry, 0.3), add_model(registry, 0.4)
    unfinished = registry.create_run()
    assert [first, second, unfinished] == ["run-0001", "run-0002", "run-0003"]
    registry.serve(first)
    registry.serve(second)
    registry.serve(second)
    registry.write_verdict(second, Verdict(first, 0.1, 0.02, 0.2, 9, 10))
    models = registry.list_models()
    assert [(m.name, m.is_served) for m in models] == [(first, False), (second, True)]
    assert models[0].metrics == {"held_out_iou": 0.3}
    assert models[0].verdict is None
    assert models[1].verdict is not None
    assert models[1].verdict.is_better
    assert registry.roll_back() == registry.read_served() == first
    assert registry.roll_back() == registry.read_served() == ""
    with pytest.raises(InvalidRequest, match="nothing to take back"):
        registry.roll_back()
    with pytest.raises(InvalidRequest, match="no model 'run-0003'"):
        registry.serve(unfinished)


def test_a_damaged_file_is_named(registry: ModelRegistry) -> None:
    registry.serve(add_model(registry, 0.3))
    (registry.folder / "serving.json").write_text("{", "utf-8")
    with pytest.raises(ConfigError, match=r"serving\.json cannot be read"):
        registry.read_served()


def test_a_deleted_run_is_neither_named_again_nor_served_again(registry: ModelRegistry) -> None:
    first, second, third = (add_model(registry, 0.3) for _ in range(3))
    for name in (first, second, third):
        registry.serve(name)
    for name in (second, third):
        shutil.rmtree(registry.folder / name)
    assert registry.create_run() == "run-0004"
    assert registry.roll_back() == first


@pytest.mark.parametrize(
    "content",
    ['{"served": null}', '{"served": "run-0001"}', "[]", "{}", "{", "[" * 100_000, "\xff"],
)
def test_a_file_of_another_shape_is_named(registry: ModelRegistry, content: str) -> None:
    name = add_model(registry, 0.3)
    (registry.folder / "serving.json").write_bytes(content.encode("latin-1"))
    for use in (registry.read_served, registry.roll_back, lambda: registry.serve(name)):
        with pytest.raises(ConfigError, match=r"serving\.json cannot be read.*Remove it"):
            use()
    assert [(m.name, m.is_served) for m in registry.list_models()] == [(name, False)]


DAMAGES = [
    ("model/model.json", "[]"),
    ("model/model.json", "{"),
    ("model/model.json", "[" * 100_000),
    ("model/model.json", '{"metrics": [1]}'),
    ("model/model.json", '{"metrics": {"held_out_iou": "high"}}'),
    ("verdict.json", "null"),
    ("verdict.json", '{"against": "", "difference": "much"}'),
    ("verdict.json", '"better"'),
]


@pytest.mark.parametrize(("file", "content"), DAMAGES)
def test_a_damaged_model_is_listed_by_name_and_passed_over(
    registry: ModelRegistry, file: str, content: str
) -> None:
    first, second, third = (add_model(registry, 0.3) for _ in range(3))
    for name in (first, second, third):
        registry.serve(name)
    for name in (second, third):
        (registry.folder / name / file).write_text(content, "utf-8")
    models = registry.list_models()
    assert [(m.name, m.is_served, Path(file).name in m.damage) for m in models] == [
        (first, False, False), (second, False, True), (third, True, True),
    ]  # fmt: skip
    with pytest.raises(InvalidRequest, match="Use run-0001"):
        registry.serve(second)
    assert registry.roll_back() == registry.read_served() == first


@pytest.mark.parametrize("odd", ["null", "7", "[]", '"../run-0001"', '"a/b"'])
def test_an_odd_entry_is_not_served_and_rolling_back_passes_it_over(
    registry: ModelRegistry, odd: str
) -> None:
    name = add_model(registry, 0.3)
    path = registry.folder / "serving.json"
    path.write_text(f'{{"served": ["{name}", {odd}, {odd}]}}', "utf-8")
    with pytest.raises(ConfigError, match=r"not a model.*rollback"):
        registry.read_served()
    assert int(registry.create_run().removeprefix("run-")) > 1
    assert registry.roll_back() == registry.read_served() == name


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ConfigError, match="cannot be written"):
        ModelRegistry(tmp_path / "file" / "models").create_run()


def test_readers_never_see_half_of_a_change(registry: ModelRegistry) -> None:
    names = [add_model(registry, 0.3), add_model(registry, 0.4)]
    registry.serve(names[0])
    over = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not over.is_set():
            seen.add(registry.read_served())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        registry.serve(names[number % 2])
    over.set()
    reader.join()
    assert seen <= set(names)


def test_two_runs_never_share_a_folder(registry: ModelRegistry) -> None:
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.append(registry.create_run())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 8
