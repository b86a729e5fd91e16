"""Plain functions that never print; the command line and the server call only these."""
