"""One file each, wrap only: they rewrite the chat on its way in and the answer on its way out."""
