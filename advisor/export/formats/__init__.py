"""One module for each format of `advise export --to`."""
