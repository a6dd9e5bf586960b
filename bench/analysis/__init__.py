"""What the runs say: comparable tables, paired significance tests, reports, and a check against stored results."""
