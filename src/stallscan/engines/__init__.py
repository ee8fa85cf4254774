"""What runs the net of a bundle: torch, or an export with OpenVINO."""
