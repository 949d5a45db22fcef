"""Hugging Face transformers: tiny configurations with random weights, made from the configurations' own defaults."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from sources import pytorch
from sources.torchvision_operators import provide_operators
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"
provide_operators()

import transformers  # noqa: E402
import transformers.models.bert.modeling_bert  # noqa: E402 (what all of them import, once for all processes)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

EXPORTERS = pytorch.EXPORTERS
TASKS = [
    "AutoModelForSeq2SeqLM",
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForImageClassification",
    "AutoModelForVideoClassification",
    "AutoModelForObjectDetection",
    "AutoModelForSemanticSegmentation",
    "AutoModelForDepthEstimation",
    "AutoModelForZeroShotImageClassification",
    "AutoModelForCTC",
    "AutoModelForAudioClassification",
    "AutoModelForSpeechSeq2Seq",
    "AutoModel",
]
"""The first of these that a type has is built."""
NAMES = (Path(__file__).parent / "transformers.txt").read_text().split()


WIDTH, HEADS, SIDE, PATCH, LENGTH = 32, 4, 32, 8, 8
SMALL = [
    (
        WIDTH,
        """
        hidden_size d_model n_embd embed_dim embedding_size dim hidden_dim word_embed_proj_dim emb_dim encoder_hidden_dim
        mamba_hidden_size projection_dim
    """,
    ),
    (
        HEADS,
        """
        num_attention_heads n_head num_heads n_heads encoder_attention_heads decoder_attention_heads num_encoder_attention_heads
        num_decoder_attention_heads attention_heads num_experts num_local_experts n_routed_experts moe_num_experts num_frames
        time_step_rank
    """,
    ),
    (
        HEADS // 2,
        """
        num_key_value_heads num_kv_heads num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers
        num_encoder_layers depth text_encoder_layers num_experts_per_tok moe_k type_vocab_size
    """,
    ),
    (
        WIDTH // HEADS,
        """
        head_dim d_kv key_value_size attention_head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim mamba_d_state state_size
    """,
    ),
    (WIDTH // 2, "q_lora_rank kv_lora_rank num_mel_bins sliding_window codebook_size"),
    (
        2 * WIDTH,
        """
        intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff d_inner n_inner dim_feedforward moe_intermediate_size
        feed_forward_hidden_size shared_expert_intermediate_size ffn_hidden_size max_position_embeddings n_positions max_sequence_length
        n_ctx max_source_positions max_target_positions
    """,
    ),
    (99, "vocab_size n_vocab src_vocab_size tgt_vocab_size"),
    (SIDE, "image_size"),
    (PATCH, "patch_size"),
]
"""The most that these settings are, in a configuration and in those inside it."""
LARGEST = {name: size for size, names in SMALL for name in names.split()}
CHANNELS = [
    "hidden_sizes",
    "embed_dims",
    "encoder_hidden_sizes",
    "neck_hidden_sizes",
    "conv_dim",
    "embed_dim",
    "hidden_dims",
    "width",
]
DEPTHS = ["depths", "num_blocks", "layer_depths"]

RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 40],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
DETR = {
    "use_timm_backbone": False,
    "backbone": None,
    "backbone_config": RESNET | {"out_features": ["stage4"]},
    "num_queries": 5,
}
SPEECH = {
    "conv_dim": [16, 16],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
WINDOWS = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2, "patch_size": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {"max_length": 64},
    "bit": {"num_groups": 4},
    "codegen": {"rotary_dim": 4},
    "conditional_detr": DETR,
    "convbert": {"num_attention_heads": 4, "head_ratio": 2},
    "ctrl": {"dff": 64},
    "deepseek_v2": {"num_key_value_heads": 4, "head_dim": 8, "num_experts_per_tok": 2},
    "deepseek_v3": {"num_key_value_heads": 4, "head_dim": 8, "n_group": 2, "topk_group": 1},
    "detr": DETR,
    "donut-swin": WINDOWS,
    "efficientnet": {"image_size": 64, "width_coefficient": 0.3, "depth_coefficient": 0.4, "hidden_dim": 384},
    "encodec": {"num_filters": 4, "hidden_size": 16, "upsampling_ratios": [4, 2], "num_lstm_layers": 1},
    "esm": {"vocab_size": 99, "pad_token_id": 1, "mask_token_id": 98},
    "focalnet": {
        "embed_dim": 16,
        "depths": [1, 1],
        "hidden_sizes": [16, 32],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gptj": {"rotary_dim": 4},
    "hgnet_v2": {
        "stem_channels": [3, 8, 12],
        "stage_in_channels": [12, 32, 64, 96],
        "stage_mid_channels": [12, 16, 24, 32],
        "stage_out_channels": [32, 64, 96, 128],
    },
    "hunyuan_v1_dense": {"head_dim": 8},
    "lilt": {"hidden_size": 48},
    "longformer": {"attention_window": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "ministral": {"head_dim": 8},
    "mobilebert": {"hidden_size": 64, "embedding_size": 16, "intra_bottleneck_size": 32},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "mobilevit": {"image_size": 64},
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.5},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "roc_bert": {
        "pronunciation_vocab_size": 99,
        "shape_vocab_size": 99,
        "pronunciation_embed_dim": 16,
        "shape_embed_dim": 16,
    },
    "speech_to_text": {"input_feat_per_channel": 16, "conv_channels": 32},
    "swin": WINDOWS,
    "swin2sr": WINDOWS | {"num_heads": [2, 2], "window_size": 4, "patch_size": 1},
    "swinv2": WINDOWS | {"window_size": 4},
    "table-transformer": DETR,
    "vjepa2": {"pred_hidden_size": 32, "pred_num_attention_heads": 4, "pred_num_hidden_layers": 2},
    "wav2vec2-bert": {"feature_projection_input_dim": 16},
    "xmod": {"default_language": "en_XX"},
}
for _same in [
    "wav2vec2",
    "hubert",
    "sew",
    "sew-d",
    "unispeech",
    "unispeech-sat",
    "wav2vec2-conformer",
    "wavlm",
    "data2vec-audio",
]:
    SETTINGS[_same] = SPEECH


SOUNDS = {"encodec": (1, 1, 320), "audio-spectrogram-transformer": (1, 64, 16)}


def names() -> list[str]:
    """The types of models that this version of transformers has."""
    return [name for name in NAMES if name in CONFIG_MAPPING]


def export(name: str, exporter: str, file: Path) -> dict[str, Any]:
    """Build the type with a tiny configuration and a head for some task, and export it."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[name](**_settings(name))
    kind, model = next(_built(config, zlib.crc32(name.encode()) % 2))
    inputs = _inputs(model, config)
    keyed = Keyed(model.eval(), list(inputs))
    if kind == TASKS[-1]:
        keyed.add_heads(inputs)
    return pytorch.export(keyed, tuple(inputs.values()), file, exporter, list(inputs))


