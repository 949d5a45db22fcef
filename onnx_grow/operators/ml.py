"""Operators of ai.onnx.ml, which stand before or behind a network: their parameters are attributes, which keep their size."""

from __future__ import annotations

from onnx_grow.axes.equations import Node, Rule, unsupported


def elementwise(node: Node) -> None:
    """A function of every element alone."""
    node.set(0, node.input(0))


def scaler(node: Node) -> None:
    """One offset and scale for all, or one for every feature."""
    dims = node.input(0)
    if any(len(node.attribute(name, ())) > 1 for name in ("offset", "scale")):
        node.freeze(dims[-1], "has an offset and a scale for each of these in its attributes")
    node.set(0, dims)


def imputer(node: Node) -> None:
    """One value for what is missing, or one for every feature."""
    dims = node.input(0)
    if any(len(node.attribute(f"imputed_value_{kind}", ())) > 1 for kind in ("floats", "int64s")):
        node.freeze(dims[-1], "has a value for each of these in its attributes")
    node.set(0, dims)


def normalizer(node: Node) -> None:
    """Every row is divided by its norm, its sum or its maximum."""
    dims = node.input(0)
    node.freeze(dims[-1], "normalises over this dimension")
    node.set(0, dims)


def extractor(node: Node) -> None:
    """Some of the features, by index."""
    dims = node.input(0)
    node.freeze(dims[-1], "selects from this dimension by index")
    out = [node.frozen(n, "is a selection") for n in node.out_shape()]
    node.set(0, [*dims[:-1], out[-1]] if len(out) == len(dims) else out)


RULES = {
    **{("ai.onnx.ml", op): Rule(elementwise) for op in ("Binarizer", "CategoryMapper", "LabelEncoder")},
    ("ai.onnx.ml", "ArrayFeatureExtractor"): Rule(extractor),
    ("ai.onnx.ml", "Imputer"): Rule(imputer),
    ("ai.onnx.ml", "Normalizer"): Rule(normalizer),
    ("ai.onnx.ml", "Scaler"): Rule(scaler),
    **{
        ("ai.onnx.ml", op): Rule(unsupported("its coefficients are attributes, one for every feature"))
        for op in ("LinearClassifier", "LinearRegressor", "SVMClassifier", "SVMRegressor")
    },
    **{
        ("ai.onnx.ml", op): Rule(unsupported("it chooses features by index"))
        for op in ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")
    },
    **{
        ("ai.onnx.ml", op): Rule(unsupported("it makes something other than a tensor of channels"))
        for op in ("CastMap", "DictVectorizer", "FeatureVectorizer", "OneHotEncoder", "ZipMap")
    },
}
