"""Commands about activities that are taken from queues, or completed by somebody."""
