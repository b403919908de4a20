package lintel.examples;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.io.TextIO;
import org.apache.beam.sdk.options.Default;
import org.apache.beam.sdk.options.Description;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.options.Validation;
import org.apache.beam.sdk.transforms.Count;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.View;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.transforms.windowing.GlobalWindows;
import org.apache.beam.sdk.transforms.windowing.IntervalWindow;
import org.apache.beam.sdk.transforms.windowing.Sessions;
import org.apache.beam.sdk.transforms.windowing.Window;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollectionView;
import org.joda.time.Duration;
import org.joda.time.Instant;

/**
 * Finds the sessions of customers: page views of one customer that follow each other within a gap.
 * The customers' names are a side input.
 */
public final class CustomerSessions {
  /** The program's own options. */
  public interface Options extends PipelineOptions {
    @Description("file of time,customer,page lines after a header; times as in RFC 3339, in any order")
    @Validation.Required
    String getViews();

    void setViews(String path);

    @Description("file of number,name lines after a header")
    @Validation.Required
    String getCustomers();

    void setCustomers(String path);

    @Description("minutes without a view that end a session")
    @Default.Integer(30)
    int getGap();

    void setGap(int minutes);

    @Description("file for the result; without it, a temporary one")
    String getOutput();

    void setOutput(String path);
  }

  /** Turns a line into the number and name of a customer. */
  static final class ParseCustomer extends DoFn<String, KV<String, String>> {
    @ProcessElement
    public void process(@Element String line, OutputReceiver<KV<String, String>> out) {
      String[] fields = line.split(",");
      out.output(KV.of(fields[0], fields[1]));
    }
  }

  /** Turns a line into the number of the customer who looked, at that time. */
  static final class ParseView extends DoFn<String, String> {
    @ProcessElement
    public void process(@Element String line, OutputReceiver<String> out) {
      String[] fields = line.split(",");
      out.outputWithTimestamp(fields[1], Instant.parse(fields[0]));
    }
  }

  /** Makes a line of a customer's session and the number of its views. */
  static final class Format extends DoFn<KV<String, Long>, String> {
    private final PCollectionView<Map<String, String>> names;
    private final Duration gap;

    Format(PCollectionView<Map<String, String>> names, Duration gap) {
      this.names = names;
      this.gap = gap;
    }

    @ProcessElement
    public void process(ProcessContext c, BoundedWindow window) {
      IntervalWindow session = (IntervalWindow) window;
      String customer = c.element().getKey();
      String name = c.sideInput(names).getOrDefault(customer, "customer " + customer);
      c.output(
          String.format(
              "%s to %s: %s, %d views",
              session.start(), session.end().minus(gap), name, c.element().getValue()));
    }
  }

  static Pipeline build(Options options, Path output) {
    Duration gap = Duration.standardMinutes(options.getGap());
    Pipeline p = Pipeline.create(options);
    PCollectionView<Map<String, String>> names =
        p.apply("Customers", read(options.getCustomers()))
            .apply("ParseCustomer", ParDo.of(new ParseCustomer()))
            .apply("Names", View.asMap());
    p.apply("Views", read(options.getViews()))
        .apply("ParseView", ParDo.of(new ParseView()))
        .apply("IntoSessions", Window.into(Sessions.withGapDuration(gap)))
        .apply("Count", Count.perElement())
        .apply("Format", ParDo.of(new Format(names, gap)).withSideInputs(names))
        .apply("Together", Window.into(new GlobalWindows()))
        .apply("Write", TextIO.write().to(output.toString()).withoutSharding());
    return p;
  }

  static TextIO.Read read(String file) {
    return TextIO.read().from(Path.of(file).toAbsolutePath().toString()).withSkipHeaderLines(1);
  }

  public static void main(String[] args) throws IOException {
    Options options = PipelineOptionsFactory.fromArgs(args).withValidation().as(Options.class);
    Path output =
        options.getOutput() == null
            ? Files.createTempFile("sessions", ".txt")
            : Path.of(options.getOutput()).toAbsolutePath();
    try {
      build(options, output).run().waitUntilFinish();
      try (Stream<String> lines = Files.lines(output)) {
        lines.sorted().forEach(System.out::println);
      }
    } finally {
      if (options.getOutput() == null) {
        Files.delete(output);
      }
    }
  }
}
