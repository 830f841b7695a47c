"""Loading genuine weights: the real code, on tiny files made here."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import open_clip
import pytest
import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from typer.testing import CliRunner

from saymask.errors import ConfigError, WeightsError
from saymask_worker.cli.main import app
from saymask_worker.config.pipeline import ProposalsConfig
from saymask_worker.config.scoring import GENUINE_SCORING
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.encoders.build import load_encoder
from saymask_worker.encoders.clip_visual import ClipVisual, TokenMasking
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks import load
from saymask_worker.masks.load import load_sam
from saymask_worker.masks.sam import SamProposer
from saymask_worker.pipeline.build import build_pipeline
from saymask_worker.weights.store import WeightStore


def tiny_config(kind: str) -> dict:
    vision = {"image_size": 64, "layers": 4, "width": 64, "patch_size": 16, "head_width": 32}
    if kind == "rn":
        vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}


@pytest.fixture(params=["vit", "rn"])
def tiny_pair(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An open_clip model and a checkpoint file of it."""
    name = f"tiny-{request.param}"
    (tmp_path / f"{name}.json").write_text(json.dumps(tiny_config(request.param)))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(1)
    model = open_clip.CLIP(**tiny_config(request.param))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return f"{name}/{tmp_path / 'weights.pt'}"


