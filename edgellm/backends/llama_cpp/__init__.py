"""llama.cpp through the low-level ctypes functions of llama-cpp-python."""
