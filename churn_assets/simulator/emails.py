"""The true effect of a retention email in the simulated bank: it cancels some departures.

The estimate in `churn_assets.retention.effect` has to find this effect. Who gets an email, and when, is decided elsewhere;
the bank's history contains no emails.
"""

import numpy as np

from churn_assets.configuration import rules
from churn_assets.simulator.behaviour import DAY
from churn_assets.simulator.population import Bools, Instants, Ints
from churn_assets.simulator.streams import Purpose, stream


def cancelled_departures(seed: int, number: Ints, left_at: Instants, emailed_at: Instants, effect: float) -> Bools:
    """Which emails keep their customer for good: the share `effect` (0 to 1) of those who would leave in the days of the rule.

    One element per email: the customer's number (`People.number`, not negative), when the customer leaves without the email
    (NEVER for those who stay) and when the email is sent, UTC. Each customer of a bank's `seed` draws only once whether an
    email works. So worlds with other emails or another effect differ in nothing else, a second email gives no second chance,
    and a customer kept by a small effect is kept by every larger one.
    """
    can_be_kept = stream(seed, Purpose.EMAILS).random(int(np.max(number, initial=0)) + 1)[number] < effect
    return can_be_kept & (emailed_at < left_at) & (left_at <= emailed_at + rules().emails.effect_days * DAY)
