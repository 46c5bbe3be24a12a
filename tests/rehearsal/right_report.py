"""What a graph that is as planned reports of its collectives."""

from ms_codegeex.rehearsal.traffic import planned_buckets, planned_calls


def right(config, rank):
    """What a graph reports that is as planned."""
    calls, buckets = planned_calls(config, rank), planned_buckets(config, rank)
    listed = []
    for (op, ranks, dtype, size), count in sorted(calls.items()):
        fused = [key for key in buckets if key[:2] == (op, ranks) and buckets[key]]
        while count:
            key = fused[0] if fused and op != "Send" and size > 4 else (op, ranks, 0)
            taken = min(count, buckets[key]) if key[2] else count
            buckets[key] -= taken
            fused = [key for key in fused if buckets[key]]
            entry = {"op": op, "ranks": list(ranks), "dtype": dtype, "bytes": size, "fusion": key[2], "calls": taken}
            listed.append(entry)
            count -= taken
    return listed
