"""What a recipe may say: its tables, checked key by key, and the variants and the catalogue of recipes."""
