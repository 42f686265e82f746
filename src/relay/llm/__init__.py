"""Language models: asked through one narrow door, paid for before they are asked, never trusted."""
