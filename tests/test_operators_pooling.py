from __future__ import annotations

import pytest
from graphs import Case, pictured

KERNEL = "kernel_shape=[2, 2]"

CASES = [
    Case("average", pictured(f"b = AveragePool <{KERNEL}, strides=[2, 2]> (a)")),
    Case(
        "average: pads counted",
        pictured(f"b = AveragePool <{KERNEL}, pads=[1, 0, 1, 0], count_include_pad=1> (a)"),
    ),
    Case("max", pictured(f"b = MaxPool <{KERNEL}, ceil_mode=1> (a)")),
    Case("max: unused indices", pictured(f"b, indices = MaxPool <{KERNEL}> (a)")),
    Case("lp", pictured(f"b = LpPool <{KERNEL}, p=2> (a)")),
    Case("global average", pictured("b = GlobalAveragePool(a)")),
    Case("global max", pictured("b = GlobalMaxPool(a)")),
    Case("global lp", pictured("b = GlobalLpPool(a)")),
    Case("crop", pictured("b = Crop <border=[1, 1, 1, 0]> (a)"), opset=9),
    Case(
        "max: indices",
        pictured(
            f"c, i = MaxPool <{KERNEL}, strides=[2, 2]> (a) b = MaxUnpool <{KERNEL}, strides=[2, 2]> (c, i)"
        ),
        "",
        {"a": "its second output holds indices that count channels"},
    ),
    Case("resize: scales", pictured("b = Resize(a, , scales)", "float[4] scales = {1, 1, 2, 1.5}")),
    Case(
        "resize: linear",
        pictured(
            'b = Resize <mode="linear", coordinate_transformation_mode="align_corners"> (a, , scales)',
            "float[4] scales = {1, 1, 2, 2}",
        ),
    ),
    Case("resize: sizes", pictured("b = Resize(a, , , sizes)", "int64[4] sizes = {2, 6, 10, 7}")),
    Case(
        "resize: sizes of some axes",
        pictured("b = Resize <axes=[3, 2]> (a, , , sizes)", "int64[2] sizes = {7, 9}"),
        opset=18,
    ),
    Case(
        "resize: sizes of all axes in another order",
        pictured("b = Resize <axes=[-1, -2, -3]> (a, , , sizes)", "int64[3] sizes = {7, 9, 6}"),
        opset=18,
    ),
    Case(
        "resize: sizes, and empty lists for the rest",
        pictured(
            "b = Resize(a, roi, scales, sizes)",
            "float[0] roi = {}, float[0] scales = {}, int64[4] sizes = {2, 6, 10, 7}",
        ),
        opset=11,
    ),
    Case(
        "resize: computed sizes",
        pictured(
            """s = Shape(a) c = Slice(s, zero, two) f = Slice(s, two, four) g = Mul(f, two) h = Concat <axis=0> (c, g)
            b = Resize(a, , , h)""",
            "int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}",
        ),
    ),
    Case(
        "upsample: computed scales",
        pictured(
            """s = Shape(a) h = Slice <axes=[0], starts=[2], ends=[4]> (s) g = Mul(h, two) n = Cast <to=1> (g)
            o = Cast <to=1> (h) f = Div(n, o) t = Concat <axis=0> (ones, f) b = Upsample(a, t)""",
            "float[2] ones = {1, 1}, int64[1] two = {2}",
        ),
        opset=9,
    ),
    Case(
        "resize: operator set 10",
        pictured("b = Resize(a, scales)", "float[4] scales = {1, 1, 2, 2}"),
        opset=10,
    ),
    Case(
        "resize: of channels",
        pictured("b = Resize(a, , scales)", "float[4] scales = {1, 2, 1, 1}", channels=12),
        "",
        {"a": "Resize 'b': resamples this dimension", "b": "resamples this dimension"},
    ),
    Case(
        "resize: a scale of channels that rounds to one",
        pictured("b = Resize(a, , scales)", "float[4] scales = {1, 1.1, 1, 1}"),
        "",
        {"a": "resamples this dimension"},
    ),
    Case(
        "resize: crops",
        pictured(
            'b = Resize <coordinate_transformation_mode="tf_crop_and_resize"> (a, roi, scales)',
            "float[8] roi = {0, 0, 0, 0, 1, 1, 1, 1}, float[4] scales = {1, 1, 2, 2}",
        ),
        "",
        {"a": "Resize 'b': it crops"},
    ),
    Case("upsample: input", pictured("b = Upsample(a, scales)", "float[4] scales = {1, 1, 2, 2}"), opset=9),
    Case("upsample: attribute", pictured("b = Upsample <scales=[1.0, 1.0, 2.0, 2.0]> (a)"), opset=7),
    Case(
        "regions",
        """(float[2, 3, 8, 8] x) => (float[3, 2, 2, 2] y) <float[6, 3, 1, 1] v, float[2, 6, 1, 1] w,
        float[3, 4] regions = {0, 0, 4, 4, 1, 2, 7, 6, 3, 3, 8, 8}, int64[3] of = {0, 1, 1}> {
            a = Conv(x, v) b = RoiAlign <output_height=2, output_width=2> (a, regions, of) y = Conv(b, w) }""",
    ),
    Case(
        "regions: maximum",
        """(float[2, 3, 8, 8] x) => (float[3, 2, 2, 2] y) <float[6, 3, 1, 1] v, float[2, 6, 1, 1] w,
        float[3, 5] regions = {0, 0, 0, 4, 4, 1, 1, 2, 7, 6, 1, 3, 3, 7, 7}> {
            a = Conv(x, v) b = MaxRoiPool <pooled_shape=[2, 2]> (a, regions) y = Conv(b, w) }""",
    ),
    Case(
        "regions: a weight for each, and their maximum",
        """(float[2, 3, 8, 8] x) => (float[1, 2, 2, 2] y) <float[6, 3, 1, 1] v, float[3, 6, 1, 1] u, float[2, 6, 1, 1] w,
        float[3, 5] regions = {0, 0, 0, 4, 4, 1, 1, 2, 7, 6, 1, 3, 3, 7, 7}> {
            a = Conv(x, v) b = MaxRoiPool <pooled_shape=[2, 2]> (a, regions) c = Mul(b, u) d = ReduceMax <axes=[0]> (c)
            y = Conv(d, w) }""",
    ),
    Case(
        "grid",
        """(float[2, 3, 5, 4] x, float[2, 3, 2, 2] grid) => (float[2, 2, 3, 2] y) <float[6, 3, 1, 1] v, float[2, 6, 1, 1] w> {
            a = Conv(x, v) b = GridSample(a, grid) y = Conv(b, w) }""",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pooling(case: Case) -> None:
    case.check()
