"""Every kind that a Python client has: send.py CLIENT PORT PATH, where CLIENT is pystatsd, datadog or datadog-uds."""
import sys

client, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if client == "pystatsd":
    import statsd

    c = statsd.StatsClient("127.0.0.1", port, prefix="pystatsd")
    c.incr("c", 3)
    c.decr("c")
    c.gauge("g", 7.5)
    c.gauge("g", 2, delta=True)
    c.gauge("negative", -5)
    c.timing("t", 12.5)
    c.set("s", "u1")
    c.set("s", "u2")
    with c.pipeline() as pipe:
        pipe.incr("packed", 1)
        pipe.incr("packed", 2)
else:
    from datadog import DogStatsd

    where = {"socket_path": path} if client == "datadog-uds" else {"host": "127.0.0.1", "port": port}
    c = DogStatsd(namespace=client.replace("-", "_"), constant_tags=["env:prod"], disable_telemetry=True,
                  disable_buffering=True, **where)
    c.increment("c", 3, tags=["k:v"])
    c.decrement("c", 1, tags=["k:v"])
    c.gauge("g", 7.5)
    c.timing("t", 12.5)
    c.histogram("h", 3)
    c.distribution("d", 4)
    c.set("s", "u1")
    c.increment("sampled", 5, sample_rate=1)
    c.event("title", "text\nline2", alert_type="error")
    c.service_check("sc", 1, message="warn")
    c.open_buffer()
    c.increment("packed", 1)
    c.increment("packed", 2)
    c.close_buffer()
