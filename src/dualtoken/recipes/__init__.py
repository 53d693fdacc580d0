"""Recipes: YAML files, written as lab notes."""
