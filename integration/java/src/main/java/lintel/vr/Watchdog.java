package lintel.vr;

import java.util.Locale;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import org.apache.beam.model.jobmanagement.v1.JobApi;
import org.apache.beam.model.jobmanagement.v1.JobServiceGrpc;
import org.apache.beam.sdk.metrics.MetricsEnvironment;
import org.apache.beam.vendor.grpc.v1p69p0.io.grpc.ManagedChannel;
import org.apache.beam.vendor.grpc.v1p69p0.io.grpc.ManagedChannelBuilder;
import org.junit.runner.Description;
import org.junit.runner.notification.RunListener;

/**
 * Ends tests that take more than vr.timeout seconds: it interrupts the test's thread, cancels the
 * test's job, and halts the JVM if that does not help.
 *
 * <p>It also makes tests strict. The portable client doesn't say that it supports metrics, so
 * TestPipeline wouldn't compare the number of successful assertions with the number of PAsserts, and
 * a runner that loses all data and answers DONE would pass.
 */
public final class Watchdog extends RunListener {
  private static final int LIMIT = Integer.getInteger("vr.timeout", 60);
  private static final int GRACE = 75;
  private static final String ENDPOINT = System.getProperty("vr.endpoint", "");
  private static final ScheduledExecutorService TIMER =
      Executors.newScheduledThreadPool(
          1,
          r -> {
            Thread t = new Thread(r, "watchdog");
            t.setDaemon(true);
            return t;
          });

  static {
    MetricsEnvironment.setMetricsSupported(true);
  }

  private Future<?> stop;
  private Future<?> halt;

  @Override
  public void testStarted(Description test) {
    Thread thread = Thread.currentThread();
    System.out.println("START " + test.getDisplayName());
    stop = TIMER.schedule(() -> stop(test, thread), LIMIT, TimeUnit.SECONDS);
    halt = TIMER.schedule(() -> halt(test), LIMIT + GRACE, TimeUnit.SECONDS);
  }

  @Override
  public void testFinished(Description test) {
    if (stop != null) {
      stop.cancel(false);
      halt.cancel(false);
    }
    Thread.interrupted(); // not for the next test
    System.out.println("END " + test.getDisplayName());
  }

  private static void stop(Description test, Thread thread) {
    System.out.printf("TIMEOUT %s after %d s, at:%n", test.getDisplayName(), LIMIT);
    for (StackTraceElement e : thread.getStackTrace()) {
      System.out.println("    " + e);
    }
    thread.interrupt();
    if (!ENDPOINT.isEmpty()) {
      cancel(test);
    }
  }

  private static void halt(Description test) {
    System.out.println("HALT " + test.getDisplayName());
    System.out.flush();
    Runtime.getRuntime().halt(97);
  }

  /** Cancels the jobs of a test: TestPipeline names them by class and method. */
  private static void cancel(Description test) {
    String name = normal(test.getMethodName() == null ? "" : test.getMethodName());
    ManagedChannel channel = ManagedChannelBuilder.forTarget(ENDPOINT).usePlaintext().build();
    try {
      JobServiceGrpc.JobServiceBlockingStub jobs =
          JobServiceGrpc.newBlockingStub(channel).withDeadlineAfter(20, TimeUnit.SECONDS);
      for (JobApi.JobInfo job : jobs.getJobs(JobApi.GetJobsRequest.getDefaultInstance()).getJobInfoList()) {
        if (job.getState() == JobApi.JobState.Enum.RUNNING && normal(job.getJobName()).contains(name)) {
          jobs.cancel(JobApi.CancelJobRequest.newBuilder().setJobId(job.getJobId()).build());
          System.out.println("CANCELLED " + job.getJobId());
        }
      }
    } catch (RuntimeException e) {
      System.out.println("cancelling failed: " + e);
    } finally {
      channel.shutdownNow();
    }
  }

  private static String normal(String s) {
    return s.toLowerCase(Locale.ROOT).replaceAll("[^a-z0-9]", "");
  }
}
