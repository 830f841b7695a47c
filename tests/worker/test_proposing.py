"""Proposed expressions: what an object is, what singles it out, its wordings, a whole folder."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saymask.contract import ProposedPair
from saymask.datasets import load_coco
from saymask.errors import DatasetError, ImageUnreadable
from saymask.masks import decode_coco_rle
from saymask_worker.batch.coco_folder import ProposeOptions, propose_folder
from saymask_worker.config.generation import GenerationConfig
from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.images.geometry import compute_geometry
from saymask_worker.language import LanguageParser
from saymask_worker.language.nouns import load_nouns
from saymask_worker.pipeline.generation.colors import COLORS, measure_colors
from saymask_worker.pipeline.generation.families import build_families
from saymask_worker.pipeline.generation.generation import (
    FINDERS,
    Attribute,
    Description,
    Scene,
    describe,
    word,
)
from saymask_worker.pipeline.generation.objects import find_objects
from tests.fake_worker import build_candidate, build_prepared
from tests.worker.scenes import described

CONFIG = GenerationConfig()
HEIGHT, WIDTH = 100, 200


def box(x: int, y: int, width: int = 20, height: int = 20) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + height, x : x + width] = True
    return mask


def scene(*masks: np.ndarray, colors: list[str] | None = None, **fields: Any) -> Scene:
    shares = np.zeros((len(masks), len(COLORS)), np.float32)
    for row, name in enumerate(colors or []):
        shares[row, COLORS.index(name)] = 1
    return Scene(compute_geometry(np.stack(masks)), shares, **fields)


def attributes(found: Description | None) -> list[tuple[str, str, int]]:
    assert found is not None
    return [(a.kind, a.value, a.rank) for a in found.attributes]


class TestFamilies:
    def test_kinds_count_for_their_family(self) -> None:
        families = build_families(("puppy", "cat", "dog", "teapot"))
        assert families.heads == ("dog", "cat", "teapot")
        probabilities = np.array([[0.3, 0.1, 0.2, 0.4]], np.float32)
        sums = families.sum_probabilities(probabilities)
        assert sums == pytest.approx(np.array([[0.5, 0.1, 0.4]]))

    def test_every_noun_of_the_families_is_in_the_vocabulary(self) -> None:
        things = load_nouns().things
        families = build_families(things)
        assert len(families.heads) < len(things) - 150
        assert set(families.heads) <= set(things)


class TestColors:
    def test_clear_colors_have_their_names(self) -> None:
        clear = {
            "black": (10, 10, 12), "gray": (128, 128, 128), "white": (250, 250, 248),
            "red": (200, 20, 25), "orange": (240, 130, 20), "brown": (110, 65, 30),
            "yellow": (240, 220, 30), "green": (30, 140, 50), "blue": (30, 70, 200),
            "purple": (110, 40, 150), "pink": (245, 140, 190),
        }  # fmt: skip
        assert set(clear) == set(COLORS)
        pixels = np.array([[rgb] * 4 for rgb in clear.values()], np.uint8)
        masks = np.eye(len(clear), dtype=bool)[:, :, None].repeat(4, axis=2)
        shares = measure_colors(pixels, masks)
        assert [COLORS[i] for i in shares.argmax(axis=1)] == list(clear)
        assert shares.max(axis=1) == pytest.approx(1.0)

    def test_shares_are_of_the_mask_alone(self) -> None:
        pixels = np.zeros((2, 2, 3), np.uint8)
        pixels[0, 0] = (200, 20, 25)
        shares = measure_colors(pixels, np.array([[[True, True], [False, False]]]))
        assert shares[0, COLORS.index("red")] == 0.5
        assert shares[0, COLORS.index("black")] == 0.5


class TestDescribe:
    def test_a_noun_that_means_one_object_needs_nothing_more(self) -> None:
        assert attributes(describe(scene(box(5, 5)), 0, "dog", [], CONFIG)) == []

    def test_color_comes_before_size_and_side(self) -> None:
        two = scene(box(5, 5, 60, 60), box(150, 40), colors=["red", "blue"])
        assert attributes(describe(two, 0, "car", [1], CONFIG)) == [("color", "red", 0)]

    def test_people_have_no_color(self) -> None:
        two = scene(box(5, 40), box(150, 40), colors=["red", "blue"])
        assert attributes(describe(two, 0, "man", [1], CONFIG)) == [("side", "left", 0)]

    def test_a_color_that_does_not_suffice_is_completed(self) -> None:
        three = scene(box(5, 40), box(80, 40), box(150, 40), colors=["black", "black", "white"])
        found = describe(three, 0, "cow", [1, 2], CONFIG)
        assert attributes(found) == [("color", "black", 0), ("side", "left", 0)]

    def test_size_where_it_is_clear(self) -> None:
        two = scene(box(5, 5, 60, 60), box(150, 40))
        assert attributes(describe(two, 0, "car", [1], CONFIG)) == [("size", "large", 0)]
        assert attributes(describe(two, 1, "car", [0], CONFIG)) == [("size", "small", 0)]

    def test_place_in_a_row(self) -> None:
        row = scene(*(box(5 + 45 * place, 40) for place in range(4)))
        found = [describe(row, i, "cow", [j for j in range(4) if j != i], CONFIG) for i in range(4)]
        assert [attributes(item) for item in found] == [
            [("side", "left", 0)], [("ordinal", "left", 2)],
            [("ordinal", "right", 2)], [("side", "right", 0)],
        ]  # fmt: skip

    def test_beside_a_landmark(self) -> None:
        masks = box(20, 5), box(90, 40), box(160, 60), box(95, 60)
        cups = scene(*masks, landmarks={3: "teapot"})
        found = describe(cups, 1, "cup", [0, 2], CONFIG)
        assert attributes(found) == [("landmark", "teapot", 0)]

    def test_what_nothing_singles_out_is_not_described(self) -> None:
        assert describe(scene(box(80, 40), box(82, 42)), 0, "cup", [1], CONFIG) is None

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 180), st.integers(0, 80), st.integers(4, 60), st.integers(4, 60)
            ),
            min_size=2, max_size=6,
        )
    )  # fmt: skip
    def test_what_is_said_holds_of_no_other_object(
        self, boxes: list[tuple[int, int, int, int]]
    ) -> None:
        many = scene(*(box(*sides) for sides in boxes), landmarks={0: "teapot"})
        for target in range(1, len(boxes)):
            others = [i for i in range(1, len(boxes)) if i != target]
            found = describe(many, target, "cup", others, CONFIG)
            if found is None or not found.attributes:
                continue
            (said,) = found.attributes
            for other in others:
                rivals = [i for i in (target, *others) if i != other]
                same = FINDERS[said.kind](many, other, rivals, CONFIG)
                assert same is None or (same.value, same.rank) != (said.value, said.rank)


@pytest.fixture(scope="module")
def parser() -> LanguageParser:
    return LanguageParser(load_nouns().all)


class TestWording:
    @pytest.mark.parametrize(
        ("attribute", "read"),
        [
            (Attribute("side", "left", among=2), {"sides": ("left",)}),
            (Attribute("side", "right", among=4), {"sides": ("right",)}),
            (Attribute("side", "top", among=2), {"sides": ("top",)}),
            (Attribute("size", "large", among=2), {"size": "large"}),
            (Attribute("size", "small", among=3), {"size": "small"}),
            (Attribute("ordinal", "left", rank=2), {"ordinal": (2, "left")}),
            (Attribute("ordinal", "right", rank=3), {"ordinal": (3, "right")}),
            (Attribute("landmark", "bench", landmark=0), {"relation": ("near", "bench")}),
        ],
    )
    def test_every_wording_is_read_as_what_it_says(
        self, parser: LanguageParser, attribute: Attribute, read: dict[str, object]
    ) -> None:
        for seed in range(3):
            for text in word(Description("dog", (attribute,)), 9, seed):
                parsed = parser.parse(text)
                assert (parsed.appearance or "").split()[-1] == "dog", text
                relations = [(r.kind, r.anchor.split()[-1]) for r in parsed.relations]
                ordinal = parsed.ordinal
                found = {
                    "sides": parsed.sides,
                    "size": parsed.size,
                    "ordinal": (ordinal.rank, ordinal.start) if ordinal else None,
                    "relation": relations[0] if relations else None,
                }
                expected = {"sides": (), "size": None, "ordinal": None, "relation": None, **read}
                assert found == expected, text

    def test_colors_go_before_the_noun(self) -> None:
        said = Description("cow", (Attribute("color", "black"), Attribute("side", "left", among=2)))
        assert "the black cow on the left" in word(said, 9, 0)

    def test_a_seed_gives_the_same_wordings_and_another_may_begin_differently(self) -> None:
        said = Description("cow", (Attribute("side", "left", among=2),))
        assert word(said, 3, 1) == word(said, 3, 1)
        first = {word(said, 3, seed)[0] for seed in range(20)}
        assert first == {"the cow on the left", "the left cow"}
        assert len(word(said, 2, 0)) == 2


def test_objects_are_wholes_of_known_nouns_and_do_not_overlap() -> None:
    image = described(things=[[1.0, 0.0], [0.0, 1.0]], stuff=[[-1.0, -1.0]])
    proposals = image.prepared.proposals
    # The block around the second square is hardly agreed on.
    vote_share = np.array([0.9, 0.9, 0.9, 0.9, 0.2], np.float32)
    prepared = replace(image.prepared, proposals=replace(proposals, vote_share=vote_share))
    found = find_objects(
        replace(image, prepared=prepared), build_families(("cat", "dog")), CONFIG, ScoringConfig()
    )
    assert sorted(item.index for item in found.objects) == [0, 1, 2, 3]
    assert {item.noun for item in found.objects} == {"cat"}
    assert all(item.probability > 0.9 for item in found.objects)


class FolderPipeline:
    """Proposes one square for every image; what cannot be read is named broken."""

    model_version = "saymask-folder-1"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def load_prepared(self, sha256: str) -> None:
        return None

    def prepare(self, data: bytes, name: str) -> tuple[Any, None]:
        self.seen.append(name)
        if name == "broken":
            raise ImageUnreadable("The photo is damaged.", "Save it again.")
        if name == "killed":
            raise KeyboardInterrupt
        return build_prepared("a" * 64), None

    def propose(self, *_: object) -> tuple[ProposedPair, ...]:
        pair = ProposedPair(
            expressions=("the cat", "cat"), noun="cat", confidence=0.7, candidate=build_candidate(2)
        )
        return (pair,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name, shade in (("one.png", 10), ("deep/one.png", 20), ("two.jpg", 30)):
        Image.new("RGB", (64, 48), (shade, 0, 0)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    return tmp_path / "photos"


class TestFolder:
    options = ProposeOptions(2, 0.5, 0)

    def run(self, pipeline: FolderPipeline, folder: Path) -> Any:
        out = folder.parent / "out"
        return propose_folder(pipeline, folder, out, self.options, lambda *_: None)  # type: ignore[arg-type]

    def test_the_dataset_can_be_read_and_holds_nothing_as_human(self, folder: Path) -> None:
        report = self.run(FolderPipeline(), folder)
        assert (report.photos, report.expressions, report.failed) == (3, 3, ())
        read = load_coco(folder.parent / "out")
        assert len(read.images) == 3
        assert {e.text for image in read.images for e in image.expressions} == {"the cat", "cat"}
        mask = decode_coco_rle(read.images[0].expressions[0].target)
        expected = decode_coco_rle(build_candidate(2).mask.as_dict())
        assert (mask == expected).all()
        written = json.loads(
            (folder.parent / "out/annotations/instances_proposed.json").read_text()
        )
        sentences = [s for a in written["annotations"] for s in a["expressions"]]
        assert {s["provenance"] for s in sentences} == {"proposed"}

    def test_an_interrupted_run_goes_on_and_tries_failures_again(self, folder: Path) -> None:
        shutil.copy(folder / "two.jpg", folder / "killed.jpg")
        (folder / "broken.jpg").write_bytes(b"no image")
        with pytest.raises(KeyboardInterrupt):
            self.run(FolderPipeline(), folder)
        (folder / "killed.jpg").unlink()
        again = FolderPipeline()
        report = self.run(again, folder)
        assert again.seen == ["broken", "one", "two"], "what was done is not done again"
        assert (report.photos, report.before) == (4, 1)
        assert report.failed == ("broken.jpg: The photo is damaged. Save it again.",)

    def test_another_run_does_not_mix_with_it(self, folder: Path) -> None:
        self.run(FolderPipeline(), folder)
        other = FolderPipeline()
        other.model_version = "saymask-folder-2"
        with pytest.raises(DatasetError, match="model_version differ"):
            self.run(other, folder)

    def test_odd_names_concern_themselves_only(self, folder: Path) -> None:
        """A name that is not UTF-8 fails each time, and a hidden file is not a photo."""
        with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb") as file:
            file.write((folder / "two.jpg").read_bytes())
        (folder / "._two.jpg").write_bytes(b"resource fork")
        shutil.copy(folder / "two.jpg", folder / "three.jfif")
        with Image.open(folder / "three.jfif") as image:
            image.rotate(90).save(folder / "three.jfif", "JPEG")
        failed = ("caf\\xe9.jpg: its name is not UTF-8. Rename the file.",)
        for before in (0, 4):
            report = self.run(FolderPipeline(), folder)
            assert (report.photos, report.before, report.failed) == (5, before, failed)
        suffixes = sorted(p.suffix for p in (folder.parent / "out" / "images").iterdir())
        assert suffixes == [".jpg", ".jpg", ".png", ".png"], "as their content is"
        assert len(load_coco(folder.parent / "out").images) == 4

    def test_a_link_that_leaves_the_folder_is_left_out_and_one_inside_is_not(
        self, folder: Path
    ) -> None:
        shutil.copy(folder / "two.jpg", folder.parent / "private.jpg")
        (folder / "away.jpg").symlink_to(folder.parent / "private.jpg")
        (folder / "two.jpg").rename(folder / "kept.jpg")
        (folder / "two.jpg").symlink_to("kept.jpg")
        before = len(self.run(FolderPipeline(), folder).failed)
        (failure,) = (f for f in self.run(FolderPipeline(), folder).failed if "away" in f)
        assert before == 1
        assert "private.jpg" in failure
        read = load_coco(folder.parent / "out")
        assert all(not image.path.is_symlink() for image in read.images)

    def test_a_folder_without_images_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="holds no image"):
            self.run(FolderPipeline(), tmp_path)
