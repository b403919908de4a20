package lintel.xlang;

import java.util.Collections;
import java.util.List;
import org.apache.beam.sdk.extensions.sql.SqlTransform;
import org.apache.beam.sdk.schemas.Schema;
import org.apache.beam.sdk.schemas.transforms.SchemaTransform;
import org.apache.beam.sdk.schemas.transforms.SchemaTransformProvider;
import org.apache.beam.sdk.values.PCollectionRowTuple;
import org.apache.beam.sdk.values.Row;

/** Beam SQL, as Beam YAML's Sql asks for it. */
public final class SqlProvider implements SchemaTransformProvider {
  @Override
  public String identifier() {
    return "schematransform:org.apache.beam:sql_transform:v1";
  }

  @Override
  public Schema configurationSchema() {
    return Schema.builder().addStringField("query").addNullableStringField("dialect").build();
  }

  @Override
  public SchemaTransform from(Row configuration) {
    return new Transform(configuration.getString("query"));
  }

  @Override
  public List<String> inputCollectionNames() {
    return Collections.emptyList();
  }

  @Override
  public List<String> outputCollectionNames() {
    return Collections.singletonList("output");
  }

  private static final class Transform extends SchemaTransform {
    private final String query;

    Transform(String query) {
      this.query = query;
    }

    @Override
    public PCollectionRowTuple expand(PCollectionRowTuple in) {
      return PCollectionRowTuple.of("output", in.apply(SqlTransform.query(query)));
    }
  }
}
