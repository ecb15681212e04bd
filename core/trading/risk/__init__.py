"""The rules a signal must pass. Pure: no I/O, no clock. `evaluate` applies every rule and reports every failure."""
