from __future__ import annotations

import pytest
from graphs import Case, between, pictured

DOUBLE_12 = "(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[12, 3] w{}> {{ a = MatMul(x, v) {} y = MatMul(b, w) }}"


def doubled(body: str, weights: str = "") -> str:
    """As `between`, where b is of N x 12."""
    return DOUBLE_12.format(f", {weights}" if weights else "", body)


def parted(body: str, weights: str = "") -> str:
    """As `between`, where `body` computes N x 3 outputs from N x 6 hidden channels with matrices t and u of half of these each."""
    more = f", {weights}" if weights else ""
    return f"""(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[3, 3] t, double[3, 3] u{more}> {{
        a = MatMul(x, v) {body} p = MatMul(c, t) q = MatMul(d, u) y = Add(p, q) }}"""


TRANSPOSE = [
    Case("transpose", between("c = Transpose(a) d = Relu(c) b = Transpose <perm=[1, 0]> (d)")),
    Case(
        "transpose: three dimensions",
        """(double[2, 3, 4] x) => (double[5, 2, 3] y) <double[4, 6] v, double[5, 6] w> {
            a = MatMul(x, v) b = Transpose <perm=[0, 2, 1]> (a) c = MatMul(w, b) y = Transpose <perm=[1, 0, 2]> (c) }""",
    ),
]

