"""Recipes: one YAML file describes an experiment."""
