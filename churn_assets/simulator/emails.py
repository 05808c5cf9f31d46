"""What a retention email does in the simulated bank: it cancels some departures.

Here belongs the true effect, which the estimate of `churn_assets.retention.effect` has to find. Who gets an email, and when, is
not decided here; nor does the bank's history know of emails.
"""

import numpy as np

from churn_assets.rules import EFFECT_DAYS
from churn_assets.simulator.behaviour import DAY
from churn_assets.simulator.population import Bools, Instants, Ints
from churn_assets.simulator.streams import Purpose, stream


def cancelled_departures(seed: int, number: Ints, left_at: Instants, emailed_at: Instants, effect: float) -> Bools:
    """Which emails keep their customer for good: of those who would leave within EFFECT_DAYS, the part `effect` (0 to 1).

    One element per email: the customer's number (`People.number`, not negative), when the customer leaves without the email
    (NEVER for those who stay) and when the email is sent, UTC. Each customer of a bank's `seed` draws once and for ever who
    can be kept, so that worlds with other emails or another effect differ in nothing else, a second email does not try the
    same luck again, and who is kept by a small effect is kept by every larger one.
    """
    can_be_kept = stream(seed, Purpose.EMAILS).random(int(np.max(number, initial=0)) + 1)[number] < effect
    return can_be_kept & (emailed_at < left_at) & (left_at <= emailed_at + EFFECT_DAYS * DAY)
