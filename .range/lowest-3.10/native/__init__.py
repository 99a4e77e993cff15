"""C++ kernels for the CPU: the sources, how they are compiled, and how they are called."""
