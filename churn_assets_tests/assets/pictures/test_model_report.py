import base64
from datetime import date, timedelta
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from churn_assets.assets.pictures import model_report
from churn_assets.assets.pictures.model_report import report
from churn_assets.model.metrics import Evaluation, Measure
from churn_assets.model.scoring import Calibration, Model
from churn_assets.model.training import Trained, evaluate_ways, ways

pytestmark = pytest.mark.heavy

MODEL, HEURISTIC, CHANCE = (0x4F, 0x43, 0xDD), (0xAA, 0xAA, 0xAA), (0xCC, 0x33, 0x33)
WAYS = ("model", "logistic", "heuristic")
UNUSED = Model(("active_days_30d",), "forest", b"", Calibration("sigmoid", (1.0, 0.0)), (0.0,))


def rows_of(customers: int, cut_offs: int = 4) -> pd.DataFrame:
    """Customers at weekly cut-offs, of whom few leave, each with a probability that is right and two scores less good."""
    rng = np.random.default_rng(0)
    truth = np.exp(rng.normal(-4, 1, customers)).clip(0, 1)
    left = rng.random(customers) < truth
    left[:2] = True, False
    frame = pd.DataFrame({"customer_id": np.arange(customers), "has_left": left, "model": truth})
    frame = frame.assign(logistic=truth * rng.uniform(0.2, 1, customers), heuristic=np.round(truth, 1))
    days = [date(2026, 3, 1) + timedelta(weeks=week) for week in range(cut_offs)]
    return pd.concat([frame.assign(cut_off=day) for day in days], ignore_index=True)


def trained_on(test: pd.DataFrame) -> Trained:
    return Trained(UNUSED, test, evaluate_ways(test, ways(test)), {"active_days_30d": 0.06, "avg_sentiment": -0.01})


def png_in(value: str) -> bytes:
    """The picture of a report."""
    return base64.b64decode(value.partition("base64,")[2].partition(")")[0], validate=True)


def pixels(png: bytes, colour: tuple[int, int, int]) -> dict[str, int]:
    """How many pixels of each panel have that colour, as near as the palette has it; the edges of letters are grey as well."""
    picture = np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)
    names = ("roc", "precision", "calibration", "gains", "importances", "distribution")
    tiles = [tile for half in np.array_split(picture, 2, axis=0) for tile in np.array_split(half, 3, axis=1)]
    return {
        name: int((np.abs(tile - colour).max(axis=-1) <= 10).sum()) for name, tile in zip(names, tiles, strict=True)
    }


@pytest.fixture(scope="module")
def many() -> Trained:
    return trained_on(rows_of(5_000))


@pytest.fixture(scope="module")
def drawn(many: Trained) -> str:
    """The report of `many`: a drawing takes a second."""
    return report(many).value


@pytest.fixture(scope="module")
def picture(drawn: str) -> bytes:
    return png_in(drawn)


def test_every_panel_of_the_picture_shows_what_it_is_for(picture: bytes):
    assert min(pixels(picture, MODEL).values()) > 30
    lines = {name for name, count in pixels(picture, CHANCE).items() if count}
    assert lines == {"roc", "precision", "calibration", "gains"}


def test_the_picture_is_small_enough_for_the_event_log(picture: bytes):
    assert len(picture) < 90_000


def test_the_table_has_each_measure_of_each_way_with_its_interval():
    measures = [Measure(number / 8, (number / 16, number / 4)) for number in range(1, 6)]
    test = rows_of(50)
    trained = Trained(UNUSED, test, dict.fromkeys(WAYS, Evaluation(200, 4, *measures)), {})

    *_, head, _, model, logistic, heuristic = report(trained).value.splitlines()

    cells = "0.125 (0.062 to 0.250) | 0.250 (0.125 to 0.500) | 0.3750 (0.1875 to 0.7500) | 0.5000 (0.2500 to 1.0000)"
    assert head.endswith("| ROC AUC | PR AUC | calibration error | Brier | lift at 50 |")
    assert model == f"| model | {cells} | 0.6 (0.3 to 1.2) |"
    assert (logistic, heuristic) == (model.replace("model", "logistic"), model.replace("model", "heuristic"))


def test_the_picture_fits_into_the_dialog_on_a_screen_that_is_1440_wide(picture: bytes):
    assert Image.open(BytesIO(picture)).width <= 1080


def test_where_another_family_is_above_the_model_it_is_said_why_the_model_serves(
    drawn: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model_report, "_png", lambda _: b"")  # this is about the words
    test = rows_of(500)
    worse = test.assign(model=test["heuristic"], logistic=test["model"])

    assert "The model is of the family forest" in drawn
    assert "is above the model" not in drawn
    assert "On the test rows logistic is above the model" in report(trained_on(worse)).value


def test_without_the_heuristic_nothing_speaks_of_it(many: Trained, picture: bytes):
    less = trained_on(many.test.drop(columns="heuristic"))
    value = report(less).value
    before, after = pixels(picture, HEURISTIC), pixels(png_in(value), HEURISTIC)

    assert all(before[panel] - after[panel] > 100 for panel in ("roc", "gains"))
    assert [line.split()[1] for line in value.splitlines()[-2:]] == ["model", "logistic"]


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
@pytest.mark.parametrize("probability", [0.0, 0.01, 1.0])
def test_a_model_that_says_the_same_of_all_is_drawn_by_chance(probability: float):
    trained = trained_on(rows_of(500).assign(model=probability))
    value = report(trained).value
    picture = png_in(value)

    assert min(pixels(picture, MODEL).values()) > 10
    assert pixels(picture, CHANCE)["roc"] < 60  # of the legend; the line itself is hidden below the model's
    assert "| model | 0.500 (0.500 to 0.500) |" in value


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
@pytest.mark.parametrize("customers", [2, 3, 12])
def test_however_few_rows_there_are_they_are_drawn(customers: int):
    test = rows_of(customers, cut_offs=1)
    unknown = Measure(0.5, (float("nan"), float("nan")))  # of two customers, one in two draws has no leaver
    evaluation = Evaluation(customers, 1, *[unknown] * 5)

    value = report(Trained(UNUSED, test, dict.fromkeys(WAYS, evaluation), {})).value

    assert "nan" not in value.rpartition("\n\n")[2]
    assert "0.500 (too few for an interval)" in value


def test_the_same_rows_give_the_same_picture(many: Trained, picture: bytes):
    assert png_in(report(many).value) == picture
