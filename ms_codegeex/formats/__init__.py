"""Foreign file formats, read and written tensor by tensor."""
