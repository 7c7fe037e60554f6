"""What runs are found by: attributes, conditions on them, the text of a query; pure."""
