"""The embedded problems, student and recipe: the whole loop with no network, key or GPU."""
