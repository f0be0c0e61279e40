"""What a person may choose: the typed settings, from YAML and the command line, and what `init_from` hands down."""
