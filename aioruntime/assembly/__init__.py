"""From registry to engine (L3): fetch, plan, archive, load."""
