"""The command line: every command reads its options here and works elsewhere."""
