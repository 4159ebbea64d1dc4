"""What is proved beside what is measured: `python -m experiments theory`."""
