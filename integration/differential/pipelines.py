"""Random pipelines: the same seed makes the same one.

A pipeline is grown from a few sources of integers with timestamps. Each step takes one or
two of the collections there are and makes another; all that nobody reads in the end is
recorded with timestamp and window. Steps are such that what is recorded depends neither on
the order of elements nor on how they are bundled.
"""

import collections
import random
import threading

import apache_beam as beam
from apache_beam import coders
from apache_beam.transforms import userstate, window

# The end of the global window in ms as Python has it: the model's (and Java's) is 1 ms later.
_END = window.GlobalWindow().max_timestamp().micros // 1000

# What has been recorded, by run. Workers are threads of this process (LOOPBACK).
_recorded = collections.defaultdict(collections.Counter)
_lock = threading.Lock()


def take(run):
    """Returns what a run has recorded as a multiset, and forgets it."""
    with _lock:
        return _recorded.pop(run, collections.Counter())


class Record(beam.DoFn):
    """Notes elements; those of a bundle together, once it has succeeded so far."""

    def __init__(self, run, label):
        self.run, self.label = run, label

    def start_bundle(self):
        self.seen = []

    def process(self, element, timestamp=beam.DoFn.TimestampParam, win=beam.DoFn.WindowParam):
        ms = min(timestamp.micros // 1000, _END)
        self.seen.append((self.label, repr(element), ms, str(win)))

    def finish_bundle(self):
        with _lock:
            _recorded[self.run].update(self.seen)


class SumAtEnd(beam.DoFn):
    """Sums the values of a key and window and emits the sum at the window's end."""

    SUM = userstate.CombiningValueStateSpec('sum', sum)
    BAG = userstate.BagStateSpec('bag', coders.VarIntCoder())
    END = userstate.TimerSpec('end', userstate.TimeDomain.WATERMARK)

    def process(self, element, win=beam.DoFn.WindowParam, total=beam.DoFn.StateParam(SUM),
                bag=beam.DoFn.StateParam(BAG), end=beam.DoFn.TimerParam(END)):
        total.add(element[1])
        bag.add(element[1])
        end.set(win.max_timestamp())

    @userstate.on_timer(END)
    def emit(self, key=beam.DoFn.KeyParam, total=beam.DoFn.StateParam(SUM), bag=beam.DoFn.StateParam(BAG)):
        yield key, total.read() + sum(1 for _ in bag.read())


class Grow:
    """Grows one pipeline. Collections are of integers, each with the kind of its windows."""

    def __init__(self, p, seed, run):
        self.p, self.run = p, run
        self.random = random.Random(seed)
        self.steps = 0
        self.collections = []  # of (PCollection, whether its windows may merge)
        self.unread = []
        self.has_state = False

    def name(self, what):
        self.steps += 1
        return f'{what}{self.steps}'

    def add(self, pcollection, merges=False):
        self.collections.append((pcollection, merges))
        self.unread.append(pcollection)

    def pick(self):
        pcollection, merges = self.random.choice(self.collections)
        if pcollection in self.unread:
            self.unread.remove(pcollection)
        return pcollection, merges

    def run_all(self, steps):
        for _ in range(self.random.randint(1, 3)):
            self.source()
        kinds = [self.map, self.filter, self.flat_map, self.window, self.window, self.group, self.combine, self.count,
                 self.side, self.side_dict, self.flatten, self.reshuffle, self.stateful, self.combine_globally]
        for _ in range(steps):
            self.random.choice(kinds)()
        for i, pcollection in enumerate(self.unread):
            pcollection | f'Record{i}' >> beam.ParDo(Record(self.run, i))

    def source(self):
        r = self.random
        span = r.choice([10, 100, 1000])
        values = [(r.randint(-50, 50), r.randint(0, span)) for _ in range(r.choice([0, 1, 7, 40, 200]))]
        self.add(self.p | self.name('Create') >> beam.Create(values, reshuffle=r.random() < 0.5)
                 | self.name('Stamp') >> beam.Map(lambda e: window.TimestampedValue(e[0], e[1])))

    def map(self):
        c, merges = self.pick()
        a, b = self.random.randint(1, 5), self.random.randint(0, 9)
        self.add(c | self.name('Map') >> beam.Map(lambda x: (x * a + b) % 101), merges)

    def filter(self):
        c, merges = self.pick()
        n = self.random.randint(2, 4)
        self.add(c | self.name('Filter') >> beam.Filter(lambda x: x % n != 0), merges)

    def flat_map(self):
        c, merges = self.pick()
        n = self.random.randint(2, 3)
        self.add(c | self.name('FlatMap') >> beam.FlatMap(lambda x: [x + i for i in range(x % n)]), merges)

    def window_fn(self):
        r = self.random
        return r.choice([
            lambda: (window.GlobalWindows(), False),
            lambda: (window.FixedWindows(r.choice([7, 50])), False),
            lambda: (window.SlidingWindows(20, 10), False),
            lambda: (window.SlidingWindows(5, 10), False),  # leaves gaps: elements in no window
            lambda: (window.Sessions(r.choice([3, 20])), True),
        ])()

    def window(self):
        c, _ = self.pick()
        fn, merges = self.window_fn()
        combiner = self.random.choice([window.TimestampCombiner.OUTPUT_AT_EOW, window.TimestampCombiner.OUTPUT_AT_EARLIEST,
                                       window.TimestampCombiner.OUTPUT_AT_LATEST])
        self.add(self.windowed(c, fn, timestamp_combiner=combiner), merges)

    def windowed(self, c, fn, **options):
        # New timestamps: at the end of the global window Python's differ from the model's.
        return (c | self.name('Stamp') >> beam.Map(lambda x: window.TimestampedValue(x, abs(x) * 7 % 300))
                | self.name('Window') >> beam.WindowInto(fn, **options))

    def keyed(self, c):
        n = self.random.choice([1, 3, 20])
        kind = self.random.choice([int, str, lambda k: ('k', k)])
        return c | self.name('Key') >> beam.Map(lambda x: (kind(x % n), x))

    def group(self):
        c, _ = self.pick()
        self.add(self.keyed(c) | self.name('Group') >> beam.GroupByKey()
                 | self.name('Fold') >> beam.Map(lambda kv: sum(i * v for i, v in enumerate(sorted(kv[1]), 1)) % 997))

    def combine(self):
        c, _ = self.pick()
        fn = self.random.choice([sum, max, beam.combiners.CountCombineFn(), beam.combiners.TopCombineFn(2)])
        self.add(self.keyed(c) | self.name('Combine') >> beam.CombinePerKey(fn)
                 | self.name('Hash') >> beam.Map(lambda kv: (kv[1] if isinstance(kv[1], int) else sum(kv[1])) % 997))

    def count(self):
        c, _ = self.pick()
        self.add(c | self.name('Count') >> beam.combiners.Count.PerElement()
                 | self.name('Sum') >> beam.Map(lambda kv: kv[0] + 31 * kv[1]))

    def combine_globally(self):
        c, _ = self.pick()
        globally = beam.CombineGlobally(sum).without_defaults()
        if self.random.random() < 0.3:
            globally = globally.with_fanout(3)
        self.add(c | self.name('Globally') >> globally)

    def sided(self):
        """Returns main and side input; the windows of a side input must not merge."""
        main, merges = self.pick()
        other, other_merges = self.pick()
        if other_merges or self.random.random() < 0.3:
            fn = self.random.choice([window.GlobalWindows(), window.FixedWindows(50)])
            other = self.windowed(other, fn)
        return main, merges, other

    def side(self):
        main, merges, other = self.sided()
        view = self.random.choice([beam.pvalue.AsList, beam.pvalue.AsIter])
        self.add(main | self.name('Side') >> beam.Map(lambda x, s: (x + sum(s)) % 997, view(other)), merges)

    def side_dict(self):
        main, merges, other = self.sided()
        sums = self.keyed(other) | self.name('Sums') >> beam.CombinePerKey(sum)
        self.add(main | self.name('SideDict') >> beam.Map(
            lambda x, d: (x + sum(d.values()) + len(d)) % 997, beam.pvalue.AsDict(sums)), merges)

    def flatten(self):
        fn, merges = self.window_fn()
        parts = [self.windowed(self.pick()[0], fn) for _ in range(self.random.randint(1, 3))]
        if self.random.random() < 0.3:
            parts.append(parts[0])
        # FnApiRunner reads a Flatten twice as a side input, but once where it is grouped first.
        flat = self.keyed(tuple(parts) | self.name('Flatten') >> beam.Flatten())
        self.add(flat | self.name('Group') >> beam.GroupByKey() | self.name('Values') >> beam.FlatMap(lambda kv: kv[1]))

    def reshuffle(self):
        c, merges = self.pick()
        self.add(c | self.name('Reshuffle') >> beam.Reshuffle(), merges)

    def stateful(self):
        if self.has_state:  # FnApiRunner mixes up timers of several functions
            return
        self.has_state = True
        # Of fixed windows: the model has no state in those that merge, and FnApiRunner
        # loses timers at the end of the global window (apache/beam#35168).
        c = self.windowed(self.pick()[0], window.FixedWindows(30))
        self.add(self.keyed(c) | self.name('Stateful') >> beam.ParDo(SumAtEnd())
                 | self.name('Value') >> beam.Map(lambda kv: kv[1] % 997))


def build(p, seed, run, steps):
    """Adds the pipeline of a seed to p; what it makes is recorded under run."""
    Grow(p, seed, run).run_all(steps)
