"""The command line ``jaxgen``: its arguments, its commands, and the demonstration ``world``."""
