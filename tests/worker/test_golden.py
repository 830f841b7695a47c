"""Feature extraction against numbers made by the authors' own Global-Local CLIP code."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray

from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.encoders.open_clip_text import OpenClipText
from saymask_worker.language.parser import LanguageParser
from saymask_worker.ranking import published
from tests.conftest import DATA

GOLDEN = DATA / "global_local"
INPUTS = np.load(GOLDEN / "inputs.npz")
META = json.loads((GOLDEN / "meta.json").read_text("utf-8"))
TOLERANCE = {"vit": 5e-5, "rn": 1e-5}


def load_model(kind: str) -> torch.nn.Module:
    weights = np.load(GOLDEN / f"{kind}_state_dict.npz")
    state = {name: torch.from_numpy(weights[name]).float() for name in weights.files}
    model = open_clip.model.build_model_from_openai_state_dict(state, cast_dtype=torch.float32)
    return model.float().eval()


@pytest.fixture(scope="module", params=["vit", "rn"])
def reference(request: pytest.FixtureRequest) -> tuple[str, torch.nn.Module, Any]:
    kind = request.param
    return kind, load_model(kind), np.load(GOLDEN / f"{kind}_expected.npz")


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("boxes", ["extent", "freesolo"])
def test_every_step(reference: tuple[str, torch.nn.Module, Any], image: int, boxes: str) -> None:
    kind, model, arrays = reference
    tower = ClipVisual(model.visual, kind, "cpu", torch.float32, 4)
    pixels, masks = INPUTS[f"image{image}"], INPUTS[f"masks{image}"]
    box = INPUTS[f"boxes_{boxes}{image}"].astype(np.float64)

    def check(name: str, got: NDArray[np.float32], tolerance: float) -> None:
        want = arrays[f"im{image}_{name}"]
        np.testing.assert_allclose(got, want, atol=tolerance, rtol=0, err_msg=name)

    loaded = published.load_image(pixels)
    check("clip_input", published.resize(loaded, (224, 224)).numpy(), 1e-5)
    check("token_masks", published.sample_token_masks(masks, tower.grid_side).numpy(), 1e-5)
    crops = published.crop_boxes(loaded, masks, box, size_px=224)
    check(f"crops_stride8_{boxes}", crops[:, :, ::8, ::8].numpy(), 1e-5)
    features = published.encode_proposals(tower, pixels, masks, box)
    check("global_features", features.global_context, TOLERANCE[kind])
    check(f"local_features_{boxes}", features.local_context, TOLERANCE[kind])

    text = OpenClipText(model, open_clip.get_tokenizer("ViT-B-32"), "cpu")
    expressions = META[kind]["expressions"]
    sentences = text.encode([row["joined"] for row in expressions])
    phrases = text.encode([row["noun_phrase"] for row in expressions])
    scale = float(model.logit_scale.detach().exp())
    for weight, name in ((0.85, "a85"), (0.95, "a95")):
        fused = weight * features.global_context + (1 - weight) * features.local_context
        check(f"fused_{name}_{boxes}", fused, TOLERANCE[kind])
        for index in range(len(expressions)):
            scores = published.compute_scores(
                features, sentences[index], phrases[index], weight, 0.5, is_vit=tower.is_vit
            )
            want = arrays[f"im{image}_scores_{name}_{boxes}"][index]
            np.testing.assert_allclose(scores.total * scale, want, atol=1e-4, rtol=0)
            ranking = arrays[f"im{image}_ranking_{name}_{boxes}"][index]
            assert scores.order.tolist() == ranking.tolist()


def test_text_features(reference: tuple[str, torch.nn.Module, Any]) -> None:
    kind, model, arrays = reference
    text = OpenClipText(model, open_clip.get_tokenizer("ViT-B-32"), "cpu")
    for name, column in (("text_sentence", "joined"), ("text_noun_phrase", "noun_phrase")):
        got = text.encode([row[column] for row in META[kind]["expressions"]])
        want = arrays[name]
        if kind == "rn":
            got = got / np.linalg.norm(got, axis=-1, keepdims=True)
            want = want / np.linalg.norm(want, axis=-1, keepdims=True)
        np.testing.assert_allclose(got, want, atol=TOLERANCE[kind], rtol=0)


def test_published_loading_of_expressions() -> None:
    parser = LanguageParser()
    for row in META["vit"]["expressions"]:
        joined = parser.join_tokens(row["raw"])
        assert joined == row["joined"]
        assert parser.find_published_noun_phrase(joined) == row["noun_phrase"]
