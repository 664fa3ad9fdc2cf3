"""What the papers compare with: counting models, ID sequence models, P5, MoRec."""
