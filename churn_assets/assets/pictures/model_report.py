"""Pictures of a trained model for the metadata of `churn_model`. Here belongs the drawing, not what is measured."""

import math
from collections.abc import Mapping
from io import BytesIO
from statistics import NormalDist
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from churn_assets.assets.pictures.charts import picture
from churn_assets.configuration import rules
from churn_assets.model.families import FAMILIES
from churn_assets.model.metrics import CONFIDENCE, LIFT_AT, Evaluation, Floats, Measure, auc_gain, bins
from churn_assets.model.training import Trained, ways

_MODEL, _STAYED, _CHANCE, _REMARK = "#4f43dd", "#888888", "#cc3333", "#666666"
_LINES = {
    "model": {"color": _MODEL, "linewidth": 2.5, "zorder": 3},
    "logistic": {"color": "#555555", "linewidth": 1.5},
    "forest": {"color": "#2a9d5c", "linewidth": 1.5},
    "boosting": {"color": "#d98a00", "linewidth": 1.5},
    "heuristic": {"color": "#aaaaaa", "linewidth": 1.5, "linestyle": "dashed"},
}
_POINTS = 400  # of a curve: more than one for each pixel would not show
_BARS = 40  # of the distribution


def report(trained: Trained) -> dg.MarkdownMetadataValue:
    """ROC, precision-recall, calibration, gains, importances and distribution on the test rows, and the measures as a table."""
    words = [*_why_the_model_serves(trained), _table(trained.evaluations)]
    return picture(_png(trained), "the model on its test rows", "\n\n".join(words))


def _why_the_model_serves(trained: Trained) -> list[str]:
    """What the model is, and a paragraph if another family is above it, so that nobody takes that one for the model."""
    family = trained.model.family
    words = [
        f"The model is of the family {family}: the simplest within a standard error of the best on the validation."
    ]
    others = [way for way in trained.evaluations if way in FAMILIES]
    best = max(others, key=lambda way: trained.evaluations[way].roc_auc.value, default=None)
    if best is None or trained.evaluations[best].roc_auc.value <= trained.evaluations["model"].roc_auc.value:
        return words
    ours, theirs = (trained.evaluations[way].roc_auc.value for way in ("model", best))
    test = trained.test
    gain = auc_gain(test["has_left"], test["model"], test[best], test["customer_id"])
    low, high = gain.interval
    chance = "which chance alone can make" if high >= 0 else "more than chance alone makes"
    return [
        *words,
        f"On the test rows {best} is above the model: ROC AUC {theirs:.3f} against {ours:.3f}. The difference is"
        f" {gain.value:+.3f} ({low:+.3f} to {high:+.3f}), {chance}. The test chooses nothing: a model that was chosen by it would"
        " look better on it than it is. The check against the champion decides whether the model may serve.",
    ]


def _table(evaluations: Mapping[str, Evaluation]) -> str:
    lines = [
        f"| {CONFIDENCE:.0%} intervals | ROC AUC | PR AUC | calibration error | Brier | lift at {LIFT_AT} |",
        "|---|---|---|---|---|---|",
    ]
    for way, found in evaluations.items():
        cells = [
            _text(found.roc_auc, 3),
            _text(found.pr_auc, 3),
            _text(found.calibration_error, 4),
            _text(found.brier, 4),
            _text(found.lift, 1),
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _text(measure: Measure, digits: int) -> str:
    low, high = measure.interval
    if not math.isfinite(low + high):  # with few leavers, some samples of customers have none
        return f"{measure.value:.{digits}f} (too few for an interval)"
    return f"{measure.value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _png(trained: Trained) -> bytes:
    # Matplotlib takes half a second to import, which only a run of this asset has to pay for.
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    test = trained.test
    style: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.fontsize": 8,
        "legend.edgecolor": "none",
        "figure.constrained_layout.w_pad": 0.12,
        "figure.constrained_layout.h_pad": 0.12,
    }
    with rc_context(style):
        # 1,080 pixels: no more fit into Dagster's dialog on a screen that is 1,440 wide.
        figure = Figure(figsize=(12, 7.6), dpi=90, layout="constrained")
        left = test.loc[test["has_left"].astype(bool), "customer_id"]
        figure.suptitle(
            f"Test from {test['cut_off'].min()} to {test['cut_off'].max()}: {len(test):,} rows of"
            f" {test['customer_id'].nunique():,} customers, of which {len(left):,} rows of {left.nunique():,} leavers"
        )
        (roc, precision, calibration), (gains, importances, distribution) = figure.subplots(2, 3)
        _draw_roc(roc, test, trained.evaluations)
        _draw_precision(precision, test, trained.evaluations)
        _draw_calibration(calibration, test)
        _draw_gains(gains, test)
        _draw_importances(importances, trained.importances)
        _draw_distribution(distribution, test)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    # A palette cuts the size to a third, and every training leaves a picture in Dagster's event log.
    stored = BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3]).quantize(256, dither=Image.Dither.NONE).save(
        stored, "png"
    )
    return stored.getvalue()


