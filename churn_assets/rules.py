"""The bank's rules: thresholds, weights, windows, limits and roles, each with its unit. Imports nothing of the project.

The variables of the dbt project are generated from here (`make dbt-vars`), so that SQL and Python read the same numbers.
What a user may set is in `settings`.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class RiskRule:
    """One rule of the heuristic score: `weight` is added where `feature` `operator` `threshold` holds."""

    feature: str
    operator: Literal[">", "<"]
    threshold: float
    weight: float
    reason: str


# The heuristic score: weights sum to 1, so a score lies within 0 and 1.
RISK_RULES: tuple[RiskRule, ...] = (
    RiskRule("wire_out_30d", ">", 5000, 0.25, "large wires out"),
    RiskRule("support_cases_30d", ">", 2, 0.20, "many support cases"),
    RiskRule("avg_sentiment", "<", 0.4, 0.20, "unhappy with support"),
    RiskRule("error_count_30d", ">", 5, 0.15, "many app errors"),
    RiskRule("active_days_30d", "<", 5, 0.20, "rarely active"),
)
HIGH_FROM = 0.7  # score, inclusive
MEDIUM_FROM = 0.4  # score, inclusive
# What the features are called, in the order in which a model takes them.
FEATURES = (
    "total_spend_30d",
    "wire_out_30d",
    "txn_count_30d",
    "error_count_30d",
    "support_cases_30d",
    "avg_sentiment",
    "active_days_30d",
)
# The model's score is a probability, so its classes begin lower. In the simulated bank about 0.5 % are HIGH, of whom every
# second one leaves within 30 days, and 1.5 % MEDIUM, of whom one in six does.
MODEL_HIGH_FROM = 0.3  # probability, inclusive
MODEL_MEDIUM_FROM = 0.1  # probability, inclusive
NEUTRAL_SENTIMENT = 0.5  # of a customer without a case in the window
FEATURE_WINDOW_DAYS = 30
FEATURES_TARGET_LAG = "5 minutes"  # of features and predictions
METRICS_WINDOW = "10 minutes"  # of the live metrics over scores that come in from elsewhere
METRICS_TARGET_LAG = "1 minute"
CRITICAL_FROM = 0.8  # average score in the window, inclusive
AT_RISK_FROM = 0.5  # average score in the window, inclusive

# Spend is money that leaves the account: these codes count, REVERSAL takes back, everything else is money in.
# A negative amount under such a code corrects an earlier one and lowers the sum.
MONEY_OUT_CODES = ("POS", "ATM", "BILL_PAY", "WIRE_OUT", "FEE")
REVERSAL_CODE = "REVERSAL"
WIRE_OUT_CODE = "WIRE_OUT"

ENGINEER_ROLE, ANALYST_ROLE = "DATA_ENGINEER", "MARKETING_ANALYST"  # who sees everything, and who only what is granted
EVENTS_TOPIC, SCORES_TOPIC = "bank_transactions", "churn_scores"  # unless CHURN_TOPICS names others
INGEST_MESSAGES = 500  # messages that make a batch ...
INGEST_SECONDS = 5.0  # ... or the age of the oldest waiting one, whichever comes first
INGEST_CHUNK_MESSAGES = 100_000  # a run stores a backlog in transactions of at most so many messages ...
INGEST_CHUNK_BYTES = 128 * 1024 * 1024  # ... or bytes, whichever comes first, so that its memory stays bounded
FUTURE_TOLERANCE_HOURS = 24  # an event that claims to be later than this is impossible (clocks and time zones differ)
EARLIEST_EVENT = "2000-01-01"

MAINTENANCE_SECONDS = 60 * 60.0  # between two maintenances of the tables while something is written
SNAPSHOT_RETENTION_HOURS = 24  # how far back time travel reaches
FILE_GRACE_HOURS = 1  # before a file that no snapshot needs is deleted: a query may still be reading it
ORPHAN_HOURS = 24  # before a file that belongs to no snapshot counts as left behind by a writer that was killed
# Of the files that are written and compacted. A scan reads the whole footer of a file that it opens, so that one day of
# a large file costs as much as a year. Files of half the size are left alone, not written again and again.
FILE_BYTES = 64 * 1024 * 1024
REWRITTEN_DELETE_SHARE = 0.1  # a file of whose rows more are deleted is written again without them

MAX_ORPHAN_SHARE = 0.01  # of a ledger's rows whose account or customer is unknown; above, the check fails
LEDGER_CHECK_SECONDS = 15 * 60.0  # between two checks of whole ledgers while events arrive
# What a target lag has to leave: an event's way from Kafka to the commit of its ledger (up to 20 s), and a requested run's way
# to its own commit (queue, process start and refresh: up to 20 s).
REFRESH_ALLOWANCE_SECONDS = 45.0
HISTORY_SECONDS = (
    240.0  # between two looks at the history of tables that refresh themselves, which wakes a virtual warehouse
)
RETRY_AFTER_FAILURE_SECONDS = 60.0  # before a sensor requests again what has just failed

EMAILS_PER_RUN = 50  # customers taken from the queue by one run, the control group included
EMAIL_PAUSE_DAYS = 7  # no customer gets two emails within this many days
CONTROL_SHARE = 0.1  # of the customers who would get an email: they get none, so that its effect can be measured
ALERT_HOURS = 24.0  # for which an alert may wait for its email
TRAINING_SET_SECONDS = 24 * 3600.0  # between two additions to the training set
LABEL_DAYS = 30  # after a cut-off, within which a customer who left counts as churned
TRAINING_WEEKS = 104  # the latest cut-offs that a model is trained, validated and tested on
MAX_CALIBRATION_ERROR = 0.02  # of a model's probabilities, on average, for it to serve ...
MAX_RELATIVE_CALIBRATION_ERROR = 0.5  # ... and as a part of the share of leavers, which may be smaller than that
RETRAINING_SECONDS = 7 * 24 * 3600.0  # between two trainings, unless drift asks for one earlier
DRIFT_SECONDS = 24 * 3600.0  # between two looks at drift
# Population stability index from which features or scores count as another population than the training set's:
# N Siddiqi, Credit Risk Scorecards (2006), ch. 7.
MAX_STABILITY_INDEX = 0.25
EFFECT_SECONDS = 24 * 3600.0  # between two measurements of the emails' effect
EFFECT_DAYS = 30  # within which a customer who left counts against an email, or against its absence
TREND_SECONDS = 15 * 60.0  # between two counts of the customers at risk, from which the trend is read
TREND_DAYS = 30  # of the trend that is shown
LATENCY_HOURS = 24  # of the events whose way is shown
SEARCH_TARGET_LAG = "1 hour"  # of the search over errors and cases on Snowflake, where each refresh costs
SEARCH_SECONDS = 60.0  # between two additions to the search index while events arrive
SEARCH_POSITION_SECONDS = (
    12 * 3600.0
)  # after which an index with nothing to add moves on, so as to hold no old snapshot
COST_SECONDS = 24 * 3600.0  # between two looks at what the days cost
COST_DAYS = 30  # that such a look shows
WRITER_CONCURRENCY = 4  # emails written at once
WRITER_TIMEOUT_SECONDS = 30.0
ANALYST_TIMEOUT_SECONDS = 60.0  # of a call to a language model that answers a question; a question takes two at most
WRITER_RETRIES = 2  # of a call to a language model, with growing pauses
WRITER_PATIENCE_MINUTES = (5.0, 30.0)  # after a failed run, before the next; then the template writes
WRITER_IS_DOWN_AFTER = 8  # failures in a row: the run asks no more
MAX_EMAIL_SENTENCES = 3
MAX_EMAIL_CHARACTERS = 900


def dbt_vars() -> dict[str, Any]:
    """The variables of the dbt project, as they must stand in `dbt/dbt_project.yml`."""
    return {
        "risk_rules": [asdict(rule) for rule in RISK_RULES],
        "high_from": HIGH_FROM,
        "medium_from": MEDIUM_FROM,
        "features": list(FEATURES),
        "model_high_from": MODEL_HIGH_FROM,
        "model_medium_from": MODEL_MEDIUM_FROM,
        "neutral_sentiment": NEUTRAL_SENTIMENT,
        "feature_window_days": FEATURE_WINDOW_DAYS,
        "features_target_lag": FEATURES_TARGET_LAG,
        "metrics_window": METRICS_WINDOW,
        "metrics_target_lag": METRICS_TARGET_LAG,
        "critical_from": CRITICAL_FROM,
        "at_risk_from": AT_RISK_FROM,
        "money_out_codes": list(MONEY_OUT_CODES),
        "reversal_code": REVERSAL_CODE,
        "wire_out_code": WIRE_OUT_CODE,
    }
