"""SDEdit from several start times."""
