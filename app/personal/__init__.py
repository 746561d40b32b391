"""What is known of persons: sealed with a key for each holder, so that destroying the key erases it."""
