#!/usr/bin/env python3
"""Executable model of presence: the rules by which silence becomes states and notifications, and a runner of traces.

  presence_model.py tests/corpus/presence/*.jsonl           check traces (exit 1 on a mismatch)
  presence_model.py --events trace.jsonl                    print the events the model emits
  presence_model.py --write trace.jsonl...                  write the model's events into traces as what is expected

A rule changes here first, then in src/presence. Clarity counts here, not speed. All times are seconds on one monotonic
clock that starts at 0 in every trace. Schedules of jobs are in wall time: the key `epoch` is the Unix time at t = 0
(default 0), a `clock` control moves it.
  --slow        evaluate every tick (default: ticks at which no deadline can pass are left out, with the same events)
  --without R25,R26    leave rules out

Numbers as R24 name rules; docs/presence.md says what they mean for a user.
"""
import copy
import datetime
import fnmatch
import json
import math
import sys
import zoneinfo

# The rules that are in force beside the basic ones (R14, R17 and R22 were tried and left out).
RULES = frozenset("R1 R2 R3 R4 R5 R6 R7 R8 R9 R10 R11 R12 R13 R15 R16 R18 R19 R20 R21 R23 "
                  "R24 R25 R26 R27 R28 R29 R30 R31 R32 R33".split())
SLOW = False
HOUR, DAY = 3600.0, 86400.0
KEEP = 8 * DAY                            # how long the habits of a service are remembered


def F(x):
    """is amendment x in force?"""
    return x in RULES


DEFAULTS = dict(
    heartbeat="heartbeat", maintenance="maintenance",
    misses=None, grace=None,              # None = by interval, see misses_for / grace_for
    min_interval=1.0, max_interval=604800.0,
    learn_gaps=5, learn_window=16, learn_timeout=300.0,
    linger=None,                          # None = clamp(I/2, 2, 10)
    forget_left=3600.0, forget_down=86400.0, forget_ephemeral=600.0, forget_service=604800.0,
    flap_count=3, flap_window=600.0, flap_count_window=1800.0 if F('R8') else None,
    mass_fraction=0.5, mass_min_instances=3, mass_min_services=2, mass_hold=300.0,
    drop_ratio=0.01, stall_min=1.0,
    maintenance_max=14400.0, maintenance_wire=True,
    max_services=10000, max_instances_per_service=1000,
    implicit="off",                       # off | assist
    quorum=0.5, min=None, ephemeral=False, within=300.0,
    notify="all",                         # all | service | never (R27)
    health="show",                        # show | alert: service check status 2 or 3 is an alert of its own (J9)
    services={},                          # glob -> overrides of the keys above
    expect=[],                            # [{service, min, within}]
    jobs=[],                              # [{service, instance?, schedule?, timezone?, every?, grace?, max_runtime?}]
    watch=[],                             # [{match, service, instance, interval?, floor?, evidence?, max_instances?}]
    epoch=0.0,
    tick=0.25, snapshot_every=10.0,
)


def misses_for(I):
    """How many beats in a row must be missed."""
    return 4 if I <= 30 else 3 if I < 3600 else 2 if I < 21600 else 1


def grace_for(I):
    """Allowance for delay and job run time."""
    if I >= 21600:
        return max(3600.0, I / 12) if F('R12') else 3600.0
    return min(60.0, max(1.0, 0.5 * I))


def median(v):
    s = sorted(v)
    n = len(s)
    return s[n // 2] if n & 1 else 0.5 * (s[n // 2 - 1] + s[n // 2])


class Beat:
    """A decoded heartbeat line."""
    __slots__ = ("service", "instance", "interval", "bye", "start", "version", "health", "watch", "tags")

    def __init__(self, service, instance, interval=None, bye=False, start=None, version=None,
                 health=None, watch=None, tags=None):
        self.service, self.instance, self.interval, self.bye = service, instance, interval, bye
        self.start, self.version, self.health, self.watch, self.tags = start, version, health, watch, tags or {}


class Instance:
    def __init__(self, service, name, now):
        self.service, self.name = service, name
        self.state = None                 # unknown up late down left
        self.seen = None                  # last explicit beat (monotonic) or None
        self.heard = None                 # last evidence of life (beat or implicit), None after boot
        self.since = now                  # silence is counted from here (last beat, or boot)
        self.promise = None
        self.gaps = []                    # recent inter-arrival times
        self.mismatch = self.loose = False
        self.start = self.prev_start = None
        self.version = None
        self.ext = 0.0                    # blind time that does not count
        self.drop_ext = 0.0               # part of ext due to packet drops (capped at T)
        self.floor = 0.0                  # not late/down before this instant
        self.changed = now
        self.left_at = None
        self.down_at = None
        self.notified = False             # the current problem was notified
        self.pending = None               # why the current problem was not notified
        self.flaps = []
        self.flapping = False
        self.crashed = False              # R33: it is down, and was young
        self.stable = now
        self.maint_until = 0.0
        self.recheck = None               # (instant, reason): alarm then if still down
        self.conflict_at = -1e9
        self.received = 0
        self.never = False
        self.counted = None
        self.first = now
        self.used, self.used_at = None, -1e9   # whom it replaced, when
        self.was_replaced = False
        self.joined = now                 # its present stay began
        self.gone_at = None               # last beat of the stay before
        self.stay = 0                     # beats of the present stay
        self.followed = False             # R24: a newer id came when its next beat was due
        self.bye_check = None             # R29: a short stay ended with a goodbye; counts if it is not back by then
        self.expected = self.lost = self.runs = self.beats = 0
        self.auto = None
        self.health, self.health_told = None, False
        self.watch = None                 # the watch that feeds it
        self.excused = []                 # W3: silences after which it came back by itself
        self.irregular = False
        self.window = None                # W4: [end, lines, blind]
        self.low = self.fine = 0
        self.is_low = self.low_told = False


class Service:
    def __init__(self, name, now):
        self.name, self.state, self.notified = name, None, False
        self.instances = {}
        self.maint_until = 0.0
        self.expect_at = None
        self.flaps, self.flapping, self.stable = [], False, now
        self.crashes = []                 # R33: (instant, last beat) of young ids that went down
        self.looping = None               # R33: when the first crash of the loop was that it is in
        self.changed = now
        self.limit_warned = False
        self.level = 0
        self.alive, self.gone = None, False
        self.short_since = None
        self.flap_said = False
        self.heard = False                # anybody of it ever spoke
        self.successions = 0              # R24: runs that followed each other
        self.succession_at = -1e9
        self.sizes = []                   # R25: (instant, size) of what was replaced
        self.two_at = -1e9                # R26: two of it were present together for longer than T
        self.habit = None                 # R28, R29: what outlives being forgotten
        self.byes = []


class Habit:
    """What is remembered of a service beyond its instances."""
    def __init__(self):
        self.pauses = []                  # (stay, pause) of the service, when it had left and came back
        self.stay = None                  # how long the stay was that has just ended
        self.left_at = None
        self.due = None                   # service_gone then, though everybody is forgotten
        self.hour = False                 # one of its instances stayed for an hour
        self.at = 0.0


class Schedule:
    """Five fields of cron in a time zone. An hour that does not exist asks for no run; of one that comes twice either will do."""
    NAMES = {n: k for k, n in enumerate("sun mon tue wed thu fri sat".split())}
    MONTHS = {n: k + 1 for k, n in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split())}

    def __init__(self, text, zone):
        f = text.lower().split()
        assert len(f) == 5, text
        self.zone = zoneinfo.ZoneInfo(zone)
        self.minutes, self.hours = self.field(f[0], 0, 59), self.field(f[1], 0, 23)
        self.days, self.months = self.field(f[2], 1, 31), self.field(f[3], 1, 12, self.MONTHS)
        self.weekdays = {x % 7 for x in self.field(f[4], 0, 7, self.NAMES)}
        self.either = f[2] != "*" and f[4] != "*"      # cron: day of month OR day of week when both are given

    @staticmethod
    def field(text, low, high, names={}):
        out = set()
        for part in text.split(","):
            span, _, step = part.partition("/")
            a, _, b = span.partition("-")
            a = low if a == "*" else names.get(a, None) if a in names else int(a)
            b = high if span == "*" or step and not b else names[b] if b in names else int(b) if b else a
            out |= set(range(a, b + 1, int(step or 1)))
        return out

    def on(self, d):
        if d.month not in self.months:
            return False
        dom, dow = d.day in self.days, (d.weekday() + 1) % 7 in self.weekdays
        return dom or dow if self.either else dom and dow

    def next(self, wall):
        """(first instant after `wall`, is it in an hour that comes twice?)"""
        d = datetime.datetime.fromtimestamp(wall, self.zone).date()
        for _ in range(366 * 8):
            if self.on(d):
                best = None
                for h in sorted(self.hours):
                    for m in sorted(self.minutes):
                        t = datetime.datetime(d.year, d.month, d.day, h, m, tzinfo=self.zone)
                        u = t.timestamp()
                        if datetime.datetime.fromtimestamp(u, self.zone).hour != h:
                            continue                   # skipped by a clock change
                        if u > wall and (best is None or u < best[0]):
                            best = (u, t.replace(fold=1).timestamp() != u)
                    if best and best[0] - wall < 1e9 and best is not None:
                        break
                if best:
                    return best
            d += datetime.timedelta(days=1)
        raise ValueError("a schedule that never comes")


