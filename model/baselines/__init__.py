"""What counting alone gives, to be measured against."""
