// The MKL inside LibTorch asks this before it looks at what the processor can do, and takes AVX2 kernels at best where
// the answer is no: on AMD's Zen 5 110 instead of 255 GFLOP/s of a thread in float32. An executable that defines it is
// asked instead. MKL still reads the processor's own feature bits.
extern "C" __attribute__((visibility("default"))) int mkl_serv_intel_cpu_true() { return 1; }
