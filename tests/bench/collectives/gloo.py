"""Times torch.distributed's all_reduce over gloo: gloo.py RANK WORLD_SIZE PORT SIZE=CALLS ...

Rank 0 prints "SIZE MEDIAN_US QUICKEST_US" for each size (bytes of f32)."""

import statistics
import sys
import time

import torch
import torch.distributed as dist


def main() -> None:
    rank, world_size, port = map(int, sys.argv[1:4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    for argument in sys.argv[4:]:
        size, calls = map(int, argument.split("="))
        data = torch.zeros(size // 4)
        warm = (calls + 9) // 10
        times = []
        for _ in range(calls + warm):
            start = time.perf_counter()
            dist.all_reduce(data)
            times.append((time.perf_counter() - start) * 1e6)
        if rank == 0:
            print(size, f"{statistics.median(times[warm:]):.1f} {min(times[warm:]):.1f}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


main()