class Job:
    def __init__(self, key, cfg, wall):
        (self.service, self.name), self.cfg = key, cfg
        self.state = "waiting"            # waiting running ok failed overrun lost missed unheard retired
        self.schedule = Schedule(cfg["schedule"], cfg.get("timezone", "UTC")) if "schedule" in cfg else None
        self.promise = None               # what its lines say; what is configured holds before that
        self.max_runtime = None
        self.heard = 0.0
        self.due, self.due_grace = None, 0.0
        self.unheard_at = -1e9
        self.passed = False               # the wall clock was set forward over what is due
        self.runs = {}                    # run -> [start, overrun told, when it was excused as end_unheard]
        self.ended = {}                   # (run, ended well) -> end, for copies
        self.starts = False               # does it say when it starts?
        self.unheard = False              # J5: what was due, or an end, may have been said while we could not hear; no end since
        self.level, self.pending = 0, None
        self.durations = []
        self.maint_until, self.changed = 0.0, 0.0


class Engine:
    def __init__(self, config=None):
        self.cfg = dict(DEFAULTS)
        self.cfg.update(config or {})
        self.now = 0.0
        self.services = {}
        self.events = []
        self.mass = None                  # dict(start, members, expired)
        self.drops_at = self.drops_warned_at = -1e9
        self.limit_warned = False
        self.habits = {}
        self.jobs = {}
        self.blind = []                   # (from, to) in which we could not hear: our restarts, pauses, drops
        self.wall_step = 0.0
        self.values = {}                  # W5: last value of a watched series
        for e in self.cfg["expect"]:
            s = self.service(e["service"])
            s.state = "unknown"
            s.expect_at = e.get("within", self.opt(s.name, "within"))
            self.cfg["services"].setdefault(e["service"], {})["min"] = e.get("min", 1)
        for c in self.cfg["jobs"]:
            k = (c["service"], c.get("instance", "-"))
            self.jobs[k] = Job(k, c, self.wall())
            self.plan(self.jobs[k], self.wall())

    # ---------------------------------------------------------------- helpers
    def opt(self, service, key):
        for g, o in self.cfg["services"].items():
            if key in o and fnmatch.fnmatchcase(service, g):
                return o[key]
        return self.cfg[key]

    def service(self, name):
        if name not in self.services:
            s = self.services[name] = Service(name, self.now)
            if name in self.habits and self.habits[name].at < self.now - KEEP:
                del self.habits[name]
            s.habit = self.habits.setdefault(name, Habit())
        return self.services[name]

    def wall(self):
        return self.cfg["epoch"] + self.now + self.wall_step

    def muted(self, service, level="service"):
        """R27: is this kind of notification unwanted? level: instance | service"""
        if not F('R27'):
            return False
        n = self.opt(service, "notify")
        return n == "never" or n == "service" and level == "instance"

    def may_be_empty(self, service):
        """R27: an ephemeral service with `min = 0`: nobody present is one of its normal states."""
        return F('R27') and self.opt(service, "ephemeral") and self.opt(service, "min") == 0

    def all(self):
        for s in self.services.values():
            yield from s.instances.values()

    def emit(self, **kw):
        kw["t"] = round(self.now, 3)
        self.events.append(kw)
        return kw

    def interval(self, i):
        """(I, learned) - the interval in force, or (None, _) while learning."""
        if i.promise is not None:
            if len(i.gaps) >= 4:
                med = median(i.gaps[-8:])
                if med > (1.1 if F('R15') else 1.5) * i.promise:
                    return med
            return i.promise
        if len(i.gaps) >= self.cfg["learn_gaps"]:
            return median(i.gaps)
        return None

    def timing(self, i):
        """(late_after, down_after) in seconds of silence; (None, learn_timeout) while learning."""
        I = self.interval(i)
        if I is None:
            return None, self.cfg["learn_timeout"]
        g = self.opt(i.service, "grace")
        if g is None:
            g = grace_for(I)
            if i.promise is None:
                med = median(i.gaps)
                g = min(60.0, max(g, 6.0 * median([abs(x - med) for x in i.gaps])))
        m = self.misses(i, I)
        if F('R13') and i.promise is None:
            T = max(m * I + g, 30.0, 2.0 * max(i.gaps))
            return min(I + g, T), T
        return I + g, m * I + g

    def misses(self, i, I):
        m = self.opt(i.service, "misses")
        if m != "auto":
            return m or misses_for(I)
        if not (F('R30') and I >= 600):
            return i.auto or misses_for(I)
        pool = [0, 0, 0]                  # R30: the loss of a service of rare beats is measured together
        for x in self.services[i.service].instances.values():
            pool = [pool[0] + x.expected, pool[1] + x.lost, pool[2] + x.runs]
        return max(self.auto_misses(I, *pool, 10), self.auto_misses(I, i.expected, i.lost, i.runs, 10))

    @staticmethod
    def auto_misses(I, expected, lost, runs, prior=100):
        """Enough misses that the measured loss gives under one false down in 1000 instance-days."""
        p = (lost + 1.0) / (expected + prior)
        again = max(p, 1.0 - (runs + 10.0) / (lost + 10.0))
        if again >= 1.0:
            return 10
        return min(10, max(3, 1 + math.ceil(math.log(0.001 * I / 86400.0 / p) / math.log(again))))

    def note_loss(self, i, gap):
        I = i.promise if F('R30') and i.promise and i.promise >= 600 else self.interval(i)
        if not I:
            return
        steps = max(1, min(1000, round(gap / I)))
        i.expected, i.lost, i.runs = i.expected + steps, i.lost + steps - 1, i.runs + (steps > 1)
        if i.expected >= 20000:
            i.expected, i.lost, i.runs = i.expected // 2, i.lost // 2, i.runs // 2
        i.beats += 1
        if i.beats % 16 == 0:
            i.auto = self.auto_misses(I, i.expected, i.lost, i.runs)

    def deadlines(self, i):
        late, down = self.timing(i)
        base = i.since + i.ext
        d = max(base + down, i.floor)
        return (None if late is None else max(base + late, min(i.floor, d))), d

    def in_maint(self, i):
        return max(i.maint_until, self.services[i.service].maint_until) > self.now

    # ---------------------------------------------------------------- wire
    def datagram(self, text, src=None):
        for line in text.split("\n"):
            if line:
                self.line(line, src)

    def line(self, line, src=None):
        c = self.cfg
        health = None
        if line.startswith("_sc|"):
            f = line.split("|")
            name, value, typ, rest = f[1], None, "sc", f[3:]
            health = {"0": "ok", "1": "warning", "2": "critical"}.get(f[2], "unknown")
        elif line.startswith("_e{"):
            return
        else:
            head, _, tail = line.partition("|")
            name, _, value = head.rpartition(":")
            f = tail.split("|")
            typ, rest = f[0], f[1:]
        tags, host = {}, None
        for x in rest:
            if x.startswith("#"):
                for t in x[1:].split(","):
                    k, _, v = t.partition(":")
                    tags.setdefault(k, v)
            elif x.startswith("h:"):
                host = x[2:]
        is_maint = False
        if name == c["heartbeat"] or name.startswith(c["heartbeat"] + "."):
            rest = name[len(c["heartbeat"]) + 1:]
        elif name == c["maintenance"] or name.startswith(c["maintenance"] + "."):
            rest, is_maint = name[len(c["maintenance"]) + 1:], True
        else:
            if c["implicit"] == "assist" and "service" in tags and "instance" in tags:
                self.assist(tags["service"], tags["instance"])
            if c["watch"]:
                self.watched(name, value, typ, tags, host, src)
            return
        service, instance = tags.get("service"), tags.get("instance") or host
        if rest:                                       # plain form wins over tags
            s, _, n = rest.partition(".")
            service = s.replace("__", ".")
            instance = n or instance
        if not service:
            return
        if is_maint:
            if c["maintenance_wire"] and typ == "g" and value and value[0] not in "+-":
                self.set_maintenance(service, instance, float(value))
            return
        b = Beat(service, instance or "-", start=tags.get("start"), version=tags.get("version"),
                 health=health, tags=tags)
        if typ == "g":
            if value[0] in "+-":
                return                                 # deltas and negatives mean nothing here
            v = float(value)
            if v == 0:
                b.bye = True
            elif 1 < v <= c["max_interval"]:
                b.interval = v                         # 1 is "alive", not a promise
        elif typ == "c" and float(value) <= 0:
            return                                     # incr(0) / decr is not a heartbeat
        if "interval" in tags:
            v = float(tags["interval"])
            if v == 0:
                b.bye = True
            elif 0 < v <= c["max_interval"]:
                b.interval = max(v, c["min_interval"])
        if "status" in tags or "exit" in tags or (b.service, b.instance) in self.jobs or \
                (b.service, "-") in self.jobs and "instance" not in self.jobs[b.service, "-"].cfg and self.jobs[b.service, "-"].cfg:
            self.job_line(b)
            return
        self.bye(b) if b.bye else self.beat(b)
        if health:
            self.health(b)

    # ---------------------------------------------------------------- inputs
    def beat(self, b):
        s = self.services.get(b.service)
        i = s.instances.get(b.instance) if s else None
        now = self.now
        if i is None:
            if F('R11') and s is not None and len(s.instances) >= self.cfg['max_instances_per_service']:
                dead = sorted((x for x in s.instances.values() if x.state in ('left', 'down')), key=lambda x: (x.state == 'down', x.changed))
                if dead:
                    self.drop(dead[0], 'evicted')
            if s is None and len(self.services) >= self.cfg["max_services"] or \
               s is not None and len(s.instances) >= self.cfg["max_instances_per_service"]:
                who = s or self
                if not who.limit_warned:
                    who.limit_warned = True
                    self.emit(kind="warning", code="limit", service=b.service, notify=True)
                return
            s = self.service(b.service)
            i = s.instances[b.instance] = Instance(b.service, b.instance, now)
            s.heard = True
        if i.state == "left":
            linger = self.cfg["linger"]
            if linger is None:
                linger = min(10.0, max(2.0, 0.5 * (self.interval(i) or 4.0)))
            new_start = b.start is not None and b.start != i.start
            if now < i.left_at + linger and not new_start:
                return                                 # straggler overtaken by the goodbye
        old = i.state
        # ---- measure
        if i.seen is not None and old in ("up", "late") and i.ext == 0 and i.floor <= now:
            gap = now - i.seen
            if F('R13') and i.promise is None and b.interval is None:
                gap = now - (i.counted if i.counted is not None else now)
                if gap < 5 and i.counted is not None:
                    gap = 0
                else:
                    i.counted = now
            if gap > 0.05:
                i.gaps = (i.gaps + [gap])[-self.cfg["learn_window"]:]
                self.note_loss(i, gap)
        elif i.seen is not None and old == "down":
            i.gaps = (i.gaps + [now - i.seen])[-self.cfg["learn_window"]:]
        if F('R13') and old is None:
            i.counted = now
        if F('R13') and old == 'left' and i.never and i.seen is not None:
            i.gaps = (i.gaps + [now - (i.counted or i.seen)])
            i.counted = now
            i.gaps = (i.gaps)[-self.cfg['learn_window']:]
        elif old in (None, "left"):
            i.gaps = []
        i.never = False
        i.crashed = False
        if old in ("left", "down"):                    # a new stay begins
            i.gone_at, i.joined, i.stay, i.bye_check, i.was_replaced = i.seen, now, 0, None, False
        i.followed = False
        i.stay += 1
        i.seen = i.heard = i.since = now
        i.ext = i.drop_ext = i.floor = 0.0
        i.received += 1
        i.recheck = None
        if b.interval is not None:
            if F('R16') and i.promise is not None and b.interval != i.promise:
                i.gaps = []
            i.promise = b.interval
        if b.version:
            i.version = b.version
        restarted = False
        if b.start is not None and b.start != i.start:
            if i.start is not None:
                if b.start == i.prev_start:
                    if now - i.conflict_at > 3600:
                        i.conflict_at = now
                        self.emit(kind="warning", code="instance_conflict", service=i.service,
                                  instance=i.name, notify=True)
                else:
                    restarted = True
            i.prev_start, i.start = i.start, b.start
        if i.promise is not None and len(i.gaps) >= 4:
            r = median(i.gaps[-8:]) / i.promise
            if r > 1.5 and not i.mismatch:
                i.mismatch = True
                self.emit(kind="warning", code="promise_mismatch", service=i.service,
                          instance=i.name, notify=False)
            elif r <= 1.2:
                i.mismatch = False
            if len(i.gaps) >= 8 and max(i.gaps) < 0.05 * i.promise and not i.loose:
                i.loose = True                         # milliseconds sent as seconds?
                self.emit(kind="warning", code="promise_loose", service=i.service,
                          instance=i.name, notify=False)
        if b.watch:
            self.heard_watch(i, b.watch, old)
        self.note_stay(s, i)
        # ---- transition
        reason = {None: "registered", "unknown": "confirmed", "late": "late_beat",
                  "down": "recovered", "left": "returned"}.get(old)
        if old != "up":
            self.move(i, "up", reason, notify=(old == "down" and i.notified))
            i.notified, i.pending = False, None
            i.left_at = i.down_at = None
        if restarted and old in ("up", "late", "down", "unknown"):
            self.emit(kind="instance", service=i.service, instance=i.name, **{"from": "up"},
                      to="up", reason="restarted", notify=False)
        if old is None:
            self.newcomer(s, i)

    def note_stay(self, s, i):
        """What a beat tells of the habits of its service."""
        if not s.habit.hour and self.now - i.joined >= HOUR:
            s.habit.hour = True                        # R29
        if self.now - s.two_at > 60 and len(s.instances) > 1:
            T = self.timing(i)[1]
            if self.now - i.joined > T:
                for x in s.instances.values():
                    if x is not i and x.state == "up" and x.seen - max(x.joined, i.joined) > T:
                        s.two_at = self.now            # R26
                        break

    # ---------------------------------------------------------------- R24: runs
    def short(self, i):
        """Has it been silent since before its second beat was due?"""
        return i.promise is not None and i.promise >= 60 and i.seen is not None and \
            i.seen - i.first < i.promise - grace_for(i.promise)

    def run_once(self, s):
        """Nobody in the service ever lived on: each of its instances is one run."""
        return F('R24') and all(self.short(x) for x in s.instances.values())

    def runs_known(self, s):
        return F('R24') and s.successions >= 2 and self.run_once(s)

    def newcomer(self, s, n):
        if not (F('R24') and n.promise and n.promise >= 60 and self.run_once(s)):
            return
        due = [i for i in s.instances.values() if i is not n and i.state in ("up", "late", "down") and
               self.now - i.first >= i.promise - grace_for(i.promise)]
        if not due:
            return
        for i in due:
            if not i.followed and self.now - i.first <= i.promise + grace_for(i.promise):
                i.followed = True
                if self.now - s.succession_at >= 0.5 * n.promise:
                    s.successions, s.succession_at = s.successions + 1, self.now
        if s.successions >= 2:
            for i in due:
                self.leave(i, "replaced")

    def assist(self, service, instance):
        """Implicit heartbeat: extends a registered instance, never creates or revives one."""
        s = self.services.get(service)
        i = s.instances.get(instance) if s else None
        if i and i.state in ("up", "late", "unknown"):
            i.since = i.heard = self.now
            i.ext = i.drop_ext = i.floor = 0.0
            if i.state != "up":
                self.move(i, "up", "implicit", notify=False)

    def bye(self, b):
        s = self.services.get(b.service)
        i = s.instances.get(b.instance) if s else None
        if i is not None and i.state == "left" and F('R23') and self.now > i.left_at + 15 and self.now - i.conflict_at > 3600:
            i.conflict_at = self.now
            self.emit(kind="warning", code="zero_repeated", service=i.service, instance=i.name, notify=True)
        if i is None or i.state == "left":
            return
        if b.start is not None and i.start is not None and b.start != i.start:
            return                                     # goodbye of an older incarnation
        self.leave(i, "goodbye")

    def leave(self, i, reason):
        s = self.services[i.service]
        self.move(i, "left", reason, notify=(i.state == "down" and i.notified))
        i.left_at, i.notified, i.pending, i.recheck = self.now, False, None, None
        if reason == "irregular":
            s.alive = None                             # nothing was promised: no service_gone
        if F('R29') and reason == "goodbye" and s.habit.hour and self.now - i.joined < 300 and \
                not self.opt(i.service, "ephemeral"):
            i.bye_check = self.now + self.timing(i)[1]
            return                                     # a short stay does not end a flapping
        if i.flapping:
            i.flapping = False
            self.emit(kind="flapping", service=i.service, instance=i.name, to="end", notify=True)

    def set_maintenance(self, service, instance, seconds):
        jobs = [j for k, j in self.jobs.items() if k[0] == service and instance in (None, k[1])]
        for j in jobs:
            j.maint_until = self.now + min(max(seconds, 0.0), self.cfg["maintenance_max"])
        s = self.services.get(service)
        if s is None:
            if jobs:
                self.emit(kind="maintenance", service=service, instance=instance or "*",
                          to="start" if seconds > 0 else "end", notify=False)
            return
        tgt = s if instance is None else s.instances.get(instance)
        if tgt is None:
            return
        tgt.maint_until = self.now + min(max(seconds, 0.0), self.cfg["maintenance_max"])
        self.emit(kind="maintenance", service=service, instance=instance or "*",
                  to="start" if seconds > 0 else "end", notify=False)

    def forget(self, service, instance):
        s = self.services.get(service)
        i = s.instances.get(instance) if s else None
        if i:
            self.drop(i, "operator")
            if not s.instances:
                s.alive, s.habit.left_at, s.habit.due = None, None, None
                if s.expect_at is None:                # its minimum does not keep it
                    self.remove(s)
        if (service, instance) in self.jobs:
            self.forget_job(self.jobs[service, instance])

    def drop(self, i, reason):
        if F('R32') and i.flapping:
            i.flapping = False
            self.emit(kind="flapping", service=i.service, instance=i.name, to="end", notify=True)
        if i.is_low:
            self.emit(kind="watch", service=i.service, instance=i.name, **{"from": "low"}, to="ok", reason="forgotten",
                      notify=i.low_told)
        self.move(i, "forgotten", reason, notify=(i.state == "down" and i.notified))
        del self.services[i.service].instances[i.name]

    # ---------------------------------------------------------------- blindness
    def note_blind(self, a, b):
        if self.blind and a <= self.blind[-1][1] + 1e-6:
            self.blind[-1] = (self.blind[-1][0], b)
        else:
            self.blind = [x for x in self.blind if x[1] > self.now - KEEP][-999:] + [(a, b)]
        for i in self.all():
            if i.window:
                i.window[2] = True

    def was_blind(self, a, b):
        return any(x < b and y > a for x, y in self.blind)

    def due_in(self, i, blind):
        """was a beat of i due in the last `blind` seconds (k*I +- g)?"""
        I = self.interval(i)
        if I is None:
            return True
        g = self.timing(i)[0] - I
        a1 = self.now - i.since
        a0 = a1 - blind
        k = max(1, math.ceil((a0 - g) / I - 1e-9))
        return k * I - g <= a1

    def cap(self, i, f):
        return min(f, i.since + i.ext + 2 * self.timing(i)[1]) if F('R3') else f

    def kernel_drops(self, dropped, received):
        """One-second report: `dropped` packets lost in our socket, `received` delivered."""
        if dropped <= 0 or dropped / (dropped + received) < self.cfg["drop_ratio"]:
            return
        if self.now - self.drops_at > 60 or self.now - self.drops_warned_at >= 240:
            self.drops_warned_at = self.now
            self.emit(kind="warning", code="ingest_drops", notify=True)
        self.drops_at = self.now
        self.note_blind(self.now - 1, self.now)
        for i in self.all():
            if i.state in ("up", "late", "unknown"):
                late, T = self.timing(i)
                room = T - i.drop_ext
                add = min(1.0, room)
                if add > 0:
                    i.drop_ext += add
                    i.ext += add
                    if not F('R3') or self.due_in(i, 1.0):
                        i.floor = max(i.floor, min(self.now + (late or T), i.since + 2 * T))

    def stall(self, dur):
        """Our own process did not run for `dur` seconds (GC, VM pause, CPU starvation)."""
        if dur < self.cfg["stall_min"]:
            return
        self.emit(kind="warning", code="local_pause", notify=False)
        self.note_blind(self.now - dur, self.now)
        for i in self.all():
            if i.state in ("up", "late", "unknown"):
                late, T = self.timing(i)
                i.ext += dur
                if not F('R3') or self.due_in(i, dur):
                    i.floor = max(i.floor, self.cap(i, self.now + (late or T)))

    def clock_step(self, step):
        before = self.wall()
        self.wall_step += step
        for j in self.jobs.values():
            if not j.schedule or j.due is None or abs(step) < 60:
                continue
            if step < 0:
                self.plan(j, self.wall())
            elif before < j.due <= self.wall():
                if j.unheard and self.now - j.unheard_at < 60:
                    self.plan(j, self.wall())          # steps that follow each other are one
                else:
                    j.passed = True                    # J5: nobody can have heard that time
        if abs(step) >= 2:
            self.emit(kind="warning", code="clock_step", notify=False)

    def snapshot(self):
        s = copy.copy(self)
        s.services, s.mass, s.habits, s.jobs, s.values = copy.deepcopy(
            (self.services, self.mass, self.habits, self.jobs, self.values))
        s.blind = list(self.blind)
        return s

    def restore(self, snap):
        """Boot at self.now from a snapshot: everything that was present is unconfirmed."""
        self.services, self.mass = snap.services, None
        self.habits, self.values, self.wall_step = snap.habits, snap.values, snap.wall_step
        for k, j in snap.jobs.items():
            if k in self.jobs:
                j.cfg = self.jobs[k].cfg
            self.jobs[k] = j
        self.blind = snap.blind + [(snap.now, self.now)]
        if F('R2') and snap.mass:
            self.mass = dict(snap.mass, members=[self.services[x.service].instances[x.name] for x in snap.mass["members"]
                             if x.service in self.services and x.name in self.services[x.service].instances])
        n = 0
        for i in self.all():
            if i.state in ("up", "late"):
                i.state = "unknown"
            i.window, i.low, i.fine = None, 0, 0
            if i.state == "unknown":
                if F('R3'):
                    down = self.now - snap.now
                    T = self.timing(i)[1]
                    i.heard = None
                    i.ext += down
                    i.floor = 0.0
                    if self.due_in(i, down):
                        i.floor = self.cap(i, self.now + T)
                    else:
                        i.floor = min(self.now + T, self.now + 60.0)
                else:
                    i.since, i.heard = self.now, None
                    i.ext = i.drop_ext = i.floor = 0.0
                n += 1
        self.emit(kind="restored", count=n, notify=False)

    def replacement(self, i):
        """(who took the place of the silent `i`, whether that is a fact) or None. R10, then R25, then R26."""
        s = self.services[i.service]
        T = self.timing(i)[1]
        if F('R10'):
            for x in s.instances.values():
                if (x is not i and x.state == 'up' and not x.used and x.first > i.first + T
                        and i.since - 600 <= x.first <= i.since + 600 and x.received >= 2):
                    return x
        if F('R25'):
            x = self.next_generation(s, i, T)
            if x is not None:
                return x
        if F('R26') and self.now - s.two_at > DAY:
            L = self.timing(i)[0] or T
            for x in s.instances.values():
                if (x is not i and x.state == 'up' and x.used_at < x.joined and x.gone_at is not None and x.stay >= 2
                        and i.since - L <= x.joined <= i.since + 600):
                    return x
        return None

    def next_generation(self, s, i, T):
        """R25: all who were there before the newcomers are silent, and enough newcomers are present."""
        new = [x for x in s.instances.values() if x is not i and x.state == 'up' and x.received >= 2
               and x.first > i.first + T
               and i.since - min(HOUR, max(600.0, x.first - i.first)) <= x.first <= i.since + 600]
        if not new:
            return None
        cut = min(x.first for x in new)
        if any(x.first < cut and x.state == "up" for x in s.instances.values()):
            return None
        for x in new:
            if not x.used:
                return x
        size = max([self.size_before(s, cut)] + [n for t, n in s.sizes if t > self.now - 7 * DAY])
        return s if len(new) >= size - size // 4 else None

    def size_before(self, s, cut):
        """How many the service was before `cut`: those of before that are there or were replaced within the hour."""
        n = 0
        for y in s.instances.values():
            if y.first < cut:
                if y.state in ("up", "late", "unknown") or y.state == "down" and self.now - y.since < HOUR:
                    n += not y.used
                elif y.state == "left" and y.was_replaced and y.left_at > self.now - HOUR:
                    n += not y.used
        return n

    def replace(self, i, x):
        s = self.services[i.service]
        if F('R25'):
            if x is not s:
                size = self.size_before(s, x.first)
                s.sizes = [(t, n) for t, n in s.sizes if t > self.now - 7 * DAY and n > size] + [(self.now, size)]
        if x is not s:
            x.used, x.used_at = i.name, self.now
        self.leave(i, "replaced")
        i.was_replaced = True

    # ---------------------------------------------------------------- transitions
    def move(self, i, to, reason, notify):
        self.emit(kind="instance", service=i.service, instance=i.name,
                  **{"from": i.state or "none"}, to=to, reason=reason, notify=notify)
        i.state = to
        i.changed = self.now
        if to == "down" or reason == "recovered" or i.flapping and reason == "returned":
            i.stable = self.now

    def go_down(self, i, reason, mass=False):
        i.down_at = self.now
        i.notified = False
        if not mass:
            i.flaps = [t for t in i.flaps if t > self.now - (self.cfg['flap_count_window'] or self.cfg["flap_window"])] + [self.now]
        why = ("mass_silence" if mass else "run" if self.runs_known(self.services[i.service]) else "muted" if self.muted(i.service, "instance") else
               "maintenance" if self.in_maint(i) else "ephemeral" if self.opt(i.service, "ephemeral") else None)
        start_flap = start_loop = False
        if F('R33') and why in (None, "muted") and not i.flapping and self.note_crash(i):
            start_loop = not self.services[i.service].flap_said
            self.services[i.service].flap_said = True
            why = why or "flapping"
        if why is None and not i.flapping and len(i.flaps) >= self.cfg["flap_count"]:
            i.flapping = start_flap = True
        if why is None and i.flapping:
            why = "flapping"
        i.pending = why
        self.move(i, "down", reason, notify=(why is None))
        ev = self.events[-1]
        i.notified = why is None
        if start_flap:
            self.emit(kind="flapping", service=i.service, instance=i.name, to="start", notify=True)
        if start_loop:
            self.emit(kind="flapping", service=i.service, instance="*", to="start", notify=not self.muted(i.service))
        return ev

    # ---------------------------------------------------------------- R33: crash loops under new ids
    def note_crash(self, i):
        """Is the down of `i` one of a crash loop?

        A *crash* is a down of a young id: it never left or went down before, and its last beat came less than 5 min after
        its first. A mass silence, a run (R24), maintenance and an ephemeral service make none, nor does a service that is
        made of runs. The third crash of a service within 30 min (`flap_count`, `flap_count_window`), of an id that was
        registered after the last beat of the first of them, begins a *loop*: one `flapping start` of the service instead
        of a warning for each id. The crashes of a loop are quiet (reason `flapping`). It is over 10 min (`flap_window`)
        after the last crash: see `end_loops`. While a service loops, its own changes are quiet unless a down that is told
        is among their causes.

        What it could hide, and what bounds that: (a) a down of an id that lived for less than 5 min, in a service two
        young ids of which went down within 30 min before: the flapping of the service is told instead, and stands; ids
        that die side by side are no loop, they are told one by one. (b) Such a service's being down or degraded, until 10
        min after the last crash at the latest; if one that had lived for longer dies it is told at once, and so is what
        that makes of its service. (c) The names of ids that were followed by others: the last ones, and all that did not
        fall silent before the last one came, are told at the end if they are down then and the service's own alarm does
        not stand for them."""
        s = self.services[i.service]
        if i.first != i.joined or i.seen is None or i.seen - i.first >= 300 or self.run_once(s):
            return False
        i.crashed = True
        s.crashes = [x for x in s.crashes if x[0] > self.now - (self.cfg["flap_count_window"] or self.cfg["flap_window"])]
        s.crashes = s.crashes[-15:] + [(self.now, i.seen)]
        if s.looping is None and len(s.crashes) >= self.cfg["flap_count"] and i.first > s.crashes[0][1]:
            s.looping = s.crashes[0][0]
        if s.looping is None:
            return False
        s.stable = self.now
        return True

    def end_loops(self):
        """R33: a loop is over. Ids of it that fell silent before its newest came were replaced; the others are told."""
        downs = []
        for s in self.services.values():
            if s.looping is None or self.now < s.stable + self.cfg["flap_window"]:
                continue
            ids = [i for i in s.instances.values() if i.crashed and i.state == "down" and i.down_at >= s.looping]
            s.looping, s.crashes, s.flapping = None, [], True        # the rest as for any flapping of a service
            newest = max((i.first for i in ids), default=0.0)
            for i in ids:
                if i.seen < newest:
                    self.leave(i, "replaced")
                    i.was_replaced = True
                elif i.pending == "flapping" and self.in_maint(i):
                    i.pending = "maintenance"
                elif i.pending == "flapping":
                    downs.append(self.still_down(i, "flapping_over"))
        return downs

    def still_down(self, i, reason):
        i.notified, i.pending = True, None
        self.move(i, "down", reason, notify=True)
        return self.events[-1]

    def tick(self):
        """Evaluate all deadlines at self.now. Inputs up to now must be applied first."""
        now, c = self.now, self.cfg
        went_down = []
        # 1. up -> late
        for i in list(self.all()):
            if i.state == "up":
                late, _ = self.deadlines(i)
                if late is not None and now >= late:
                    self.move(i, "late", "missed_beat", notify=False)
        # 2. silent beyond the deadline
        cand = []
        for i in list(self.all()):
            if i.state in ("up", "late", "unknown"):
                _, down = self.deadlines(i)
                if now >= down:
                    s = self.services[i.service]
                    x = self.replacement(i)
                    if x is not None:
                        self.replace(i, x)
                    elif i.followed and self.run_once(s) and now < i.since + i.ext + 2 * self.timing(i)[1] and any(
                            x.first > i.first and x.state in ("up", "late") and now < self.deadlines(x)[1]
                            for x in s.instances.values()):
                        continue                       # R24: it may have been one run of many; the next ones will tell
                    elif i.irregular:
                        self.leave(i, "irregular")
                    elif self.interval(i) is None or F('R14') and i.received < 2 and not self.cfg['expect'] and not any(x.received > 1 for x in self.services[i.service].instances.values()):
                        self.leave(i, "never_established")
                        i.never = True
                    else:
                        cand.append(i)
        # 3. mass silence: hold instead of N alarms
        if self.mass:
            m = self.mass
            live = [i for i in m["members"] if self.services.get(i.service) and
                    self.services[i.service].instances.get(i.name) is i and i.state != "left"]
            m["members"] = live
            back = sum(1 for i in live if i.heard is not None and i.heard > m["start"])
            if not live or c["mass_fraction"] >= 1 or back and back >= min(c["mass_fraction"], 0.5) * len(live):
                self.emit(kind="mass_silence", to="end", reason="recovered", notify=True)
                self.mass = None
                for i in live:
                    _, T = self.timing(i)
                    if i.state in ("late", "unknown"):
                        i.floor = max(i.floor, now + T)
                    elif i.state == "down" and i.pending == "mass_silence":
                        i.recheck = (now + T, "not_back_after_mass_silence")
                if F('R7'):
                    for i in self.all():
                        if i not in live and i.state in ('up', 'late', 'unknown') and (i.heard is None or i.heard <= m["start"]):
                            if self.due_in(i, now - m["start"] + 60):
                                i.floor = max(i.floor, now + self.timing(i)[1])
                cand = [i for i in cand if i.floor <= now]
            elif not m["expired"] and now >= m["start"] + c["mass_hold"]:
                m["expired"] = True
                self.emit(kind="mass_silence", to="hold_expired", reason="hold", notify=False)
        if cand and not self.mass and self.is_mass(min(cand, key=lambda i: i.since + i.ext)):
            members = [i for i in self.all() if i.state in ("late", "unknown")]
            self.mass = dict(start=now, members=members, expired=False)
            self.emit(kind="mass_silence", to="start", reason="mass_silence", notify=True)
        if F('R17') and cand and not self.mass:
            keep = []
            for i in cand:
                if i.state == 'unknown':
                    keep.append(i)
                    continue
                t0 = i.since + i.ext
                others = [x for x in self.all() if x.service != i.service and x.state in ('up', 'late', 'unknown') and not self.in_maint(x) and self.interval(x) and self.interval(x) <= 60]
                if len(others) < 2 or any(x.heard is not None and x.heard > t0 + (self.interval(i) or 0) for x in others) or now >= t0 + self.timing(i)[1] + 60:
                    keep.append(i)
            cand = keep
        for i in cand:
            own = (F('R1') and self.mass and i not in self.mass["members"] and i.heard is not None
                   and i.heard > self.mass["start"])
            if own and self.is_mass(i, self.mass["members"]):
                self.mass["start"], self.mass["expired"], own = now, False, False
                self.mass["members"] += [x for x in self.all() if x.state in ('late', 'unknown') and x not in self.mass["members"]]
            if self.mass and not own:
                if i not in self.mass["members"]:
                    self.mass["members"].append(i)
                if not self.mass["expired"]:
                    continue                           # held: stays late / unknown
                went_down.append(self.go_down(i, "mass_silence", mass=True))
            else:
                r = "silent_since_restart" if i.state == "unknown" else "missed_beats"
                went_down.append(self.go_down(i, r))
        for i in list(self.all()):
            if i.state == 'down' and now - i.since < 1200:
                x = self.replacement(i)
                if x is not None:
                    self.replace(i, x)
        self.short_stays()
        # 4. problems that were kept quiet and still stand
        for i in list(self.all()):
            if i.state != "down":
                continue
            if i.recheck is not None and now >= i.recheck[0] and not (F('R5') and self.in_maint(i)):
                _, reason = i.recheck
                i.recheck = None
                if i.crashed and self.services[i.service].looping is not None:
                    i.pending = "flapping"
                elif not self.in_maint(i) and not self.muted(i.service, "instance"):
                    went_down.append(self.still_down(i, reason))
            elif i.pending == "maintenance" and not self.in_maint(i):
                went_down.append(self.still_down(i, "maintenance_over"))
        for i in list(self.all()):
            if i.flapping and now >= i.stable + c["flap_window"]:
                i.flapping = False
                i.flaps = []
                self.emit(kind="flapping", service=i.service, instance=i.name, to="end", notify=True)
                if i.state == "down" and i.pending == "flapping" and self.in_maint(i):
                    i.pending = "maintenance"
                elif i.state == "down" and i.pending == "flapping":
                    went_down.append(self.still_down(i, "flapping_over"))
        went_down += self.end_loops()
        # 5. forgetting
        for s in list(self.services.values()):
            present = any(i.state in ("up", "late", "unknown") for i in s.instances.values())
            for i in list(s.instances.values()):
                if i.state == "left" and now >= i.left_at + (max(c['forget_left'], 6 * 86400.0) if F('R13') and i.never and i.received > 1 else c["forget_left"]):
                    self.drop(i, "left_expired")
                elif i.state == "down":
                    eph = self.opt(s.name, "ephemeral")
                    limit = c["forget_ephemeral"] if eph else c["forget_down"]
                    if not present:
                        limit = c["forget_service"]
                    if now >= i.down_at + limit:
                        self.drop(i, "down_expired")
        self.update_services(went_down)
        self.tick_jobs()
        self.tick_watches()
        for name, h in self.habits.items():
            if h.due is not None and now >= h.due:
                h.due = None
                if name not in self.services:
                    self.emit(kind='warning', code='service_gone', service=name, notify=not self.muted(name))

    def wake(self):
        """The next instant at which a tick could change something although nothing is heard."""
        at = [h.due for h in self.habits.values() if h.due is not None]
        for i in self.all():
            s = self.services[i.service]
            if i.state in ("up", "late", "unknown"):
                late, down = self.deadlines(i)
                at += [down, late or down, i.since + i.ext + 2 * self.timing(i)[1]]
            at += [i.maint_until, i.stable + self.cfg["flap_window"], i.since + HOUR, i.bye_check or 0]
            if i.recheck:
                at.append(i.recheck[0])
            if i.left_at is not None:
                at += [i.left_at + self.cfg["forget_left"], i.left_at + 6 * DAY, i.left_at + HOUR]
            if i.down_at is not None:
                at += [i.down_at + self.cfg[x] for x in ("forget_ephemeral", "forget_down", "forget_service")]
            if i.window:
                at.append(i.window[0])
        for s in self.services.values():
            at += [s.maint_until, s.expect_at or 0, (s.short_since or -60) + 60, s.stable + self.cfg["flap_window"],
                   s.changed + self.pause_allowed(s), s.two_at + DAY] + [t + 7 * DAY for t, n in s.sizes]
        if self.mass:
            at.append(self.mass["start"] + self.cfg["mass_hold"])
        for j in self.jobs.values():
            at += [j.maint_until, self.forgotten_at(j)] + [self.overrun_at(j, v) for v in j.runs.values()]
            if j.due is not None:
                at.append(j.due + j.due_grace - (self.wall() - self.now if j.schedule else 0))
        return min((x for x in at if x > self.now), default=math.inf)

    def short_stays(self):
        """R29: a short stay that ended with a goodbye and is not followed by another within T is as good as a down."""
        for s in self.services.values():
            for i in list(s.instances.values()):
                if i.bye_check is None or self.now < i.bye_check:
                    continue
                i.bye_check = None
                if i.state != "left" or self.in_maint(i):
                    continue
                window = self.now - (self.cfg['flap_count_window'] or self.cfg["flap_window"])
                i.stable = self.now
                i.flaps = [t for t in i.flaps if t > window] + [self.now]
                if not i.flapping and len(i.flaps) >= self.cfg["flap_count"] and not self.muted(s.name, "instance"):
                    i.flapping = True
                    self.emit(kind="flapping", service=s.name, instance=i.name, to="start", notify=True)
                if not any(x.state in ("up", "late", "unknown") for x in s.instances.values()):
                    s.byes = [t for t in s.byes if t > window] + [self.now]
                    if s.flapping or s.looping is not None:
                        s.stable = self.now
                    elif len(s.byes) >= self.cfg["flap_count"] and not any(x.flapping for x in s.instances.values()):
                        s.flapping = s.flap_said = True
                        s.stable = self.now
                        self.emit(kind="flapping", service=s.name, instance="*", to="start", notify=not self.muted(s.name))

    # ---------------------------------------------------------------- jobs (J1-J9)
    def job_line(self, b):
        k = (b.service, b.instance)
        if k not in self.jobs and (b.service, "-") in self.jobs and "instance" not in self.jobs[b.service, "-"].cfg \
                and self.jobs[b.service, "-"].cfg:
            k = (b.service, "-")                       # a configured job: whoever runs it
        j = self.jobs.get(k)
        status = b.tags.get("status", "").lower() or ("ok" if "exit" in b.tags else None)
        if j is None:
            j = self.jobs[k] = Job(k, {}, self.wall())
        j.heard = self.now
        s = self.services.get(b.service)
        if s and b.instance in s.instances and s.instances[b.instance].state != "left":
            self.leave(s.instances[b.instance], "became_job")
        if b.bye and status is None:
            self.retire(j, "goodbye")
            return
        if b.interval is not None:
            j.promise = b.interval
        if "max_runtime" in b.tags:
            j.max_runtime = float(b.tags["max_runtime"])
        if status == "start":
            self.job_start(j, b.tags.get("run") or b.start or "-")
        elif status is not None:                       # J11: what is not understood never looks like success
            self.job_end(j, b.tags.get("run") or b.start or "-", status, b.tags)
        # a plain beat of a job is a sign of progress and nothing else

    def job_start(self, j, run):
        now = self.now
        if run in j.runs and now - j.runs[run][0] < 10 or any(j.ended.get((run, x), -1e9) > now - 10 for x in (True, False)):
            return                                     # copies of one message
        j.runs = {r: v for r, v in j.runs.items() if v[2] is None}     # an excused one is over when another begins
        if run in j.runs or j.runs and run == "-":     # J6: no ids: the one before never ended
            del j.runs[run if run in j.runs else next(iter(j.runs))]
            self.job_event(j, "lost", "no_end")
        while len(j.runs) >= 8:
            del j.runs[next(iter(j.runs))]
            self.job_event(j, "lost", "too_many_runs")
        j.runs[run] = [now, False, None]
        j.starts = True
        self.plan(j, self.wall())
        if j.state != "running":
            self.job_event(j, "running", "started")

    def job_end(self, j, run, status, tags):
        now, good = self.now, status == "ok" and tags.get("exit", "0") == "0"
        if j.ended.get((run, good), -1e9) > now - 10 and run not in j.runs:
            return                                     # a copy: the same run with the same status
        known = run if run in j.runs else next(iter(j.runs)) if len(j.runs) == 1 and run == "-" else None
        if known is None and good:                     # what hangs, and was told, is overtaken by one whose start was not heard
            j.runs = {r: v for r, v in j.runs.items() if not v[1]}
        if known is None and (not j.starts or not j.runs):
            j.starts = j.starts and bool(j.runs)
            self.plan(j, self.wall())                  # nobody told us of a start: the end is the sign of the run
        began = None
        if known is not None:
            began = j.runs.pop(known)[0]
            j.durations = (j.durations + [now - began])[-16:]
        j.ended = {r: t for r, t in j.ended.items() if t > now - 10}
        j.ended[run, good], j.unheard = now, False
        if not good:
            said_so = "failed" if status in ("ok", "fail") else "bad_status"
            self.job_event(j, "failed", "exit " + tags["exit"] if tags.get("exit", "0") != "0" else said_so)
        else:
            if began is not None:                      # what began before, and was told, is overtaken: it hides no missing run
                j.runs = {r: v for r, v in j.runs.items() if not v[1] or v[0] > began}
            self.job_event(j, "ok", "ended")

    def job_event(self, j, to, reason):
        """J8: a problem is told once, again only when it gets worse; what closes it is a run that ended well."""
        level = {"overrun": 1, "lost": 1, "missed": 2, "failed": 2}.get(to, 0)
        if self.maint(j):
            notify = False
            if level and (not j.pending or level >= j.pending[2]):
                j.pending = (to, reason, level)
        elif level:
            notify = level > j.level
            j.level = max(j.level, level)
        else:
            notify = False
        if to in ("ok", "retired") or reason == "operator":
            notify = j.level > 0
            j.level, j.pending = 0, None
        if self.muted(j.service):
            notify = False
        self.emit(kind="job", service=j.service, instance=j.name, **{"from": j.state}, to=to, reason=reason, notify=notify)
        j.state, j.changed = to, self.now

    def maint(self, j):
        return j.maint_until > self.now

    def retire(self, j, reason):
        self.job_event(j, "retired", reason)
        del self.jobs[j.service, j.name]

    def forget_job(self, j):
        """J10: what is configured stays: nothing is known of it any more, and its next run is awaited."""
        if not j.cfg:
            self.retire(j, "operator")
            return
        self.job_event(j, "waiting", "operator")
        k = j.service, j.name
        new = self.jobs[k] = Job(k, j.cfg, self.wall())
        new.maint_until, new.heard, new.changed = j.maint_until, self.now, self.now
        self.plan(new, self.wall())

    def grace(self, j, period):
        g = j.cfg.get("grace")
        return g if g is not None else 300.0 if j.starts and j.schedule else grace_for(period)

    def plan(self, j, wall):
        """J3: when must the next run be heard? (wall time for a schedule, else our clock)"""
        if j.schedule:
            period = j.schedule.next(wall + 60)[0] - wall
            due, twice = j.schedule.next(wall + min(60.0, period / 4))
            j.due, j.due_grace = due, self.grace(j, j.schedule.next(due + 60)[0] - due) + (HOUR if twice else 0)
            j.passed = False
        elif self.every(j):
            j.due, j.due_grace = self.now + self.every(j), self.grace(j, self.every(j))

    def every(self, j):
        return j.cfg.get("every") or j.promise

    def forgotten_at(self, j):
        """A job that is not configured is forgotten so long after what was last awaited of it."""
        every = 0 if j.schedule else self.every(j) or 0
        return math.inf if j.cfg else j.heard + self.cfg["forget_service"] + every + (self.grace(j, every) if every else 0)

    def may_run(self, j, v):
        limit = j.cfg.get("max_runtime") or j.max_runtime
        return limit is not None and self.now < v[0] + limit

    def overrun_at(self, j, v):
        """J4: when a run lasts too long; one that was excused is looked at once more."""
        limit = j.cfg.get("max_runtime") or j.max_runtime
        if not limit or v[1]:
            return math.inf
        return v[2] + limit if v[2] is not None and v[2] >= v[0] + limit else v[0] + limit

    def tick_jobs(self):
        for j in list(self.jobs.values()):
            if j.pending and not self.maint(j):
                (to, reason, level), j.pending = j.pending, None
                if level > j.level:                    # J7: no run ended well since, whatever else has begun
                    self.job_event(j, to, "maintenance_over")
            if self.now >= self.forgotten_at(j):
                self.retire(j, "expired")
                continue
            clock = self.wall() if j.schedule else self.now
            for v in list(j.runs.values()):            # J4
                if self.now >= self.overrun_at(j, v):
                    self.overran(j, v, "max_runtime")
            if j.due is not None and clock >= j.due + j.due_grace:
                a = self.now - (clock - j.due)
                if any(self.may_run(j, v) for v in j.runs.values()):
                    v = next(iter(j.runs.values()))    # J4: one may go on over the next time, as somebody said
                    if not v[1] and not j.passed:      # nobody can know whether another was started
                        self.overran(j, v, "still_running")
                elif not j.unheard and (j.passed or self.was_blind(a - 60, a + j.due_grace)):
                    j.unheard, j.unheard_at = True, self.now
                    # J5: it may have come and gone while we could not hear, once
                    for v in j.runs.values():
                        v[2] = self.now                # and so may the end of the one before
                    self.job_event(j, "unheard", "blind")
                else:                                  # J4: one that hangs, or died with its host, stands for no other
                    for v in j.runs.values():
                        v[1], v[2] = True, None
                    self.job_event(j, "missed", "still_running" if j.runs else "no_run")
                self.next_due(j, clock)

    def next_due(self, j, clock):
        if j.schedule:
            due = j.due
            self.plan(j, clock if j.passed else max(due, clock - j.due_grace))
        else:
            while j.due + j.due_grace <= clock:
                j.due += self.every(j)

    def overran(self, j, v, reason):
        """J5: its end may have been said while we were deaf. Once: not the next run, if no end was heard since, nor the same
        run when it is looked at again. It is looked at again when the next one is due; or, if none ever is, one max_runtime
        later: nothing else would tell that it hangs."""
        if v[2] is None and not j.unheard and self.was_blind(v[0], self.now):
            j.unheard, j.unheard_at, v[2] = True, self.now, self.now
            if reason == "max_runtime" and j.due is not None:
                j.runs = {r: x for r, x in j.runs.items() if x is not v}
            self.job_event(j, "unheard", "end_unheard")
        else:
            v[1], v[2] = True, None
            self.job_event(j, "overrun", reason)

    def health(self, b):
        """J9: the status of a service check as an alert of its own."""
        s = self.services.get(b.service)
        i = s.instances.get(b.instance) if s else None
        if i is None or self.opt(b.service, "health") != "alert":
            return
        old, i.health = i.health, b.health
        bad, was = b.health in ("critical", "unknown"), old in ("critical", "unknown")
        if old != b.health and (bad or was or old is not None):
            quiet = self.in_maint(i) or self.muted(b.service, "instance")
            notify = (bad and not was and not quiet) or (was and not bad and i.health_told)
            i.health_told = notify if bad and not was else i.health_told and bad
            self.emit(kind="health", service=i.service, instance=i.name, **{"from": old or "none"}, to=b.health, notify=notify)

    def check(self, service):
        """Exit code of `presence check`: 0 up, 1 degraded, late, flapping, maintenance, overrun, 2 down, failed, missed, 3 unknown."""
        codes = []
        for j in self.jobs.values():
            if j.service == service:
                level = max(j.level, j.pending[2] if j.pending else 0)
                codes.append(level or (3 if j.state in ("waiting", "unheard") else 0))
        s = self.services.get(service)
        if s and s.state:
            codes.append({"up": 0, "degraded": 1, "maintenance": 1, "down": 2}.get(s.state, 3))
            if any(i.flapping for i in s.instances.values()) or s.flapping or s.looping is not None:
                codes.append(1)
        return 2 if 2 in codes else max(codes, default=3)

    # ---------------------------------------------------------------- watches (W1-W5)
    def watched(self, name, value, typ, tags, host, src):
        for w in self.cfg["watch"]:
            if not fnmatch.fnmatchcase(name, w["match"]):
                continue
            stars, rest = [], name
            for part in w["match"].split("*")[:-1] if "*" in w["match"] else []:
                rest = rest[len(part):] if not stars and rest.startswith(part) else rest
            if "*" in w["match"]:
                pre, post = w["match"].split("*", 1)
                stars = [name[len(pre):len(name) - len(post) if post else None]]
            known = dict(tags, host=tags.get("host") or host or src or "-", source=src or "-")
            known.update({str(n + 1): x for n, x in enumerate(stars)})

            def fill(t):
                for k, v in known.items():
                    t = t.replace("{" + k + "}", v)
                return "-" if "{" in t else t
            service, instance = fill(w["service"]), fill(w.get("instance", "{host}"))
            ev, key = w.get("evidence", "any"), (name, instance)
            if ev == "nonzero" and float(value) == 0:
                return
            if ev == "change" and self.values.get(key) == value:
                return
            self.values[key] = value
            s = self.services.get(service)
            if (s is None or instance not in s.instances) and s is not None and \
                    len(s.instances) >= w.get("max_instances", 1000):
                if not s.limit_warned:
                    s.limit_warned = True
                    self.emit(kind="warning", code="limit", service=service, notify=True)
                return
            rate = 1.0
            self.beat(Beat(service, instance, w.get("interval"), watch=w))
            i = self.services[service].instances.get(instance) if service in self.services else None
            if i is not None and "floor" in w:
                if i.window is None:
                    i.window = [self.now + 60.0, 0.0, False]
                i.window[1] += 1 / rate
            return

    def heard_watch(self, i, w, old):
        i.watch = w
        if old == "down" and i.promise is None and not i.irregular:
            i.excused = [t for t in i.excused if t > self.now - KEEP] + [self.now]
            if len(i.excused) >= 3:                    # W3
                i.irregular = True
                self.emit(kind="warning", code="watch_irregular", service=i.service, instance=i.name,
                          notify=not self.muted(i.service))

    def tick_watches(self):
        for i in list(self.all()):
            w = i.window
            if w is None:
                continue
            if i.state not in ("up", "late"):
                i.window, i.low, i.fine = None, 0, 0
                if i.is_low:
                    i.is_low = False
                    self.emit(kind="watch", service=i.service, instance=i.name, **{"from": "low"}, to="ok",
                              reason="down", notify=i.low_told)
                continue
            if self.now < w[0]:
                continue
            if not w[2]:
                below = w[1] < i.watch["floor"]
                i.low, i.fine = (i.low + 1, 0) if below else (0, i.fine + 1)
                if i.low >= 2 and not i.is_low:
                    i.is_low, i.low_told = True, not (self.in_maint(i) or self.muted(i.service))
                    self.emit(kind="watch", service=i.service, instance=i.name, **{"from": "ok"}, to="low",
                              reason="floor", notify=i.low_told)
                elif i.fine >= 2 and i.is_low:
                    i.is_low = False
                    self.emit(kind="watch", service=i.service, instance=i.name, **{"from": "low"}, to="ok",
                              reason="floor", notify=i.low_told)
            i.window = [w[0] + 60.0, 0.0, False]

    def is_mass(self, cnd, exclude=()):
        """Since `cnd` became late, how many of those we should have heard have we heard?"""
        t_late = self.deadlines(cnd)[0]
        if F('R6'):
            t_late = cnd.since + cnd.ext + self.interval(cnd)
        heard, silent, services = 0, 0, set()
        for i in self.all():
            if i.state not in ("up", "late", "unknown") or self.in_maint(i) or i in exclude:
                continue
            if F('R18') and self.opt(i.service, 'ephemeral'):
                continue
            late, _ = self.deadlines(i)
            if late is not None and self.now >= late and self.replacement(i):
                continue
            if F('R24') and i.followed and self.run_once(self.services[i.service]):
                continue
            if F('R6') and late is not None and self.now >= late:
                if i.since + i.ext + self.interval(i) + 1e-9 < cnd.since + cnd.ext:
                    continue              # its silence began before c's last beat: another story
                silent += 1
                services.add(i.service)
            elif i.heard is not None and i.heard > t_late:
                heard += 1
            elif late is not None and self.now >= late:
                silent += 1
                services.add(i.service)
        c = self.cfg
        return (silent >= c["mass_min_instances"] and len(services) >= c["mass_min_services"]
                and (silent > c["mass_fraction"] * (heard + silent) if F('R21') else silent >= c["mass_fraction"] * (heard + silent)))

    @staticmethod
    def rank(st):
        return {'degraded': 1, 'down': 2}.get(st, 0)

    def service_state(self, s):
        maint = s.maint_until > self.now
        present = down = left = quiet = 0
        for i in s.instances.values():
            if i.state in ("up", "late", "unknown"):
                present += 1
            elif i.state == "left":
                left += 1
            elif maint or i.maint_until > self.now:
                quiet += 1
            else:
                down += 1
        armed = s.expect_at is None or self.now >= s.expect_at
        mn = self.opt(s.name, "min")
        if F('R9') and mn:
            if present >= mn:
                s.short_since = None
            elif s.short_since is None:
                s.short_since = self.now
            if present < mn and armed and down < mn - present and self.now < s.short_since + 60.0 and \
                    (s.heard or not F('R31')):
                mn = None
        if present == 0:
            if down or (mn and armed and not maint and not quiet):
                return "down"
            if quiet:
                return "maintenance"
            if s.expect_at is not None and not armed:
                return "unknown"
            return "left" if left else None
        if not maint and mn and armed and present < mn:
            return "degraded"
        q = self.opt(s.name, "quorum")
        if q and not self.opt(s.name, "ephemeral") and not self.runs_known(s) and present / (present + down) < q:
            return "degraded"
        return "up"

    def remove(self, s):
        if F('R32') and s.flap_said:
            self.emit(kind='flapping', service=s.name, instance='*', to='end',
                      notify=not self.muted(s.name) and not self.may_be_empty(s.name))
        self.emit(kind="service", service=s.name, **{"from": s.state or "none"}, to="forgotten", notify=s.notified)
        if F('R28') and s.alive is not None and not s.gone and s.state == 'left' and \
                s.changed - s.alive >= HOUR and self.opt(s.name, 'min') != 0:
            s.habit.due = s.changed + self.pause_allowed(s)
        del self.services[s.name]

    def update_services(self, went_down=()):
        for s in list(self.services.values()):
            new = self.service_state(s)
            mine = [e for e in went_down if e["service"] == s.name]
            if new is None:
                if s.expect_at is None:
                    self.remove(s)
                continue
            mute = self.muted(s.name) or self.may_be_empty(s.name)
            bad = new in ("down", "degraded")
            real = any(e["notify"] for e in mine)
            s.habit.at = self.now
            if s.flapping and s.looping is None and self.now >= s.stable + self.cfg["flap_window"]:
                s.flapping, s.flaps, s.byes = False, [], []
                if s.flap_said:
                    s.flap_said = False
                    self.emit(kind='flapping', service=s.name, instance='*', to='end', notify=not mute)
                if bad and not mute and new == s.state and (not s.notified or F('R4') and self.rank(new) > s.level):
                    self.service_event(s, new, True, mine)
            if F('R20'):
                if new in ('up', 'degraded'):
                    self.came_back(s)
                    if s.alive is None:
                        s.alive = self.now
                    s.gone = False
                elif new == 'left' and s.alive is not None and self.now - s.changed >= self.pause_allowed(s) and s.state == 'left':
                    if not s.gone and s.changed - s.alive >= 3600 and self.opt(s.name, 'min') != 0:
                        s.gone = True
                        self.emit(kind='warning', code='service_gone', service=s.name, notify=not self.muted(s.name))
                    s.alive = None
            if new == s.state:
                # kept quiet so far, but one of its instances has just become a real alarm
                if bad and not mute and (not s.notified or F('R4') and self.rank(new) > s.level) and not s.flapping and real:
                    self.service_event(s, new, True, mine)
                continue
            if new == "down" or F('R8') and bad and s.state not in ('down', 'degraded'):
                s.flaps = [t for t in s.flaps if t > self.now - (self.cfg['flap_count_window'] or self.cfg["flap_window"])] + [self.now]
                if len(s.flaps) >= self.cfg["flap_count"]:
                    if F('R8') and not s.flapping and not s.flap_said and not any(i.flapping for i in s.instances.values()):
                        self.emit(kind="flapping", service=s.name, instance="*", to="start", notify=not mute)
                        s.flap_said = True
                    s.flapping = True
            if "down" in (new, s.state) or F('R8') and (bad or s.state == 'degraded'):
                s.stable = self.now
            if bad:
                gone = [i for i in s.instances.values() if i.state == "down"]
                quiet = bool(gone) and all(i.pending == "mass_silence" for i in gone)
                if F('R19'):
                    quiet = all(s.instances[e['instance']].pending == 'mass_silence' for e in mine if e['instance'] in s.instances) if mine else any(i.pending == 'mass_silence' for i in gone)
                if F('R22') and quiet and new == 'down' and self.mass and self.mass['expired'] and any(
                        i.state == 'up' and i.heard is not None and i.heard > self.mass['start'] for i in self.all()):
                    quiet = False
                self.service_event(s, new, not quiet and not s.flapping and (real or s.looping is None) and not mute, mine)
            else:
                if new == "left" and s.state != "left":
                    s.habit.stay = None if s.alive is None else self.now - s.alive
                    s.habit.left_at = self.now
                if (s.flapping or s.looping is not None) and s.state == "left":
                    s.stable = self.now
                self.service_event(s, new, s.notified, ())
                s.notified = False

    def pause_allowed(self, s):
        """R28: how long a service that has left may stay away before that is worth a word."""
        h = s.habit
        if not F('R28') or not h.stay:
            return 600.0
        like = [p for stay, p in h.pauses if 0.5 * h.stay <= stay <= 2.0 * h.stay]
        return min(KEEP, max(600.0, 1.25 * max(like, default=0.0)))

    def came_back(self, s):
        h = s.habit
        if h.left_at is None:
            return
        pause, h.due = self.now - h.left_at, None
        if F('R28') and h.stay and 600 <= pause <= KEEP:
            h.pauses = (h.pauses + [(h.stay, pause)])[-8:]
            s.alive = self.now                         # a pause of this length begins a new stay
        h.left_at = None

    def service_event(self, s, new, notify, mine):
        self.emit(kind="service", service=s.name, **{"from": s.state or "none"}, to=new, notify=notify)
        if s.state == "down" and new != "down":
            for i in s.instances.values():             # the service is back, these are not (yet)
                if i.state == "down" and i.pending == "service":
                    i.recheck = (self.now + self.timing(i)[1], "not_back_with_service")
        s.state, s.changed = new, self.now
        s.notified = s.notified or notify
        if notify and new in ('down', 'degraded'):
            s.level = self.rank(new)
        elif new not in ('down', 'degraded'):
            s.level = 0
        elif F('R4'):
            s.level = min(s.level, self.rank(new))
        if new == "down" and notify:
            for e in mine:                             # one page, not two
                if e["notify"]:
                    e["notify"] = False
                    i = s.instances.get(e["instance"])
                    if i:
                        i.notified, i.pending = False, "service"


