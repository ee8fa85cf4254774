"""Inference engines: run a bundle's net with torch, or an export of it with OpenVINO."""
