package lintel.bench;

import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.LongAdder;

/** An order-independent digest of a collection: how many, and the sum of their hashes. */
final class Digest {
  /** What sinks have seen. With LOOPBACK the harness is this very process. */
  static final Digest SEEN = new Digest();

  private final LongAdder count = new LongAdder();
  private final LongAdder sum = new LongAdder();
  private final AtomicLong began = new AtomicLong();
  private volatile long ended;

  /** Says that a source begins to make elements. */
  void begin() {
    began.compareAndSet(0, System.nanoTime());
  }

  /** Says that a bundle of a sink is done. */
  void end() {
    ended = System.nanoTime();
  }

  /** From the first begin to the last end. */
  double seconds() {
    return (ended - began.get()) / 1e9;
  }

  void add(long hash) {
    count.increment();
    sum.add(hash);
  }

  long count() {
    return count.sum();
  }

  @Override
  public String toString() {
    return String.format("%d/%016x", count.sum(), sum.sum());
  }

  /** splitmix64. */
  static long mix(long x) {
    x += 0x9e3779b97f4a7c15L;
    x = (x ^ (x >>> 30)) * 0xbf58476d1ce4e5b9L;
    x = (x ^ (x >>> 27)) * 0x94d049bb133111ebL;
    return x ^ (x >>> 31);
  }

  static long hash(long a, long b) {
    return mix(a * 0x94d049bb133111ebL + b);
  }

  static long hash(long a, long b, long c) {
    return mix(hash(a, b) + c * 0x9e3779b97f4a7c15L);
  }
}
