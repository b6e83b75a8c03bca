"""What losses are made of: comparisons, blocks, formulas, ways of mining and the sweeps over triplets."""
