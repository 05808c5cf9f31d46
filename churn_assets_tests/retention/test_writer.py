import re
from itertools import combinations

import pytest

from churn_assets.retention.writer import EmailRequest, TemplateWriter
from churn_assets.settings import RISK_RULES

REASONS = [rule.reason for rule in RISK_RULES]
NAME = "Zoë O'Brien"


def write(segment: str, *reasons: str) -> str:
    return TemplateWriter().write(EmailRequest(NAME, segment, "; ".join(reasons)))


@pytest.mark.parametrize("segment", ["MASS", "AFFLUENT", "SMB", "STUDENT", "NOBODY_KNOWS"])
def test_every_email_is_short_names_the_customer_and_gives_nothing_away(segment: str):
    for size in range(len(REASONS) + 1):
        for reasons in combinations(REASONS, size):
            text = write(segment, *reasons)
            greeting, body, sign_off = text.split("\n\n")

            assert greeting == f"Dear {NAME},"
            assert 1 <= len(re.findall(r"[.!?](?=\s|$)", body)) <= 3
            assert body.endswith(".")
            assert sign_off.startswith("Kind regards")
            assert not re.search(r"churn|\brisk|\bscor(e|ing)|\d|[{}]|None", text, re.IGNORECASE)
            assert len(text) < 800


def test_every_rule_has_a_sentence_of_its_own():
    texts = {write("MASS", reason) for reason in REASONS}

    assert len(texts) == len(RISK_RULES)
    assert write("MASS") not in texts


def test_every_known_segment_is_addressed_in_its_own_way():
    assert len({write(segment) for segment in ("MASS", "AFFLUENT", "SMB", "STUDENT")}) == 4


def test_the_same_request_gives_the_same_text():
    assert write("SMB", *REASONS) == write("SMB", *REASONS)
    assert write("SMB", *REASONS) == write("SMB", *reversed(REASONS))
