import pytest

from churn_assets.model.training import Trained, train
from churn_assets_tests.model.customers import training_rows


@pytest.fixture(scope="session")
def trained() -> Trained:
    """A model of 2,000 made-up customers; who changes it, copies it."""
    return train(training_rows())
