"""The command line: commands parse their options here and do the work in other rooms."""
