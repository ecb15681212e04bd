"""What people and programs may ask of the system: one function an act, shared by API, dashboard and command line."""
