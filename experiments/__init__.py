"""Experiments: data, models, runs, sweeps and reports. They import byzjax, never the reverse."""