RESHAPE = [
    *(
        Case(
            f"reshape: {name}",
            between(
                "r = Reshape(a, split) e = Relu(r) b = Reshape(e, back)",
                f"int64[3] split = {split}, int64[2] back = {back}",
            ),
            "a a:2",
        )
        for name, split, back in (
            ("literals", "{-1, 2, 3}", "{-1, 6}"),
            ("zero copies", "{0, 2, 3}", "{0, 6}"),
            ("minus one infers", "{0, -1, 3}", "{0, -1}"),
            ("minus one infers the last", "{0, 2, -1}", "{0, -1}"),
        )
    ),
    Case(
        "reshape: all literals",
        """(double[2, 4] x) => (double[2, 3] y) <double[4, 6] v, double[6, 3] w, int64[3] split = {2, 2, 3}, int64[2] back = {2, 6}> {
            a = MatMul(x, v) r = Reshape(a, split) e = Relu(r) b = Reshape(e, back) y = MatMul(b, w) }""",
        "a a:2",
    ),
    Case(
        "reshape: a zero that copies a dimension in another place",
        """(double[6, 4] x) => (double[6, 3] y) <double[4, 6] v, double[6, 3] w, int64[3] split = {0, 0, 1}, int64[2] back = {6, 6}> {
            a = MatMul(x, v) r = Reshape(a, split) e = Relu(r) b = Reshape(e, back) y = MatMul(b, w) }""",
    ),
    Case(
        "reshape: allowzero",
        between(
            "r = Reshape <allowzero=1> (a, split) e = Relu(r) b = Reshape(e, back)",
            "int64[3] split = {-1, 2, 3}, int64[2] back = {-1, 6}",
        ),
        "a a:2",
    ),
    Case(
        "reshape: attribute",
        "(float[2, 4] x) => (float[2, 3] y) <float[4, 6] v, float[6, 3] w, float[2, 6, 1] b> {"
        "a = MatMul(x, v) b = Reshape <shape=[0, 6, 1]> (a) c = Relu(b) d = Reshape <shape=[-1, 6]> (c) y = MatMul(d, w) }",
        "",
        {"a": "it has the form of operator sets before 5"},
        opset=4,
    ),
    Case(
        "reshape: shape from a Constant node",
        between("""split = Constant <value_ints=[0, 3, 2]> () back = Constant <value=int64[2] {0, 6}> ()
                r = Reshape(a, split) e = Relu(r) b = Reshape(e, back)"""),
        "a a:2",
    ),
    Case(
        "reshape: one target for two nodes",
        between("r = Reshape(a, back) e = Relu(r) b = Reshape(e, back)", "int64[2] back = {-1, 6}"),
    ),
    Case(
        "reshape: one target for a growing and a staying tensor",
        """(double[N, 4] x) => (double[N, 6] y) <double[4, 6] v, double[6, 6] w, int64[2] target = {-1, 6}> {
            a = MatMul(x, v) b = Reshape(a, target) c = MatMul(b, w) y = Reshape(c, target) }""",
    ),
    Case(
        "reshape: across the batch",
        """(double[2, 3, 4] x) => (double[2, 3, 3] y) <double[4, 6] v, double[6, 3] w, int64[2] rows = {-1, 6}, int64[3] back = {2, 3, 3}> {
            a = MatMul(x, v) b = Reshape(a, rows) c = MatMul(b, w) y = Reshape(c, back) }""",
    ),
    Case(
        "reshape: misaligned",
        """(double[2, 4] x) => (double[3, 3] y) <double[4, 6] v, double[4, 3] w, int64[2] target = {3, 4}> {
            a = MatMul(x, v) b = Reshape(a, target) y = MatMul(b, w) }""",
        "",
        {"a": "the channels on the two sides of Reshape 'b' do not align"},
    ),
    Case(
        "reshape: put together",
        between(
            """s = Shape(a) n = Gather(s, zero) m = Unsqueeze(n, at) split = Concat <axis=0> (m, two, three) r = Reshape(a, split)
            e = Relu(r) t = Shape(r) p = Gather(t, zero) q = Unsqueeze(p, at) back = Concat <axis=0> (q, minus)
            b = Reshape(e, back)""",
            "int64 zero = {0}, int64[1] at = {0}, int64[1] two = {2}, int64[1] three = {3}, int64[1] minus = {-1}",
        ),
        "a a:2",
    ),
    Case(
        "reshape: put together, with the size of the channels",
        between(
            """s = Shape(a) n = Gather(s, zero) c = Gather(s, one) h = Div(c, two) m = Unsqueeze(n, at) k = Unsqueeze(h, at)
            split = Concat <axis=0> (m, pair, k) r = Reshape(a, split) e = Relu(r) j = Unsqueeze(c, at)
            back = Concat <axis=0> (m, j) b = Reshape(e, back)""",
            "int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] pair = {2}, int64[1] at = {0}",
        ),
        "a a:2",
    ),
    Case(
        "flatten",
        """(float[2, 3, 3, 2] x) => (float[2, 2] y) <float[6, 3, 1, 1] v, float[36, 2] w> {
            a = Conv(x, v) b = Flatten(a) y = MatMul(b, w) }""",
    ),
    Case(
        "flatten: negative axis",
        """(double[2, 3, 4] x) => (double[6, 3] y) <double[4, 6] v, double[6, 3] w> {
        a = MatMul(x, v) b = Flatten <axis=-1> (a) y = MatMul(b, w) }""",
    ),
    Case(
        "flatten: all in front",
        """(double[2, 3, 4] x) => (double[6, 3] y) <double[4, 6] v, double[6, 3] w> {
            a = MatMul(x, v) b = Flatten <axis=2> (a) y = MatMul(b, w) }""",
    ),
    Case(
        "flatten: everything in one row",
        """(double[2, 4] x) => (double[1, 3] y) <double[4, 6] v, double[12, 3] w> {
            a = MatMul(x, v) b = Flatten <axis=0> (a) y = MatMul(b, w) }""",
    ),
    Case(
        "flatten: joined branches",
        """(float[2, 3, 2, 2] x) => (float[2, 2] y) <float[6, 3, 1, 1] v, float[5, 3, 1, 1] u, float[44, 2] w> {
            a = Conv(x, v) c = Conv(x, u) j = Concat <axis=1> (a, c) b = Flatten(j) y = MatMul(b, w) }""",
        "a c",
    ),
    Case(
        "squeeze, unsqueeze",
        between("u = Unsqueeze(a, at) e = Relu(u) b = Squeeze(e, at)", "int64[2] at = {0, -1}"),
    ),
    Case(
        "squeeze, unsqueeze: attribute",
        between("u = Unsqueeze <axes=[0, 3]> (a) e = Relu(u) b = Squeeze <axes=[3, 0]> (e)"),
        opset=11,
    ),
    Case("squeeze: all", between("u = Unsqueeze(a, at) e = Relu(u) b = Squeeze(e)", "int64[2] at = {0, 2}")),
]

