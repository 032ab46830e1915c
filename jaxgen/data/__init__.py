"""Data in and out: built-in data sets, event tables, model files, and the one writer of files."""
