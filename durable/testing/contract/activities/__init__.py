"""What a store must do with activities that anyone may take."""
