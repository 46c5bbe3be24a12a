"""A paper's tables for any model: evaluations one after the other, and a page with the published rows beside."""
