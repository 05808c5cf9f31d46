"""Why a model finds a customer at risk, in the words that the heuristic has for the same things.

Here belongs the wording. The numbers are `scoring.contributions`. A reason says what the model goes by, not what makes the
customer leave.
"""

import numpy as np

from churn_assets.model.scoring import Floats, Model, contributions
from churn_assets.settings import RISK_RULES

REASONS = 3  # named at most
LEAST_SHARE = 0.1  # of what is above a typical customer, that a feature must add to be named
NO_EVENTS = "no events in 30 days"
_COUNTS = ("txn_count_30d", "error_count_30d", "support_cases_30d", "active_days_30d")
_BY_RULE = {(rule.feature, rule.operator): rule.reason for rule in RISK_RULES}
# Above and below what is typical. The rules have words for five of these.
_WORDS = {
    ("total_spend_30d", ">"): "high spending",
    ("total_spend_30d", "<"): "low spending",
    ("wire_out_30d", "<"): "few wires out",
    ("txn_count_30d", ">"): "many transactions",
    ("txn_count_30d", "<"): "few transactions",
    ("error_count_30d", "<"): "few app errors",
    ("support_cases_30d", "<"): "no support cases",
    ("avg_sentiment", ">"): "content with support",
    ("active_days_30d", ">"): "often active",
    **_BY_RULE,
}


def reasons(model: Model, features: Floats) -> list[str]:
    """For each row, up to REASONS reasons separated by semicolons, the strongest first; "" where nothing stands out.

    `features` are float32, rows by the model's features, all finite. A customer of whom nothing was seen in the window is
    named as such: then the score rests on that alone.
    """
    found = contributions(model, features)
    silent = np.all([features[:, model.features.index(name)] == 0 for name in _COUNTS], axis=0)
    typical = np.asarray(model.typical)
    texts: list[str] = []
    for row, added, is_silent in zip(features, found, silent, strict=True):
        above = added[added > 0].sum()
        named = [place for place in np.argsort(-added) if added[place] > 0 and added[place] >= LEAST_SHARE * above]
        texts.append(
            NO_EVENTS
            if is_silent
            else "; ".join(
                _WORDS[model.features[place], ">" if row[place] > typical[place] else "<"] for place in named[:REASONS]
            )
        )
    return texts
