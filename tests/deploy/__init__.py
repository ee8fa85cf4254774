"""The templates in deploy/, with the schedulers that this machine has."""
