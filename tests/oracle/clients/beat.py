"""One instance that beats with a real Python client: beat.py CLIENT PORT SERVICE INSTANCE SECONDS"""
import os
import sys
import time

client, port, service, instance, every = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5])
if client == "pystatsd":
    import statsd

    sender = statsd.StatsClient("127.0.0.1", port)
    beat = lambda: sender.gauge(f"heartbeat.{service}.{instance}", every)
else:
    from datadog import DogStatsd

    sender = DogStatsd(host="127.0.0.1", port=port, disable_telemetry=True, disable_buffering=True)
    tags = [f"service:{service}", f"instance:{instance}", f"start:{os.getpid()}"]
    if client == "datadog":
        beat = lambda: sender.gauge("heartbeat", every, tags=tags)
    else:
        beat = lambda: sender.service_check("heartbeat", 0, tags=tags + [f"interval:{every:g}"], message="fine")
while True:
    beat()
    time.sleep(every)