def _draw_roc(axes: Any, test: pd.DataFrame, evaluations: Mapping[str, Evaluation]) -> None:
    for way in ways(test):
        taken, found = _from_the_highest(test, way)
        stayed = taken - found
        kept = _spread(found + stayed * found[-1] / stayed[-1])  # evenly along the curve, also where it is steep
        label = f"{way}: {_text(evaluations[way].roc_auc, 3)}"
        axes.plot(100 * stayed[kept] / stayed[-1], 100 * found[kept] / found[-1], label=label, **_LINES[way])
    axes.plot([0, 100], [0, 100], color=_CHANCE, linewidth=1, label="by chance: 0.5")
    axes.legend(loc="lower right", title=f"area under the curve ({CONFIDENCE:.0%})", alignment="left")
    axes.set(
        title="ROC",
        xlabel="taken for leavers, % of those who stayed",
        ylabel="found, % of those who left",
        xlim=(-1, 101),
        ylim=(-1, 101),
    )


def _draw_precision(axes: Any, test: pd.DataFrame, evaluations: Mapping[str, Evaluation]) -> None:
    """Steps, not slopes: so the area under a curve is the average precision in the legend."""
    for way in ways(test):
        taken, found = _from_the_highest(test, way)
        steps = np.flatnonzero(np.diff(found)) + 1
        steps = steps[_spread(found[steps])]
        precision = 100 * found[steps] / taken[steps]
        axes.step(
            [0, *(100 * found[steps] / found[-1])],
            [precision[0], *precision],
            where="pre",
            label=f"{way}: {_text(evaluations[way].pr_auc, 3)}",
            **_LINES[way],
        )
    share = float(test["has_left"].mean())
    axes.axhline(100 * share, color=_CHANCE, linewidth=1, label=f"by chance: {share:.3f}")
    axes.legend(title=f"average precision ({CONFIDENCE:.0%})", alignment="left")
    axes.set(
        title="Precision and recall",
        xlabel="recall: found, % of those who left",
        ylabel="precision: left, % of those taken for leavers",
        xlim=(-1, 101),
        ylim=(-1, 101),
    )


def _draw_calibration(axes: Any, test: pd.DataFrame) -> None:
    """On logarithmic scales, because most probabilities lie far below the few that matter."""
    probability = test["model"].to_numpy(np.float64)
    binned = test.assign(has_left=test["has_left"].astype(float)).groupby(bins(probability))
    means, shares = binned["model"].mean().to_numpy(np.float64), binned["has_left"].mean().to_numpy(np.float64)
    # The rows of one customer are not independent evidence, so each customer of a bin counts once.
    low, high = _wilson(shares, binned["customer_id"].nunique().to_numpy().astype(np.float64))
    lowest, highest = _log_range(np.concatenate([means, shares, high]))
    # Zero has no place on a logarithmic scale, so it is drawn at the edge, hollow.
    zero = (means == 0) | (shares == 0)
    means, drawn, low = (np.maximum(values, lowest) for values in (means, shares, low))
    axes.plot([100 * lowest, 100 * highest], [100 * lowest, 100 * highest], color=_CHANCE, linewidth=1, label="ideal")
    axes.vlines(100 * means, 100 * low, 100 * high, color=_MODEL, linewidth=1.5, clip_on=False)
    for some, fill, label in (
        (~zero, _MODEL, f"a tenth of the rows each ({CONFIDENCE:.0%})"),
        (zero, "white", "zero, at the edge"),
    ):
        if some.any():
            style = {"color": _MODEL, "markerfacecolor": fill, "clip_on": False, "zorder": 3}
            axes.plot(100 * means[some], 100 * drawn[some], "o", label=label, **style)
    axes.legend(loc="upper left")
    axes.set(
        title="Calibration of the model",
        xlabel="mean probability, % (log scale)",
        ylabel=f"left within {rules().labels.days} days, % (log scale)",
    )
    _log_percent(axes, "x", lowest, highest)
    _log_percent(axes, "y", lowest, highest)


