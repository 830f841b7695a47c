"""CRIS against the authors' own numbers: forward pass, loss, gradients, parameters, letterbox."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from saymask.errors import WeightsError
from saymask_worker.encoders.crops import CLIP_MEAN, CLIP_STD, normalise
from saymask_worker.training.cris import Cris, CrisConfig
from saymask_worker.training.cris.backbone import ResnetBackbone, load_resnet_backbone
from saymask_worker.training.cris.letterbox import Letterbox, to_mask, to_probabilities
from saymask_worker.training.cris.model import compute_loss, freeze_batch_norms, group_parameters
from tests.conftest import DATA

FOLDER = DATA / "cris"
META = json.loads((FOLDER / "tiny_meta.json").read_text("utf-8"))
CASES = ("sq160", "rect128x192", "full416")
TINY = CrisConfig((64, 128, 64), (32, 64, 96), 64, 64, 3, 4, 128, 0.1)
# Without meaning: their true gradient is zero, or there is none.
NO_GRADIENT = {"backbone.visual.attnpool.k_proj.bias", "backbone.logit_scale"}


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray[Any]]:
    with np.load(FOLDER / "tiny_expected.npz") as archive:
        return dict(archive)


def build_tiny() -> Cris:
    vision = {"layers": [1, 2, 1, 1], "width": 8, "image_size": 224}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    model = Cris(ResnetBackbone(64, vision, text), TINY)
    with np.load(FOLDER / "tiny_state_dict.npz") as archive:
        state = {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}
    floats = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    model.load_state_dict(floats, strict=True)
    return model


def to_images(pixels: NDArray[np.uint8]) -> torch.Tensor:
    # Contiguous: in channels-last order batch norm's statistics lose two digits.
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
    return normalise(images, CLIP_MEAN, CLIP_STD)


@pytest.mark.parametrize("case", CASES)
def test_forward_pass_and_loss(case: str, expected: dict[str, NDArray[Any]]) -> None:
    model = build_tiny().eval()
    images = to_images(expected[f"{case}/image_u8"])
    tokens = torch.from_numpy(expected[f"{case}/word"]).long()
    with torch.no_grad():
        maps = model.backbone.encode_maps(images)
        words, state = model.backbone.encode_words(tokens)
        logits = model(images, tokens)
    for got, name, tolerance in (
        (maps[2], "v5", 5e-4), (words, "word_features", 1e-4), (state, "state", 1e-4),
        (logits, "logits", 1e-4),
    ):  # fmt: skip
        np.testing.assert_allclose(got, expected[f"{case}/{name}"], atol=tolerance, rtol=0)
    loss = compute_loss(logits, torch.from_numpy(expected[f"{case}/mask"]))
    assert float(loss) == pytest.approx(float(expected[f"{case}/loss_eval_bn"]), abs=1e-5)


def test_gradients_of_a_training_step(expected: dict[str, NDArray[Any]]) -> None:
    model = build_tiny().train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    tokens = torch.from_numpy(expected["train4/word"]).long()
    logits = model(to_images(expected["train4/image_u8"]), tokens)
    np.testing.assert_allclose(logits.detach(), expected["train4/logits"], atol=1e-3, rtol=0)
    loss = compute_loss(logits, torch.from_numpy(expected["train4/mask"]))
    assert float(loss.detach()) == pytest.approx(float(expected["train4/loss"]), abs=1e-5)
    loss.backward()
    norms = META["grad_norm_train4"]
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(norms)
    for name in set(norms) - NO_GRADIENT:
        gradient = parameters[name].grad
        assert gradient is not None, name
        assert float(gradient.norm()) == pytest.approx(norms[name], rel=1e-3), name
    for name, norm in META["running_stat_norm_after_train4"].items():
        assert float(model.get_buffer(name).norm()) == pytest.approx(norm, rel=1e-3), name


def test_the_parameters_and_rates_of_rn50() -> None:
    published = json.loads((FOLDER / "r50_parameters.json").read_text("utf-8"))
    config = open_clip.get_model_config("RN50")
    with torch.device("meta"):
        backbone = ResnetBackbone(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
        model = Cris(backbone, CrisConfig())
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    assert shapes == {name: shape for name, (shape, _) in published["parameters"].items()}
    assert sum(p.numel() for p in model.parameters()) == published["total"] == 146_849_122
    slow, fast = group_parameters(model, 1e-4, 0.1)
    assert (slow["lr"], fast["lr"]) == (pytest.approx(1e-5), 1e-4)
    groups = {
        id(p): group for group, g in (("backbone", slow), ("head", fast)) for p in g["params"]
    }
    for name, parameter in model.named_parameters():
        assert groups[id(parameter)] == published["parameters"][name][1], name


def test_the_optimiser_applies_the_backbones_rate() -> None:
    model = build_tiny()
    optimiser = torch.optim.Adam(group_parameters(model, 1.0, 0.1))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    for name, parameter in model.named_parameters():
        moved = float((before[name] - parameter.detach()).abs().max())
        is_slow = name.startswith("backbone.") and "positional_embedding" not in name
        assert moved == pytest.approx(0.1 if is_slow else 1.0, rel=1e-3), name


def test_the_letterbox(expected: dict[str, NDArray[Any]]) -> None:
    for size, (matrix, _) in zip(
        expected["letterbox/sizes"], expected["letterbox/mats"], strict=True
    ):
        box = Letterbox((int(size[0]), int(size[1])))
        np.testing.assert_allclose(box.matrix, matrix, atol=1e-5)
    box = Letterbox((300, 400))
    got = box.apply(expected["full416/ori_u8"])
    want = to_images(expected["full416/image_u8"])[0]
    # OpenCV's weights are multiples of 1/32: four grey levels apart at the most.
    assert float((got - want).abs().max()) < 5 / 255 / min(CLIP_STD)
    assert float((got - want).abs().mean()) < 0.5 / 255 / min(CLIP_STD)


def test_from_logits_to_the_mask_of_the_photo(expected: dict[str, NDArray[Any]]) -> None:
    box = Letterbox((300, 400))
    logits = torch.from_numpy(expected["full416/logits"])[0, 0]
    probabilities = to_probabilities(logits, box).numpy()
    np.testing.assert_allclose(
        probabilities[::5, ::5], expected["full416/post_prob_stride5"], atol=5e-3
    )
    differs = to_mask(logits, box)[0] != (expected["full416/post_mask"] > 0)
    assert differs.sum() <= 50


def test_a_mask_survives_the_letterbox() -> None:
    mask = np.zeros((300, 400), bool)
    mask[40:200, 100:350] = True
    box = Letterbox((300, 400))
    back = box.invert(box.apply_mask(mask)).numpy() > 0.5
    assert (back & mask).sum() / (back | mask).sum() > 0.97


def test_token_ids(expected: dict[str, NDArray[Any]]) -> None:
    backbone = build_tiny().backbone
    for length in (17, 22):
        tokens = backbone.tokenise(META["texts"], length)
        assert np.array_equal(tokens, expected[f"tokens{length}"])


def test_frozen_statistics_stay() -> None:
    model = build_tiny().train()
    model.backbone.freeze()
    freeze_batch_norms(model)
    names = ("backbone.visual.bn1", "backbone.visual.attnpool.connect.1", "neck.aggr.1")
    before = [model.get_buffer(f"{name}.running_mean").clone() for name in names]
    model(torch.randn(2, 3, 64, 64), torch.ones(2, 17, dtype=torch.long))
    after = [model.get_buffer(f"{name}.running_mean") for name in names]
    stayed = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert stayed == [True, False, False], "what is not in CLIP's weights learns"


def test_unknown_weights_are_named() -> None:
    with pytest.raises(WeightsError, match="openai"):
        load_resnet_backbone("RN50", "nonsense")


def test_a_vit_is_no_backbone_of_cris() -> None:
    config = open_clip.get_model_config("ViT-B-32")
    with torch.device("meta"), pytest.raises(ValueError, match="ResNets"):
        ResnetBackbone(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
