/* Times MPI_Allreduce: allreduce SIZE=CALLS ...; rank 0 prints "SIZE MEDIAN_US QUICKEST_US" per size (bytes of f32). */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (int i = 1; i < argc; i++) {
        long size, calls;
        if (sscanf(argv[i], "%ld=%ld", &size, &calls) != 2) MPI_Abort(MPI_COMM_WORLD, 2);
        float *data = calloc(size / sizeof(float), sizeof(float));
        double *times = malloc(calls * sizeof(double));
        long warm = (calls + 9) / 10;
        for (long call = 0; call < calls + warm; call++) {
            double start = MPI_Wtime();
            MPI_Allreduce(MPI_IN_PLACE, data, size / sizeof(float), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
            if (call >= warm) times[call - warm] = (MPI_Wtime() - start) * 1e6;
        }
        qsort(times, calls, sizeof(double), ascending);
        if (rank == 0) printf("%ld %.1f %.1f\n", size, times[calls / 2], times[0]);
        free(data);
        free(times);
    }
    MPI_Finalize();
    return 0;
}