# ------------------------------------------------------------------------------- trace runner
EVENT_KEYS = ("kind", "service", "instance", "from", "to", "reason", "code", "count", "notify")


def run_trace(lines):
    head = lines[0]
    assert head.get("format") == "presence-trace/1", "bad header"
    eng = Engine(copy.deepcopy(head.get("config", {})))
    tick = eng.cfg["tick"]
    inputs = [x for x in lines[1:] if "in" in x or "ctl" in x]
    end = next(x["t"] for x in lines if x.get("ctl") == "end")
    queue = sorted((x for x in inputs if x.get("ctl") != "end"), key=lambda x: x["t"])
    snap, snap_t = eng.snapshot(), 0.0
    k, n = 0, 1
    crashes = any(x.get("crash") for x in queue)
    idle = told = 0
    last = math.floor(end / tick + 1e-9)
    while True:
        t = n * tick
        if t > end + 1e-9:
            break
        stalled, k0 = None, k
        while k < len(queue) and queue[k]["t"] <= t + 1e-9:
            x = queue[k]
            k += 1
            eng.now = max(eng.now, x["t"])
            if "in" in x:
                for _ in range(x.get("n", 1)):
                    eng.datagram(x["in"], x.get("src"))
            elif x["ctl"] == "drops":
                eng.kernel_drops(x["dropped"], x["received"])
            elif x["ctl"] == "clock":
                eng.clock_step(x["wall_step"])
            elif x["ctl"] == "forget":
                eng.forget(x["service"], x["instance"])
            elif x["ctl"] == "maintenance":
                eng.set_maintenance(x["service"], x.get("instance"), x["seconds"])
            elif x["ctl"] == "stall":
                stalled = x
                break
            elif x["ctl"] == "restart":
                s = snap if x.get("crash") else eng.snapshot()
                boot = x["t"] + x["down"]
                while k < len(queue) and queue[k]["t"] < boot - 1e-9:
                    k += 1                              # nobody was listening
                ev = eng.events
                eng2 = Engine(copy.deepcopy(head.get("config", {})))
                eng2.events, eng2.now = ev, boot
                eng2.restore(s)
                eng = eng2
                n = math.ceil(boot / tick - 1e-9)
                t = n * tick
                snap, snap_t = eng.snapshot(), boot
        if stalled:
            # the process does not run: inputs wait in the socket buffer until it wakes up
            wake = stalled["t"] + stalled["dur"]
            n = math.ceil(wake / tick - 1e-9)
            for x in queue[k:]:
                if x["t"] < wake:
                    x["t"] = wake
            eng.now = wake
            eng.stall(stalled["dur"])
            continue
        eng.now = max(eng.now, t)
        eng.tick()
        if crashes and t - snap_t >= eng.cfg["snapshot_every"]:
            snap, snap_t = eng.snapshot(), t
        n += 1
        # ticks at which nothing can happen are left out: no input and no event at the last two, and no deadline before
        idle = idle + 1 if k == k0 and len(eng.events) == told else 0
        told = len(eng.events)
        if idle >= 2 and not crashes and not SLOW:
            wake = min(eng.wake(), queue[k]["t"] if k < len(queue) else math.inf, last * tick)
            n = max(n, min(math.ceil(wake / tick - 1e-9), last))
    return eng


