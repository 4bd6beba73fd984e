"""One file each, capability-bearing: they run code, fetch pages or call tools."""
