"""The live workflow's own room: the terminal, the meter, the scripts that stand by, and what is kept of a show."""
