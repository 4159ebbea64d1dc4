"""Softmax regression on scikit-learn's digits, with JAX and PyTorch clients side by side."""
