"""Drafters from recipes: a package of its own, which uses the harness; the harness never imports it."""
