"""The command line, a file a command. Nobody imports it."""
