from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from graphs import assert_same, build
from test_grow_plan import CHAIN

import onnx_grow as og
from onnx_grow.errors import InvalidRequestError, NothingToGrowError
from onnx_grow.growth import recipe_file
from onnx_grow.growth.recipe_file import dumped, parsed, read
from onnx_grow.growth.steps import GrowPlan, apply_steps, grow, grown, plan_grow

MODELS = Path(__file__).parents[1] / "models"
CNN = MODELS / "digits_cnn.onnx"

RECIPE = """
steps:
- widen: {factor: 1.5, kind: hidden, seed: 3}
- deepen:
    every: 2
    calibration: digits_cnn.npz
- widen:
    to_params: 6x
    multiple_of: 4
    scheme: copy
- widen: {scheme: noise, noise: 0.001, widths: {/stem/stem.0/stem.0.0/Conv: 40}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "digits_cnn.npz").write_bytes((MODELS / "digits_cnn.npz").read_bytes())
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_steps_are_taken_one_after_the_other(recipe: Path) -> None:
    model = og.load(CNN)
    plan, result = grown(model, recipe)
    assert [type(step).__name__ for step in plan.steps] == [
        "WidenPlan",
        "DeepenPlan",
        "WidenPlan",
        "WidenPlan",
    ]
    assert plan.source_sha256 == model.sha256
    assert plan.noise == 0.001
    quiet = apply_steps(model, plan.without_noise())
    assert og.verify(model, quiet).ok
    assert not og.verify(model, result).ok
    assert [entry["plan"]["operation"] for entry in og.growth.history(result)] == [
        "widen",
        "deepen",
        "widen",
        "widen",
    ]


def test_a_plan_replays_byte_for_byte(recipe: Path, tmp_path: Path) -> None:
    model = og.load(CNN)
    plan, result = grown(model, recipe)
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    og.save(result, tmp_path / "once.onnx")
    again, repeated = grown(og.load(CNN), tmp_path / "plan.yaml")
    og.save(repeated, tmp_path / "twice.onnx")
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()
    assert again == plan
    og.save(og.apply(model, plan), tmp_path / "thrice.onnx")
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "thrice.onnx").read_bytes()


def test_names_that_yaml_could_take_for_something_else() -> None:
    text = CHAIN.replace("enc_in", "yes").replace("act", "null")
    model = build(text)
    plan = plan_grow(model, ["widen"])
    assert plan.steps[0].axes[0].name == "yes"
    assert parsed(yaml.safe_load(plan.to_yaml())).steps[0].what == plan.steps[0]


@pytest.mark.parametrize(
    "steps",
    [["widen"], [{"widen": None}], {"steps": [{"widen": {}}]}, {"steps": ["widen"], "shapes": {"x": [3, 4]}}],
    ids=["a word", "a key", "a mapping", "with shapes"],
)
def test_recipes_in_python(steps: object) -> None:
    model = build(CHAIN)
    result = grow(model, steps)  # type: ignore[arg-type]
    assert_same(model, result)
    assert result.parameters > model.parameters


def test_plans_are_steps() -> None:
    model = build(CHAIN)
    plan = og.plan_widen(model, factor=1.5)
    assert plan_grow(model, [plan]).steps == (plan,)


def test_shapes_for_all_steps() -> None:
    plan = plan_grow(
        build(CHAIN), {"steps": ["widen", {"widen": {"shapes": {"x": [5, 4]}}}], "shapes": {"x": [3, 4]}}
    )
    assert [step.inputs["x"] for step in plan.steps] == [(3, 4), (5, 4)]
    assert plan_grow(build(CHAIN), ["widen"], shapes={"x": (2, 4)}).steps[0].inputs == {"x": (2, 4)}


def test_another_model(tmp_path: Path) -> None:
    plan = plan_grow(og.load(CNN), ["widen"])
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    with pytest.raises(
        InvalidRequestError, match=r"step 1 \(widen\): .*made for another file \(sha256 2d2145"
    ):
        grow(og.load(MODELS / "digits_mlp.onnx"), tmp_path / "plan.yaml")
    sibling = og.load(CNN).to_proto()
    sibling.doc_string = "trained for longer"
    og.save(og.load(sibling), tmp_path / "sibling.onnx")
    fitting, _ = grown(og.load(tmp_path / "sibling.onnx"), tmp_path / "plan.yaml")
    assert "made for another file" in fitting.notes[0]
    assert fitting.notes[0].endswith("it fits this one, too")


BAD = {
    "": "is no recipe",
    "42": "is no recipe",
    "steps:": "has no steps",
    "steps: []": "has no steps",
    "steps: widen": "has 'steps' that are no list",
    "step: [widen]": "there is no key 'step' (did you mean 'steps'?)",
    "steps: [widen": "line 1, column 14: expected ',' or ']'",
    "[widne]": "step 1: there is no key 'widne' (did you mean 'widen'?)",
    "[widen, {}]": "step 2 must be one of widen and deepen",
    "[3]": "step 1 must be one of widen and deepen",
    "[{widen: {}, deepen: {}}]": "step 1 must be one of widen and deepen",
    "[{widen: 2}]": "step 1 (widen): its options must be keys and values",
    "[{widen: {factr: 2}}]": "step 1 (widen): there is no key 'factr' (did you mean 'factor'?)",
    "[{deepen: {factor: 2}}]": "step 1 (deepen): there is no key 'factor'",
    "[{widen: {factor: two}}]": "step 1 (widen): 'factor' must be a number, and 'two' is not",
    "[{widen: {factor: yes}}]": "'factor' must be a number, and True is not",
    "[{widen: {factor: 0.5}}]": "step 1 (widen): the factor must be a number greater than 1",
    "[{widen: {widths: {a: 1.5}}}]": "'widths' must be names with whole numbers",
    "[{widen: {shapes: {x: 3}}}]": "'shapes' must be input names with lists of sizes",
    "[{widen: {only: [1]}}]": "'only' must be a name or a list of names",
    "[widen, {widen: {only: nosuch}}]": "step 2 (widen): no axis is called 'nosuch'",
    "[{deepen: {every: x}}]": "step 1 (deepen): 'every' must be a whole number",
    "[{deepen: {calibration: nope.npz}}]": "the data for 'calibration', does not exist",
    "[{widen: {axes: 3}}]": "'axes' must be a list",
    "[{widen: {axes: [{name: a}]}}]": "step 1 (widen), axis 1: the key 'kind' is missing",
    "[{widen: {axes: [{nam: a}]}}]": "there is no key 'nam' (did you mean 'name'?)",
    "[{widen: {axes: [], factor: 2}}]": "'axes' says exactly what grows, and there is no key 'factor'",
    "[{deepen: {layers: 3}}]": "this is no plan that deepen wrote",
    "[{deepen: {layers: [{scheme: odd}]}}]": "this is no plan that deepen wrote",
    "[{widen: &a {factor: 2}}, {widen: *a}]": "recipes have no aliases",
    "[{widen: {factor: 2, factor: 3}}]": "line 1, column 22: 'factor' is said twice",
    "[!!python/object/apply:os.system [ls]]": "could not determine a constructor",
    "{steps: [widen], model: x}": "'model' must hold the key sha256",
    "{steps: [widen], model: {sha256: 5}}": "'sha256' must be text",
    "{steps: [widen], model: {sha: x}}": "there is no key 'sha' (did you mean 'sha256'?)",
    "{steps: [widen], shapes: [3]}": "'shapes' must be input names",
    "[" * 3000: "is nested too deeply",
    "a\x00b": "is no YAML",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_is_no_recipe(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InvalidRequestError) as raised:
        grow(build(CHAIN), path)
    assert BAD[text] in str(raised.value)
    assert "recipe.yaml" in str(raised.value)


def test_files_that_cannot_be_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequestError, match=r"nope\.yaml cannot be read: No such file"):
        read(tmp_path / "nope.yaml")
    monkeypatch.setattr(recipe_file, "MOST_BYTES", 10)
    (tmp_path / "large.yaml").write_text("[widen, widen]")
    with pytest.raises(InvalidRequestError, match="larger than"):
        read(tmp_path / "large.yaml")
    monkeypatch.setattr(recipe_file, "MOST_STEPS", 1)
    with pytest.raises(InvalidRequestError, match="2 steps; 1 are the most"):
        parsed(["widen", "widen"])


def test_errors_keep_their_class() -> None:
    with pytest.raises(NothingToGrowError, match=r"the recipe, step 1 \(widen\): "):
        grow(build(CHAIN), [{"widen": {"kind": "heads"}}])


def test_recipes_are_for_people() -> None:
    text = dumped([{"operation": "widen", "axes": [{"name": "a", "size": 3}], "seed": 0}], "abc")
    assert text.splitlines()[1:] == [
        "model: {sha256: abc}",
        "steps:",
        "- widen:",
        "    axes:",
        "    - {name: a, size: 3}",
        "    seed: 0",
    ]


def test_a_plan_in_words_and_json() -> None:
    plan = plan_grow(build(CHAIN), ["widen"])
    assert str(plan) == "step 1:\nenc_in (hidden): 6 -> 12\nenc_out (hidden): 5 -> 10"
    assert plan.to_json().startswith('{"operation":"grow","source_sha256":null,"steps":[{"operation":"widen"')
    assert GrowPlan(()).noise == 0.0


def test_relative_budgets_are_of_the_original_in_every_step() -> None:
    model = build(CHAIN)
    for key, of in (("to_params", model.parameters), ("to_macs", og.inspect(model).macs)):
        recipe = [{"widen": {"factor": 2}}, {"widen": {key: "900%"}}]
        exact = [{"widen": {"factor": 2}}, {"widen": {key: 9 * of}}]
        assert plan_grow(model, recipe).steps == plan_grow(model, exact).steps
        with pytest.raises(InvalidRequestError, match=r"step 2 .*leave nothing to grow"):
            grow(model, [{"widen": {"factor": 2}}, {"widen": {key: "1.5x"}}])
