package lintel.own;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Queue;
import java.util.UUID;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.beam.model.jobmanagement.v1.JobApi;
import org.apache.beam.model.jobmanagement.v1.JobServiceGrpc;
import org.apache.beam.runners.portability.PortableRunner;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.io.GenerateSequence;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.testing.PAssert;
import org.apache.beam.sdk.testing.TestPipeline;
import org.apache.beam.sdk.testing.UsesUnboundedPCollections;
import org.apache.beam.sdk.testing.ValidatesRunner;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.WithKeys;
import org.apache.beam.sdk.transforms.windowing.FixedWindows;
import org.apache.beam.sdk.transforms.windowing.GlobalWindows;
import org.apache.beam.sdk.transforms.windowing.Window;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.vendor.grpc.v1p69p0.io.grpc.ManagedChannel;
import org.apache.beam.vendor.grpc.v1p69p0.io.grpc.ManagedChannelBuilder;
import org.joda.time.Duration;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.experimental.categories.Category;

/**
 * Jobs that end only when somebody drains or cancels them: an UnboundedSource, which this SDK runs as
 * a splittable DoFn, and windows that close as time passes. This client knows no state DRAINED.
 */
public final class EndlessTest {
  @Rule
  public final transient TestPipeline p = TestPipeline.create().enableAbandonedNodeEnforcement(false);

  /** Windows that have yet to close, and what the source has yielded; the worker is this process. */
  private static CountDownLatch windows;

  private static Queue<Long> read;

  private static final class Note extends DoFn<Long, Long> {
    @ProcessElement
    public void process(@Element Long e, OutputReceiver<Long> out) {
      read.add(e);
      out.output(e);
    }
  }

  private static final class Tell extends DoFn<KV<String, Iterable<Long>>, List<Long>> {
    @ProcessElement
    public void process(ProcessContext c) {
      List<Long> values = new ArrayList<>();
      c.element().getValue().forEach(values::add);
      c.output(values);
      windows.countDown();
    }
  }

  @Before
  public void threeWindows() {
    windows = new CountDownLatch(3);
    read = new ConcurrentLinkedQueue<>();
  }

  private static PCollection<List<Long>> secondsOf(Pipeline p) {
    return p.apply(GenerateSequence.from(0).withRate(20, Duration.millis(100)))
        .apply(ParDo.of(new Note()))
        .apply(Window.into(FixedWindows.of(Duration.standardSeconds(1))))
        .apply(WithKeys.of(""))
        .apply(GroupByKey.create())
        .apply(ParDo.of(new Tell()));
  }

  private static void awaitWindows() throws InterruptedException {
    assertTrue("windows do not close", windows.await(50, TimeUnit.SECONDS));
  }

  /** Drains the job of a name, as `lintel jobs drain` does. */
  private static void drain(String name) {
    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(System.getProperty("vr.endpoint")).usePlaintext().build();
    try {
      JobServiceGrpc.JobServiceBlockingStub jobs =
          JobServiceGrpc.newBlockingStub(channel).withDeadlineAfter(20, TimeUnit.SECONDS);
      for (JobApi.JobInfo job : jobs.getJobs(JobApi.GetJobsRequest.getDefaultInstance()).getJobInfoList()) {
        if (job.getJobName().equals(name)) {
          jobs.drain(JobApi.DrainJobRequest.newBuilder().setJobId(job.getJobId()).build());
          return;
        }
      }
      throw new AssertionError("no job " + name);
    } finally {
      channel.shutdownNow();
    }
  }

  /** What was read before the drain comes out, all of it, once. */
  @Test
  @Category({ValidatesRunner.class, UsesUnboundedPCollections.class})
  public void testDrain() throws Exception {
    PAssert.that(secondsOf(p).apply("together", Window.into(new GlobalWindows())))
        .satisfies(
            seconds -> {
              List<Long> all = new ArrayList<>();
              int count = 0;
              for (List<Long> second : seconds) {
                all.addAll(second);
                count++;
              }
              assertTrue(count + " windows", count >= 3);
              List<Long> expected = new ArrayList<>(read);
              Collections.sort(expected);
              Collections.sort(all);
              assertEquals(expected, all);
              return null;
            });
    String name = "drain-" + UUID.randomUUID();
    p.getOptions().setJobName(name);
    Thread drainer =
        new Thread(
            () -> {
              try {
                awaitWindows();
                drain(name);
              } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
              }
            });
    drainer.start();
    try {
      p.run();
    } finally {
      drainer.interrupt();
      drainer.join();
    }
  }

  /** Runs the pipeline as programs do, without a TestPipeline. */
  private static PipelineResult start(String name) throws InterruptedException {
    PipelineOptions options = TestPipeline.testingPipelineOptions();
    options.setRunner(PortableRunner.class);
    options.setJobName(name);
    Pipeline pipeline = Pipeline.create(options);
    secondsOf(pipeline);
    PipelineResult result = pipeline.run();
    awaitWindows();
    assertEquals(PipelineResult.State.RUNNING, result.getState());
    return result;
  }

  @Test
  @Category({ValidatesRunner.class, UsesUnboundedPCollections.class})
  public void testDrainedIsDone() throws Exception {
    String name = "drain-" + UUID.randomUUID();
    PipelineResult result = start(name);
    drain(name);
    assertEquals(PipelineResult.State.DONE, result.waitUntilFinish());
    assertEquals(PipelineResult.State.DONE, result.getState());
  }

  @Test
  @Category({ValidatesRunner.class, UsesUnboundedPCollections.class})
  public void testCancel() throws Exception {
    PipelineResult result = start("cancel-" + UUID.randomUUID());
    result.cancel();
    assertEquals(PipelineResult.State.CANCELLED, result.waitUntilFinish());
    assertEquals(PipelineResult.State.CANCELLED, result.getState());
  }
}
