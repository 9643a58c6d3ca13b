"""Running blocking calls: threads, serial queues, background turns, batches.

Knows nothing of the store. May import model.
"""