def _draw_gains(axes: Any, test: pd.DataFrame) -> None:
    """On a logarithmic scale, because nobody writes to a large part of the customers."""
    one_run = LIFT_AT * test["cut_off"].nunique() / len(test)
    lowest = min(0.001, one_run / 2)
    grid = np.geomspace(lowest, 1, _POINTS)
    for way in ways(test):
        taken, found = _from_the_highest(test, way)
        # Straight between two scores, because equal scores have no order.
        axes.plot(100 * grid, 100 * np.interp(grid, taken / taken[-1], found / found[-1]), label=way, **_LINES[way])
    axes.plot(100 * grid, 100 * grid, color=_CHANCE, linewidth=1, label="by chance")
    if one_run < 1:
        axes.axvline(100 * one_run, color=_REMARK, linewidth=1, linestyle="dotted", label=f"{LIFT_AT} at each cut-off")
    axes.legend()
    axes.set(
        title="Leavers found among the highest scores",
        xlabel="written to, % of customers (log scale)",
        ylabel="found, % of those who left",
        ylim=(-1, 101),
    )
    _log_percent(axes, "x", lowest, 1.0)


def _draw_importances(axes: Any, importances: Mapping[str, float]) -> None:
    lost = dict(sorted(importances.items(), key=lambda item: item[1]))
    bars = axes.barh(list(lost), list(lost.values()), color=_MODEL, height=0.6)
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.axvline(0, color=_REMARK, linewidth=1)
    axes.margins(x=0.25)  # for the numbers
    axes.tick_params(axis="y", length=0)
    axes.set(title="Importance of the features", xlabel="ROC AUC lost where the values are shuffled")


def _draw_distribution(axes: Any, test: pd.DataFrame) -> None:
    probability, left = test["model"].to_numpy(np.float64), test["has_left"].to_numpy(bool)
    lowest, highest = _log_range(probability)
    edges = np.geomspace(lowest, highest, _BARS + 1)
    for some, name, colour in ((~left, "stayed", _STAYED), (left, "left", _MODEL)):
        # A probability of zero has no place on a logarithmic scale and counts in the first bar.
        counts, _ = np.histogram(np.clip(probability[some], lowest, highest), edges)
        shares = 100 * counts / max(1, some.sum())
        axes.stairs(shares, 100 * edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(shares, 100 * edges, color=colour, linewidth=2, label=f"{name} ({some.sum():,})")
    for name, bound, dashes in (
        ("MEDIUM", rules().model.medium_from, "dotted"),
        ("HIGH", rules().model.high_from, "dashed"),
    ):
        label = f"{name} from {bound:.0%}"
        axes.axvline(100 * bound, color=_REMARK, linewidth=1, linestyle=dashes, label=label)
    axes.legend(loc="upper left")
    scale = "log scale" if probability.min() > 0 else "log scale, first bar: 0"
    axes.set(title="Probabilities of the model", xlabel=f"probability, % ({scale})", ylabel="rows, % of each group")
    axes.set_ylim(0, 1.5 * axes.dataLim.y1)  # with a place for the legend
    _log_percent(axes, "x", lowest, highest)


def _from_the_highest(test: pd.DataFrame, way: str) -> tuple[Floats, Floats]:
    """How many rows are taken and how many leavers found, from none to all, with the highest scores first."""
    _, place = np.unique(-test[way].to_numpy(np.float64), return_inverse=True)  # equal scores come together
    taken, found = np.bincount(place), np.bincount(place, test["has_left"].to_numpy(np.float64))
    return np.cumsum([0.0, *taken]), np.cumsum([0.0, *found])


def _wilson(shares: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """EB Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927), of any share."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (shares + z**2 / (2 * sizes)) / (1 + z**2 / sizes)
    reach = z / (1 + z**2 / sizes) * np.sqrt(shares * (1 - shares) / sizes + z**2 / (4 * sizes**2))
    return middle - reach, middle + reach


def _spread(rising: Floats) -> Any:
    """The places of _POINTS values at even distances, including the first and the last."""
    return np.unique(np.searchsorted(rising, np.linspace(rising[0], rising[-1], _POINTS)))


def _log_range(shares: Floats) -> tuple[float, float]:
    """The ends of a logarithmic scale with room around all values, and with more room at the low end if there are zeros."""
    seen = shares[shares > 0]
    if not len(seen):
        return 0.001, 1.0
    return float(seen.min()) / (1.5 if len(seen) == len(shares) else 5), float(seen.max()) * 1.5


def _log_percent(axes: Any, which: str, lowest: float, highest: float) -> None:
    from matplotlib.ticker import LogLocator, NullLocator  # noqa: PLC0415

    axes.set(**{f"{which}scale": "log", f"{which}lim": (100 * lowest, 100 * highest)})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < 100 * lowest else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")
