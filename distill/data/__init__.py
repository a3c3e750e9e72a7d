"""Data: shards that can be addressed, captions, views, batches and the teacher cache."""
