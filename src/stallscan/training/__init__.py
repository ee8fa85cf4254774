"""From clips and labels to a bundle."""
