"""Trees that score many rows at once: bit masks give the leaf that a row reaches, without walking trees.

A tree has at most MAX_LEAVES leaves. A mask has one bit per leaf, set while a row can still reach it. A test
`feature <= threshold` clears the leaves on its right if it holds, and those on its left if it fails. Which leaves the tests
of one feature leave depends only on how many thresholds of that feature, over all trees, are below the value. So a table
(thresholds by trees) holds these masks. The one bit that is left in the AND over the features is the leaf.

This is QuickScorer (Lucchese et al., "QuickScorer: A Fast Algorithm to Rank Documents with Additive Ensembles of Regression
Trees", SIGIR 2015), with the tests of each feature combined in advance. That suits few features and NumPy: it takes a sixth
of ONNX Runtime's time on one thread (`make benchmark-scoring`).

This module reads trees from ONNX, writes them, and sums their leaves. What a sum means is in `scoring`; how trees are grown is
in `families`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import factorial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from churn_assets.errors import ChurnError

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Integers: TypeAlias = npt.NDArray[np.integer[Any]]
Masks: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

MAX_LEAVES = 64  # per tree, the number of bits in a mask
_MASKS = (np.uint16, np.uint32, np.uint64)  # the narrowest that has a bit for each leaf is used
_ROWS = 256  # scored at once, so that their masks stay in the CPU cache
_EXPLAINED = 64  # rows at once, for the same reason


class TreesError(ChurnError):
    """The ONNX model is not one that this module can read; the message says what is different."""


@dataclass(frozen=True)
class Tree:
    """A tree as arrays with one entry for each node; node 0 is the root."""

    left: Integers
    """The child for values that are at most the threshold; -1 if the node is a leaf."""
    right: Integers
    feature: Integers
    """The column that a node tests."""
    threshold: Floats
    value: Floats
    """What a leaf adds to the sum."""


@dataclass(frozen=True)
class FeatureTests:
    """All tests of one feature; `feature` is its column in the rows."""

    feature: int
    thresholds: Floats
    left: Masks
    """Row n has, by tree, the leaves that remain if n of the thresholds are below the value."""

    def passed(self, features: Floats) -> Integers:
        """For each row, how many thresholds are below its value."""
        return np.searchsorted(self.thresholds, features[:, self.feature])


@dataclass(frozen=True)
class Trees:
    """Trees whose leaves are summed."""

    trees: int
    base: float
    """What is added to every sum."""
    tests: tuple[FeatureTests, ...]
    values: Floats
    """What each leaf adds to the sum, with as many places per tree as a mask has bits."""

    def sums(self, features: Floats) -> Floats:
        """The sum of the leaves that each row reaches; `features` are float32, rows by columns."""
        places = [tests.passed(features) for tests in self.tests]
        sums = np.empty(len(features))
        for start in range(0, len(features), _ROWS):
            rows = slice(start, start + _ROWS)
            left = self.tests[0].left.take(places[0][rows], axis=0)
            for tests, place in zip(self.tests[1:], places[1:], strict=True):
                left &= tests.left.take(place[rows], axis=0)
            # The one bit that is set, from 0.
            leaf = np.bitwise_count(left - left.dtype.type(1)) + np.arange(self.trees) * (8 * left.itemsize)
            sums[rows] = self.values.take(leaf).sum(axis=1) + self.base
        return sums

    def shapley_values(self, features: Floats, other: Floats) -> Floats:
        """How much each column adds to each row's sum, compared with `other`, one row. Rows by columns.

        Of a row that takes some columns from a row and the rest from `other`, a leaf is reached if it is one of the leaves that
        the columns taken from either leave. So a leaf adds its value once the columns A at which only `other` fails are the
        row's own, and until one of the columns B is at which only the row fails. The mean over all orders in which the columns
        can become the row's own then depends on the sizes of A and B alone. No other leaf adds anything, so few have to be
        looked at. (Laberge & Pequignot, "Understanding Interventional TreeSHAP", 2022, give the proof.)
        """
        rows, columns = features.shape
        keys, weights = _by_leaf(columns)
        places = [tests.passed(features) for tests in self.tests]
        others = [tests.left[tests.passed(other[None])] for tests in self.tests]
        bits, kind = 8 * others[0].itemsize, others[0].dtype
        every_leaf = np.arange(self.trees * bits)
        fails = _failed(self.tests, others, every_leaf // bits, (every_leaf % bits).astype(kind))
        values = np.empty((rows, columns))
        for start in range(0, rows, _EXPLAINED):
            own = [
                tests.left.take(place[start : start + _EXPLAINED], axis=0)
                for tests, place in zip(self.tests, places, strict=True)
            ]
            by_some, by_both = own[0] | others[0], own[0] & others[0]
            for mask, of_other in zip(own[1:], others[1:], strict=True):
                by_some &= mask | of_other
                by_both &= mask & of_other
            found = np.flatnonzero(_unpacked(by_some & ~by_both))
            word, bit = np.divmod(found, bits)
            leaf = found % len(self.values)
            key = keys[fails[leaf], _failed(self.tests, own, word, bit.astype(kind))]
            added = np.bincount(word // self.trees * len(weights) + key, self.values[leaf], len(own[0]) * len(weights))
            values[start : start + _EXPLAINED] = added.reshape(len(own[0]), -1) @ weights
        return values


def write(trees: Sequence[Tree], base: float, columns: int) -> bytes:
    """The ONNX model of a sum of trees over so many float32 columns.

    Thresholds are rounded down to float32, which changes no test of a float32 value.
    """
    import onnx  # noqa: PLC0415  # takes 0.05 s, which only training and scoring need
    from onnx import TensorProto  # noqa: PLC0415

    def of_all(values: Sequence[npt.NDArray[Any]]) -> list[Any]:
        return np.concatenate(values).tolist()

    leaves = [tree.left < 0 for tree in trees]
    ids = [np.arange(len(tree.left)) for tree in trees]
    numbers = [np.full(len(tree.left), number) for number, tree in enumerate(trees)]
    node = onnx.helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["sum"],
        domain="ai.onnx.ml",
        n_targets=1,
        base_values=[base],
        nodes_treeids=of_all(numbers),
        nodes_nodeids=of_all(ids),
        nodes_modes=["LEAF" if leaf else "BRANCH_LEQ" for leaf in of_all(leaves)],
        nodes_featureids=of_all([np.where(leaf, 0, tree.feature) for leaf, tree in zip(leaves, trees, strict=True)]),
        nodes_values=of_all(
            [np.where(leaf, 0, _down(tree.threshold)) for leaf, tree in zip(leaves, trees, strict=True)]
        ),
        nodes_truenodeids=of_all([np.where(leaf, 0, tree.left) for leaf, tree in zip(leaves, trees, strict=True)]),
        nodes_falsenodeids=of_all([np.where(leaf, 0, tree.right) for leaf, tree in zip(leaves, trees, strict=True)]),
        target_treeids=of_all([number[leaf] for number, leaf in zip(numbers, leaves, strict=True)]),
        target_nodeids=of_all([id_[leaf] for id_, leaf in zip(ids, leaves, strict=True)]),
        target_ids=[0] * int(sum(leaf.sum() for leaf in leaves)),
        target_weights=of_all([tree.value[leaf] for leaf, tree in zip(leaves, trees, strict=True)]),
    )
    graph = onnx.helper.make_graph(
        [node],
        "trees",
        [onnx.helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, columns])],
        [onnx.helper.make_tensor_value_info("sum", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [onnx.helper.make_opsetid("ai.onnx.ml", 3), onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return model.SerializeToString(deterministic=True)


def read(model: bytes) -> Trees:
    """The trees of an ONNX model as `write` writes it, or skl2onnx of a forest with two classes; or `TreesError`."""
    import onnx  # noqa: PLC0415

    operators = onnx.load_from_string(model).graph.node
    kinds = [operator.op_type for operator in operators]
    if kinds not in (["TreeEnsembleRegressor"], ["TreeEnsembleClassifier"]):
        raise TreesError(f"the ONNX model is not a single ensemble of trees but {', '.join(kinds)}")
    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in operators[0].attribute}
    if unknown := set(found["nodes_modes"]) - {b"BRANCH_LEQ", b"LEAF"}:
        raise TreesError(f"the model's trees have tests other than BRANCH_LEQ: {unknown}")
    if kinds == ["TreeEnsembleRegressor"]:
        return _trees(found, "target")
    # With two classes, ONNX holds only the shares of the second, under either class number.
    if len(set(found["class_ids"])) != 1 or len(found["classlabels_int64s"]) != 2 or found["post_transform"] != b"NONE":
        raise TreesError("the model does not have exactly two classes, or it transforms their shares")
    return _trees(found, "class")


def _trees(found: Mapping[str, Sequence[Any]], weighed: str) -> Trees:
    tree, column = np.array(found["nodes_treeids"]), np.array(found["nodes_featureids"])
    threshold = np.array(found["nodes_values"], np.float32)
    places = {
        name: place for place, name in enumerate(zip(found["nodes_treeids"], found["nodes_nodeids"], strict=True))
    }
    leaf, leaves, on_left, on_right = _numbered(found, places, tree)
    kind = next(kind for kind in _MASKS if int(leaf.max()) < np.iinfo(kind).bits)
    leaves, on_left, on_right = (masks.astype(kind) for masks in (leaves, on_left, on_right))
    trees = len(leaves)
    tests: list[FeatureTests] = []
    for feature in sorted(set(column[on_left > 0])) or [0]:  # without any test, add one of no threshold
        its = (on_left > 0) & (column == feature)
        thresholds = np.unique(threshold[its])
        at = np.searchsorted(thresholds, threshold[its])
        failed, held = np.tile(leaves, (2, len(thresholds) + 1, 1))
        np.bitwise_and.at(failed, (at + 1, tree[its]), ~on_left[its])
        np.bitwise_and.at(held, (at, tree[its]), ~on_right[its])
        remain: Any = np.bitwise_and.accumulate(failed, axis=0)
        remain &= np.bitwise_and.accumulate(held[::-1], axis=0)[::-1]
        tests.append(FeatureTests(int(feature), thresholds, remain))
    values = np.zeros((trees, np.iinfo(kind).bits))
    at = [places[name] for name in zip(found[f"{weighed}_treeids"], found[f"{weighed}_nodeids"], strict=True)]
    values[tree[at], leaf[at]] = found[f"{weighed}_weights"]
    return Trees(trees, float(sum(found.get("base_values", ()))), tuple(tests), values.ravel())


def _numbered(
    found: Mapping[str, Sequence[Any]], places: Mapping[tuple[int, int], int], tree: Integers
) -> tuple[npt.NDArray[np.int64], Masks, Masks, Masks]:
    """By node, the leaf's number within its tree; by tree, its leaves; by node, the leaves on its left and on its right."""
    leaf = np.zeros(len(places), np.int64)
    leaves, on_left, on_right = (np.zeros(size, np.uint64) for size in (int(tree.max()) + 1, len(places), len(places)))
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
                raise TreesError(f"a tree of the model has more than {MAX_LEAVES} leaves")
            leaf[place] = first
            return first + 1
        middle = number(below[0], first)
        end = number(below[1], middle)
        on_left[place], on_right[place] = (1 << middle) - (1 << first), (1 << end) - (1 << middle)
        return end

    for root in set(places.values()) - {place for below in children if below for place in below}:
        leaves[tree[root]] = (1 << number(root, 0)) - 1
    return leaf, leaves, on_left, on_right


