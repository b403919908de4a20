"""Random pipelines: the same seed makes the same one.

A pipeline is grown from a few sources of integers with timestamps. Each step takes one or
two of the collections there are and makes another; all that nobody reads in the end is
recorded with timestamp and window. Steps are such that what is recorded depends neither on
the order of elements nor on how they are bundled. They never set a timestamp back, so that
nothing is late where the sources are unbounded (streaming).
"""

import collections
import random
import threading
import typing

import apache_beam as beam
from apache_beam import coders
from apache_beam.io import restriction_trackers, watermark_estimators
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import userstate, window
from apache_beam.utils.timestamp import Duration, Timestamp

_EOW = window.TimestampCombiner.OUTPUT_AT_EOW

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


class _Endless(restriction_trackers.OffsetRestrictionTracker):
    def is_bounded(self):
        return False


class _Places(beam.transforms.core.RestrictionProvider):
    def initial_restriction(self, element):
        return restriction_trackers.OffsetRange(0, len(element[0]))

    def create_tracker(self, restriction):
        return _Endless(restriction)

    def restriction_size(self, element, restriction):
        return restriction.size()


class Feed(beam.DoFn):
    """Emits pairs of value and time, given in order of time, some at once, with pauses."""

    @beam.DoFn.unbounded_per_element()
    def process(self, element, tracker=beam.DoFn.RestrictionParam(_Places()),
                watermark=beam.DoFn.WatermarkEstimatorParam(
                    watermark_estimators.ManualWatermarkEstimator.default_provider())):
        values, at_once, pause = element
        place = tracker.current_restriction().start
        while tracker.try_claim(place):
            value, time = values[place]
            watermark.set_watermark(Timestamp(time))
            yield window.TimestampedValue(value, time)
            place += 1
            if place % at_once == 0:
                tracker.defer_remainder(Duration(pause))
                return


class Collection(typing.NamedTuple):
    """A PCollection of integers."""
    pcollection: beam.PCollection
    merges: bool = False  # its windows may
    ends: bool = True  # groups of it are at the end of the global window
    ended: bool = False  # so are its elements: they stay there, as runners differ on it by 1 ms


