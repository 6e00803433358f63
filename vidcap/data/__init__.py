"""Published annotations and their clips -> a data set that this package trains on: `vidcap data prepare`."""
