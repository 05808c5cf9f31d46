"""The checkout that the tests are part of: what they read of it besides the product's own files."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
