"""scikit-learn: multi-layer perceptrons alone, in pipelines, ensembles and with several outputs, trained on made-up tables."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import (
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

warnings.filterwarnings("ignore")

EXPORTERS = ("skl2onnx",)

_draw = np.random.default_rng(0)
X = _draw.normal(size=(120, 10)).astype(np.float32)
CLASSES = (X[:, 0] * X[:, 1] > 0).astype(int) + (X[:, 2] > 0.7)
LABELS = np.array(["a", "b", "c"])[CLASSES]
SEVERAL = (X[:, :3] > 0).astype(int)
VALUE = X[:, 0] * X[:, 1] + X[:, 2]
VALUES = X[:, :3] * X[:, 3:6]
CATEGORIES = _draw.integers(0, 4, (120, 2)).astype(np.int64)


def classifier(*widths: int, activation: str = "relu") -> MLPClassifier:
    return MLPClassifier(widths or (16, 12), activation=activation, max_iter=30, random_state=0)


def regressor(*widths: int, activation: str = "relu") -> MLPRegressor:
    return MLPRegressor(
        hidden_layer_sizes=widths or (16, 12), activation=activation, max_iter=30, random_state=0
    )


MODELS: dict[str, tuple[Callable[[], Any], Any]] = {
    "binary": (classifier, CLASSES > 0),
    "multiclass": (classifier, CLASSES),
    "multilabel": (lambda: classifier(activation="logistic"), SEVERAL),
    "logistic": (lambda: classifier(20, 20, 20, activation="logistic"), CLASSES),
    "identity": (lambda: classifier(16, 8, activation="identity"), CLASSES),
    "tanh": (lambda: regressor(activation="tanh"), VALUE),
    "several_values": (lambda: regressor(24), VALUES),
    "text_labels": (classifier, LABELS),
    "deep": (lambda: classifier(12, 12, 12, 12, 12), CLASSES),
    "one_unit": (lambda: classifier(1), CLASSES),
    "scaler": (lambda: make_pipeline(StandardScaler(), classifier()), CLASSES),
    "minmax_pca": (lambda: make_pipeline(MinMaxScaler(), PCA(6), classifier()), CLASSES),
    "polynomial_svd": (lambda: make_pipeline(PolynomialFeatures(2), TruncatedSVD(6), regressor()), VALUE),
    "robust_normalizer": (lambda: make_pipeline(RobustScaler(), Normalizer(), classifier()), CLASSES),
    "bins": (
        lambda: make_pipeline(KBinsDiscretizer(4, encode="onehot-dense", strategy="uniform"), classifier()),
        CLASSES,
    ),
    "select": (lambda: make_pipeline(SelectKBest(k=5), classifier()), CLASSES),
    "impute": (lambda: make_pipeline(SimpleImputer(), MaxAbsScaler(), classifier()), CLASSES),
    "onehot": (lambda: make_pipeline(OneHotEncoder(sparse_output=False), classifier(12)), CLASSES),
    "union": (
        lambda: make_pipeline(FeatureUnion([("a", StandardScaler()), ("b", PCA(3))]), classifier()),
        CLASSES,
    ),
    "columns": (
        lambda: make_pipeline(
            ColumnTransformer(
                [("s", StandardScaler(), [0, 1, 2]), ("p", PCA(2), [3, 4, 5, 6])], remainder="passthrough"
            ),
            classifier(),
        ),
        CLASSES,
    ),
    "vote": (
        lambda: VotingClassifier(
            [("a", classifier()), ("b", classifier(8)), ("l", LogisticRegression())],
            voting="soft",
            flatten_transform=False,
        ),
        CLASSES,
    ),
    "vote_values": (
        lambda: VotingRegressor([("a", regressor()), ("b", regressor(8)), ("l", Ridge())]),
        VALUE,
    ),
    "stack": (
        lambda: StackingClassifier(
            [("a", classifier()), ("b", classifier(8))], final_estimator=LogisticRegression(), cv=2
        ),
        CLASSES,
    ),
    "stack_values": (
        lambda: StackingRegressor([("a", regressor()), ("b", Ridge())], final_estimator=regressor(8), cv=2),
        VALUE,
    ),
    "bag": (lambda: BaggingClassifier(classifier(8), 3, max_features=0.6, random_state=0), CLASSES),
    "bag_values": (lambda: BaggingRegressor(regressor(8), 3, random_state=0), VALUE),
    "boost": (lambda: AdaBoostRegressor(regressor(8), n_estimators=2, random_state=0), VALUE),
    "several_outputs": (lambda: MultiOutputClassifier(classifier(8)), SEVERAL),
    "several_regressors": (lambda: MultiOutputRegressor(regressor(8)), VALUES),
    "one_vs_rest": (lambda: OneVsRestClassifier(classifier(8)), CLASSES),
    "calibrated": (lambda: CalibratedClassifierCV(classifier(8), cv=2), CLASSES),
    "float64": (lambda: make_pipeline(StandardScaler(), regressor(activation="tanh")), VALUE),
}


def names() -> list[str]:
    """Pipelines with a network in them."""
    return list(MODELS)


def export(name: str, exporter: str, file: Path) -> dict[str, Any]:
    """Train it and export it; every second opset from 12 on, by its name."""
    build, target = MODELS[name]
    data: Any = CATEGORIES if name == "onehot" else X.astype(np.float64) if name == "float64" else X
    model = build().fit(data, target)
    zipped = hasattr(model, "predict_proba") and name != "several_outputs"
    options = {id(model): {"zipmap": False}} if zipped else None
    first = zlib.crc32(name.encode()) % 4
    for opset in (12, 13, 15, 18)[first:]:
        try:
            proto = to_onnx(model, data[:1], options=options, target_opset={"": opset, "ai.onnx.ml": 3})
            break
        except (RuntimeError, NameError):  # an operator is newer
            if opset == 18:
                raise
    file.write_bytes(proto.SerializeToString())
    return {"exporter": exporter, "opset": opset, "inputs": {"X": {"shape": [3, data.shape[1]]}}}
