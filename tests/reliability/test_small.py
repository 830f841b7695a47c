"""Odd texts, sizes and files: an answer in words, and never seconds or gigabytes for them."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fastapi.testclient import TestClient
from PIL import Image

from saymask.datasets import load_dataset
from saymask.datasets.files import PlainUnpickler, read_json
from saymask.errors import DatasetError, InvalidLabelConfig, SaymaskError
from saymask_backend.export.model import Categories
from saymask_backend.export.yolo import YoloWriter
from saymask_backend.label_studio.label_config import default_label_config, load_label_config
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter
from saymask_worker.images.decode import decode_image
from saymask_worker.pipeline.cache import PreparedCache
from tests.backend.submissions import process
from tests.conftest import load_capture
from tests.factories import annotation, brush, event, square, typed
from tests.worker.scenes import prepared_image

SAYMASK = Path(sys.executable).parent / "saymask"


@pytest.mark.parametrize("text", ["[/]", "[bold", "[/red] cat", "[link=x]cat", "\x1b[31mcat"])
def test_markup_in_texts_is_shown_as_it_is(tmp_path: Path, text: str) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    stores = Stores(url)
    stores.migrate()
    process(stores, event(1, annotation(5, [typed(text)], completed_by=text)))
    stores.close()
    environment = {**os.environ, "SAYMASK_DATABASE_URL": url, "COLUMNS": "300"}
    for command in (["records", "list"], ["stats", "--by", "annotator"], ["records", "show", "1"]):
        finished = subprocess.run(
            [SAYMASK, *command], env=environment, capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, finished.stderr
        assert text.removeprefix("\x1b") in finished.stdout


@pytest.mark.parametrize("project", ["9" * 23, "-1", "x", str(2**31)])
def test_a_project_that_cannot_be(build_client: Callable[..., TestClient], project: str) -> None:
    assert build_client().get(f"/?project={project}").status_code == 422


def test_a_labelling_config_of_a_megabyte() -> None:
    area = '<TextArea name="t{}" toName="image" perRegion="true"/>'
    areas = "".join(area.format(n) for n in range(20_000))
    xml = default_label_config().replace("</View>", areas + "</View>", 1)
    assert load_label_config(xml).region_expression is not None
    with pytest.raises(InvalidLabelConfig):
        load_label_config("<View>" * 2000)


def test_any_noun_is_a_yaml_text(tmp_path: Path) -> None:
    nouns = ["cat\x7f", "a\x85b", "\ufeffdog", "🐶", 'quote"', "\ud7ff", "\uffff", "- [x]: #"]
    YoloWriter(tmp_path, {"by": "saymask \x7f"}, Categories(nouns)).close(None)
    read = yaml.safe_load((tmp_path / "data.yaml").read_text("utf-8"))
    assert [read["names"][index] for index in range(len(nouns))] == nouns


def write_refcoco(root: Path, file_name: str) -> None:
    (root / "images").mkdir(parents=True)
    ref = {
        "ref_id": 1, "ann_id": 1, "image_id": 1, "split": "val", "category_id": 1,
        "sentences": [{"sent_id": 1, "sent": "cat", "raw": "cat", "tokens": ["cat"]}],
    }  # fmt: skip
    box = [[1, 1, 9, 1, 9, 9]]
    (root / "instances.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": file_name, "height": 20, "width": 20}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": box}],
                "categories": [{"id": 1, "name": "cat"}],
            }
        )
    )
    import pickle

    (root / "refs(unc).p").write_bytes(pickle.dumps([ref], protocol=2))


def test_an_image_name_that_no_file_system_allows(tmp_path: Path) -> None:
    write_refcoco(tmp_path, "x" * 5000 + ".jpg")
    with pytest.raises(DatasetError, match="a name of 5004 characters"):
        load_dataset("refcoco", tmp_path, "val")


def test_a_header_that_claims_400_megapixels(tmp_path: Path) -> None:
    write_refcoco(tmp_path, "x.bmp")
    small = io.BytesIO()
    Image.new("RGB", (20, 20)).save(small, "BMP")
    header = bytearray(small.getvalue())
    header[18:26] = (20_000).to_bytes(4, "little") * 2
    (tmp_path / "images" / "x.bmp").write_bytes(header)
    with pytest.raises(DatasetError, match=r"x\.bmp"):
        load_dataset("refcoco", tmp_path, "val")


def test_a_number_of_five_thousand_digits(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"id": ' + "9" * 5000 + "}")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_json(path)


def test_a_pickle_that_names_a_high_memo_slot() -> None:
    """Nine bytes; the unpickler written in C would allocate two gigabytes for them."""
    hostile = b"\x80\x02Nr" + (2**27).to_bytes(4, "little") + b"."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert PlainUnpickler(io.BytesIO(hostile)).load() is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize(
    "change",
    [
        {"size_hw": []}, {"size_hw": [1]}, {"work_hw": []}, {"notices": 3},
        {"transposed_masks": [[]]}, {"transposed_masks": None},
        {"transposed_masks": [{"size": [10**9, 10**9], "counts": "0"}]},
    ],
)  # fmt: skip
def test_a_cache_entry_that_lost_its_sense(tmp_path: Path, change: dict[str, Any]) -> None:
    cache = PreparedCache(tmp_path, "key", 10**9)
    prepared = prepared_image()
    cache.store(prepared)
    path = tmp_path / "key" / f"{prepared.sha256}.npz"
    with np.load(path) as arrays:
        values = dict(arrays)
    meta = json.loads(values["meta"].tobytes()) | change
    values["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    np.savez(path, **values)
    assert cache.load(prepared.sha256) is None
    assert not path.exists()
    cache.store(prepared)
    assert cache.load(prepared.sha256) is not None


def test_what_killed_workers_left_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".writing-old", tmp_path / ".writing-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "entry").write_bytes(b"half")
    os.utime(old, (0, 0))
    PreparedCache(tmp_path, "key", 10**9).store(prepared_image())
    assert not old.exists()
    assert new.exists()


def test_sixteen_bits_of_a_large_image_fit_into_memory() -> None:
    """A child process decodes 60 megapixels of 16 bits."""
    code = """
