"""How the globals of a program are held and learnt: one file for each kind of posterior."""
