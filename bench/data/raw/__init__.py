"""Where raw files come from: fetched, found in folders and archives, never unpacked."""
