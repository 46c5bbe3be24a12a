"""CPU operators in C++ for MindSpore graphs, and the library they are compiled into."""
