"""The commands: parse, call, print where things are."""
