"""Why a model rates a customer at risk, in the heuristic's words for the same features.

This module holds the wording; the numbers come from `Model.contributions`. A reason says what the model relies on, not
what makes the customer leave.
"""

from itertools import compress

import numpy as np

from churn_assets.configuration import rules
from churn_assets.model.scoring import Floats, Model

REASONS = 3  # at most
LEAST_SHARE = 0.1  # of the raw output above a typical customer's, which a feature must add to be named
NO_EVENTS = "no events in 30 days"
_COUNTS = ("txn_count_30d", "error_count_30d", "support_cases_30d", "active_days_30d")
# For values above and below the typical one, unless one of the bank's rules has words of its own.
_WORDS = {
    ("total_spend_30d", ">"): "high spending",
    ("total_spend_30d", "<"): "low spending",
    ("wire_out_30d", ">"): "large wires out",
    ("wire_out_30d", "<"): "few wires out",
    ("txn_count_30d", ">"): "many transactions",
    ("txn_count_30d", "<"): "few transactions",
    ("error_count_30d", ">"): "many app errors",
    ("error_count_30d", "<"): "few app errors",
    ("support_cases_30d", ">"): "many support cases",
    ("support_cases_30d", "<"): "no support cases",
    ("avg_sentiment", ">"): "content with support",
    ("avg_sentiment", "<"): "unhappy with support",
    ("active_days_30d", ">"): "often active",
    ("active_days_30d", "<"): "rarely active",
}


def reasons(model: Model, features: Floats) -> list[str]:
    """For each row, up to REASONS reasons separated by semicolons, the strongest first; "" if nothing stands out.

    `features` are float32, rows by the model's features, all finite. A customer without any event in the window gets
    NO_EVENTS, because the score then depends on that alone.
    """
    found = model.contributions(features)
    silent = np.all([features[:, model.features.index(name)] == 0 for name in _COUNTS], axis=0)
    strongest = np.argsort(-found, axis=1)[:, :REASONS]
    added = np.take_along_axis(found, strongest, axis=1)
    is_named = (added > 0) & (added >= LEAST_SHARE * np.maximum(found, 0).sum(axis=1, keepdims=True))
    is_above = np.take_along_axis(features > np.asarray(model.typical), strongest, axis=1)
    known = _WORDS | {(rule.feature, rule.operator): rule.reason for rule in rules().risk.rules}
    words = np.array([[known[name, "<"], known[name, ">"]] for name in model.features], dtype=object)
    named = words[strongest, is_above.astype(int)]
    return [
        NO_EVENTS if nothing_seen else "; ".join(compress(of_row, are_named))
        for nothing_seen, of_row, are_named in zip(silent, named, is_named, strict=True)
    ]
