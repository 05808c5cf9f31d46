"""The control group: customers who get no email, so that the effect of emails can be measured.

Here belongs the assignment only. It depends on the customer's id, not on time, score or anything that an email could change.
`effect` compares the two groups.
"""

import hashlib

# It must never change: with another prefix, customers would change groups in the middle of the experiment.
_PREFIX = "churn_assets/control/"


def is_in_control_group(customer_id: str, share: float) -> bool:
    """Whether a customer gets no email: `share` (0 to 1) of all ids, the same ones in every process and year.

    A customer who is in the group at one share is in it at every larger share.
    """
    digest = hashlib.sha256(f"{_PREFIX}{customer_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