def _failed(tests: Sequence[FeatureTests], masks: Sequence[Masks], words: Integers, bits: Masks) -> Integers:
    """The columns, as bits of a number, whose masks have a 0 at these words and bits."""
    failed = np.zeros(len(words), np.int64)
    for of, mask in zip(tests, masks, strict=True):
        failed |= (~(mask.ravel().take(words) >> bits) & mask.dtype.type(1)).astype(np.int64) << of.feature
    return failed


def _unpacked(masks: Masks) -> npt.NDArray[np.bool_]:
    """The bits of masks, the lowest of each first."""
    return np.unpackbits(
        masks.astype(masks.dtype.newbyteorder("<"), copy=False).view(np.uint8), bitorder="little"
    ).view(bool)


@cache
def _by_leaf(columns: int) -> tuple[Integers, Floats]:
    """For a leaf: by the sets of columns at which `other` and the row fail, a key; by key, the weight of each column.

    A leaf that needs the columns A and not the columns B adds its value in the orders in which all of A come before all of B. The
    last of A brings it, the first of B takes it away.
    """
    sets = [[column for column in range(columns) if number >> column & 1] for number in range(2**columns)]
    keys = np.zeros((2**columns, 2**columns), np.int64)
    weights: list[Floats] = []
    for needed, first in enumerate(sets):
        for unwanted, then in enumerate(sets):
            if needed & unwanted:
                continue
            keys[needed, unwanted] = len(weights)
            weight, all_ = np.zeros(columns), factorial(len(first) + len(then))
            weight[first] = factorial(max(0, len(first) - 1)) * factorial(len(then)) / all_
            weight[then] = -factorial(len(first)) * factorial(max(0, len(then) - 1)) / all_
            weights.append(weight)
    return keys, np.array(weights)


def _down(thresholds: Floats) -> Floats:
    """The largest float32 that are not above."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float32)
