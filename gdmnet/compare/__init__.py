"""Models beside each other: trained or found, judged on the same cases by the same figures."""
