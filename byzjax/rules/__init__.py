"""Aggregation rules: functions from stacked updates to one update."""

from byzjax.rules.aksel import aksel
from byzjax.rules.coordinatewise import mean, median, trimmed_mean
from byzjax.rules.krum import krum

__all__ = ["aksel", "krum", "mean", "median", "trimmed_mean"]
