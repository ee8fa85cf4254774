"""Arithmetic on scores: metrics, intervals, calibration, thresholds."""
