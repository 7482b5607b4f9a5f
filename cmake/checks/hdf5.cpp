#include <hdf5.h>
#ifndef H5_HAVE_PARALLEL
#error "this HDF5 is not parallel"
#endif
int main() { return H5Pset_fapl_mpio(H5P_DEFAULT, MPI_COMM_WORLD, MPI_INFO_NULL) >= 0; }