def _built(config: Any, drawn: int) -> Iterator[tuple[str, nn.Module]]:
    """A model of the type for each task that it has, with the attention that is drawn where it has that."""
    for kind in TASKS:
        task = getattr(transformers, kind)
        if type(config) in task._model_mapping:
            for attention in ("eager", "sdpa")[drawn], "eager":
                with suppress(ValueError, TypeError):
                    yield kind, task.from_config(config, attn_implementation=attention)


class Keyed(nn.Module):
    """A model called by the names of its inputs; its outputs are logits and predictions where it says which they are."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names
        self.extra = {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}
        self.heads = nn.ParameterList()

    def add_heads(self, inputs: Mapping[str, Tensor]) -> None:
        """Put a matrix behind every output: channels that are a model's output cannot grow."""
        with torch.no_grad():
            outputs = list(pytorch.tensors(self(*inputs.values())))
        self.heads.extend(torch.randn(output.shape[1 if output.ndim == 4 else -1], 5) for output in outputs)

    def forward(self, *inputs: Tensor) -> Any:
        said = self.model(**dict(zip(self.names, inputs, strict=True)), **self.extra)
        wanted = {key: said[key] for key in said if "logits" in key or "pred" in key}
        if not self.heads:
            return wanted or said
        outputs = list(pytorch.tensors(said))[: len(self.heads)]
        return [_headed(output, head) for output, head in zip(outputs, self.heads, strict=True)]


def _headed(output: Tensor, head: Tensor) -> Tensor:
    """The output times the matrix, over its channels: the second of four dimensions, else the last."""
    if output.ndim == 4:
        return nn.functional.conv2d(output, head.T[:, :, None, None])
    return output @ head


def _settings(name: str) -> dict[str, Any]:
    return _small(CONFIG_MAPPING[name]().to_dict()) | SETTINGS.get(name, {})


def _small(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration that make it large, made small; sizes in lists keep their proportions."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and key.endswith("config"):
            settings[key] = _small(value)
        elif isinstance(value, bool) or value is None:
            continue
        elif key in LARGEST and isinstance(value, int):
            settings[key] = min(LARGEST[key], value)
        elif key in CHANNELS and isinstance(value, (list, tuple)):
            settings[key] = [channels // 4 for channels in value]
        elif key in DEPTHS and isinstance(value, (list, tuple)):
            settings[key] = [min(depth, 2) if isinstance(depth, int) else depth for depth in value]
        elif key.endswith("_token_id") and isinstance(value, int) and value >= LARGEST["vocab_size"]:
            settings[key] = 3 + len(settings) % 3
    if "model_type" in config and settings and any(isinstance(value, dict) for value in settings.values()):
        settings.pop("model_type", None)
    return settings


def _inputs(model: Any, config: Any) -> dict[str, Tensor]:
    """Inputs that the model's forward asks for, by name."""
    wanted = signature(model.forward).parameters
    draw = torch.Generator().manual_seed(0)
    vision = getattr(config, "vision_config", config)
    side = getattr(vision, "image_size", None) or 64
    height, width = (side, side) if isinstance(side, int) else side
    channels = getattr(vision, "num_channels", 3)
    frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
    tokens = torch.randint(10, 99, (2, LENGTH), generator=draw)
    bins = getattr(config, "num_mel_bins", 16)
    made: dict[str, Any] = {
        "input_ids": lambda: tokens,
        "pixel_values": lambda: torch.randn(
            (2, frames, channels, height, width) if frames else (2, channels, height, width), generator=draw
        ),
        "pixel_values_videos": lambda: torch.randn((1, frames, channels, height, width), generator=draw),
        "input_values": lambda: torch.randn(SOUNDS.get(config.model_type, (1, 1600)), generator=draw),
        "input_features": lambda: torch.randn(
            (1, bins, 128) if config.model_type == "whisper" else (1, 64, bins), generator=draw
        ),
        "attention_mask": lambda: torch.ones_like(tokens),
        "decoder_input_ids": lambda: tokens.flip(-1),
        "past_values": lambda: torch.randn(
            2, config.context_length, getattr(config, "num_input_channels", 1), generator=draw
        ),
    }
    main = model.main_input_name
    inputs = {main: made[main]()}
    if main == "input_ids":
        inputs |= {"attention_mask": made["attention_mask"]()} if "attention_mask" in wanted else {}
        inputs |= {"pixel_values": made["pixel_values"]()} if "pixel_values" in wanted else {}
    if "decoder_input_ids" in wanted:
        inputs["decoder_input_ids"] = made["decoder_input_ids"]()
    return inputs
