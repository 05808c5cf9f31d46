"""Who gets no email, so that the emails' effect can be measured.

Here belongs the assignment only: it is a property of the customer's id, not of time, score or anything that an email could
change. What became of the two groups is `effect`.
"""

import hashlib

from churn_assets.rules import CONTROL_SHARE

# Part of every assignment that was ever made: with another prefix, customers would change sides in the midst of the experiment.
_PREFIX = "churn_assets/control/"


def is_in_control_group(customer_id: str, share: float = CONTROL_SHARE) -> bool:
    """Whether a customer gets no email: `share` (0 to 1) of all ids, the same ones in every process and year.

    Who is in the group at one share is in it at every larger share.
    """
    digest = hashlib.sha256(f"{_PREFIX}{customer_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
