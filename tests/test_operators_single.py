"""Operators alone, every dimension of what they compute with free: each grows as far as its rule says, and computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from graphs import Arrays, Case, reference, run
from onnx import TensorProto
from single_operators import Computed, Operand, Single, check

from onnx_grow.model import Model

MS = "com.microsoft"
RNG = np.random.default_rng(0)
SCALE = np.float32(0.02)


def floats(*shape: int) -> np.ndarray:
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


def scales(*shape: int) -> np.ndarray:
    return RNG.uniform(0.01, 0.02, shape).astype(np.float32)


def bytes_(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    drawn = RNG.integers(0, 255, shape) if dtype == np.uint8 else RNG.integers(-100, 100, shape)
    return drawn.astype(dtype)


def longs(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def ms(op: str, operands: Sequence[Operand], **attributes: Any) -> Single:
    return Single(op, operands, attributes, domain=MS)


# Operators that take the dimensions of their operands as they are. The axes of operand k are m<k>, m<k>:2 and so on.
PLAIN = [
    (Single("BitCast", [Computed((2, 3))], {"to": TensorProto.INT32}, 26), "m0 m0:2"),
    (Single("Scale", [Computed((2, 3))], {"scale": 0.5}, 9), "m0 m0:2"),
    (Single("ScaledTanh", [Computed((2, 3))], {"alpha": 0.5, "beta": 2.0}, 9), "m0 m0:2"),
    (Single("ParametricSoftplus", [Computed((2, 3))], {"alpha": 0.5, "beta": 2.0}, 9), "m0 m0:2"),
    (ms("GatedAdd", [Computed((2, 3, 4)), Computed((2, 3, 4)), Computed((2, 3, 1))]), "m0 m0:2 m0:3"),
    (ms("ScaledSiLU", [Computed((2, 3, 4))], alpha=0.7), "m0 m0:2 m0:3"),
    (ms("ScaledSiLU", [Computed((2, 3, 4)), np.float32(0.7)]), "m0 m0:2 m0:3"),
    (ms("Pad", [Computed((2, 3)), longs(0, 1, 0, 2)]), "m0 m0:2 tested"),
    (ms("ExpandDims", [Computed((2, 3)), np.int32(1)]), "m0 m0:2"),
    (ms("ExpandDims", [Computed((2, 3)), np.int32(-1)]), "m0 m0:2"),
    (ms("Trilu", [Computed((2, 3, 3))]), "m0"),
    (ms("GatherND", [Computed((3, 4, 2)), np.array([[0, 1], [2, 3]])]), "m0:3 tested"),
    (ms("UnfoldTensor", [Computed((2, 5, 3))], dim=1, size=2, step=1), "m0 m0:3"),
    (ms("Range", [np.float32(0), Computed((), positive=True), np.float32(0.1)]), ""),
    (ms("GridSample", [Computed((2, 3, 4, 4)), Computed((2, 3, 3, 2))]), "m0 m0:2"),
    (
        ms(
            "CropAndResize",
            [
                Computed((2, 3, 4, 4)),
                Computed((2, 4), positive=True),
                np.array([0, 1], np.int32),
                np.array([2, 2], np.int32),
            ],
        ),
        "m0:2",
    ),
    (ms("NhwcMaxPool", [Computed((2, 4, 4, 3), TensorProto.UINT8)], kernel_shape=[2, 2]), "m0 m0:4"),
    (ms("CDist", [Computed((2, 3)), Computed((4, 3))], metric="euclidean"), "m0 m1"),
    (
        ms(
            "ConvTransposeWithDynamicPads",
            [Computed((2, 4, 3, 3)), floats(4, 2, 2, 2), longs(0, 0, 0, 0), floats(4)],
            group=2,
            kernel_shape=[2, 2],
            strides=[2, 2],
        ),
        "m0 m0:2 m0:3 tested",
    ),
    (
        ms(
            "FusedConv",
            [Computed((2, 4, 3, 3)), floats(6, 4, 1, 1), floats(6), Computed((2, 6, 3, 3))],
            activation="Relu",
        ),
        "m0 m0:2 m0:3 m0:4 m3",
    ),
    (
        Single(
            "RoiAlign",
            [Computed((2, 3, 4, 4)), Computed((2, 4), positive=True), longs(0, 1)],
            {"output_height": 2, "output_width": 2, "coordinate_transformation_mode": "output_half_pixel"},
            16,
        ),
        "m0:2",
    ),
    (Single("MaxPool", [Computed((2, 3, 4))], {"kernel_shape": [2]}, outputs=2), ""),
    (Single("MaxPool", [Computed((2, 3, 4))], {"kernel_shape": [2]}, outputs=2, read=1), "m0 m0:2"),
    (
        Single("OneHot", [Computed((2, 3), TensorProto.INT64), longs(4), Computed((2,))], {"axis": -1}),
        "m0 m0:2",
    ),
]

NORMS = [
    (ms("BranchwiseRMSNorm", [Computed((2, 3, 4)), floats(3, 4)]), "m0 m0:2 ~m0:3"),
    (ms("BranchwiseRMSNorm", [Computed((2, 3, 4)), floats(4)]), "m0 m0:2 ~m0:3"),
    (ms("BranchwiseRMSNorm", [Computed((2, 12)), floats(12)], num_branches=3), "m0 m0:2 ~m0:3"),
    (ms("BranchwiseRMSNorm", [Computed((2, 12)), floats(3, 4)], num_branches=3), "m0 m0:2 ~m0:3"),
    (ms("BranchwiseRMSNorm", [Computed((2, 12))], num_branches=3), "m0 m0:2 ~m0:3"),
    (
        ms("GatedRMSNorm", [Computed((2, 3, 12)), floats(4), Computed((2, 3, 12))], activation="silu"),
        "m0 m0:2 m0:3 ~m0:4",
    ),
    (
        Single(
            "EngramGate",
            [
                Computed((2, 3, 2, 4)),
                Computed((2, 3, 2, 4)),
                Computed((2, 3, 4)),
                floats(2, 4),
                Computed((2, 4)),
                floats(2, 4),
            ],
            domain=MS,
            outputs=2,
        ),
        "m0 m0:2 m0:3 ~m0:4",
    ),
]

STREAMS = [
    (ms(op, [Computed(x), *branch, Computed(gates), *mix], **attributes), "m0 m0:2 m0:4")
    for op, branch, mix in (
        ("HyperConnectionPreMix", [], []),
        ("HyperConnectionPostMix", [Computed((2, 5, 4))], []),
        ("HyperConnectionPostMix", [Computed((2, 5, 4))], [Computed((2, 5, 3, 3))]),
    )
    for x, gates, attributes in (
        ((2, 5, 3, 4), (2, 5, 3), {}),
        ((2, 5, 3, 4), (2, 5, 3, 1), {}),
        ((2, 5, 3, 4), (2, 5, 3, 4), {}),
        ((2, 5, 12), (2, 5, 3), {"num_branches": 3}),
        ((2, 5, 12), (2, 5, 3, 4), {"num_branches": 3}),
    )
] + [
    (
        ms("HyperConnectionPreMix", [Computed((2, 5, 12)), Computed((2, 5, 12))], num_branches=3),
        "m0 m0:2 m0:4",
    )
]


def of_blocks(bits: int, k: int, zeros: np.ndarray | None = None, block: int = 16, **more: Any) -> Single:
    """MatMulNBits with 5 rows of `k` columns."""
    each = -(-k // block)
    operands: list[Operand] = [Computed((2, k)), bytes_(5, each, block * bits // 8), scales(5, each)]
    attributes = {"K": k, "N": 5, "bits": bits, "block_size": block, **more}
    return ms("MatMulNBits", [*operands, zeros] if zeros is not None else operands, **attributes)


PACKED = [
    (of_blocks(4, 64), "m0 m0:2 tested"),
    (
        of_blocks(4, 64, bytes_(5, 2)),
        "m0 m0:2 tested",
    ),  # blocks grow by pairs, as their zero points are packed
    (of_blocks(4, 64, floats(5, 4)), "m0 m0:2 tested"),
    (of_blocks(4, 48, bytes_(5, 2)), "m0 tested"),
    (of_blocks(4, 40), ""),
    (of_blocks(8, 64), "m0 m0:2 tested"),
    (of_blocks(8, 48, bytes_(5, 3)), "m0 m0:2 tested"),
    (of_blocks(2, 128, bytes_(5, 2)), "m0 m0:2 tested"),
    (
        ms(
            "MatMulNBits",
            [Computed((3, 64)), bytes_(5, 4, 8), scales(20), bytes_(10)],
            K=64,
            N=5,
            bits=4,
            block_size=16,
        ),
        "m0 m0:2 tested",
    ),
    (
        ms(
            "MatMulNBits",
            [Computed((3, 32)), bytes_(5, 2, 8), scales(5, 2), None, None, floats(5)],
            K=32,
            N=5,
            bits=4,
            block_size=16,
        ),
        "m0 m0:2 tested",
    ),
    (
        ms(
            "MatMulBnb4",
            [Computed((3, 64)), bytes_(5 * 32), scales(5 * 4)],
            K=64,
            N=5,
            quant_type=1,
            block_size=16,
        ),
        "m0 m0:2 tested",
    ),
    *(
        (
            ms(
                "GatherBlockQuantized",
                [table, Computed((3,), TensorProto.INT64, below=7), scales(7, 4), *zeros],
                bits=bits,
                block_size=16,
                gather_axis=0,
                quantize_axis=1,
            ),
            "m1 tested",
        )
        for table, bits, zeros in (
            (bytes_(7, 32), 4, [bytes_(7, 2)]),
            (bytes_(7, 64), 8, [bytes_(7, 4)]),
            (bytes_(7, 32), 4, []),
            ((bytes_(7, 64, dtype=np.int8) // 16).astype(ml_dtypes.int4), 4, []),
            (
                (bytes_(7, 64) // 16).astype(ml_dtypes.uint4),
                4,
                [(bytes_(7, 4) // 16).astype(ml_dtypes.uint4)],
            ),
        )
    ),
]


def mixture(activation: str, fusion: int = 0) -> Single:
    """MoE of 3 experts with 4 channels and 6 inner ones."""
    rows = 12 if fusion else 6
    operands = [
        *(Computed((5, 4)), Computed((5, 3))),
        *(floats(3, rows, 4), floats(3, rows), floats(3, 4, 6), floats(3, 4)),
    ]
    return ms("MoE", operands, activation_type=activation, swiglu_fusion=fusion, k=2)


def quantized_mixture(bits: int, block: int, fusion: int = 0, zeros: bool = False) -> Single:
    """QMoE of 3 experts with 64 channels and 64 inner ones."""
    rows, per_byte = 128 if fusion else 64, 8 // bits

    operands: list[Operand] = [Computed((5, 64)), Computed((5, 3))]
    for n in (rows, 64):
        operands += [
            bytes_(3, n, 64 // per_byte),
            scales(3, n, 64 // block) if block else scales(3, n),
            floats(3, n),
        ]
    if zeros:
        operands += [None, None, None, *(bytes_(3, n, 64 // block // per_byte) for n in (rows, 64))]
    attributes = {"expert_weight_bits": bits, "k": 2, "swiglu_fusion": fusion}
    attributes["activation_type"] = "swiglu" if fusion else "silu"
    attributes |= {"block_size": block} if block else {}
    return Single("QMoE", operands, attributes, domain=MS, tolerance=1e-3)


def product(swapped: tuple[int, int], moved: tuple[int, int]) -> Single:
    """FusedMatMul of 2 x 4 by 4 x 5, three times, for operands that come with rows and columns, or rows and batch, swapped."""
    (left, right), (first, second) = swapped, moved
    shapes = []
    for rows, columns, swap, ahead in ((2, 4, left, first), (4, 5, right, second)):
        rows, columns = (columns, rows) if swap else (rows, columns)
        shapes.append((rows, 3, columns) if ahead else (3, rows, columns))
    attributes = {"transA": left, "transB": right, "transBatchA": first, "transBatchB": second}
    return ms("FusedMatMul", [Computed(shape) for shape in shapes], **attributes)


PRODUCTS = [
    (product(swapped, moved), "m0 m0:2 m0:3 m1")
    for swapped in ((0, 0), (0, 1), (1, 0), (1, 1))
    for moved in ((0, 1), (1, 0), (1, 1))
]

EXPERTS = [
    *((mixture(activation), "m0:2 tested") for activation in ("relu", "gelu", "silu", "identity")),
    (mixture("swiglu", 1), "m0:2 tested"),
    *((quantized_mixture(bits, 0), "") for bits in (4, 8)),
    *(
        (quantized_mixture(bits, 16, fusion, zeros), "m0:2 tested")
        for bits in (4, 8)
        for fusion in (0, 1)
        for zeros in (False, True)
    ),
]


def linear_attention(
    domain: str,
    rule: str,
    heads: int,
    *,
    decay: int = 0,
    beta: int = 0,
    past: bool = False,
    scale: float = 0.0,
) -> Single:
    """Linear attention of `heads` heads of queries and 2 of keys, with 3 channels, and 2 of the values."""
    operands: list[Operand] = [
        Computed((2, 3, heads * 3)),
        Computed((2, 3, 6)),
        Computed((2, 3, 4)),
        Computed((2, 2, 3, 2)) if past else None,
        Computed((2, 3, decay)) if decay else None,
        Computed((2, 3, beta), positive=True) if beta else None,
    ]
    while operands[-1] is None:
        operands.pop()
    return Single(
        "LinearAttention",
        operands,
        {"q_num_heads": heads, "kv_num_heads": 2, "update_rule": rule, "scale": scale},
        opset=17 if domain else 27,
        domain=domain,
        outputs=2,
        read=2 if past else 1,
        by=run if domain else reference,
        tolerance=1e-4,
    )


STREAMING = [
    *(
        (linear_attention(domain, rule, heads, **more), axes)
        for domain in (MS, "")
        for rule, heads, more, axes in (
            ("linear", 4, {}, "m0:3 m0:4 m0:5 m2:3"),
            ("gated", 4, {"decay": 6, "past": True}, "m0:3 m0:4 m0:5 m2:3"),
            ("gated", 2, {"decay": 2, "scale": 0.4}, "m0:3 m0:4 m2:3"),
            ("delta", 4, {"beta": 2}, "m0:3 m0:4 m0:5 m2:3"),
            ("delta", 2, {"beta": 2, "past": True}, "m0:3 m2:3"),
            ("gated_delta", 4, {"decay": 2, "beta": 2}, "m0:3 m0:4 m0:5 m2:3"),
            ("gated_delta", 2, {"decay": 6, "beta": 1}, "m0:3 m0:4 m2:3"),
        )
    ),
    (
        Single(
            "LinearAttentionGate",
            [Computed((2, 3, 4)), floats(4), floats(4), Computed((2, 3, 4))],
            domain=MS,
            outputs=2,
        ),
        "m0 m0:2 m0:3",
    ),
    *(
        (
            Single(
                "CausalConvWithState",
                [Computed((2, 3, 5)), floats(3, 1, 4), floats(3), Computed((2, 3, 3))],
                {"activation": "silu"},
                opset=17 if domain else 27,
                domain=domain,
                outputs=2,
                by=run if domain else reference,
            ),
            "m0 m0:2",
        )
        for domain in (MS, "")
    ),
    (
        Single(
            "CausalConvWithState",
            [Computed((2, 5, 3)), floats(3, 1, 4), floats(3)],
            {"channels_last": 1},
            domain=MS,
            outputs=2,
        ),
        "m0 m0:3",
    ),
]


def quantized_lstm(directions: int, every: bool, dtype: Any = np.uint8, states: bool = False) -> Single:
    """DynamicQuantizeLSTM with 4 input channels and 3 hidden ones; scales for `every` column or one for each direction."""
    by = (directions, 12) if every else (directions,)
    zero = np.full(by, 120 if dtype == np.uint8 else 0, dtype)
    carried = [Computed((directions, 2, 3)), Computed((directions, 2, 3)), floats(directions, 9)]
    return Single(
        "DynamicQuantizeLSTM",
        [
            Computed((3, 2, 4)),
            bytes_(directions, 4, 12, dtype=dtype),
            bytes_(directions, 3, 12, dtype=dtype),
            floats(directions, 24),
            None,
            *(carried if states else [None] * 3),
            *(scales(*by), zero, scales(*by), zero),
        ],
        {"hidden_size": 3, "direction": "bidirectional" if directions == 2 else "forward"},
        domain=MS,
        outputs=3,
        tolerance=1e-4,
    )


def quantized_attention(every: bool, dtype: Any, masked: bool = False) -> Single:
    """QAttention with 6 channels, and 2 heads of 4; scales for `every` column or one for all."""
    zero = 128 if dtype == np.uint8 else 5
    return Single(
        "QAttention",
        [
            Computed((2, 3, 6), TensorProto.UINT8),
            bytes_(6, 24, dtype=dtype),
            floats(24),
            SCALE,
            scales(24) if every else SCALE,
            np.array([3, 2], np.int32) if masked else None,
            np.uint8(2),
            np.full(24 if every else (), zero, dtype),
        ],
        {"num_heads": 2},
        domain=MS,
        tolerance=1e-4,
    )


QUANTIZED = [
    *(
        (ms(op, [Computed((2, 3, 4), dtype), scale, zero], **more), "m0 m0:2 m0:3")
        for op, dtype in (("QuantizeLinear", TensorProto.FLOAT), ("DequantizeLinear", TensorProto.UINT8))
        for scale, zero, more in (
            (SCALE, np.uint8(7), {}),
            (scales(3), np.full(3, 7, np.uint8), {"axis": 1}),
            (scales(4), np.full(4, 7, np.uint8), {"axis": -1}),
        )
    ),
    *(
        (
            ms(
                "QLinearConv",
                [
                    *(Computed(x, TensorProto.UINT8), SCALE, np.uint8(3)),
                    *(bytes_(6, 4, 1, 1), scale, zero, np.float32(3), np.uint8(9)),
                    np.arange(6, dtype=np.int32),
                ],
                channels_last=last,
            ),
            axes,
        )
        for x, last, axes in (
            ((2, 4, 3, 3), 0, "m0 m0:2 tested"),
            ((2, 3, 3, 4), 1, "m0 m0:4 tested"),
        )
        for scale, zero in ((SCALE, np.uint8(100)), (scales(6), np.full(6, 100, np.uint8)))
    ),
    (
        ms(
            "QLinearWhere",
            [
                Computed((2, 3), TensorProto.BOOL),
                *(Computed((2, 3), TensorProto.UINT8), SCALE, np.uint8(3)),
                *(Computed((3,), TensorProto.UINT8), SCALE, np.uint8(4)),
                *(np.float32(0.03), np.uint8(5)),
            ],
        ),
        "m0 m0:2",
    ),
    (
        ms(
            "MatMulInteger16",
            [Computed((2, 3), TensorProto.INT16), RNG.integers(-99, 99, (3, 4)).astype(np.int16)],
        ),
        "m0 m0:2 tested",
    ),
    (quantized_lstm(1, False), "m0:3 tested"),
    (quantized_lstm(1, True, np.int8), "m0:3 tested"),
    (quantized_lstm(2, False, states=True), "m0:3 m5:2"),
    (quantized_attention(False, np.int8), "m0:3 tested ~tested:2"),
    (quantized_attention(True, np.uint8, masked=True), "m0:3 tested ~tested:2"),
    (
        Single(
            "QEmbedLayerNormalization",
            [
                Computed((1, 3), TensorProto.INT32, below=5),
                np.array([[0, 1, 1]], np.int32),
                *(bytes_(5, 16), bytes_(4, 16), bytes_(2, 16), bytes_(16), bytes_(16), None),
                *[SCALE] * 5,
                *[np.uint8(100)] * 5,
            ],
            domain=MS,
            outputs=2,
            read=1,
        ),
        "~tested",
    ),
]

HEADS = [
    (
        ms(
            "MultiHeadAttention",
            [Computed((2, 3, 8)), Computed((2, 2, 4, 4)), Computed((2, 2, 4, 4))],
            num_heads=2,
        ),
        "m0:3 m0:4",
    ),
    (
        ms(
            "GroupQueryAttention",
            [Computed((2, 3, 128)), *[None] * 4, np.array([2, 2], np.int32), np.array(3, np.int32)],
            num_heads=4,
            kv_num_heads=2,
        ),
        "m0:3 m0:4 ~m0:5",
    ),
    (
        ms(
            "DecoderMaskedMultiHeadAttention",
            [Computed((2, 1, 8)), Computed((2, 2, 3, 4)), Computed((2, 2, 3, 4))],
            num_heads=2,
        ),
        "m0:2 m0:3",
    ),
    *(
        (
            ms(
                "MRotaryEmbedding",
                [Computed(x), RNG.integers(0, 5, (3, 2, 3)), floats(6, 4), floats(6, 4)],
                mrope_section=[2, 1, 1],
                **more,
            ),
            axes,
        )
        for x, more, axes in (
            ((2, 3, 16), {"num_heads": 2, "rotary_embedding_dim": 8}, "m0:3"),
            ((2, 2, 3, 8), {}, "m0:2"),
        )
    ),
    (
        Single(
            "Attention",
            [Computed((2, 3, 8)), Computed((2, 4, 4)), Computed((2, 4, 6)), Computed((2, 4, 3, 4))],
            {"q_num_heads": 4, "kv_num_heads": 2},
            opset=23,
        ),
        "m0:3 m0:4 m0:5 m2:3",
    ),
]

# Forms of operator sets of the past: attributes that became inputs, other defaults, other broadcasting.
OLD = [
    *(
        (
            Single(op, [Computed((2, 3, 4), dtype), scales(3), np.full(3, 7, np.uint8)], {}, opset),
            "m0 m0:2 m0:3",
        )
        for op, dtype in (("QuantizeLinear", TensorProto.FLOAT), ("DequantizeLinear", TensorProto.UINT8))
        for opset in (10, 12)
    ),
    (Single("Softmax", [Computed((2, 3, 4))], {"axis": 2}, 7), "m0 m0:2 m0:3"),
    (Single("Softmax", [Computed((2, 3, 4))], opset=7), "m0"),
    *(
        (Single(op, [Computed((2, 3, 4))], {"axes": [1], "keepdims": 0}, 7), axes)
        for op, axes in (
            ("ReduceSum", "m0 m0:2 m0:3"),
            ("ReduceMean", "m0 ~m0:2 m0:3"),
            ("ReduceL2", "m0 m0:2 m0:3"),
        )
    ),
    *(
        (Single("Gemm", [Computed((3, 4)), floats(4, 5), floats(*bias)], opset=opset), "m0 m0:2 tested")
        for bias in ((5,), (1, 5), (3, 1), (3, 5), (1,))
        for opset in (7, 9)
    ),
    (
        Single(
            "BatchNormalization",
            [Computed((2, 3, 4)), *(floats(3) for _ in range(4))],
            {"spatial": 1},
            7,
        ),
        "m0 m0:2 m0:3",
    ),
    (
        Single(
            "BatchNormalization", [Computed((2, 3, 4)), *(floats(3, 4) for _ in range(4))], {"spatial": 0}, 7
        ),
        "m0 m0:2 m0:3",
    ),
    (Single("Upsample", [Computed((1, 2, 3, 3))], {"scales": [1.0, 1.0, 2.0, 2.0]}, 7), "m0"),
    (Single("Upsample", [Computed((1, 2, 3, 3)), np.float32([1, 1, 2, 2])], {}, 9), "m0"),
    (Single("Upsample", [Computed((1, 2, 3, 3)), np.float32([1, 2, 1, 2])], {}, 9), "m0:2"),
    (Single("Resize", [Computed((1, 2, 3, 3)), np.float32([1, 1, 2, 2])], {}, 10), "m0"),
    (Single("Slice", [Computed((2, 3))], {"starts": [1], "ends": [3], "axes": [-1]}, 7), "m0 m0:2"),
    (Single("TopK", [Computed((3, 4))], {"k": 2, "axis": 1}, 7, outputs=2, read=1), "m0"),
    (Single("TopK", [Computed((3, 4)), longs(2)], {"axis": 1}, 10, outputs=2, read=1), "m0"),
    (Single("Clip", [Computed((2, 3))], {"min": -0.2}, 7), "m0 m0:2"),
    (Single("Dropout", [Computed((2, 3))], {"ratio": 0.3}, 7), "m0 m0:2"),
    (Single("Unsqueeze", [Computed((2, 3))], {"axes": [0, 2]}, 7), "m0 m0:2"),
    (Single("Squeeze", [Computed((1, 2, 1, 3))], {"axes": [0, 2]}, 7), "m0 m0:2"),
    (Single("Split", [Computed((2, 6))], {"axis": 1, "split": [2, 4]}, 7, outputs=2), "m0 m0:2 m0:3"),
    (Single("PRelu", [Computed((2, 3, 3, 3)), floats(3, 1, 1)], opset=7), "m0 m0:2 m0:3 m0:4"),
    (Single("Expand", [Computed((3, 1)), longs(2, 3, 4)], opset=8), "m0 tested tested:2"),
    (Single("Pad", [Computed((2, 3))], {"pads": [0, 1, 1, 0], "value": 0.3}, 7), "m0 m0:2"),
    (
        Single("Scatter", [Computed((3, 4)), np.array([[0, 2, 1, 0]]), Computed((1, 4))], {"axis": 0}, 9),
        "m0:2",
    ),
    (Single("DepthToSpace", [Computed((2, 8, 2, 3))], {"blocksize": 2}, 7), "m0 m0:4 m0:5 m0:6"),
    (
        Single("DepthToSpace", [Computed((2, 8, 2, 3))], {"blocksize": 2, "mode": "CRD"}, 11),
        "m0 m0:2 m0:5 m0:6",
    ),
    *(
        (
            Single("SpaceToDepth", [Computed((2, 3, 4, 2))], {"blocksize": 2, **mode}, 28, by=reference),
            "m0 m0:2",
        )
        for mode in ({}, {"mode": "CRD"})
    ),
]

TABLE = [*OLD, *PLAIN, *PRODUCTS, *NORMS, *STREAMS, *PACKED, *EXPERTS, *STREAMING, *QUANTIZED, *HEADS]


@pytest.mark.parametrize(("single", "axes"), TABLE, ids=map(str, range(len(TABLE))))
def test_operators_alone(single: Single, axes: str) -> None:
    assert " ".join(check(single)) == axes, str(single)


def sharing(model: Model, inputs: Arrays) -> list[np.ndarray]:
    """What ONNX Runtime computes where `nk` and `nv` are written to the buffers that `pk` and `pv` are read from."""
    session = onnxruntime.InferenceSession(
        model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value.copy()) for name, value in inputs.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for info in session.get_outputs():
        if info.name in ("nk", "nv"):
            binding.bind_ortvalue_output(info.name, values[f"p{info.name[1]}"])
        else:
            binding.bind_output(info.name)
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()  # type: ignore[no-any-return]


PAST = "float[1, 2, 32, 16] pk, float[1, 2, 32, 16] pv"
PRESENT = "float[1, 2, 32, 16] nk, float[1, 2, 32, 16] nv"
IN_PLACE = [
    Case(
        f"sparse: {layouts} layouts",
        f"""(float[1, 16, 4] x, {PAST}) => (float[1, 16, 5] y, {PRESENT})
        <float[4, 64] wq, float[4, 32] wk, float[4, 32] wv, float[64, 5] wo, int32[{layouts}, 3] rows, int32[{layouts}, 3] cols,
        int32 total = {{16}}, int32[1] lengths = {{16}}, float[32, 8] c, float[32, 8] s> {{
            q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
            b, nk, nv = com.microsoft.SparseAttention <num_heads=4, kv_num_heads=2, sparse_block_size=16, do_rotary={rotated}>
                (q, k, v, pk, pv, rows, cols, total, lengths{", c, s" if rotated else ""}) y = MatMul(b, wo) }}""",
        axes,
        values={
            "rows": np.tile(np.int32([[0, 1, 3]]), (layouts, 1)),
            "cols": np.tile(np.int32([[0, 0, 1]]), (layouts, 1)),
        },
        by=sharing,
    )
    for layouts, rotated, axes in ((1, 0, "q:2"), (2, 1, ""))
]


@pytest.mark.parametrize("case", IN_PLACE, ids=str)
def test_attention_that_writes_to_its_past(case: Case) -> None:
    case.check()
