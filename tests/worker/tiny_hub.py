"""Models of the hub, built from tiny random configurations and saved as the hub would have them."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    BartTokenizer,
    BertTokenizer,
    CLIPImageProcessor,
    CLIPTokenizer,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3Model,
    Sam3Processor,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3TrackerProcessor,
    SwinConfig,
)

SAM3_SIDE_PX = 56
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
_VISION = {
    "backbone_config": {
        "model_type": "sam3_vit_model", "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SAM3_SIDE_PX,
        "patch_size": 7, "window_size": 4, "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    },
    "fpn_hidden_size": 16,
    "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
}  # fmt: skip
_LAYER = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def save_sam3(folder: Path) -> Path:
    """SAM 3 that finds concepts."""
    torch.manual_seed(0)
    config = Sam3Config(
        vision_config=_VISION,
        text_config={
            "model_type": "clip_text_model", "vocab_size": 2 * len(LETTERS) + 2,
            "hidden_size": 16, "intermediate_size": 32, "projection_dim": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32,
            "bos_token_id": 2 * len(LETTERS), "eos_token_id": 2 * len(LETTERS) + 1,
        },
        geometry_encoder_config={**_LAYER, "num_layers": 1},
        detr_encoder_config={**_LAYER, "num_layers": 1},
        detr_decoder_config={**_LAYER, "num_layers": 1, "num_queries": 5},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2},
    )  # fmt: skip
    names = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[])
    size = {"height": SAM3_SIDE_PX, "width": SAM3_SIDE_PX}
    Sam3Processor(Sam3ImageProcessor(size=size), tokenizer).save_pretrained(folder)
    Sam3Model(config).save_pretrained(folder)
    return folder


def save_sam3_tracker(folder: Path) -> Path:
    """SAM 3 that answers clicks."""
    torch.manual_seed(0)
    config = Sam3TrackerConfig(
        vision_config={"model_type": "sam3_vision_model", **_VISION},
        prompt_encoder_config={
            "hidden_size": 16, "image_size": SAM3_SIDE_PX, "patch_size": 7,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    size = {"height": SAM3_SIDE_PX, "width": SAM3_SIDE_PX}
    Sam3TrackerProcessor(Sam3ImageProcessor(size=size)).save_pretrained(folder)
    Sam3TrackerModel(config).save_pretrained(folder)
    return folder


def save_grounding_dino(folder: Path) -> Path:
    """Grounding DINO with a tiny Swin and a tiny BERT."""
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "red", "car", "cat"]
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
            out_indices=[2, 3, 4],
        ),
        text_config={
            "model_type": "bert", "vocab_size": len(words), "hidden_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        },
        d_model=32, num_queries=6, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_n_points=2, decoder_n_points=2,
    )  # fmt: skip
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    return folder


def save_florence2(folder: Path) -> Path:
    """Florence-2 with 1,000 tokens for places."""
    torch.manual_seed(0)
    names = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "<mask>"]
    places = [f"<loc_{number}>" for number in range(1000)]
    tokenizer = BartTokenizer(
        vocab={name: i for i, name in enumerate(names)}, merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    tokenizer.add_tokens([*places, "<poly>", "</poly>", "<sep>"], special_tokens=False)
    config = Florence2Config(
        vision_config={
            "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2],
            "patch_padding": [3, 1], "patch_prenorm": [False, True], "embed_dim": [8, 16],
            "num_heads": [1, 2], "num_groups": [1, 2], "window_size": 4, "projection_dim": 16,
        },
        text_config={
            "model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16,
            "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
            "max_position_embeddings": 1200,
        },
        image_token_id=tokenizer.image_token_id,
    )  # fmt: skip
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    images.image_seq_length = 17
    Florence2Processor(images, tokenizer, post_processor_config={"polygons": {}}).save_pretrained(
        folder
    )
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    return folder
