"""Built-in data sets, event tables, model files, and the writer of all files."""
