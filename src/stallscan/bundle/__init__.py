"""Bundles: a trained net with its preprocessing, calibration and threshold, as a folder."""