class Grow:
    """Grows one pipeline."""

    def __init__(self, p, seed, run, streaming):
        self.p, self.run = p, run
        self.random = random.Random(seed)
        self.feed = random.Random(f'feed {seed}') if streaming else None
        self.steps = 0
        self.collections = []
        self.unread = []
        self.has_state = False

    def name(self, what):
        self.steps += 1
        return f'{what}{self.steps}'

    def add(self, pcollection, like=None):
        """Adds a PCollection whose windows are those of like; those of a source without it."""
        self.collections.append(like._replace(pcollection=pcollection) if like else Collection(pcollection))
        self.unread.append(pcollection)

    def pick(self, fits=lambda c: True):
        c = self.random.choice([c for c in self.collections if fits(c)])
        if c.pcollection in self.unread:
            self.unread.remove(c.pcollection)
        return c

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
        spread = r.random() < 0.5
        if self.feed:
            return self.add(self.unbounded(sorted(values, key=lambda e: e[1])))
        self.add(self.p | self.name('Create') >> beam.Create(values, reshuffle=spread)
                 | self.name('Stamp') >> beam.MapTuple(window.TimestampedValue))

    def unbounded(self, values):
        """A source that has values, in order of time, by and by."""
        r, at_once = self.feed, self.feed.choice([1, 5, 30])
        if r.random() < 0.5:
            return (self.p | self.name('Feed') >> beam.Create([(values, at_once, r.choice([0, 0.05]))])
                    | self.name('Read') >> beam.ParDo(Feed()).with_output_types(int))
        events = TestStream(coder=coders.VarIntCoder())
        for i in range(0, len(values), at_once):
            if i and values[i - 1][1] < values[i][1] and r.random() < 0.5:
                events.advance_watermark_to(values[i][1])
            part = [window.TimestampedValue(*e) for e in values[i:i + at_once]]
            r.shuffle(part)
            events.add_elements(part)
        return self.p | self.name('Test') >> events.advance_watermark_to_infinity().with_output_types(int)

    def map(self):
        c = self.pick()
        a, b = self.random.randint(1, 5), self.random.randint(0, 9)
        self.add(c.pcollection | self.name('Map') >> beam.Map(lambda x: (x * a + b) % 101), c)

    def filter(self):
        c = self.pick()
        n = self.random.randint(2, 4)
        self.add(c.pcollection | self.name('Filter') >> beam.Filter(lambda x: x % n != 0), c)

    def flat_map(self):
        c = self.pick()
        n = self.random.randint(2, 3)
        self.add(c.pcollection | self.name('FlatMap') >> beam.FlatMap(lambda x: [x + i for i in range(x % n)]), c)

    def window_fn(self):
        r = self.random
        return r.choice([
            lambda: window.GlobalWindows(),
            lambda: window.FixedWindows(r.choice([7, 50])),
            lambda: window.SlidingWindows(20, 10),
            lambda: window.SlidingWindows(5, 10),  # leaves gaps: elements in no window
            lambda: window.Sessions(r.choice([3, 20])),
        ])()

    def window(self):
        c = self.pick()
        fn = self.window_fn()
        combiner = self.random.choice([_EOW, window.TimestampCombiner.OUTPUT_AT_EARLIEST,
                                       window.TimestampCombiner.OUTPUT_AT_LATEST])
        c = self.windowed(c, fn, combiner)
        self.add(c.pcollection, c)

    def windowed(self, c, fn, combiner=_EOW):
        """Moves elements ahead in time, to windows of fn; those at the end of time stay where they are."""
        pcollection = c.pcollection
        if c.ended:
            fn = window.GlobalWindows()
        else:
            pcollection |= self.name('Stamp') >> beam.Map(
                lambda x, t=beam.DoFn.TimestampParam: window.TimestampedValue(x, t + abs(x) * 7 % 300))
        ends = isinstance(fn, window.GlobalWindows) and combiner == _EOW
        return Collection(pcollection | self.name('Window') >> beam.WindowInto(fn, timestamp_combiner=combiner),
                          merges=isinstance(fn, window.Sessions), ends=ends, ended=c.ended)

    def keyed(self, c):
        n = self.random.choice([1, 3, 20])
        kind = self.random.choice([int, str, lambda k: ('k', k)])
        return c.pcollection | self.name('Key') >> beam.Map(lambda x: (kind(x % n), x))

    def add_grouped(self, pcollection, c):
        """Adds what came of groups of c."""
        self.add(pcollection, c._replace(ended=c.ended or c.ends))

    def group(self):
        c = self.pick()
        self.add_grouped(
            self.keyed(c) | self.name('Group') >> beam.GroupByKey()
            | self.name('Fold') >> beam.Map(lambda kv: sum(i * v for i, v in enumerate(sorted(kv[1]), 1)) % 997), c)

    def combine(self):
        c = self.pick()
        fn = self.random.choice([sum, max, beam.combiners.CountCombineFn(), beam.combiners.TopCombineFn(2)])
        self.add_grouped(
            self.keyed(c) | self.name('Combine') >> beam.CombinePerKey(fn)
            | self.name('Hash') >> beam.Map(lambda kv: (kv[1] if isinstance(kv[1], int) else sum(kv[1])) % 997), c)

    def count(self):
        c = self.pick()
        self.add_grouped(
            c.pcollection | self.name('Count') >> beam.combiners.Count.PerElement()
            | self.name('Sum') >> beam.Map(lambda kv: kv[0] + 31 * kv[1]), c)

    def combine_globally(self):
        c = self.pick()
        globally = beam.CombineGlobally(sum).without_defaults()
        if self.random.random() < 0.3:
            globally = globally.with_fanout(3)
        self.add_grouped(c.pcollection | self.name('Globally') >> globally, c)

    def sided(self):
        """Returns main and side input; the windows of a side input must not merge."""
        main, other = self.pick(), self.pick()
        if other.merges or self.random.random() < 0.3:
            other = self.windowed(other, self.random.choice([window.GlobalWindows(), window.FixedWindows(50)]))
        return main, other

    def side(self):
        main, other = self.sided()
        view = self.random.choice([beam.pvalue.AsList, beam.pvalue.AsIter])
        self.add(main.pcollection | self.name('Side') >> beam.Map(
            lambda x, s: (x + sum(s)) % 997, view(other.pcollection)), main)

    def side_dict(self):
        main, other = self.sided()
        sums = self.keyed(other) | self.name('Sums') >> beam.CombinePerKey(sum)
        self.add(main.pcollection | self.name('SideDict') >> beam.Map(
            lambda x, d: (x + sum(d.values()) + len(d)) % 997, beam.pvalue.AsDict(sums)), main)

    def flatten(self):
        fn = self.window_fn()
        picked = [self.pick() for _ in range(self.random.randint(1, 3))]
        if any(c.ended for c in picked):
            fn = window.GlobalWindows()
        parts = [self.windowed(c, fn) for c in picked]
        if self.random.random() < 0.3:
            parts.append(parts[0])
        flat = parts[0]._replace(
            pcollection=tuple(c.pcollection for c in parts) | self.name('Flatten') >> beam.Flatten(),
            ended=any(c.ended for c in parts))
        # FnApiRunner reads a Flatten twice as a side input, but once where it is grouped first.
        self.add_grouped(
            self.keyed(flat) | self.name('Group') >> beam.GroupByKey()
            | self.name('Values') >> beam.FlatMap(lambda kv: kv[1]), flat)

    def reshuffle(self):
        c = self.pick()
        self.add(c.pcollection | self.name('Reshuffle') >> beam.Reshuffle(), c)

    def stateful(self):
        if self.has_state:  # FnApiRunner mixes up timers of several functions
            return
        self.has_state = True
        # Of fixed windows: the model has no state in those that merge, and FnApiRunner
        # loses timers at the end of the global window (apache/beam#35168).
        c = self.windowed(self.pick(lambda c: not c.ended), window.FixedWindows(30))
        self.add(self.keyed(c) | self.name('Stateful') >> beam.ParDo(SumAtEnd())
                 | self.name('Value') >> beam.Map(lambda kv: kv[1] % 997), c)


def build(p, seed, run, steps, streaming=False):
    """Adds the pipeline of a seed to p; what it makes is recorded under run."""
    Grow(p, seed, run, streaming).run_all(steps)
