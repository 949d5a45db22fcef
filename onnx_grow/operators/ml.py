"""Operators of ai.onnx.ml, which stand before or behind a network: their parameters are attributes.

linear    y = sum_i w[i] x[i]      attribute w is copied and shared as any weight is, and so are support vectors that x is multiplied by
"""

from __future__ import annotations

from onnx_grow.axes.algebra import size
from onnx_grow.axes.equations import Node, Rule, unsupported


def elementwise(node: Node) -> None:
    """A function of every element alone."""
    node.set(0, node.input(0))


def scaler(node: Node) -> None:
    """One offset and scale for all, or one for every feature."""
    _by_feature(node, "offset", "scale")


def imputer(node: Node) -> None:
    """One value for what is missing, or one for every feature."""
    _by_feature(node, "imputed_value_floats", "imputed_value_int64s")


def _by_feature(node: Node, *attributes: str) -> None:
    dims = node.input(0)
    for name in attributes:
        node.listed(name, dims[-1:])
    node.set(0, dims)


def normalizer(node: Node) -> None:
    """Every row is divided by its maximum, its sum or its norm, which are 1, m and sqrt(m) times as large for m copies of each."""
    dims = node.input(0)
    power = {"MAX": 0.0, "L1": 1.0, "L2": 0.5}[node.attribute("norm", "MAX")]
    if power:
        node.uniform(dims[-1])
        node.dilute(len(dims) - 1, power)
    node.set(0, dims)


def linear(node: Node) -> None:
    """LinearRegressor and LinearClassifier: a row of coefficients for every target, or class."""
    node.apart()
    features = node.input(0)[-1]
    count = len(node.attribute("coefficients", ())) // size(features)
    node.listed("coefficients", [node.frozen(count, "are targets"), features], over=features)
    _results(node)


def support_vectors(node: Node) -> None:
    """SVMRegressor and SVMClassifier: products with support vectors, if there are any, or with coefficients."""
    node.apart()
    features = node.input(0)[-1]
    if node.attribute("kernel_type", "LINEAR") == "RBF":
        node.freeze(features, "measures distances over this dimension, which copies would add to")
    name = "support_vectors" if node.attribute("support_vectors") else "coefficients"
    count = len(node.attribute(name, ())) // size(features)
    node.listed(name, [node.frozen(count, "are support vectors"), features], over=features)
    _results(node)


def _results(node: Node) -> None:
    """Numbers or labels, and scores, for each row."""
    *rows, _ = node.input(0)
    for o, shape in enumerate(node.out_shapes):
        if shape is not None:
            kept = rows if len(shape) >= len(rows) and shape[: len(rows)] == tuple(map(size, rows)) else []
            node.set(o, [*kept, *(node.frozen(n, "are results") for n in shape[len(kept) :])])


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
    **{("ai.onnx.ml", op): Rule(linear) for op in ("LinearClassifier", "LinearRegressor")},
    **{("ai.onnx.ml", op): Rule(support_vectors) for op in ("SVMClassifier", "SVMRegressor")},
    **{
        ("ai.onnx.ml", op): Rule(unsupported("it chooses features by index"))
        for op in ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")
    },
    **{
        ("ai.onnx.ml", op): Rule(unsupported("it makes something other than a tensor of channels"))
        for op in ("CastMap", "DictVectorizer", "FeatureVectorizer", "OneHotEncoder", "ZipMap")
    },
}
