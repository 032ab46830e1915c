"""The sites of a program, which ``inspection.sites_of`` finds by runs for made-up rows."""
