"""Who may do what: roles, passwords, tokens. Pure but for randomness; the rows are in core/storage."""
