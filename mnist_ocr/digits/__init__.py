"""What a digit is: decoding, geometry, networks, models, confidence. No Ray in here."""
