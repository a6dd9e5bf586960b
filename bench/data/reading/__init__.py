"""Raw tables read as streams of text columns, with errors that name file, line and column."""
