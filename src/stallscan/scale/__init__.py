"""A large job in shards: planned once, done anywhere and in any order, merged at the end."""
