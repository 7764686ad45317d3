"""Makes models with anchor attention: text, attention in transformers, recipes, export."""
