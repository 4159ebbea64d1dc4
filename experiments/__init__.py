"""The laboratory: data, models, runs, sweeps and reports. It imports byzjax, never the reverse."""
