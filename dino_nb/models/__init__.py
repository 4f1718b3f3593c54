"""The network: backbone -> encoder -> query selection -> decoder -> classes and boxes, with contrastive denoising."""
