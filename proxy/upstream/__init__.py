"""Everything between an approach's call and a provider."""