def test_open_clip_pairs_load_and_agree_with_open_clip(tiny_pair: str, tmp_path: Path) -> None:
    encoder = load_encoder(tiny_pair, WeightStore(tmp_path), "cpu", torch.float32, 4)
    assert encoder.scoring == GENUINE_SCORING
    assert len(encoder.weights_hash) == 8
    name, path = tiny_pair.split("/", 1)
    model = open_clip.create_model(name, pretrained=path).eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        expected = model.encode_image(images)
        tokens = open_clip.get_tokenizer(name)(["a dog", "two red cars"])
        expected_text = model.encode_text(tokens)
    torch.testing.assert_close(encoder.visual.encode_images(images), expected)
    got = encoder.text.encode(["a dog", "two red cars"])
    np.testing.assert_allclose(got, expected_text.numpy(), atol=1e-5)
    assert encoder.text.is_truncated("dog " * 100)
    assert not encoder.text.is_truncated("a dog")
    whole = encoder.visual.encode_global(
        images[:1], torch.ones(2, encoder.visual.grid_side, encoder.visual.grid_side), "multiply"
    )
    assert whole.shape == (2, 16)
    if encoder.visual.is_vit:
        hidden = encoder.visual.encode_global(
            images[:1], torch.ones(1, encoder.visual.grid_side, encoder.visual.grid_side),
            "attention",
        )  # fmt: skip
        torch.testing.assert_close(hidden, expected[:1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(whole[:1], expected[:1], atol=1e-4, rtol=1e-4)


def test_hidden_tokens_do_not_matter(tiny_pair: str, tmp_path: Path) -> None:
    encoder = load_encoder(tiny_pair, WeightStore(tmp_path), "cpu", torch.float32, 4)
    if not encoder.visual.is_vit:
        pytest.skip("token hiding is for ViT; a ResNet weights its feature map")
    side = encoder.visual.grid_side
    masks = torch.zeros(2, side, side)
    masks[0, 0, 0] = masks[1, 3, 3] = 1
    features = encoder.visual.encode_global(torch.randn(1, 3, 64, 64), masks, "attention")
    assert not torch.allclose(features[0], features[1], atol=1e-3)


@pytest.mark.parametrize("masked_blocks", [1, 2, 3, 4])
@pytest.mark.parametrize("masking", ["multiply", "attention"])
def test_trimmed_blocks_equal_the_whole_computation(
    masking: TokenMasking, masked_blocks: int, tmp_path: Path
) -> None:
    (tmp_path / "tiny-vit.json").write_text(json.dumps(tiny_config("vit")))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(2)
    tower = open_clip.CLIP(**tiny_config("vit")).visual.eval()
    visual = ClipVisual(copy.deepcopy(tower), "tiny", "cpu", torch.float32, 2)
    image = torch.randn(1, 3, 64, 64)
    masks = torch.rand(5, 4, 4) * (torch.rand(5, 4, 4) > 0.5)
    got = visual.encode_global(image, masks, masking, masked_blocks)
    with torch.inference_mode():
        blocks = tower.transformer.resblocks
        tokens = tower._embeds(image)
        for block in blocks[: 4 - masked_blocks]:
            tokens = block(tokens)
        for index, mask in enumerate(masks.flatten(1)):
            seen = shared = tokens
            for block in blocks[4 - masked_blocks :]:
                if masking == "multiply":
                    seen = block(seen * torch.cat([torch.ones(1), mask])[None, :, None])
                else:
                    # The proposal has a class token of its own; the patches know nothing of it.
                    bias = torch.zeros(17, 17)
                    bias[0, 1:] = mask.clamp(min=1e-6).log()
                    own = torch.cat([seen[:, :1], shared[:, 1:]], dim=1)
                    seen, shared = block(own, attn_mask=bias), block(shared)
            expected = tower._pool(seen)[0] @ tower.proj
            torch.testing.assert_close(got[index : index + 1], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ViT-B-16/nonsense", "nonsense", "ViT-B-16//missing.pt"])
def test_unknown_pairs_list_what_there_is(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="openai"):
        load_encoder(name, WeightStore(tmp_path), "cpu", torch.float32, 1)


def test_unreachable_weights_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", unreachable)
    with pytest.raises(WeightsError, match="no route"):
        load_encoder("ViT-B-32/openai", WeightStore(tmp_path), "cpu", torch.float32, 1)


def test_auto_is_the_starter_whatever_the_machine_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network is asked, and a genuine pair in the hub's cache changes nothing."""
    loaded: list[str] = []

    def note(name: str, *_: object) -> None:
        loaded.append(name)
        raise WeightsError("not loaded here")

    monkeypatch.setattr(httpx, "head", pytest.fail)
    monkeypatch.setattr("saymask_worker.pipeline.build.load_encoder", note)
    for setting in ("auto", "starter", "RN50/openai"):
        with pytest.raises(WeightsError, match="not loaded"):
            build_pipeline(load_worker_settings(encoder=setting, device="cpu"))
    assert loaded == ["starter", "starter", "RN50/openai"]


@pytest.mark.parametrize(("setting", "name"), [("auto", "starter"), ("RN50/openai", "RN50/openai")])
def test_the_list_of_models_says_which_encoder_the_settings_choose(
    monkeypatch: pytest.MonkeyPatch, setting: str, name: str
) -> None:
    monkeypatch.setenv("SAYMASK_ENCODER", setting)
    shown = " ".join(CliRunner().invoke(app, ["models", "list"]).stdout.split())
    assert f"Encoder in use: {name} (SAYMASK_ENCODER={setting})." in shown


def tiny_sam(checkpoint: None = None) -> Sam:
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=1024, depth=1, embed_dim=16, num_heads=2, out_chans=32, window_size=14,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True,
        ),
        prompt_encoder=PromptEncoder(32, (64, 64), (1024, 1024), 4),
        mask_decoder=MaskDecoder(
            transformer_dim=32,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=32),
            iou_head_hidden_dim=16,
        ),
    )  # fmt: skip


def test_segment_anything_checkpoints_load_and_propose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(load.sam_model_registry, "vit_b", tiny_sam)
    torch.manual_seed(0)
    original = tiny_sam()
    torch.save(original.state_dict(), tmp_path / "sam.pth")
    loaded = load_sam("sam-vit-b", tmp_path / "sam.pth")
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    config = ProposalsConfig(
        generator="sam-vit-b", points_per_side=2, predicted_iou_min=-10, stability_min=0,
        duplicate_iou_max=1.0, min_area_share=0.01,
    )  # fmt: skip
    proposer = SamProposer(loaded, config, "cpu", torch.float32, 4, "tiny")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    proposals = proposer.propose(DecodedImage(pixels, "0" * 64))
    assert proposals.masks.shape[1:] == (60, 90)
    assert len(proposals) <= config.max_count
