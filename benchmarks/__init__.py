"""Benchmarks of jaxgen and other libraries, one file for each question."""
