"""Model families, each as sizes, table of parameters, network and names in other formats; their base is shared."""