REPEAT = [
    Case(
        "expand: rows",
        between(
            "u = Unsqueeze(a, one) e = Expand(u, shape) b = ReduceMax <axes=[1], keepdims=0> (e)",
            "int64[1] one = {1}, int64[3] shape = {1, 5, 1}",
        ),
    ),
    Case(
        "expand: names its size",
        between(
            "u = Unsqueeze(a, one) e = Expand(u, shape) b = ReduceMax <axes=[1], keepdims=0> (e)",
            "int64[1] one = {1}, int64[3] shape = {1, 5, 6}",
        ),
    ),
    Case(
        "expand: to new channels",
        between(
            "g = MatMul(x, u) e = Expand(g, shape) b = Mul(a, e)", "double[4, 1] u, int64[2] shape = {1, 6}"
        ),
    ),
    Case(
        "expand: to the shape of another",
        between("g = MatMul(x, u) s = Shape(a) e = Expand(g, s) b = Mul(a, e)", "double[4, 1] u"),
    ),
    Case("expand: a constant", between("s = Shape(a) e = Expand(g, s) b = Mul(a, e)", "double[6] g")),
    Case(
        "expand: fewer numbers than dimensions",
        between("e = Expand(a, shape) b = Relu(e)", "int64[1] shape = {6}"),
    ),
    Case(
        "tile: rows",
        between(
            "u = Unsqueeze(a, one) e = Tile(u, repeats) b = ReduceMax <axes=[1], keepdims=0> (e)",
            "int64[1] one = {1}, int64[3] repeats = {1, 5, 1}",
        ),
    ),
    Case("tile: channels", doubled("b = Tile(a, repeats)", "int64[2] repeats = {1, 2}")),
    Case(
        "tile: to new channels",
        between(
            "g = MatMul(x, u) e = Tile(g, repeats) b = Mul(a, e)", "double[4, 1] u, int64[2] repeats = {1, 6}"
        ),
    ),
    Case(
        "tile: operator set 1",
        between("b = Tile(a, one, axis)", "float one = {1}, float axis = {1}", "float"),
        "",
        {"a": "Tile 'b': it has the form of operator sets before 6"},
        opset=5,
    ),
]

BLOCKS = [
    *(
        Case(
            f"depth to space: {mode}",
            pictured(
                f"c = Conv(a, k) d = DepthToSpace <blocksize=2{mode}> (c) b = Relu(d)",
                "float[12, 6, 1, 1] k",
                channels=3,
            ),
            axes,
        )
        for mode, axes in (("", "a c:3"), (', mode="DCR"', "a c:3"), (', mode="CRD"', "a c"))
    ),
    Case(
        "space to depth",
        """(float[2, 3, 4, 4] x) => (float[2, 2, 2, 2] y) <float[6, 3, 1, 1] v, float[2, 24, 1, 1] w> {
            a = Conv(x, v) b = SpaceToDepth <blocksize=2> (a) y = Conv(b, w) }""",
    ),
]

JOIN = [
    Case("concat", doubled("c = MatMul(x, u) b = Concat <axis=1> (a, c)", "double[4, 6] u"), "a c"),
    Case(
        "concat: negative axis",
        doubled("c = MatMul(x, u) b = Concat <axis=-1> (a, c)", "double[4, 6] u"),
        "a c",
    ),
    Case(
        "concat: with the input",
        between(
            "c = Slice(a, zero, two, one) b = Concat <axis=1> (x, c)",
            "int64[1] zero = {0}, int64[1] two = {2}, int64[1] one = {1}",
        ),
        "a a:2",
    ),
    Case("concat: with itself", doubled("b = Concat <axis=1> (a, a)")),
    Case(
        "concat: along the batch",
        """(double[2, 4] x) => (double[4, 3] y) <double[4, 6] v, double[4, 6] u, double[6, 3] w> {
        a = MatMul(x, v) c = MatMul(x, u) b = Concat <axis=0> (a, c) y = MatMul(b, w) }""",
    ),
    Case(
        "concat: with weights",
        doubled("r = Shape(a) z = Expand(u, r) b = Concat <axis=1> (a, z)", "double[1, 6] u"),
        "a z",
    ),
    Case(
        "concat: dense block",
        """(float[2, 3, 3, 3] x) => (float[2, 2, 3, 3] y)
        <float[4, 3, 1, 1] v, float[5, 4, 3, 3] u, float[6, 9, 3, 3] t, float[2, 15, 1, 1] w> {
            a = Conv(x, v) b = Conv <pads=[1, 1, 1, 1]> (a, u) c = Concat <axis=1> (a, b) d = Conv <pads=[1, 1, 1, 1]> (c, t)
            e = Concat <axis=1> (c, d) y = Conv(e, w) }""",
        "a b d",
    ),
    Case(
        "concat: added to a whole",
        doubled(
            "c = MatMul(x, u) j = Concat <axis=1> (a, c) d = MatMul(x, t) b = Add(j, d)",
            "double[4, 6] u, double[4, 12] t",
        ),
        "a c",
    ),
]

