"""Commands that show pictures to a version, and keep or print what comes of it. They know no request."""
