package lintel.bench;

import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.util.HashMap;
import java.util.Map;
import org.apache.beam.runners.portability.PortableRunner;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.options.PortablePipelineOptions;

/**
 * Runs one pipeline on a job endpoint and prints one line of JSON, as the Go program of
 * ../pipelines does: {@code Bench --pipeline=java-gbk --n=1000000 --endpoint=HOST:PORT --staged=FILE}.
 */
public final class Bench {
  public static void main(String[] args) throws Exception {
    Map<String, String> flags = new HashMap<>();
    for (String arg : args) {
      String[] parts = arg.replaceFirst("^--", "").split("=", 2);
      flags.put(parts[0], parts.length > 1 ? parts[1] : "");
    }
    String name = flags.get("pipeline");
    Pipelines.Size size =
        new Pipelines.Size(number(flags, "n", 100_000), number(flags, "k", 1000), number(flags, "v", 100));
    Pipelines.Case bench = Pipelines.byName(name, size);
    Digest want = new Digest();
    bench.plain(want);

    PortablePipelineOptions options =
        PipelineOptionsFactory.fromArgs(
                "--jobEndpoint=" + flags.get("endpoint"),
                "--defaultEnvironmentType=LOOPBACK",
                "--experiments=beam_fn_api",
                // The client has all classes already: one small file is enough to stage.
                "--filesToStage=" + flags.get("staged"))
            .as(PortablePipelineOptions.class);
    options.setRunner(PortableRunner.class);
    Pipeline pipeline = Pipeline.create(options);
    bench.build(pipeline);

    double cpu = cpuSeconds();
    long start = System.nanoTime();
    String error = null;
    try {
      PipelineResult.State state = pipeline.run().waitUntilFinish();
      if (state != PipelineResult.State.DONE) {
        error = "the job is " + state;
      }
    } catch (RuntimeException e) {
      error = String.valueOf(e.getMessage());
    }
    // The client asks for the state at long intervals: what counts is when the work was done.
    double seconds = error == null ? Digest.SEEN.seconds() : (System.nanoTime() - start) / 1e9;
    if (error == null && !Digest.SEEN.toString().equals(want.toString())) {
      error = "wrong answer: got " + Digest.SEEN + ", want " + want;
    }
    System.out.printf(
        "{\"pipeline\":\"%s\",\"n\":%d,\"seconds\":%.4f,\"elements_per_s\":%.0f,\"sdk_cpu_s\":%.3f,\"out\":%d,\"ok\":%b%s}%n",
        name,
        size.n,
        seconds,
        size.n / seconds,
        cpuSeconds() - cpu,
        Digest.SEEN.count(),
        error == null,
        error == null ? "" : ",\"error\":\"" + error.replaceAll("[\"\\\\\\p{Cntrl}]", " ") + "\"");
    System.exit(error == null ? 0 : 1); // the harness's threads are still there
  }

  private static long number(Map<String, String> flags, String name, long otherwise) {
    return flags.containsKey(name) ? Long.parseLong(flags.get(name)) : otherwise;
  }

  private static double cpuSeconds() {
    return ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime() / 1e9;
  }
}
