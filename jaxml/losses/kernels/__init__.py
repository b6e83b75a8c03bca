"""What losses are made of: comparisons of a batch with its candidates, mining, sweeps over all triplets, sharding."""
