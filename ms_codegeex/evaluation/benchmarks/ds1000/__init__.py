"""DS-1000: data science problems for seven libraries."""
