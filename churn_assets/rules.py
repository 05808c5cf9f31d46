"""The bank's rules: thresholds, weights, windows, limits and roles, each with its unit. Imports nothing of the project.

The variables of the dbt project are generated from here (`make dbt-vars`), so that SQL and Python read the same numbers.
Values that a user may set are in `settings`.
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


# The heuristic score: weights sum to 1, so a score lies between 0 and 1.
RISK_RULES: tuple[RiskRule, ...] = (
    RiskRule("wire_out_30d", ">", 5000, 0.25, "large wires out"),
    RiskRule("support_cases_30d", ">", 2, 0.20, "many support cases"),
    RiskRule("avg_sentiment", "<", 0.4, 0.20, "unhappy with support"),
    RiskRule("error_count_30d", ">", 5, 0.15, "many app errors"),
    RiskRule("active_days_30d", "<", 5, 0.20, "rarely active"),
)
HIGH_FROM = 0.7  # score, inclusive
MEDIUM_FROM = 0.4  # score, inclusive
# The names of the features, in the order of a model's input.
FEATURES = (
    "total_spend_30d",
    "wire_out_30d",
    "txn_count_30d",
    "error_count_30d",
    "support_cases_30d",
    "avg_sentiment",
    "active_days_30d",
)
# The model's score is a probability, so its classes begin lower. In the simulated bank about 0.5 % of the customers are HIGH,
# and half of them leave within 30 days; 1.5 % are MEDIUM, and one in six of them leaves.
MODEL_HIGH_FROM = 0.3  # probability, inclusive
MODEL_MEDIUM_FROM = 0.1  # probability, inclusive
NEUTRAL_SENTIMENT = 0.5  # of a customer without a case in the window
FEATURE_WINDOW_DAYS = 30
FEATURES_TARGET_LAG = "5 minutes"  # of features and predictions
METRICS_WINDOW = "10 minutes"  # of the live metrics over scores from other systems
METRICS_TARGET_LAG = "1 minute"
CRITICAL_FROM = 0.8  # average score in the window, inclusive
AT_RISK_FROM = 0.5  # average score in the window, inclusive

# Spend is money that leaves the account: these codes add to it, REVERSAL takes back, all other codes are money in.
# A negative amount under one of these codes corrects an earlier one and lowers the sum.
MONEY_OUT_CODES = ("POS", "ATM", "BILL_PAY", "WIRE_OUT", "FEE")
REVERSAL_CODE = "REVERSAL"
WIRE_OUT_CODE = "WIRE_OUT"

# The engineer sees everything, the analyst only what is granted.
ENGINEER_ROLE, ANALYST_ROLE = "DATA_ENGINEER", "MARKETING_ANALYST"
EVENTS_TOPIC, SCORES_TOPIC = "bank_transactions", "churn_scores"  # unless CHURN_TOPICS names others
INGEST_MESSAGES = 500  # a batch starts when so many messages wait ...
INGEST_SECONDS = 5.0  # ... or when the oldest one has waited so long, whichever comes first
INGEST_CHUNK_MESSAGES = 100_000  # a run stores a backlog in transactions of at most so many messages ...
INGEST_CHUNK_BYTES = 128 * 1024 * 1024  # ... or bytes, whichever comes first, so that its memory stays bounded
FUTURE_TOLERANCE_HOURS = 24  # an event later than now plus this is rejected; clocks and time zones differ
EARLIEST_EVENT = "2000-01-01"

MAINTENANCE_SECONDS = 60 * 60.0  # between two maintenance runs while something is written
SNAPSHOT_RETENTION_HOURS = 24  # how far back time travel reaches
FILE_GRACE_HOURS = 1  # before a file that no snapshot needs is deleted, as a query may still be reading it
ORPHAN_HOURS = 24  # before a file that belongs to no snapshot counts as left behind by a killed writer
# The target size of written and compacted files. A scan reads the whole footer of every file that it opens, so one day from a
# large file costs as much as a year. Files above half this size are not compacted again.
FILE_BYTES = 64 * 1024 * 1024
REWRITTEN_DELETE_SHARE = 0.1  # a file with a larger share of deleted rows is rewritten without them

MAX_ORPHAN_SHARE = 0.01  # of a ledger's rows with an unknown account or customer; above it, the check fails
LEDGER_CHECK_SECONDS = 15 * 60.0  # between two checks of whole ledgers while events arrive
# A refresh must be requested so long before the target lag is reached: an event takes up to 20 s from Kafka to the commit of its
# ledger, and a requested run up to 20 s to its own commit (queue, process start and refresh).
REFRESH_ALLOWANCE_SECONDS = 45.0
HISTORY_SECONDS = 240.0  # between two reads of Snowflake's refresh history, each of which wakes a virtual warehouse
RETRY_AFTER_FAILURE_SECONDS = 60.0  # before a sensor requests a job again whose run has just failed

EMAILS_PER_RUN = 50  # customers taken from the queue by one run, the control group included
EMAIL_PAUSE_DAYS = 7  # no customer gets two emails within this many days
CONTROL_SHARE = 0.1  # of the customers who would get an email: they get none, so that the effect can be measured
ALERT_HOURS = 24.0  # how long an alert may wait for its email
TRAINING_SET_SECONDS = 24 * 3600.0  # between two additions to the training set
LABEL_DAYS = 30  # after a cut-off, within which a customer who left counts as churned
TRAINING_WEEKS = 104  # a model is trained, validated and tested on so many latest cut-offs
MAX_CALIBRATION_ERROR = 0.02  # mean error of a model's probabilities, for it to serve ...
MAX_RELATIVE_CALIBRATION_ERROR = 0.5  # ... and relative to the share of leavers, which may be smaller than that
RETRAINING_SECONDS = 7 * 24 * 3600.0  # between two trainings, unless drift requires one earlier
DRIFT_SECONDS = 24 * 3600.0  # between two measurements of drift
# From this population stability index on, features or scores count as a different population than the training set:
# N Siddiqi, Credit Risk Scorecards (2006), ch. 7.
MAX_STABILITY_INDEX = 0.25
EFFECT_SECONDS = 24 * 3600.0  # between two measurements of the emails' effect
EFFECT_DAYS = 30  # after an intervention, within which a customer who left counts for its group
TREND_SECONDS = 15 * 60.0  # between two counts of the customers at risk
TREND_DAYS = 30  # how far back the trend is shown
LATENCY_HOURS = 24  # how far back latencies are shown
SEARCH_TARGET_LAG = "1 hour"  # of the search over errors and cases on Snowflake, where each refresh costs credits
SEARCH_SECONDS = 60.0  # between two additions to the search index while events arrive
SEARCH_POSITION_SECONDS = 12 * 3600.0  # until an index without news moves on, so that it keeps no old snapshot alive
COST_SECONDS = 24 * 3600.0  # between two counts of the cost
COST_DAYS = 30  # how many days each count covers
WRITER_CONCURRENCY = 4  # emails written at the same time
WRITER_TIMEOUT_SECONDS = 30.0
ANALYST_TIMEOUT_SECONDS = 60.0  # of a call to a language model for a question, which takes two calls at most
WRITER_RETRIES = 2  # of a call to a language model, with growing pauses
WRITER_PATIENCE_MINUTES = (5.0, 30.0)  # waits after the first and second failed run; then the template writes
WRITER_IS_DOWN_AFTER = 8  # failures in a row, after which a run calls the language model no more
MAX_EMAIL_SENTENCES = 3
MAX_EMAIL_CHARACTERS = 900


def dbt_vars() -> dict[str, Any]:
    """The variables of the dbt project, which `dbt/dbt_project.yml` must contain."""
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
