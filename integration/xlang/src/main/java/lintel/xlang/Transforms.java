package lintel.xlang;

import com.google.common.collect.ImmutableMap;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.beam.sdk.coders.IterableCoder;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.StringUtf8Coder;
import org.apache.beam.sdk.coders.VarLongCoder;
import org.apache.beam.sdk.expansion.ExternalTransformRegistrar;
import org.apache.beam.sdk.transforms.Count;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.ExternalTransformBuilder;
import org.apache.beam.sdk.transforms.Flatten;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.MapElements;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.Partition;
import org.apache.beam.sdk.transforms.SerializableFunction;
import org.apache.beam.sdk.transforms.Sum;
import org.apache.beam.sdk.transforms.View;
import org.apache.beam.sdk.transforms.join.CoGbkResult;
import org.apache.beam.sdk.transforms.join.CoGroupByKey;
import org.apache.beam.sdk.transforms.join.KeyedPCollectionTuple;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionList;
import org.apache.beam.sdk.values.PCollectionTuple;
import org.apache.beam.sdk.values.PCollectionView;
import org.apache.beam.sdk.values.PInput;
import org.apache.beam.sdk.values.POutput;
import org.apache.beam.sdk.values.TupleTag;
import org.apache.beam.sdk.values.TypeDescriptors;

/** What the cross-language tests of Beam's SDKs, in Python and Go, want of a service, by its URNs. */
public final class Transforms implements ExternalTransformRegistrar {
  private static final String URN = "beam:transforms:xlang:test:";

  @Override
  public Map<String, ExternalTransformBuilder<?, ?, ?>> knownBuilderInstances() {
    return ImmutableMap.<String, ExternalTransformBuilder<?, ?, ?>>builder()
        .put(URN + "prefix", new Prefix())
        .put(URN + "multi", new Plain<>(Transforms::multi))
        .put(URN + "gbk", new Plain<PCollection<KV<Long, String>>, PCollection<KV<Long, Iterable<String>>>>(
            in -> in.apply(GroupByKey.create())))
        .put(URN + "cgbk", new Plain<>(Transforms::coGroup))
        .put(URN + "comgl", new Plain<PCollection<Long>, PCollection<Long>>(
            in -> in.apply(Sum.longsGlobally())))
        .put(URN + "compk", new Plain<PCollection<KV<String, Long>>, PCollection<KV<String, Long>>>(
            in -> in.apply(Sum.longsPerKey())))
        .put(URN + "flatten", new Plain<>(Transforms::flatten))
        .put(URN + "partition", new Plain<>(Transforms::partition))
        .put("beam:transforms:xlang:count", new Plain<PCollection<String>, PCollection<KV<String, Long>>>(
            in -> in.apply(Count.perElement())))
        .build();
  }

  /** A transform without configuration. */
  private static final class Plain<I extends PInput, O extends POutput>
      implements ExternalTransformBuilder<Plain.Nothing, I, O> {
    /** Has no fields. */
    public static final class Nothing {}

    private final SerializableFunction<I, O> expand;

    Plain(SerializableFunction<I, O> expand) {
      this.expand = expand;
    }

    @Override
    public PTransform<I, O> buildExternal(Nothing configuration) {
      return PTransform.compose(expand);
    }
  }

  private static final class Prefix
      implements ExternalTransformBuilder<Prefix.Configuration, PCollection<String>, PCollection<String>> {
    /** Of the payload. */
    public static final class Configuration {
      private String data = "";

      public void setData(String data) {
        this.data = data;
      }
    }

    @Override
    public PTransform<PCollection<String>, PCollection<String>> buildExternal(Configuration c) {
      String prefix = c.data;
      return PTransform.compose(
          in -> in.apply(MapElements.into(TypeDescriptors.strings()).via(s -> prefix + s)));
    }
  }

  /** Appends the only element of side to those of main1 and main2, and doubles it. */
  private static PCollectionTuple multi(PCollectionTuple in) {
    PCollection<String> side = in.get("side");
    PCollectionView<String> suffix = side.apply(View.asSingleton());
    PCollection<String> main =
        PCollectionList.of(in.<String>get("main1"))
            .and(in.<String>get("main2"))
            .apply(Flatten.pCollections())
            .apply(
                "Append",
                ParDo.of(
                        new DoFn<String, String>() {
                          @ProcessElement
                          public void process(ProcessContext c) {
                            c.output(c.element() + c.sideInput(suffix));
                          }
                        })
                    .withSideInputs(suffix));
    PCollection<String> twice =
        side.apply("Double", MapElements.into(TypeDescriptors.strings()).via(s -> s + s));
    return PCollectionTuple.of("main", main).and("side", twice);
  }

  private static PCollection<KV<Long, Iterable<String>>> coGroup(PCollectionTuple in) {
    List<TupleTag<String>> tags = Arrays.asList(new TupleTag<>("col1"), new TupleTag<>("col2"));
    KeyedPCollectionTuple<Long> all = KeyedPCollectionTuple.empty(in.getPipeline());
    for (TupleTag<String> tag : tags) {
      all = all.and(tag, in.<KV<Long, String>>get(tag.getId()));
    }
    return all.apply(CoGroupByKey.create())
        .apply(
            "Concatenate",
            ParDo.of(
                new DoFn<KV<Long, CoGbkResult>, KV<Long, Iterable<String>>>() {
                  @ProcessElement
                  public void process(
                      @Element KV<Long, CoGbkResult> e, OutputReceiver<KV<Long, Iterable<String>>> out) {
                    List<String> values = new ArrayList<>();
                    tags.forEach(tag -> e.getValue().getAll(tag).forEach(values::add));
                    out.output(KV.of(e.getKey(), values));
                  }
                }))
        .setCoder(KvCoder.of(VarLongCoder.of(), IterableCoder.of(StringUtf8Coder.of())));
  }

  private static PCollection<Long> flatten(PCollectionTuple in) {
    List<PCollection<Long>> all =
        in.getAll().keySet().stream().map(tag -> in.<Long>get(tag.getId())).collect(Collectors.toList());
    return PCollectionList.of(all).apply(Flatten.pCollections());
  }

  /** Even numbers are output 0, odd ones output 1. */
  private static PCollectionTuple partition(PCollection<Long> in) {
    PCollectionList<Long> parts = in.apply(Partition.of(2, (Long n, int count) -> (int) (n % 2)));
    return PCollectionTuple.of("0", parts.get(0)).and("1", parts.get(1));
  }
}
