"""What goes wrong in long jobs: killed processes and machines, full disks, vanished files."""