SPLIT = [
    Case("split: equal parts", parted("c, d = Split <axis=1> (a)"), "a+a:2"),
    Case("split: attribute", parted("c, d = Split <axis=-1, split=[3, 3]> (a)"), "a a:2", opset=11),
    Case("split: input", parted("c, d = Split <axis=1> (a, parts)", "int64[2] parts = {3, 3}"), "a a:2"),
    Case("split: number", parted("c, d = Split <axis=1, num_outputs=2> (a)"), "a+a:2", opset=18),
    Case(
        "split: unequal parts",
        """(double[N, 4] x) => (double[N, 3] y)
        <double[4, 6] v, double[2, 3] t, double[4, 3] u, int64[2] parts = {2, 4}> {
            a = MatMul(x, v) c, d = Split <axis=1> (a, parts) p = MatMul(c, t) q = MatMul(d, u) y = Add(p, q) }""",
        "a a:2",
    ),
    Case(
        "split: an odd size",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 5] v, double[3, 3] t, double[2, 3] u> {
            a = MatMul(x, v) c, d = Split <axis=1, num_outputs=2> (a) p = MatMul(c, t) q = MatMul(d, u) y = Add(p, q) }""",
        "",
        {"a": "Split 'c': cuts this dimension in unequal parts"},
        opset=18,
    ),
    Case(
        "split: a part nobody reads",
        """(double[N, 4] x) => (double[N, 3] y)
        <double[4, 6] v, double[4, 3] u, int64[2] parts = {2, 4}> {
            a = MatMul(x, v) c, d = Split <axis=1> (a, parts) y = MatMul(d, u) }""",
        "a a:2",
    ),
    Case(
        "split: halves that meet again",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[3, 3] w> {
        a = MatMul(x, v) c, d = Split <axis=1> (a) s = Sigmoid(d) b = Mul(c, s) y = MatMul(b, w) }""",
    ),
    Case(
        "split: inside a product",
        """(double[2, 4] x) => (double[2, 3] y)
        <double[4, 6] v, double[9, 3] w, int64[3] two = {2, 2, 3}, int64[2] one = {2, 3}> {
            a = MatMul(x, v) r = Reshape(a, two) c, d = Split <axis=1> (r) e = Relu(c) j = Concat <axis=1> (e, r)
            f = Flatten(j) y = MatMul(f, w) }""",
        "a",
    ),
]


