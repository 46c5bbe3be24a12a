"""What every folder may use: errors, files, text within limits, output, processes, this machine, accelerators."""
