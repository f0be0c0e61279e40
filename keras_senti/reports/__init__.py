"""What a person looks at: how good, where weak, why."""