SLICE = [
    *(
        Case(
            f"slice: {name}",
            parted(
                f"c = Slice(a, {first}) d = Slice(a, {second})",
                "int64[1] zero = {0}, int64[1] one = {1}, int64[1] last = {-1}, int64[1] three = {3}, int64[1] minus = {-3},"
                "int64[1] six = {6}, int64[1] far = {-9}, int64[1] beyond = {9}, int64[1] end = {9223372036854775807},"
                "int64[1] front = {-9223372036854775807}",
            ),
            "a a:2",
        )
        for name, first, second in (
            ("to the middle, to the end", "zero, three, one", "three, end, one"),
            ("to the size", "zero, three, one", "three, six, one"),
            ("from behind", "zero, minus, last", "minus, end, last"),
            ("beyond the size", "zero, three, one", "three, beyond, one"),
            ("from before the start", "far, three, one", "three, end, one"),
            ("from far before the start", "front, minus, one", "minus, beyond, one"),
            ("with steps of one", "zero, three, one, one", "three, six, one, one"),
        )
    ),
    Case(
        "slice: attributes",
        parted(
            "c = Slice <axes=[1], starts=[0], ends=[3]> (a) d = Slice <axes=[1], starts=[-3], ends=[2147483647]> (a)",
            "",
        ),
        "a a:2",
        opset=9,
    ),
    Case(
        "slice: overlapping",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[4, 3] t, double[4, 3] u> {
        a = MatMul(x, v) c = Slice <axes=[1], starts=[0], ends=[4]> (a) d = Slice <axes=[1], starts=[2], ends=[6]> (a)
        p = MatMul(c, t) q = MatMul(d, u) y = Add(p, q) }""",
        "a a:2 a:3",
        opset=9,
    ),
    Case(
        "slice: two axes, no axes named",
        """(double[3, 4] x) => (double[2, 3] y)
        <double[4, 6] v, double[4, 3] t, int64[2] starts = {1, 2}, int64[2] ends = {3, 6}> {
        a = MatMul(x, v) c = Slice(a, starts, ends) y = MatMul(c, t) }""",
        "a a:2",
    ),
    Case(
        "slice: halves by Shape",
        parted(
            """s = Shape(a) n = Gather(s, at) h = Div(n, two) c = Slice(a, zero, h, at) d = Slice(a, h, n, at)""",
            "int64[1] zero = {0}, int64[1] at = {1}, int64[1] two = {2}",
        ),
        "a a:2",
    ),
    *(
        Case(
            f"slice: every other, {name}",
            parted(
                f"c = Slice(a, {first}, one, two) d = Slice(a, one, {second}, one, two)",
                "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] six = {6}, int64[1] last = {-1},"
                "int64[1] beyond = {9}, int64[1] end = {9223372036854775807}",
            ),
        )
        for name, first, second in (
            ("to the size", "zero, six", "six"),
            ("to the end", "zero, end", "end"),
            ("beyond the size", "zero, beyond", "beyond"),
            ("up to the last", "zero, last", "six"),
        )
    ),
    Case(
        "slice: every other, turned by two angles",
        between(
            """c = Slice(a, zero, six, one, two) d = Slice(a, one, six, one, two) e = Neg(d) f = Unsqueeze(e, last)
            g = Unsqueeze(c, last) h = Concat <axis=-1> (f, g) r = Reshape(h, all) s = Mul(r, t) b = Add(a, s)""",
            "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] six = {6}, int64[1] last = {-1},"
            "int64[2] all = {-1, 6}, double[6] t",
        ),
    ),
    Case(
        "slice: every third of some",
        """(double[N, 4] x) => (double[N, 3] y)
        <double[4, 8] v, double[3, 3] w, int64[1] zero = {0}, int64[1] eight = {8}, int64[1] one = {1}, int64[1] three = {3}> {
        a = MatMul(x, v) b = Slice(a, zero, eight, one, three) y = MatMul(b, w) }""",
        "a b",
    ),
    Case(
        "slice: backwards",
        between(
            "b = Slice(a, last, far, one, last)",
            "int64[1] last = {-1}, int64[1] far = {-99}, int64[1] one = {1}",
        ),
        "a b",
    ),
    Case(
        "slice: backwards, and added",
        between(
            "c = Slice(a, last, far, one, last) b = Add(a, c)",
            "int64[1] last = {-1}, int64[1] far = {-99}, int64[1] one = {1}",
        ),
    ),
    Case(
        "slice: backwards along two dimensions",
        between(
            "b = Slice(a, ends, far, both, ends)",
            "int64[2] ends = {-1, -1}, int64[2] far = {-99, -99}, int64[2] both = {0, 1}",
        ),
        "",
        {"a": "takes every -1th of this dimension"},
    ),
    *(
        Case(
            f"slice: {name}",
            f"""(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[{kept}, 3] w,
            int64[1] start = {{{start}}}, int64[1] end = {{{end}}}, int64[1] one = {{1}}, int64[1] step = {{{step}}}> {{
            a = MatMul(x, v) b = Slice(a, start, end, one, step) y = MatMul(b, w) }}""",
            axes,
            {"a": f"takes every {step}th of this dimension"} if not axes else {},
        )
        for name, start, end, step, kept, axes in (
            ("backwards, all of it", -1, -100, -1, 6, "a b"),
            ("backwards from before the first, which is the first", -10, -100, -1, 1, ""),
            ("steps over nothing", 4, 2, 3, 0, ""),
        )
    ),
    Case(
        "slice: positions",
        pictured("b = Slice(a, one, end, two)", "int64[1] one = {1}, int64[1] end = {4}, int64[1] two = {2}"),
    ),
    Case(
        "slice: shift by a channel",
        """(float[2, 3, 3, 3] x) => (float[2, 2, 3, 3] y) <float[6, 3, 1, 1] v, float[2, 6, 1, 1] w,
        int64[1] zero = {0}, int64[1] one = {1}, int64[1] last = {-1}, int64[1] end = {99}, int64[8] pads = {0, 1, 0, 0, 0, 0, 0, 0}> {
        a = Conv(x, v) c = Slice(a, zero, last, one) b = Pad(c, pads) y = Conv(b, w) }""",
        "a",
    ),
]

GATHER = [
    *(
        Case(
            f"gather: {name}",
            f"""(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[1, 3] w, {weights}> {{
            a = MatMul(x, v) b = Gather <axis=1> (a, at) c = Reshape(b, column) y = MatMul(c, w) }}""",
            "a a:2",
        )
        for name, weights in (
            ("a scalar index", "int64 at = {2}, int64[2] column = {-1, 1}"),
            ("a negative index", "int64 at = {-3}, int64[2] column = {-1, 1}"),
            ("a list of one", "int64[1] at = {2}, int64[2] column = {-1, 1}"),
            ("a matrix of one", "int64[1, 1] at = {2}, int64[2] column = {-1, 1}"),
        )
    ),
    Case(
        "gather: the first",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[1, 3] w, int64[1] at = {0}> {
        a = MatMul(x, v) b = Gather <axis=1> (a, at) y = MatMul(b, w) }""",
        "a",
    ),
    Case(
        "gather: some",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[2, 3] w, int64[2] at = {0, 4}> {
        a = MatMul(x, v) b = Gather <axis=1> (a, at) y = MatMul(b, w) }""",
        "a b",
    ),
    Case(
        "gather: some, several times, counted from the end",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[5, 3] w, int32[5] at = {-1, 0, 4, -1, 2}> {
        a = MatMul(x, v) b = Gather <axis=1> (a, at) y = MatMul(b, w) }""",
        "a b",
    ),
    Case(
        "gather: none",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6, 3] w, int64[0] at = {}> {
        a = MatMul(x, v) b = Gather <axis=1> (a, at) c = Concat <axis=1> (a, b) y = MatMul(c, w) }""",
        "",
        {"a": "Gather 'b': selects from this dimension by index"},
    ),
    Case(
        "gather: two shuffles by one list",
        between(
            "c = Gather <axis=1> (a, at) d = Relu(c) e = Gather <axis=1> (d, at) f = Add(a, e) b = Tanh(f)",
            "int64[6] at = {0, 3, 1, 4, 2, 5}",
        ),
    ),
    Case(
        "gather: in a matrix of indices",
        """(double[N, 4] x) => (double[N, 2, 3] y) <double[4, 6] v, double[2, 3] w, int64[2, 2] at = {0, 4, 1, 2}> {
        a = MatMul(x, v) b = Gather <axis=1> (a, at) y = MatMul(b, w) }""",
        "b",
        {"a": "Gather 'b': selects from this dimension by index"},
    ),
    Case(
        "gather: indices that nobody knows",
        """(double[N, 4] x, int64[2] at) => (double[N, 3] y) <double[4, 6] v, double[2, 3] w> {
        a = MatMul(x, v) b = Gather <axis=1> (a, at) y = MatMul(b, w) }""",
        "",
        {"a": "Gather 'b': selects from this dimension by index"},
    ),
    Case("gather: other dimensions", between("b = Gather <axis=0> (a, at)", "int64[2] at = {1, 0}")),
    Case(
        "embedding",
        """(int64[2, 3] x) => (double[2, 3, 3] y) <double[7, 6] v, double[6, 3] w> {
        a = Gather(v, x) y = MatMul(a, w) }""",
    ),
    Case(
        "embedding: two tables and a norm",
        """(int64[2, 3] x) => (double[2, 3, 3] y)
        <double[7, 6] v, double[3, 6] u, int64[3] positions = {0, 1, 2}, double[6] s, double[6] t, double[6, 3] w> {
        a = Gather(v, x) p = Gather(u, positions) e = Add(a, p) n = LayerNormalization(e, s, t) y = MatMul(n, w) }""",
        "~a",
    ),
    Case(
        "embedding: tied",
        """(int64[2, 3] x) => (double[2, 3, 7] y) <double[7, 6] v> {
        a = Gather(v, x) b = Relu(a) t = Transpose(v) y = MatMul(b, t) }""",
    ),
    Case(
        "embedding: tied, by Gemm",
        """(int64[3] x) => (double[3, 7] y) <double[7, 6] v> {
        a = Gather(v, x) b = Relu(a) y = Gemm <transB=1> (b, v) }""",
    ),
]

PAD = [
    *(
        Case(f"pad: {name}", doubled(f"b = Pad{attributes} (a{inputs})", weights), axes, {}, opset)
        for name, attributes, inputs, weights, axes, opset in (
            ("attribute", " <pads=[0, 2, 0, 4]>", "", "", "a b b:2", 10),
            ("input", "", ", pads", "int64[4] pads = {0, 2, 0, 4}", "a b b:2", 17),
            (
                "a value",
                "",
                ", pads, value",
                "int64[4] pads = {0, 2, 0, 4}, double value = {0.5}",
                "a b b:2",
                17,
            ),
            ("behind only", "", ", pads", "int64[4] pads = {0, 0, 0, 6}", "a b", 17),
            ("axes", "", ", pads, , axes", "int64[2] pads = {5, 1}, int64[1] axes = {-1}", "a b", 18),
            ("constant mode", ' <mode="constant">', ", pads", "int64[4] pads = {0, 3, 0, 3}", "a b b:2", 17),
        )
    ),
    *(
        Case(
            f"pad: {mode}",
            pictured(f'b = Pad <mode="{mode}"> (a, pads)', "int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 2}"),
        )
        for mode in ("constant", "reflect", "edge")
    ),
    Case(
        "pad: reflects channels",
        doubled('b = Pad <mode="reflect"> (a, pads)', "int64[4] pads = {0, 2, 0, 4}"),
        "",
        {"a": "Pad 'b': pads this dimension"},
    ),
    Case(
        "pad: crops channels",
        between("c = Pad(a, pads) b = Concat <axis=1> (c, x)", "int64[4] pads = {0, -2, 0, -2}"),
        "",
        {"a": "Pad 'c': pads this dimension"},
    ),
    Case(
        "pad: option A shortcut",
        """(float[2, 3, 4, 4] x) => (float[2, 2, 2, 2] y)
        <float[4, 3, 1, 1] v, float[8, 4, 1, 1] u, float[2, 8, 1, 1] w, int64[8] pads = {0, 2, 0, 0, 0, 2, 0, 0}> {
        a = Conv(x, v) s = AveragePool <kernel_shape=[2, 2], strides=[2, 2]> (a) p = Pad(s, pads)
        c = Conv <strides=[2, 2]> (a, u) b = Add(p, c) r = Relu(b) y = Conv(r, w) }""",
        "a p p:2",
    ),
]

EMPTY = [
    Case(
        "empty: a part of a concatenation",
        between("c = Expand(t, s) b = Concat <axis=0> (c, a)", "double[0, 6] t, int64[2] s = {0, 6}"),
    ),
    Case(
        "empty: parts of a split",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6, 3] w, int64[3] parts = {0, 6, 0}> {
        a = MatMul(x, v) c, b, d = Split <axis=1> (a, parts) e = Relu(c) f = Concat <axis=1> (e, b, d) y = MatMul(f, w) }""",
    ),
    Case(
        "empty: cut off in front and put back, reshaped",
        """(double[2, 4] x) => (double[2, 3] y) <double[4, 6] v, double[6, 3] w, int64[1] zero = {0}, int64[1] one = {1},
            int64[1] end = {9}, int64[3] heads = {2, -1, 3}, int64[3] none = {0, 2, 3}, int64[2] back = {2, 6}> {
        a = MatMul(x, v) c = Slice(a, zero, zero, zero) d = Reshape <allowzero=1> (c, none) e = Slice(a, zero, end, zero)
        f = Reshape(e, heads) g = Neg(f) h = Concat <axis=0> (d, g) r = Reshape(h, back) y = MatMul(r, w) }""",
        "a a:2",
    ),
    Case(
        "empty: the end before the start",
        between(
            "c = Slice(a, four, two, one) b = Concat <axis=1> (a, c)",
            "int64[1] four = {4}, int64[1] two = {2}, int64[1] one = {1}",
        ),
        "a a:2",
    ),
    Case(
        "empty: a sum over nothing",
        between("c = Slice(a, zero, zero, zero) s = ReduceSum(c, zero) b = Add(a, s)", "int64[1] zero = {0}"),
    ),
    Case(
        "empty: a product over nothing",
        between(
            "c = Slice(u, zero, zero, zero) d = Slice(a, zero, zero, one) e = MatMul(d, c) b = Add(a, e)",
            "double[5, 6] u, int64[1] zero = {0}, int64[1] one = {1}",
        ),
    ),
    Case(
        "empty: put behind what a computed matrix reads",
        between(
            "c = Slice(a, zero, zero, one) d = Concat <axis=1> (a, c) e = Relu(d) m = Mul(u, two) b = MatMul(e, m)",
            "double[6, 6] u, double two = {2}, int64[1] zero = {0}, int64[1] one = {1}",
        ),
        "a b",
    ),
    Case(
        "empty: products of heads of nothing",
        """(double[3, 4] x) => (double[3, 3] y, double[3, 2, 2] z) <double[4, 6] v, double[6, 3] w, int64[1] zero = {0},
            int64[3] heads = {-1, 2, 3}, int64[3] none = {0, 2, 3}> {
        a = MatMul(x, v) c = Slice(a, zero, zero, zero) r = Reshape <allowzero=1> (c, none) t = Transpose <perm=[0, 2, 1]> (r)
        s = MatMul(r, t) k = Concat <axis=0> (a, c) p = Reshape(k, heads) q = Transpose <perm=[0, 2, 1]> (p) m = MatMul(p, q)
        z = Concat <axis=0> (s, m) y = MatMul(k, w) }""",
        "a:2",
    ),
    Case(
        "empty: reshaped otherwise",
        """(double[2, 4] x) => (double[2, 3] y, double[6, 0] z) <double[4, 6] v, double[6, 3] w, int64[1] zero = {0},
            int64[2] turned = {6, 0}> { a = MatMul(x, v) y = MatMul(a, w) c = Slice(a, zero, zero, zero)
            z = Reshape <allowzero=1> (c, turned) }""",
        "",
        {"a": "the channels on the two sides of Reshape 'z' do not align"},
    ),
]

WEIGHTS = [
    Case("weights behind Identity", between("u2 = Identity(u) b = MatMul(a, u2)", "double[6, 6] u"), "a b"),
    Case(
        "weights behind Reshape",
        between("u2 = Reshape(u, two) b = MatMul(a, u2)", "double[36] u, int64[2] two = {6, 6}"),
        "a b",
    ),
    Case(
        "weights behind Unsqueeze",
        pictured("u2 = Unsqueeze(u, at) b = Conv(a, u2)", "float[6, 6] u, int64[2] at = {2, 3}"),
        "a b",
    ),
    Case(
        "weights behind Transpose, twice",
        between("u2 = Transpose(u) u3 = Transpose(u2) b = MatMul(a, u3)", "double[6, 6] u"),
        "a b",
    ),
    Case(
        "weights behind Split",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6, 6] u> {
        a = MatMul(x, v) c, d = Split <axis=1> (u) p = MatMul(a, c) q = MatMul(a, d) y = Add(p, q) }""",
    ),
    Case(
        "weights behind Concat",
        between("u = Concat <axis=0> (t, s) b = MatMul(a, u)", "double[2, 6] t, double[4, 6] s"),
        "a a:2 b",
    ),
    Case(
        "weights behind Slice",
        between(
            "u2 = Slice(u, zero, six, zero) b = MatMul(a, u2)",
            "double[9, 6] u, int64[1] zero = {0}, int64[1] six = {6}",
        ),
        "a b",
    ),
    Case("weights of two layers", between("c = MatMul(a, u) b = MatMul(c, u)", "double[6, 6] u")),
    Case(
        "weights, used transposed too",
        between("c = MatMul(a, u) t = Transpose(u) b = MatMul(c, t)", "double[6, 5] u"),
        "a c",
    ),
]


@pytest.mark.parametrize(
    "case",
    [*TRANSPOSE, *RESHAPE, *REPEAT, *BLOCKS, *JOIN, *SPLIT, *SLICE, *GATHER, *PAD, *EMPTY, *WEIGHTS],
    ids=str,
)
def test_movement(case: Case) -> None:
    case.check()
