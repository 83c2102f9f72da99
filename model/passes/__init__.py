"""The networks put to work on a micro-batch: as modules, and fused for the CPU."""
