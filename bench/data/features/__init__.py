"""Feature matrices of the items: from texts, labels, ready matrices and pictures."""
