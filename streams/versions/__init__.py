"""What the learn role publishes and adapt workers follow: as bytes, checked, and in a store."""
