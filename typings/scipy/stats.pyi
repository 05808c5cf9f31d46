from typing import Literal

class ConfidenceInterval:
    low: float
    high: float

class BinomTestResult:
    def proportion_ci(
        self, confidence_level: float = 0.95, method: Literal["exact", "wilson", "wilsoncc"] = "exact"
    ) -> ConfidenceInterval: ...

class ChiSquared:
    def isf(self, q: float, df: float) -> float: ...

chi2: ChiSquared

def binomtest(k: int, n: int, p: float = 0.5) -> BinomTestResult: ...
