"""From facts about a dataset to a plan: fingerprint, topology, memory, planner."""
