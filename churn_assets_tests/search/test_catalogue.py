"""The catalogue of error codes."""

from churn_assets.search.catalogue import load_error_codes
from churn_assets.simulator.behaviour import ERRORS


def test_every_code_that_the_simulated_app_gives_is_in_the_catalogue_once_with_words():
    codes = load_error_codes()

    assert sorted(code.error_code for code in codes) == sorted(ERRORS)
    assert all(code.title and code.description.endswith(".") for code in codes)
