"""One module per command; ``cli.main`` imports a module when its command runs."""
