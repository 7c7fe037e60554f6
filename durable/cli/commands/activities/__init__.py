"""Commands about activities that run elsewhere, or that somebody outside completes."""
