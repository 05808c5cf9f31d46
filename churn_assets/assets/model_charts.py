"""Pictures of a trained model for the metadata of `churn_model`. Here belongs the drawing, not what is measured."""

import dagster as dg

from churn_assets.model.training import Trained


def report(trained: Trained) -> dg.MarkdownMetadataValue:
    """ROC, precision-recall, calibration and lift."""
    return dg.MetadataValue.md("")
