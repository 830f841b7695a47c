"""Models of the hub as sources: files, conventions of boxes, masks and scores, and the choice."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from transformers import GroundingDinoProcessor, Sam3ImageProcessor
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoObjectDetectionOutput,
)

from saymask.errors import ConfigError, WeightsError
from saymask_worker.config.pipeline import ProposalsConfig
from saymask_worker.images.types import (
    DecodedImage,
    VisualPrompt,
)
from saymask_worker.masks.hub.florence2 import Florence2Source, draw_polygons
from saymask_worker.masks.hub.grounding_dino import GroundingDinoSource, read_boxes
from saymask_worker.masks.hub.sam3 import Sam3Source, read_instances
from saymask_worker.masks.hub.sam3_proposer import Sam3Proposer
from saymask_worker.masks.hub.sources import build_grounding_dino_source, build_sam3_source
from saymask_worker.masks.sources.base import SourceContext, SourceMask
from saymask_worker.weights.hub import FLORENCE2, HUB_MODELS, SAM3, HubStore, compute_fingerprint
from tests.worker import tiny_hub

# Wider than high, so that swapped axes are seen.
SIZE_HW = (60, 200)
IMAGE = DecodedImage(
    np.random.default_rng(0).integers(0, 255, (*SIZE_HW, 3), dtype=np.uint8), "a" * 64
)


class FilledBoxes:
    """A fake segment-anything that fills the box it is given."""

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, image: DecodedImage) -> Any:
        self.embedded += 1
        return image.size_hw

    def answer(self, image: Any, prompt: VisualPrompt) -> list[SourceMask]:
        assert prompt.box_xyxy is not None
        x0, y0, x1, y1 = (round(side) for side in prompt.box_xyxy)
        mask = np.zeros(image, bool)
        mask[y0:y1, x0:x1] = True
        return [SourceMask(mask, 0.9, 0.9)]


def sam3_outputs() -> SimpleNamespace:
    """Three queries on a 6 x 10 grid: the left fifth, the right half, and nothing."""
    masks = torch.full((1, 3, 6, 10), -8.0)
    masks[0, 0, :, :2] = 8
    masks[0, 1, :, 5:] = 8
    return SimpleNamespace(
        pred_logits=torch.tensor([[0.0, 2.0, 4.0]]),
        presence_logits=torch.tensor([[1.0]]),
        pred_masks=masks,
        pred_boxes=torch.zeros(1, 3, 4),
    )


def test_instances_of_sam3_lie_where_its_masks_do_and_carry_both_probabilities() -> None:
    right, left = read_instances(sam3_outputs(), SIZE_HW)
    presence = 1 / (1 + np.exp(-1.0))
    assert right.probability == pytest.approx(presence / (1 + np.exp(-2.0)))
    assert left.probability == pytest.approx(presence * 0.5)
    assert right.mask.shape == SIZE_HW
    assert right.mask[:, 105:].all()
    assert not right.mask[:, :95].any()
    assert left.mask[:, :35].all()
    assert not left.mask[:, 45:].any()
    assert len(read_instances(sam3_outputs(), SIZE_HW, score_min=0.5)) == 1


def test_instances_of_sam3_are_those_of_its_own_processor() -> None:
    outputs = sam3_outputs()
    outputs.pred_masks = torch.randn(1, 3, 6, 10, generator=torch.manual_seed(1)) * 4
    (theirs,) = Sam3ImageProcessor().post_process_instance_segmentation(
        outputs, threshold=0.3, mask_threshold=0.5, target_sizes=[SIZE_HW]
    )
    ours = read_instances(outputs, SIZE_HW)
    order = torch.argsort(theirs["scores"], descending=True)
    assert [m.probability for m in ours] == pytest.approx(theirs["scores"][order].tolist())
    for mask, expected in zip(ours, theirs["masks"][order], strict=True):
        assert (mask.mask == expected.bool().numpy()).all()


def test_boxes_of_grounding_dino_are_those_of_its_own_processor() -> None:
    logits = torch.tensor([[[3.0, -1.0], [-3.0, -5.0], [0.5, 1.0], [1.5, 0.0]]])
    boxes = torch.tensor(
        [
            [
                [0.25, 0.5, 0.2, 0.4],
                [0.5, 0.5, 0.1, 0.1],
                [0.8, 0.3, 0.1, 0.2],
                [0.25, 0.5, 0.2, 0.41],
            ]
        ]
    )
    ours, scores = read_boxes(logits, boxes, SIZE_HW)
    outputs = GroundingDinoObjectDetectionOutput(logits=logits, pred_boxes=boxes)
    processor = GroundingDinoProcessor.__new__(GroundingDinoProcessor)
    processor.batch_decode = lambda ids: ids  # type: ignore[method-assign]
    (theirs,) = processor.post_process_grounded_object_detection(
        outputs, torch.zeros(1, 2, dtype=torch.int64), threshold=0.3, target_sizes=[SIZE_HW]
    )
    assert len(theirs["boxes"]) == 3
    assert len(ours) == 2, "the near-duplicate goes"
    torch.testing.assert_close(ours, theirs["boxes"][:2])
    torch.testing.assert_close(scores, theirs["scores"][:2])
    assert ours[0].tolist() == pytest.approx([30, 18, 70, 42]), "pixels, x before y"


def test_polygons_are_filled_with_x_before_y() -> None:
    mask = draw_polygons(
        [[150, 10, 190, 10, 190, 30, 150, 30], [10, 40, 30, 40, 20, 55], [5, 5]], SIZE_HW
    )
    assert mask.shape == SIZE_HW
    assert mask[20, 170]
    assert mask[44, 20]
    assert not mask[5, 5], "two numbers are no polygon"
    assert mask.sum() == pytest.approx(40 * 20 + 20 * 15 / 2, rel=0.15)


def test_sam3_from_files_keeps_an_images_features(tmp_path: Path) -> None:
    source = Sam3Source(tiny_hub.save_sam3(tmp_path), "cpu", None, score_min=0.0)
    encoded = []
    source._model.vision_encoder.register_forward_hook(lambda *_: encoded.append(1))
    first = source.find_instances(IMAGE, "red car")
    again = source.find_instances(IMAGE, "a very long noun phrase " * 20)
    assert len(encoded) == 1
    assert first
    assert all(m.mask.shape == SIZE_HW and 0 < m.probability < 1 for m in (*first, *again))
    assert [m.probability for m in first] == sorted((m.probability for m in first), reverse=True)
    source.find_instances(replace(IMAGE, sha256="b" * 64), "cat")
    assert len(encoded) == 2


def test_sam3_generates_proposals_over_the_whole_image(tmp_path: Path) -> None:
    # The random decoder's own estimates mean nothing: let everything pass.
    config = ProposalsConfig(points_per_side=4, predicted_iou_min=-9, stability_min=0, max_count=10)
    folder = tiny_hub.save_sam3_tracker(tmp_path)
    proposals = Sam3Proposer(folder, config, "cpu", torch.float32, batch=5).propose(IMAGE)
    assert proposals.masks.shape[1:] == SIZE_HW
    assert 1 <= len(proposals) <= 10
    smaller = Sam3Proposer(folder, config, "cpu", torch.float32, batch=5)
    assert smaller.halve_batch()
    np.testing.assert_array_equal(smaller.propose(IMAGE).masks, proposals.masks)
    none = smaller.replace_config(replace(config, predicted_iou_min=99))
    assert len(none.propose(IMAGE)) == 0
    assert {**vars(none), "_config": config} == vars(smaller), "all but the configuration stays"


def test_sam3s_masks_lie_where_its_points_are(tmp_path: Path) -> None:
    """The model sees a square: a point of the grid must come back at its own share of the image."""
    config = ProposalsConfig(points_per_side=2, predicted_iou_min=-9, stability_min=0)
    proposer = Sam3Proposer(
        tiny_hub.save_sam3_tracker(tmp_path), config, "cpu", torch.float32, batch=1
    )
    asked = []

    def around_the_point(**inputs: Any) -> SimpleNamespace:
        x, y = inputs["input_points"][0, 0, 0].tolist()
        asked.append((x, y))
        logits = torch.full((1, 1, 3, 28, 28), -5.0)
        column, row = (int(v / tiny_hub.SAM3_SIDE_PX * 28) for v in (x, y))
        logits[..., row - 3 : row + 4, column - 3 : column + 4] = 5
        return SimpleNamespace(pred_masks=logits, iou_scores=torch.full((1, 1, 3), 0.9))

    proposer._model.forward = around_the_point
    proposals = proposer.propose(IMAGE)
    assert asked == [(14, 14), (42, 14), (14, 42), (42, 42)]
    centers = sorted(
        tuple(np.round(np.argwhere(m).mean(axis=0)).astype(int)) for m in proposals.masks
    )
    assert len(centers) == 4
    for (y, x), expected in zip(centers, [(15, 50), (15, 150), (45, 50), (45, 150)], strict=True):
        assert abs(y - expected[0]) <= 3
        assert abs(x - expected[1]) <= 6


def test_grounding_dino_from_files_fills_its_boxes(tmp_path: Path) -> None:
    boxes = FilledBoxes()
    source = GroundingDinoSource(
        tiny_hub.save_grounding_dino(tmp_path),
        boxes,
        "cpu",
        score_min=0.0,  # type: ignore[arg-type]
    )
    found = source.find_instances(IMAGE, "Red car.")
    source.find_instances(IMAGE, "cat")
    assert found
    assert boxes.embedded == 1, "the embedding is kept for the next phrase"
    assert all(m.mask.shape == SIZE_HW and 0 <= m.probability <= 1 for m in found)


def test_florence2_from_files_draws_what_it_writes(tmp_path: Path) -> None:
    source = Florence2Source(tiny_hub.save_florence2(tmp_path), "cpu", None, max_new_tokens=20)
    tokens = source._processor.tokenizer
    written = "<loc_700><loc_100><loc_900><loc_100><loc_900><loc_800><loc_700><loc_800>"
    ids = tokens(f"</s><s>{written}</s>", add_special_tokens=False, return_tensors="pt").input_ids
    logits = torch.full((ids.shape[1] - 1, 1, len(tokens)), 0.0)
    for step, token in enumerate(ids[0, 1:]):
        logits[step, 0, token] = 20.0
    asked = {}

    def write(**inputs: Any) -> SimpleNamespace:
        asked.update(inputs)
        return SimpleNamespace(sequences=ids, scores=tuple(logits))

    real = source._model.generate
    source._model.generate = write
    (offered,) = source.segment(IMAGE, "the red car <OD>")
    assert offered.mask[30, 160]
    assert offered.mask.sum() == pytest.approx(40 * 42, rel=0.1)
    assert offered.probability == pytest.approx(1.0, abs=1e-3)
    assert "the red car" in tokens.decode(asked["input_ids"][0])
    # What the random model really writes is no polygon, or some: never an error.
    source._model.generate = real
    assert len(source.segment(IMAGE, "the red car")) <= 1


def test_files_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = tiny_hub.save_sam3_tracker(tmp_path / "tracker")
    with pytest.raises(WeightsError, match="Sam3Model"):
        Sam3Source(folder, "cpu", None)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text('{"model_type": "sam3"}')
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="pull the model again"):
        Sam3Source(tmp_path / "damaged", "cpu", None)


def test_missing_weights_say_what_to_accept_and_where_files_go(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        build_sam3_source(SourceContext("", "cpu", tmp_path))
    assert str(tmp_path / "hub" / "sam3") in caught.value.cause
    for part in ("SAM License", "facebook/sam3", "HF_TOKEN", "models pull sam3"):
        assert part in caught.value.cure
    with pytest.raises(ConfigError, match="no model that fills"):
        build_grounding_dino_source(SourceContext("", "cpu", tmp_path))


def write_files(repository: str, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(repository.encode())


def test_nothing_is_fetched_before_its_licence_is_accepted(tmp_path: Path) -> None:
    fetched: list[str] = []

    def fetch(repository: str, folder: Path) -> None:
        fetched.append(repository)
        write_files(repository, folder)

    store = HubStore(tmp_path, fetch)
    for wrong in (None, "", "MIT"):
        with pytest.raises(WeightsError, match="SAM License, which you must accept"):
            store.pull(SAM3, wrong)
    assert fetched == []
    folder = store.pull(SAM3, "SAM License")
    assert store.require(SAM3) == folder == tmp_path / "hub" / "sam3"
    store.pull(SAM3, None)
    assert fetched == ["facebook/sam3"], "once"
    assert sorted(p.name for p in store.directory.iterdir()) == ["sam3"], "nothing left beside"
    before = compute_fingerprint(folder)
    (folder / "model.safetensors").write_bytes(b"other")
    assert compute_fingerprint(folder) != before


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (
            GatedRepoError(
                "gated", response=httpx.Response(403, request=httpx.Request("GET", "x:"))
            ),
            "have not given you access",
        ),
        (OSError("no route"), "could not be fetched: no route"),
        (httpx.ConnectError("refused"), "could not be fetched: refused"),
    ],
)
def test_a_failed_fetch_leaves_nothing_and_says_what_to_do(
    failure: Exception, said: str, tmp_path: Path
) -> None:
    def fetch(repository: str, folder: Path) -> None:
        write_files(repository, folder)
        raise failure

    store = HubStore(tmp_path, fetch)
    with pytest.raises(WeightsError, match=said) as caught:
        store.pull(FLORENCE2, "MIT")
    assert str(tmp_path / "hub" / "florence-2") in caught.value.cure
    assert list(store.directory.iterdir()) == []


def test_the_worker_starts_without_transformers() -> None:
    code = (
        "import sys; import saymask_worker.pipeline.build, saymask_worker.cli.main;"
        "import saymask_worker.masks.hub.sources;"
        "sys.modules['transformers'] = None;"
        "from saymask_worker.weights.transformers import require_transformers\n"
        "try: require_transformers('x')\n"
        "except Exception as error: print(type(error).__name__, error.cure)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ConfigError pip install 'saymask[hub]'"


def test_every_model_of_the_hub_is_documented() -> None:
    text = Path("docs/engines.md").read_text("utf-8")
    for model in HUB_MODELS.values():
        assert model.repository in text
        assert model.licence in text
