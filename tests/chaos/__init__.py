"""The chaos run: both brokers trade under kills, freezes and injected faults; a referee holds the result against the brokers' own books."""
