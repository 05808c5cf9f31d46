"""A forest of small trees that scores many rows at once: bit masks give the leaf that a row reaches, without walking trees.

A tree has at most MAX_LEAVES leaves, numbered from left to right. A mask has one bit per leaf, set while a row can still
reach it. A test `feature <= threshold` that fails clears the leaves to its left. Which leaves the failed tests of one feature
leave depends only on how many thresholds of that feature, over all trees, are below the value. So a table (thresholds by
trees) holds these masks. The lowest bit in the AND over the features is the leaf.

This is QuickScorer (Lucchese et al., "QuickScorer: A Fast Algorithm to Rank Documents with Additive Ensembles of Regression
Trees", SIGIR 2015), with the tests of each feature combined in advance. That suits few features and NumPy: it takes a sixth
of ONNX Runtime's time on one thread (`make benchmark-scoring`).

This module reads trees from ONNX and scores rows. What the votes mean is in `scoring`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from churn_assets.errors import ChurnError

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Masks: TypeAlias = npt.NDArray[np.uint64]

MAX_LEAVES = 64  # per tree, the number of bits in a mask
_ROWS = 256  # scored at once, so that their masks stay in the CPU cache
_ALL, _ONE = np.uint64(2**64 - 1), np.uint64(1)


class ForestError(ChurnError):
    """The ONNX model is not a forest that this module can read; the message says what is different."""


@dataclass(frozen=True)
class FeatureTests:
    """All tests of one feature; `feature` is its column in the rows."""

    feature: int
    thresholds: Floats
    left: Masks
    """Row n has, by tree, the leaves that remain if n of the thresholds are below the value."""


@dataclass(frozen=True)
class Forest:
    """The trees of a classifier with two classes."""

    trees: int
    tests: tuple[FeatureTests, ...]
    shares: Floats
    """What each leaf adds to the votes, with MAX_LEAVES places per tree."""

    def votes(self, features: Floats) -> Floats:
        """The mean over the trees of the second class's share in the leaf; `features` are float32, rows by columns."""
        places = [np.searchsorted(tests.thresholds, features[:, tests.feature]) for tests in self.tests]
        before = np.arange(self.trees) * MAX_LEAVES - 1
        votes = np.empty(len(features))
        for start in range(0, len(features), _ROWS):
            rows = slice(start, start + _ROWS)
            left = self.tests[0].left.take(places[0][rows], axis=0)
            for tests, place in zip(self.tests[1:], places[1:], strict=True):
                left &= tests.left.take(place[rows], axis=0)
            lowest = np.bitwise_count(left ^ (left - _ONE))  # the position of the lowest bit, from 1
            votes[rows] = self.shares.take(lowest + before).sum(axis=1)
        return votes


def read(model: bytes) -> Forest:
    """The forest of an ONNX model as skl2onnx writes it, or `ForestError`."""
    import onnx  # noqa: PLC0415  # takes 0.05 s, which only scoring needs

    operators = onnx.load_from_string(model).graph.node
    if [operator.op_type for operator in operators] != ["TreeEnsembleClassifier"]:
        raise ForestError(
            f"the ONNX model is not a single TreeEnsembleClassifier but {', '.join(operator.op_type for operator in operators)}"
        )
    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in operators[0].attribute}
    if unknown := set(found["nodes_modes"]) - {b"BRANCH_LEQ", b"LEAF"}:
        raise ForestError(f"the model's trees have tests other than BRANCH_LEQ: {unknown}")
    # With two classes, ONNX holds only the shares of the second, under either class number.
    if len(set(found["class_ids"])) != 1 or len(found["classlabels_int64s"]) != 2 or found["post_transform"] != b"NONE":
        raise ForestError("the model does not have exactly two classes, or it transforms their shares")
    return _forest(found)


def _forest(found: Mapping[str, Sequence[Any]]) -> Forest:
    tree, column = np.array(found["nodes_treeids"]), np.array(found["nodes_featureids"])
    threshold = np.array(found["nodes_values"], np.float32)
    places = {
        name: place for place, name in enumerate(zip(found["nodes_treeids"], found["nodes_nodeids"], strict=True))
    }
    leaf, failing = _numbered(found, places)
    trees = int(tree.max()) + 1
    tests: list[FeatureTests] = []
    for feature in sorted(set(column[failing > 0])) or [0]:  # without any test, add one that never fails
        its = (failing > 0) & (column == feature)
        thresholds = np.unique(threshold[its])
        left = np.full((len(thresholds) + 1, trees), _ALL)
        np.bitwise_and.at(left, (np.searchsorted(thresholds, threshold[its]) + 1, tree[its]), ~failing[its])
        tests.append(FeatureTests(int(feature), thresholds, np.bitwise_and.accumulate(left, axis=0)))
    shares = np.zeros((trees, MAX_LEAVES))
    weighed = [places[name] for name in zip(found["class_treeids"], found["class_nodeids"], strict=True)]
    shares[tree[weighed], leaf[weighed]] = found["class_weights"]
    return Forest(trees, tuple(tests), shares.ravel())


def _numbered(
    found: Mapping[str, Sequence[Any]], places: Mapping[tuple[int, int], int]
) -> tuple[npt.NDArray[np.int64], Masks]:
    """By node, the leaf's number within its tree, and the leaves that are out of reach if the test fails."""
    leaf, failing = np.zeros(len(places), np.int64), np.zeros(len(places), np.uint64)
    children = [
        None if mode == b"LEAF" else (places[tree, true], places[tree, false])
        for mode, tree, true, false in zip(
            *(found[f"nodes_{name}"] for name in ("modes", "treeids", "truenodeids", "falsenodeids")), strict=True
        )
    ]

    def number(place: int, first: int) -> int:
        """Number the leaves below a node; returns the next number."""
        below = children[place]
        if below is None:
            if first == MAX_LEAVES:
                raise ForestError(f"a tree of the model has more than {MAX_LEAVES} leaves")
            leaf[place] = first
            return first + 1
        middle = number(below[0], first)
        failing[place] = (1 << middle) - (1 << first)
        return number(below[1], middle)

    for root in set(places.values()) - {place for below in children if below for place in below}:
        number(root, 0)
    return leaf, failing
