"""Speed compared with named peers, and with the limits of the machine."""
