"""Encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from saymask.errors import ConfigError
from saymask_worker.encoders.base import one_thread
from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.encoders.starter_text import MiniLm


def test_unsupported_architecture_names_the_supported() -> None:
    with pytest.raises(ConfigError, match="RN50x4"):
        ClipVisual(torch.nn.Linear(2, 2), "odd", "cpu", torch.float32, 1)


def test_text_is_encoded_on_one_thread_and_the_rest_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


TEXTS = ([2, 7, 31, 5, 18, 3], [2, 3], [2, 44, 9, 3])


@pytest.fixture
def bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=48, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=96, max_position_embeddings=16,
    )  # fmt: skip
    model: BertModel = BertModel(config).eval()
    for weight in model.parameters():  # its own start leaves hardly any attention
        torch.nn.init.normal_(weight, std=0.3)
    return model


@pytest.fixture
def minilm(bert: BertModel, tmp_path: Path) -> MiniLm:
    save_file(bert.state_dict(), tmp_path / "bert.safetensors")
    return MiniLm.load(tmp_path / "bert.safetensors")


def _pad() -> tuple[Tensor, Tensor]:
    longest = max(len(text) for text in TEXTS)
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in TEXTS])
    return ids, ids != 0


@torch.inference_mode()
def _ask_bert(bert: BertModel) -> tuple[Tensor, Tensor]:
    ids, is_token = _pad()
    words = bert(ids, attention_mask=is_token.long()).last_hidden_state
    weights = is_token[..., None]
    return words, (words * weights).sum(dim=1) / weights.sum(dim=1)


@torch.inference_mode()
def test_texts_in_one_sequence_are_encoded_as_bert_encodes_each(
    bert: BertModel, minilm: MiniLm
) -> None:
    words, pooled = _ask_bert(bert)
    ids, is_token = _pad()
    got = minilm.encode_words(ids, is_token)
    torch.testing.assert_close(got[is_token], words[is_token], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(minilm.encode_texts(TEXTS), pooled, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_texts_in_bfloat16_are_almost_the_same(bert: BertModel, minilm: MiniLm) -> None:
    _, pooled = _ask_bert(bert)
    minilm.cast_products(torch.bfloat16)
    got = minilm.encode_texts(TEXTS)
    assert got.dtype == torch.float32
    assert not torch.equal(got, pooled)
    assert F.cosine_similarity(got, pooled).min() > 0.999