import io, resource, sys
import numpy as np
from PIL import Image
from saymask_worker.images.decode import decode_image
deep = np.arange(10_000, dtype=np.uint16)[None, :].repeat(6_000, axis=0) * 6
file = io.BytesIO()
Image.fromarray(deep).save(file, "TIFF")
del deep
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decoded = decode_image(file.getvalue())
assert decoded.pixels.shape == (6_000, 10_000, 3)
assert decoded.pixels.max() == 233
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    # The RGB image is 180 MB; once eight bytes per pixel were held several times over.
    assert int(finished.stdout) < 900_000


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_images_have_the_values_they_had(mode: str) -> None:
    values = np.linspace(0, 60_000, 600 * 20).reshape(600, 20)
    kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    file = io.BytesIO()
    Image.fromarray(values.astype(kinds[mode])).save(file, "TIFF")
    pixels = decode_image(file.getvalue()).pixels[..., 0]
    top = 65535.0 if mode == "I;16" else float(values.astype(kinds[mode]).max())
    expected = (values.astype(kinds[mode]).astype(float) / top * 255).round().astype(np.uint8)
    assert (pixels == expected).all()


def test_strange_texts_become_records(stores: Stores) -> None:
    texts = ["\0", "\ud800", "x" * 5000, "\u202e", "'; DROP TABLE record;--", "\r\n\t"]
    for number, text in enumerate(texts, start=1):
        drawn = brush(f"own{number}", square(4), "referent", "manual", text)
        process(stores, event(1, annotation(number, drawn, completed_by=text)))
    assert stores.events.count_events_by_state() == {"understood": len(texts)}


def test_every_error_has_a_cause(tmp_path: Path) -> None:
    for code in (b"", b"not an image", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 50):
        with pytest.raises(SaymaskError) as caught:
            decode_image(code)
        assert caught.value.cause


def test_an_annotation_of_thousands_of_regions(stores: Stores) -> None:
    regions = [
        entry
        for number in range(3_000)
        for entry in brush(f"own{number}", square(4), "referent", "manual", f"cat {number}")
    ]
    last = {**regions[-1], "value": {"text": ["the last cat"]}}
    process(stores, event(1, annotation(5, [typed("cats"), *regions, last])))
    assert stores.events.count_events_by_state() == {"understood": 1}
    recorded = {record.expression for record in stores.records.iterate_records(RecordFilter())}
    assert recorded == {"cats", "the last cat", *(f"cat {n}" for n in range(2_999))}


def test_large_labelling_configs_are_not_kept() -> None:
    """Each webhook may bring one of megabytes."""
    load_label_config(default_label_config())
    tracemalloc.start()
    try:
        for number in range(10):
            load_label_config(default_label_config() + f"<!-- {str(number) * 1_000_000} -->")
        assert tracemalloc.get_traced_memory()[0] < 3_000_000
    finally:
        tracemalloc.stop()


def test_a_task_with_a_field_name_of_megabytes(build_client: Callable[..., TestClient]) -> None:
    body = load_capture("interactive_predict_request")
    body["tasks"][0]["data"] = {"://a:" * 400_000: 1}
    answer = build_client().post("/predict", json=body)
    assert answer.status_code == 400
    assert len(answer.content) < 20_000
