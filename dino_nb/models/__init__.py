"""The network: backbone -> neck -> encoder -> query selection -> decoder -> heads, with contrastive denoising."""
