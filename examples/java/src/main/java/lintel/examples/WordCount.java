package lintel.examples;

import java.io.IOException;
import java.io.Serializable;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.io.FileIO;
import org.apache.beam.sdk.io.TextIO;
import org.apache.beam.sdk.metrics.Counter;
import org.apache.beam.sdk.metrics.MetricNameFilter;
import org.apache.beam.sdk.metrics.MetricResult;
import org.apache.beam.sdk.metrics.Metrics;
import org.apache.beam.sdk.metrics.MetricsFilter;
import org.apache.beam.sdk.options.Default;
import org.apache.beam.sdk.options.Description;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.options.Validation;
import org.apache.beam.sdk.transforms.Count;
import org.apache.beam.sdk.transforms.Create;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.Top;
import org.apache.beam.sdk.values.KV;

/**
 * Counts the words of a file, or of all files of a folder. The pipeline writes the most frequent
 * words to a file, one "count TAB word" a line; the program then prints that file and how fast the
 * words were counted.
 */
public final class WordCount {
  /** The program's own options. */
  public interface Options extends PipelineOptions {
    @Description("file or folder to read")
    @Validation.Required
    String getInput();

    void setInput(String path);

    @Description("of a folder, only files with this ending")
    @Default.String("")
    String getExt();

    void setExt(String ext);

    @Default.Integer(20)
    int getTop();

    void setTop(int n);

    @Description("file for the result; without it, a temporary one")
    String getOutput();

    void setOutput(String path);
  }

  /** Emits each word of a line; its counters show the progress. */
  static final class SplitWords extends DoFn<String, String> {
    private static final Pattern WORD = Pattern.compile("[\\p{L}_][\\p{L}\\p{N}_]*");

    private final Counter lines = Metrics.counter("wordcount", "lines");
    private final Counter words = Metrics.counter("wordcount", "words");

    @ProcessElement
    public void process(@Element String line, OutputReceiver<String> out) {
      lines.inc();
      for (Matcher m = WORD.matcher(line); m.find(); ) {
        words.inc();
        out.output(m.group());
      }
    }
  }

  /** Orders words by their counts, and those of one count by the alphabet. */
  static final class ByCount implements Comparator<KV<String, Long>>, Serializable {
    @Override
    public int compare(KV<String, Long> a, KV<String, Long> b) {
      int byCount = Long.compare(a.getValue(), b.getValue());
      return byCount != 0 ? byCount : b.getKey().compareTo(a.getKey());
    }
  }

  /** Makes a line of each word and its count. */
  static final class FormatCounts extends DoFn<List<KV<String, Long>>, String> {
    @ProcessElement
    public void process(@Element List<KV<String, Long>> counts, OutputReceiver<String> out) {
      for (KV<String, Long> count : counts) {
        out.output(count.getValue() + "\t" + count.getKey());
      }
    }
  }

  static Pipeline build(Options options, Path input, Path output) {
    String files = Files.isDirectory(input) ? input + "/**" + options.getExt() : input.toString();
    Pipeline p = Pipeline.create(options);
    p.apply("Input", Create.of(files))
        .apply("ListFiles", FileIO.matchAll())
        .apply("Open", FileIO.readMatches())
        .apply("ReadLines", TextIO.readFiles())
        .apply("SplitWords", ParDo.of(new SplitWords()))
        .apply("Count", Count.perElement())
        .apply("Top", Top.of(options.getTop(), new ByCount()))
        .apply("Format", ParDo.of(new FormatCounts()))
        .apply("Write", TextIO.write().to(output.toString()).withoutSharding());
    return p;
  }

  static long counter(PipelineResult result, String name) {
    MetricsFilter filter =
        MetricsFilter.builder().addNameFilter(MetricNameFilter.named("wordcount", name)).build();
    long sum = 0;
    for (MetricResult<Long> counter : result.metrics().queryMetrics(filter).getCounters()) {
      sum += counter.getAttempted();
    }
    return sum;
  }

  public static void main(String[] args) throws IOException {
    Options options = PipelineOptionsFactory.fromArgs(args).withValidation().as(Options.class);
    Path output =
        options.getOutput() == null
            ? Files.createTempFile("counts", ".txt")
            : Path.of(options.getOutput()).toAbsolutePath();
    try {
      Pipeline pipeline = build(options, Path.of(options.getInput()).toAbsolutePath(), output);
      long start = System.nanoTime();
      PipelineResult result = pipeline.run();
      result.waitUntilFinish();
      double seconds = (System.nanoTime() - start) / 1e9;
      System.out.print(Files.readString(output));
      long words = counter(result, "words");
      System.out.printf(
          "%d words in %d lines in %.1f s: %.0f words/s%n",
          words, counter(result, "lines"), seconds, words / seconds);
    } finally {
      if (options.getOutput() == null) {
        Files.delete(output);
      }
    }
  }
}
