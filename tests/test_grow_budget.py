from __future__ import annotations

from pathlib import Path

import pytest
from graphs import assert_same, build, planned
from test_grow_plan import ATTENTION, CHAIN, HALVES, NORM

from onnx_grow.axes.table import KINDS
from onnx_grow.errors import InvalidRequestError, NothingToGrowError
from onnx_grow.growth.budget import Span, amount, evenly
from onnx_grow.growth.deepen_plan import DeepenScheme
from onnx_grow.growth.deepening import deepen, deepened, plan_deepen
from onnx_grow.growth.widening import inspect, plan_widen, widen, widened
from onnx_grow.model import Model, load

MODELS = sorted(Path(__file__).parents[1].glob("models/*.onnx"))

TIED = """(int64[N, 4] x) => (double[N, 4, 9] y) <double[9, 6] table, double[6, 6] w> {
    [embed] e = Gather(table, x) [mix] a = MatMul(e, w) r = Relu(a) t = Transpose <perm=[1, 0]> (table) [head] y = MatMul(r, t) }"""

LINEAR = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6] s, double[6, 5] u, double[5, 3] w> {
    [a] a = MatMul(x, v) n = LayerNormalization(a, s) [b] b = MatMul(n, u) y = MatMul(b, w) }"""

SCALED = """(double[2, 3, 4] x) => (double[2, 3, 3] y) <double[4, 8] w> {
    [one] a = MatMul(x, w) b = Relu(a) c = Sigmoid(a) t = Transpose <perm=[0, 2, 1]> (b) [scores] y = MatMul(c, t) }"""


THIRDS = """(float[2, 3, 5, 4] x) => (float[2, 9, 5, 4] y) <float[6, 3, 1, 1] a, float[4, 3, 1, 1] b, float[6, 3, 1, 1] c,
    float[2, 3, 1, 1] d, float[2, 6, 1, 1] e, float[5, 6, 1, 1] f, float[2, 6, 1, 1] g> {
    p = Conv(x, a) q = Conv(x, b) r = Conv(x, c) s = Conv(x, d) j = Concat <axis=1> (p, q, r, s) k, l, m = Split <axis=1> (j)
    n = Conv(k, e) o = Conv(l, f) t = Conv(m, g) y = Concat <axis=1> (n, o, t) }"""


def chain(width: int, classes: int = 10) -> Model:
    return build(
        f"(float[N, 20] x) => (float[N, {classes}] y) <float[20, {width}] v, float[{width}, {classes}] w> "
        "{ [one] a = MatMul(x, v) b = Relu(a) [two] y = MatMul(b, w) }"
    )


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ("25M", 25_000_000),
        ("25_000_000", 25_000_000),
        ("1.5B", 1_500_000_000),
        ("1.5g", 1_500_000_000),
        ("12k", 12_000),
        ("2T", 2 * 10**12),
        ("1e6", 10**6),
        (" .5 M ", 500_000),
        ("2x", 2000),
        ("150%", 1500),
        (1234, 1234),
        (1.5e3, 1500),
    ],
)
def test_amounts_as_people_write_them(said: float | str, count: int) -> None:
    assert amount(said, 1000, "parameters") == count


@pytest.mark.parametrize(
    "said", ["", "many", "M", "-5M", "5MB", "0", 0, -1, float("nan"), float("inf"), True, None, "1e999"]
)
def test_what_is_no_amount(said: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no number of parameters"):
        amount(said, 1000, "parameters")


def test_a_multiple_of_nothing() -> None:
    with pytest.raises(InvalidRequestError, match="has no parameters"):
        amount("2x", 0, "parameters")


def test_sizes_next_to_a_factor() -> None:
    assert [Span(10).at(f) for f in (1.0, 1.09, 1.1, 1.99, 2.0)] == [10, 10, 11, 19, 20]
    assert [Span(10, whole=True).at(f) for f in (1.0, 1.99, 2.0, 3.5)] == [10, 10, 20, 30]
    assert [Span(10, multiple=8).at(f) for f in (1.0, 1.5, 1.6, 2.5)] == [10, 10, 16, 24]
    assert [Span(10, whole=True, multiple=8).at(f) for f in (2.0, 4.0, 7.9, 8.0)] == [10, 40, 40, 80]
    assert Span(10).after(10) == 11
    assert Span(10, multiple=8).after(10) == 16
    assert Span(10, whole=True, multiple=8).after(10) == 40


def test_as_many_as_fit_spread_evenly() -> None:
    assert evenly([1] * 8, 8) == list(range(8))
    assert evenly([1] * 8, 4) == [1, 3, 5, 7]
    assert evenly([1] * 8, 1) == [4]
    assert evenly([3, 3, 3], 2) == []
    assert evenly([1, 5, 9, 2, 4], 3) == [0]


@pytest.mark.parametrize("limit", [1000, 1029, 1030, 4321])
def test_the_widest_that_fits(limit: int) -> None:
    """One axis between 20 and 10 costs 30 for each channel."""
    grown = widen(chain(8), to_params=limit)
    assert grown.parameters == limit // 30 * 30
    assert_same(chain(8), grown)


def test_a_budget_of_multiply_accumulates_is_for_one_sample() -> None:
    grown = widen(chain(8), to_macs=1000)
    assert inspect(grown).macs == 990
    assert inspect(grown, shapes={"x": (5, 20)}).macs == 990


@pytest.mark.parametrize("to", ["2.2x", "3.3x"])
@pytest.mark.parametrize("text", [CHAIN, ATTENTION, NORM, HALVES, TIED, SCALED])
def test_budgets_are_kept_and_nearly_used_up(text: str, to: str) -> None:
    model = build(text)
    limit = round(float(to[:-1]) * model.parameters)
    grown = widen(model, to_params=to, kind=KINDS)
    assert 0.6 * limit < grown.parameters <= limit
    assert_same(model, grown)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_budgets_of_real_models(path: Path) -> None:
    model = load(path)
    was = inspect(model)
    for to in (1.5, 4.0):
        plan, grown = widened(model, to_params=f"{to}x")
        assert 0.95 * to < grown.parameters / model.parameters <= to
        plan, grown = widened(model, to_macs=f"{to}x")
        assert 0.9 * to < inspect(grown, shapes=plan.inputs).macs / was.macs <= to


def test_axes_of_whole_factors_stay_behind_where_they_must() -> None:
    plan = plan_widen(build(NORM), to_params="1.6x")
    assert [growth.name for growth in plan.axes] == ["b"] or all(
        growth.kind == "hidden" for growth in plan.axes
    )
    assert any("would exceed" in reason for _, reason in plan.skipped)
    whole = plan_widen(build(NORM), to_params="3x")
    assert any(growth.new_size % growth.size == 0 and growth.size == 6 for growth in whole.axes)


@pytest.mark.parametrize("budget", [240, 239, 1, "1x", "50%"])
def test_budgets_that_leave_nothing(budget: int | str) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"the model has 240 parameters, and .* leave nothing to grow"
    ):
        widen(chain(8), to_params=budget)


def test_budgets_below_the_smallest_step() -> None:
    with pytest.raises(NothingToGrowError, match="would exceed 269") as raised:
        widen(chain(8), to_params=269)
    assert raised.value.hint == "it leads to 270"


def test_budgets_that_no_width_uses_up() -> None:
    with pytest.raises(InvalidRequestError, match="1,048,576 channels"):
        widen(chain(8), to_params="5T")


@pytest.mark.parametrize(
    "both", [{"factor": 2.0}, {"widths": {"one": 9}}, {"to_macs": "2x"}], ids=lambda both: next(iter(both))
)
def test_one_way_to_say_how_much(both: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError, match="cannot both decide"):
        widen(chain(8), to_params="2x", **both)  # type: ignore[arg-type]


def sizes(model: Model, **request: object) -> dict[str, int]:
    return {growth.name: growth.new_size for growth in plan_widen(model, **request).axes}  # type: ignore[arg-type]


def test_multiples() -> None:
    assert sizes(chain(10), factor=2, multiple_of=8) == {
        "one": 16
    }  # of 16 and 24 as near to 20, the even one
    assert sizes(chain(10), factor=2.1, multiple_of=8) == {"one": 24}
    assert sizes(chain(10), factor=1.5, multiple_of=8) == {"one": 16}
    assert sizes(chain(10), factor=1.01, multiple_of=64) == {"one": 64}
    assert sizes(chain(64), factor=1.01, multiple_of=64) == {"one": 128}
    assert sizes(chain(10), widths={"one": 13}, multiple_of=8) == {"one": 13}  # as it was said
    assert sizes(chain(10), to_params="2x", multiple_of=8) == {"one": 16}


def test_multiples_of_whole_factors() -> None:
    model = build(NORM)
    assert set(sizes(model, factor=4, multiple_of=8).values()) == {16, 24}
    plan = plan_widen(model, factor=2, multiple_of=8)
    assert all(growth.new_size % 8 == 0 for growth in plan.axes)
    padded = widen(build(LINEAR), factor=2, multiple_of=8)
    assert {growth.name: (growth.new_size, growth.scheme) for growth in planned(padded).axes} == {
        "a": (16, "pad"),
        "b": (8, "split"),
    }
    assert_same(build(LINEAR), padded)
    assert any("12 is no multiple of 8; 24 would be" in reason for _, reason in plan.skipped)


@pytest.mark.parametrize("multiple", [0, -8, 1.5, True, 1 << 21])
def test_what_sizes_cannot_be_multiples_of(multiple: int) -> None:
    with pytest.raises(InvalidRequestError, match="multiples of a whole number"):
        widen(chain(8), multiple_of=multiple)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("scheme", [None, "identity", "residual-new"])
def test_as_many_layers_as_fit(path: Path, scheme: DeepenScheme | None) -> None:
    model = load(path)
    least = min(layer.parameters for layer in plan_deepen(model, every=1, scheme=scheme).layers)
    every = deepen(model, every=1, scheme=scheme).parameters
    limit = model.parameters + least
    while limit < every:
        plan, grown = deepened(model, to_params=limit, scheme=scheme)
        assert model.parameters < grown.parameters <= limit
        assert grown.parameters == model.parameters + sum(layer.parameters for layer in plan.layers)
        limit += every // 5
    assert deepen(model, to_params=every, scheme=scheme).parameters == every


def test_budgets_for_layers_that_make_no_sense() -> None:
    model = load(MODELS[0])
    with pytest.raises(InvalidRequestError, match="cannot both decide"):
        deepen(model, to_params="2x", every=2)
    with pytest.raises(NothingToGrowError, match="there is room for 1"):
        deepen(model, to_params=model.parameters + 1)
    with pytest.raises(InvalidRequestError, match="leave nothing to grow"):
        deepen(model, to_params=1000)


@pytest.mark.parametrize("percent", range(130, 310, 20))
def test_what_must_grow_together_grows_together_or_not_at_all(percent: int) -> None:
    model = build(THIRDS, 9)
    for multiple in (1, 4):
        try:
            grown = widen(model, to_params=f"{percent}%", multiple_of=multiple)
        except NothingToGrowError:
            continue
        assert grown.parameters <= model.parameters * percent / 100
        assert_same(model, grown)
