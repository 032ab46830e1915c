"""Benchmarks: jaxgen beside other libraries, one file for each question."""
