"""Jobs of several ranks of which we know what holds them back, because we put it there."""
