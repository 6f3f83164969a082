"""Two models in, amplified text and its log-probs out; everything else stands on it."""
