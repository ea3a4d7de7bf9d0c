"""Many chains at once: batches, devices, memory, chains that differ in numbers, programs on disk."""