def clean(e):
    return {k: e[k] for k in EVENT_KEYS if k in e}


def ignored(e, pats):
    return any(all(e.get(k) == v for k, v in p.items()) for p in pats)


def check(path):
    lines = [json.loads(x) for x in open(path) if x.strip()]
    head = lines[0]
    tol = head.get("tolerance", 0.3)
    eng = run_trace([dict(x) for x in lines])
    got = [e for e in eng.events if not ignored(e, head.get("ignore", []))]
    want = [x for x in lines if "expect" in x]
    errs = []
    free = list(got)
    for w in want:
        exp = w["expect"]
        hit = next((g for g in free if all(g.get(k) == v for k, v in exp.items()) and abs(g["t"] - w["t"]) <= tol), None)
        if hit is None:
            errs.append(f"missing t={w['t']} {json.dumps(exp)}")
        else:
            free.remove(hit)
    errs += [f"unexpected t={g['t']} {json.dumps(clean(g))}" for g in free]
    return head, len(want), errs


def write(path):
    """Puts what the model emits into a trace in the place of what it expects."""
    lines = [json.loads(x) for x in open(path) if x.strip()]
    head, rest = lines[0], [x for x in lines[1:] if "expect" not in x]
    events = run_trace([dict(x) for x in [head] + rest]).events
    rest += [dict(t=e["t"], expect=clean(e)) for e in events if not ignored(e, head.get("ignore", []))]
    rest.sort(key=lambda x: (x["t"], "expect" in x))
    with open(path, "w") as out:
        out.writelines(json.dumps(x) + "\n" for x in [head] + rest)


def main():
    global RULES, SLOW
    args = sys.argv[1:]
    if "--slow" in args:
        args.remove("--slow")
        SLOW = True
    if "--without" in args:
        n = args.index("--without")
        RULES -= set(args[n + 1].split(","))
        del args[n:n + 2]
    if args and args[0] == "--events":
        lines = [json.loads(x) for x in open(args[1]) if x.strip()]
        for e in run_trace(lines).events:
            print(json.dumps(dict(t=e["t"], **clean(e))))
        return 0
    if args and args[0] == "--write":
        for p in args[1:]:
            write(p)
        return 0
    bad = 0
    for p in args:
        head, n, errs = check(p)
        print(f"{'ok  ' if not errs else 'FAIL'} {p}: {head['name']} ({n} expected events)")
        for e in errs:
            print("     ", e)
        bad += bool(errs)
    print(f"{len(args) - bad}/{len(args)} traces pass")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
