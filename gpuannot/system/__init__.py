"""What the machine gives: devices, threads, timing, whole files, progress. Imports no other room."""
