"""The command line: its arguments, what its commands do, and the world map that it fits."""
